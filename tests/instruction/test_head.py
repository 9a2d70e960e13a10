"""Head, calibration and encoders, against references of their own."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest
from scipy.special import expit

from instruct_ipt.errors import InputError
from instruct_ipt.instruction import encoders, head
from instruct_ipt.instruction.encoders import NgramEncoder, SentenceEncoder
from instruct_ipt.instruction.scoring import expected_calibration_error

TEXTS = ["remove the rain", "remove the fog", "sharpen it", "less noise", "add snow", "no rain please"]


def test_targets_say_which_outputs_are_wanted():
    wanted = head.targets([("denoise", "desnow"), ()])
    assert wanted.tolist() == [[True, False, False, False, True, True], [False] * 6]


def test_the_scope_needs_a_likely_task_too():
    weight = np.zeros((6, 2), np.float32)
    weight[:, 0] = [1, 2, 3, 4, 5, 10]
    made = head.Head(weight, np.zeros(6, np.float32), np.zeros((6, 2, 2), np.float32))
    np.testing.assert_allclose(made.scores(np.array([[1.0, 0.0]])), [[1, 2, 3, 4, 5, 15]])


@pytest.mark.parametrize("how", ["temperature", "isotonic"])
def test_calibration_mends_overconfident_scores(how):
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1.5, (4000, 1))
    wanted = rng.random((4000, 1)) < expit(truth)
    scores = 3 * truth + 2  # too sure, and shifted
    knots = head.calibration(scores[:2000], wanted[:2000], how)
    made = head.Head(np.zeros((1, 1), np.float32), np.zeros(1, np.float32), knots)

    def error(probabilities: np.ndarray) -> float:
        return expected_calibration_error(np.stack([probabilities, wanted[2000:, 0]], axis=1))

    before, after = error(expit(scores[2000:, 0])), error(made.probabilities(scores[2000:])[:, 0])
    assert before > 0.1 and after < 0.04
    rising = made.probabilities(np.linspace(-60, 60, 500)[:, None])[:, 0]
    assert (np.diff(rising) >= -1e-12).all() and rising[0] < 0.05 and rising[-1] > 0.95


def test_ngrams_keep_their_features_through_their_state():
    encoder = NgramEncoder((2, 4), (1, 2), 1)
    encoder.fit(TEXTS)
    again = encoders.restore(*encoder.state())
    a, b = encoder.encode(["remove the rane", "schnee"]), again.encode(["remove the rane", "schnee"])
    np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=0, atol=1e-6)
    assert a.dtype == np.float32 and a.shape[0] == 2


def test_a_rarer_ngram_than_wanted_is_left_out():
    often, all_of_them = NgramEncoder((2, 3), (1, 1), 2), NgramEncoder((2, 3), (1, 1), 1)
    for encoder in (often, all_of_them):
        encoder.fit(TEXTS)
    assert often.encode(TEXTS).shape[1] < all_of_them.encode(TEXTS).shape[1]


@pytest.fixture
def library(monkeypatch):
    """A stand-in for the public interface of sentence-transformers: a class with ``encode``."""

    class SentenceTransformer:
        def __init__(self, name: str, device: str) -> None:
            assert device == "cpu"
            if name == "nowhere":
                raise OSError("nowhere is not a local folder")

        def encode(self, texts: list[str], normalize_embeddings: bool, convert_to_numpy: bool) -> np.ndarray:
            assert isinstance(texts, list) and normalize_embeddings and convert_to_numpy
            rows = np.array([[len(t), t.count("a"), 1] for t in texts], np.float64)
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    module = types.ModuleType("sentence_transformers")
    module.SentenceTransformer = SentenceTransformer
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


def test_a_sentence_encoder_takes_the_place_of_ngrams(library):
    encoder = encoders.build("some/model", (2, 5), (1, 2), 1)
    assert isinstance(encoder, SentenceEncoder)
    rows = encoder.encode(TEXTS)
    assert rows.shape[0] == len(TEXTS) and rows.dtype == np.float32
    assert head.fit(rows, head.targets([("derain",), ("dehaze",), ("deblur",), ("denoise",), (), ("desnow",)]), 1.0)
    assert encoders.restore(*encoder.state()).name == "some/model"


def test_a_sentence_encoder_that_is_not_there_is_one_line(library, monkeypatch):
    with pytest.raises(InputError, match="'nowhere' is neither a folder nor a model at hand"):
        SentenceEncoder("nowhere")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'instruct-ipt\[sentences\]'"):
        SentenceEncoder("some/model")
