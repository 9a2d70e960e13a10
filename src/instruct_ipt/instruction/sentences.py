"""The corpus of instructions: templates and written phrases, expanded the same way every time.

The files under `corpus/` hold phrasings; each template and each written phrase is one *family*. Families, and the
objects that out-of-scope templates are filled with, are dealt to three splits, so that validation and test hold
phrasings that training never saw. The words for the damages themselves are shared: nobody can read a word that was
never met.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Formatter
from typing import Any, Literal

import numpy as np
import yaml

from instruct_ipt.instruction import rules
from instruct_ipt.tasks import TASKS

Kind = Literal["single", "combined", "negated", "opposite", "out_of_scope"]
Split = Literal["train", "validation", "test"]

# Phrases that were written out, in English, in other languages, and with slips of the keys.
_WRITTEN = ("phrases", "languages", "typos")


@dataclass(frozen=True)
class Example:
    """One text of the corpus.

    Attributes:
        text: what a person types.
        tasks: what has to be done, in the order of :data:`TASKS`; empty for a text that is refused.
        kind: which part of the corpus it comes from.
        family: the template or phrase that it was made from.
        strength: 0.5, 1 or 1.5.
    """

    text: str
    tasks: tuple[str, ...]
    kind: Kind
    family: str
    strength: float = rules.PLAIN


@dataclass(frozen=True)
class Amounts:
    """How much is made of each family.

    Attributes:
        fills: training texts per template (and per task, for templates that serve one task at a time), >= 1.
        variants: training texts per written phrase, the phrase itself among them, >= 1.
        typos: share of texts with a slip of the keys, in [0, 1].
        held_out: share of the families in validation, and again in test, in (0, 0.5).
    """

    fills: int
    variants: int
    typos: float
    held_out: float


def well_spelt() -> list[str]:
    """Every phrase and word of the corpus files as it stands there: what a speller may know."""

    def leaves(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield re.sub(r"\{\w+\}", " ", value)
        if isinstance(value, dict):
            value = [item for name, item in value.items() if name != "typos"]
        for item in value if isinstance(value, list) else ():
            yield from leaves(item)

    names = ("shared", *TASKS, "combined", "negated", "opposite", "out_of_scope")
    return [rules.normalise(text) for name in names for text in leaves(_read(name))]


def corpus(amounts: Amounts, seed: int) -> dict[Split, list[Example]]:
    """All texts by split; no text stands twice.

    Args:
        amounts: how much is made. Validation and test hold one text per family (and task), so that texts are nearly
            independent of each other and the intervals of their figures mean something.
        seed: which families go where, and which words fill the slots.
    """
    writer = _Writer(amounts, seed)
    found: dict[Split, dict[str, Example]] = {"train": {}, "validation": {}, "test": {}}
    seen: set[str] = set()
    for group, families in writer.groups().items():
        for split, members in writer.deal(group, families).items():
            for family in members:
                for example in writer.texts(family, split):
                    if example.text not in seen:
                        found[split][example.text] = example
                        seen.add(example.text)
    return {split: list(texts.values()) for split, texts in found.items()}


@dataclass(frozen=True)
class _Family:
    """One phrasing.

    Attributes:
        name: where it stands and what it says.
        write: (generator, split, number of the text) -> text.
        train, held: texts made of it in training, and in validation or test.
    """

    name: str
    write: Callable[[np.random.Generator, Split, int], Example]
    train: int
    held: int


class _Writer:
    def __init__(self, amounts: Amounts, seed: int) -> None:
        self.amounts, self.seed = amounts, seed
        self.shared = _read("shared")
        self.tasks = {task: _read(task) for task in TASKS}
        self.combined, self.negated, self.opposite, self.outside = map(
            _read, ("combined", "negated", "opposite", "out_of_scope")
        )
        self.objects = self.deal("objects", self.outside["slots"]["object"])
        self.phrases = {task: self.deal(f"{task}/phrases", self.tasks[task]["phrases"]) for task in TASKS}

    def deal(self, group: str, members: Sequence[Any]) -> dict[Split, list[Any]]:
        """``members`` by split, the same way for the same ``group`` and number of members."""
        order = np.random.default_rng([self.seed, zlib.crc32(group.encode())]).permutation(len(members))
        held = max(1, round(self.amounts.held_out * len(members))) if len(members) > 2 else 0
        parts: dict[Split, np.ndarray] = {
            "validation": order[:held], "test": order[held : 2 * held], "train": order[2 * held :],
        }  # fmt: skip
        return {split: [members[i] for i in sorted(chosen)] for split, chosen in parts.items()}

    def texts(self, family: _Family, split: Split) -> Iterator[Example]:
        """The texts of one family."""
        rng = np.random.default_rng([self.seed, zlib.crc32(family.name.encode())])
        training = split == "train"
        for number in range(family.train if training else family.held):
            example = family.write(rng, split, number)
            # The first text of a family in training stands as it was written.
            bare = training and number == 0
            yield example if bare else self._dressed(example, rng)

    def groups(self) -> dict[str, list[_Family]]:
        """All families; a group is dealt to the splits by itself, so that each split holds some of it."""
        fills = self.amounts.fills
        groups: dict[str, list[_Family]] = {
            slot: [self._for_each_task(slot, template) for template in self.shared[slot]]
            for slot in ("remove", "looks", "quality")
        }
        for task, content in self.tasks.items():
            for part in _WRITTEN:
                groups[f"{task}/{part}"] = [self._phrase(f"{task}/{part}", "single", (task,), t) for t in content[part]]
        for key, count in (("two", 2), ("three", 3)):
            groups[f"combined/{key}"] = [self._several(template, count) for template in self.combined[key]]
        for key in ("wanted", "refused"):
            groups[f"negated/{key}"] = [self._negation(text, key == "wanted") for text in self.negated[key]]
        for part in ("templates", "looks"):
            groups[f"opposite/{part}"] = [self._about("opposite", part, text) for text in self.opposite[part]]
        groups["out_of_scope/talk"] = [self._about("out_of_scope", "talk", text) for text in self.outside["talk"]]
        groups["out_of_scope/templates"] = [
            _Family(f"out_of_scope/{t}", self._with_object(t), 3 * fills, 2) for t in self.outside["templates"]
        ]
        for kind, content in (("opposite", self.opposite), ("out_of_scope", self.outside)):
            for part in _WRITTEN:
                groups[f"{kind}/{part}"] = [self._phrase(f"{kind}/{part}", kind, (), t) for t in content.get(part, ())]
        return groups

    def _for_each_task(self, slot: str, template: str) -> _Family:
        """A template that names one damage: its five texts stay on one side of the split."""
        name = f"{slot}/{template}"

        def write(rng: np.random.Generator, _: Split, number: int) -> Example:
            task = TASKS[number % len(TASKS)]
            return Example(self._fill(template, rng, task), (task,), "single", name)

        return _Family(name, write, self.amounts.fills * len(TASKS), len(TASKS))

    def _phrase(self, group: str, kind: Kind, tasks: tuple[str, ...], text: str) -> _Family:
        name = f"{group}/{text}"
        amount = rules.strength(text) if tasks else rules.PLAIN
        return _Family(name, lambda *_: Example(text, tasks, kind, name, amount), self.amounts.variants, 1)

    def _several(self, template: str, count: int) -> _Family:
        name = f"combined/{template}"

        def write(rng: np.random.Generator, split: Split, _: int) -> Example:
            chosen = _some_tasks(rng, count)
            values: dict[str, str] = {}
            for task, (noun, look, phrase) in zip(
                chosen, (("a", "x", "p"), ("b", "y", "q"), ("c", "z", "r")), strict=False
            ):
                words = self.tasks[task]
                values |= {noun: _pick(rng, words["damage"]), look: _pick(rng, words["looks"])}
                values[phrase] = _pick(rng, self.phrases[task][split])
            return Example(template.format(**values), _ordered(chosen), "combined", name)

        return _Family(name, write, 4 * self.amounts.fills, 3)

    def _negation(self, template: str, wanted: bool) -> _Family:
        name = f"negated/{template}"

        def write(rng: np.random.Generator, split: Split, _: int) -> Example:
            stays, goes = _some_tasks(rng, 2)
            values = {slot: _pick(rng, self.tasks[goes][slot]) for slot in ("damage", "looks")}
            values |= {"keep": _pick(rng, self.tasks[stays]["damage"]), "photo": "photo"}
            values |= {"keeplooks": _pick(rng, self.tasks[stays]["looks"])}
            values |= {"phrase": _pick(rng, self.phrases[goes][split])}
            return Example(template.format(**values), (goes,) if wanted else (), "negated", name)

        return _Family(name, write, 2 * self.amounts.fills, 3)

    def _about(self, kind: Kind, part: str, template: str) -> _Family:
        """A template that names the damage of any task and is refused."""
        name = f"{kind}/{part}/{template}"

        def write(rng: np.random.Generator, *_: object) -> Example:
            return Example(self._fill(template, rng, _pick(rng, TASKS)), (), kind, name)

        return _Family(name, write, 3 * self.amounts.fills, 2)

    def _with_object(self, template: str) -> Callable[[np.random.Generator, Split, int], Example]:
        def write(rng: np.random.Generator, split: Split, _: int) -> Example:
            slots = self.outside["slots"]
            values = {"object": _pick(rng, self.objects[split]), "thing": _pick(rng, slots["thing"])}
            text = template.format(photo=_pick(rng, self.shared["slots"]["photo"]), **values)
            return Example(text, (), "out_of_scope", f"out_of_scope/{template}")

        return write

    def _fill(self, template: str, rng: np.random.Generator, task: str) -> str:
        slots = [slot for _, slot, _, _ in Formatter().parse(template) if slot]
        words = self.shared["slots"] | {slot: self.tasks[task][slot] for slot in ("damage", "looks", "quality")}
        return template.format(**{slot: _pick(rng, words[slot]) for slot in slots})

    def _dressed(self, example: Example, rng: np.random.Generator) -> Example:
        """With the things that people put around a request; at times with a strength or a slip of the keys."""
        text, amount = example.text, example.strength
        if example.kind == "single" and amount == rules.PLAIN and rng.random() < 0.2:
            amount = rules.WEAK if rng.random() < 0.6 else rules.STRONG
            word = _pick(rng, self.shared["weak" if amount == rules.WEAK else "strong"])
            text = f"{text} {word}" if rng.random() < 0.6 else f"{word} {text}"
        if rng.random() < 0.25:
            text = _pick(rng, self.shared["opening"]) + text
        if rng.random() < 0.25:
            text += _pick(rng, self.shared["closing"])
        if rng.random() < 0.1:
            text = _pick(rng, self.shared["context"]) + text
        if rng.random() < self.amounts.typos:
            text = typo(text, rng)
        return Example(text, example.tasks, example.kind, example.family, amount)


def typo(text: str, rng: np.random.Generator) -> str:
    """``text`` with one letter swapped, lost, doubled or wrong, inside a word of four letters or more."""
    places = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 3].isalpha()]
    if not places:
        return text
    i = places[int(rng.integers(len(places)))]
    slip = int(rng.integers(4))
    middle = (text[i + 1] + text[i], "", text[i] * 2, chr(ord("a") + int(rng.integers(26))))[slip]
    return text[:i] + middle + text[i + (2 if slip == 0 else 1) :]


def _some_tasks(rng: np.random.Generator, count: int) -> list[str]:
    return [TASKS[i] for i in rng.permutation(len(TASKS))[:count]]


def _ordered(tasks: Sequence[str]) -> tuple[str, ...]:
    return tuple(task for task in TASKS if task in tasks)


def _pick(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((files(__package__) / "corpus" / f"{name}.yaml").read_text(encoding="utf-8"))
