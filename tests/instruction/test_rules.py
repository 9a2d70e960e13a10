"""Clauses, what each wants, and how much: without the head."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_ipt.instruction import rules


def wishes(text: str) -> str:
    return " ".join(clause.wish for clause in rules.clauses(text))


def left(text: str) -> str:
    """What the head would read."""
    pieces = rules.pieces(rules.clauses(text), rules.normalise(text))
    return pieces[0] if pieces else ""


@pytest.mark.parametrize(
    ("text", "stays", "goes"),
    [
        ("the fog is fine, only sharpen it", "fog", "sharpen"),
        ("don't touch the grain, remove the haze", "grain", "haze"),
        ("remove the rain but not the fog", "fog", "rain"),
        ("I like the rain. The noise has to go.", "rain", "noise"),
        ("not the noise, the blur", "noise", "blur"),
        ("remove the snow instead of the rain", "rain", "snow"),
        ("get rid of the flakes without sharpening anything", "sharpening", "flakes"),
        ("it isn't blurry, it's foggy", "blurry", "foggy"),
        ("der Nebel ist okay, nur entrauschen", "nebel", "entrauschen"),
    ],
)
def test_what_a_clause_leaves_alone_is_not_read(text, stays, goes):
    assert stays not in left(text) and goes in left(text)


@pytest.mark.parametrize(
    "text",
    ["everything is fine except for the fog", "great picture apart from the fog", "everything but the fog is fine"],
)
def test_except_turns_round_what_was_said(text):
    assert "fog" in left(text)
    assert "fog" not in left("remove everything except the fog")


@pytest.mark.parametrize(
    "text",
    [
        "add some rain", "more snow please", "blur the background", "make it foggy", "let it snow", "less sharpness",
        "could you turn up the noise", "cover the roofs with snow", "rain, add it", "more fog",
        "ajoute de la pluie", "füge Nebel hinzu", "añade niebla", "turn the sunny day into a foggy one",
    ],
)  # fmt: skip
def test_wishes_for_damage_are_never_read(text):
    assert "add" in wishes(text)


@pytest.mark.parametrize(
    "text",
    [
        "add sharpness", "more detail please", "no more rain", "make the fog disappear", "make the foggy hills visible",
        "apply noise reduction", "not sharp", "pretend it wasn't raining", "I don't want any snow",
        "turn the foggy day into a clear one", "the blur is everywhere", "can't see through the fog",
    ],
)  # fmt: skip
def test_wishes_for_something_good_are_read(text):
    assert left(text)


def test_what_goes_on_and_what_does_not():
    assert wishes("add rain and snow") == "add add"
    assert wishes("keep the rain and the fog") == "leave leave"
    assert wishes("keep the snow, lose the noise") == "leave do"
    assert wishes("the rain and the fog can stay") == "leave leave"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slightly less haze", 0.5), ("remove the haze", 1.0), ("sharpen aggressively", 1.5),
        ("remove 30 % of the noise", 0.3), ("200% derain", 1.5), ("ein bisschen weniger Rauschen", 0.5),
        ("completely remove the snow", 1.5), ("remove half of the rain", 0.5), ("half a second by hand, shaky", 1.0),
    ],
)  # fmt: skip
def test_strength(text, expected):
    assert rules.strength(text) == expected


@given(st.text(max_size=200))
def test_any_text_falls_apart_into_clauses(text):
    plain = rules.normalise(text)
    assert rules.normalise(plain) == plain
    parts = rules.clauses(text)
    assert all(clause.text and clause.wish in ("do", "leave", "add") for clause in parts)
    assert 0 <= rules.strength(text) <= 1.5
    read = rules.pieces(parts, plain)
    assert bool(read) == any(clause.wish == "do" for clause in parts)


def test_words_of_politeness_are_taken_off():
    assert left("Could you please remove the fog for me") == "remove the fog"
    assert left("please") == "please"
