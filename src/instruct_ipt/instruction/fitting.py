"""Making a reader from the corpus: fit on training texts, calibrate and choose the threshold on validation texts.

The figures of a stage are those of this reader on test phrasings. The reader that is kept is then fitted once more on
all phrasings, with the same calibration and threshold: what was held out to measure it need not be missing from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from instruct_ipt.instruction import encoders, head, rules, sentences
from instruct_ipt.instruction.encoders import Encoder
from instruct_ipt.instruction.head import Head
from instruct_ipt.instruction.reader import Reader
from instruct_ipt.instruction.sentences import Example, Split
from instruct_ipt.instruction.spelling import Speller

Corpus = Mapping[Split, Sequence[Example]]


def fit(settings: Any, seed: int) -> tuple[Reader, Corpus]:
    """The reader to measure, which knows training texts only, and the corpus.

    Args:
        settings: the `instruction` section of the parameters.
        seed: of the corpus.
    """
    amounts = sentences.Amounts(settings.fills, settings.variants, settings.typos, settings.held_out)
    corpus = sentences.corpus(amounts, seed)
    speller = Speller.learn(sentences.well_spelt())
    encoder, fitted = _fit(settings, speller, corpus["train"])
    scores, wanted, refused = _scores(speller, encoder, fitted, corpus["validation"])
    knots = head.calibration(scores, wanted, settings.calibration)
    fitted = replace(fitted, knots=knots)
    threshold = _threshold(fitted.probabilities(scores)[:, -1], wanted[:, -1], refused, settings.accepted_at_most)
    return Reader(speller, encoder, fitted, threshold), corpus


def refit(settings: Any, reader: Reader, corpus: Corpus) -> Reader:
    """The reader to keep: fitted once more on all of the corpus, with the calibration and threshold of ``reader``."""
    everything = [example for split in corpus.values() for example in split]
    encoder, fitted = _fit(settings, reader.speller, everything)
    return Reader(reader.speller, encoder, replace(fitted, knots=reader.head.knots), reader.threshold)


def _fit(settings: Any, speller: Speller, examples: Sequence[Example]) -> tuple[Encoder, Head]:
    texts = [(_pieces(speller, example.text), example.tasks) for example in examples]
    read = [(pieces[0], tasks) for pieces, tasks in texts if pieces]
    encoder = encoders.build(settings.encoder, settings.characters, settings.words, settings.least)
    encoder.fit([text for text, _ in read])
    features = encoder.encode([text for text, _ in read])
    return encoder, head.fit(features, head.targets([tasks for _, tasks in read]), settings.freedom)


def _scores(
    speller: Speller, encoder: Encoder, fitted: Head, examples: Sequence[Example]
) -> tuple[np.ndarray, np.ndarray, int]:
    """Scores (N, O) and targets (N, O) of the texts that the rules let through; how many to refuse they had refused."""
    texts = [(_pieces(speller, example.text), example.tasks) for example in examples]
    read = [(pieces, tasks) for pieces, tasks in texts if pieces]
    each = fitted.scores(encoder.encode([piece for pieces, _ in read for piece in pieces]))
    starts = np.cumsum([0, *(len(pieces) for pieces, _ in read)])[:-1]
    refused = sum(not pieces and not tasks for pieces, tasks in texts)
    return np.maximum.reduceat(each, starts), head.targets([tasks for _, tasks in read]), refused


def _pieces(speller: Speller, text: str) -> list[str]:
    plain = speller(rules.normalise(text))
    return rules.pieces(rules.clauses(plain), plain)


def _threshold(scope: np.ndarray, wanted: np.ndarray, refused: int, accepted_at_most: float) -> float:
    """The least threshold that lets no larger share of texts to refuse pass; the rules stopped ``refused`` of them."""
    wrong = np.sort(scope[~wanted])[::-1]
    allowed = int(accepted_at_most * (len(wrong) + refused))
    return float(np.nextafter(wrong[allowed], 1.0)) if allowed < len(wrong) else 0.0
