"""The corpus: enough of everything, always the same, and no phrasing on two sides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from instruct_ipt.instruction import rules, sentences
from instruct_ipt.instruction.sentences import Amounts, corpus, typo
from instruct_ipt.instruction.spelling import Speller
from instruct_ipt.tasks import TASKS

AMOUNTS = Amounts(fills=2, variants=1, typos=0.1, held_out=0.15)


@pytest.fixture(scope="module")
def made():
    return corpus(AMOUNTS, 0)


def test_there_is_enough_of_every_task_and_kind(fitted):
    examples = [example for split in fitted[2].values() for example in split]
    single = Counter(example.tasks[0] for example in examples if example.kind == "single")
    assert all(single[task] >= 200 for task in TASKS)
    kinds = Counter(example.kind for example in examples)
    assert kinds["combined"] >= 200 and kinds["negated"] >= 200
    assert kinds["opposite"] >= 200 and kinds["out_of_scope"] >= 200
    assert {example.strength for example in examples} == {0.5, 1.0, 1.5}
    assert all(not example.tasks for example in examples if example.kind in ("opposite", "out_of_scope"))
    assert all(len(example.tasks) in (2, 3) for example in examples if example.kind == "combined")


def test_no_phrasing_and_no_text_stands_on_two_sides(made):
    families = [{example.family for example in split} for split in made.values()]
    texts = [{example.text for example in split} for split in made.values()]
    for sets in (families, texts):
        assert all(not a & b for i, a in enumerate(sets) for b in sets[i + 1 :])
    assert all(families)


def test_every_task_and_kind_is_held_out(made):
    for split in ("validation", "test"):
        assert {task for example in made[split] for task in example.tasks} == set(TASKS)
        assert {example.kind for example in made[split]} == {
            "single",
            "combined",
            "negated",
            "opposite",
            "out_of_scope",
        }


def test_it_is_the_same_every_time_and_another_with_another_seed(made):
    assert corpus(AMOUNTS, 0) == made
    assert corpus(AMOUNTS, 1) != made


def test_no_slot_is_left_unfilled(made):
    assert not [e.text for split in made.values() for e in split if "{" in e.text or "}" in e.text]


def test_more_fills_make_more_training_texts_and_no_other_held_out_ones(made):
    more = corpus(Amounts(4, 1, 0.1, 0.15), 0)
    assert len(more["train"]) > 1.3 * len(made["train"])
    # A held-out text that training happens to make as well is dropped, so that a few may come or go.
    assert len({e.family for e in more["test"]} ^ {e.family for e in made["test"]}) <= 5


def test_a_typo_is_one_slip():
    rng = np.random.default_rng(0)
    for _ in range(200):
        slipped = typo("remove the falling snow", rng)
        assert abs(len(slipped) - len("remove the falling snow")) <= 1
    assert typo("to be or no", rng) == "to be or no"


def test_the_speller_undoes_slips_and_leaves_known_and_short_words():
    speller = Speller.learn(["remove the noise from the blurry train", "fog frog blur rain"])
    assert speller("rmove teh niose form blury fogg") == "remove teh noise from blurry fog"
    for text in ("remove the train", "frog", "ria", "schnee fällt", "去雨", ""):
        assert speller(text) == text
    assert speller("x" * 50) == "x" * 50


def test_the_speller_knows_no_slips_of_the_corpus():
    known = Speller.learn(sentences.well_spelt()).known
    assert not {"niose", "nosie", "sonw", "snwo", "rian", "shrapen", "grany"} & set(known)
    assert rules.normalise("Fog") in known
