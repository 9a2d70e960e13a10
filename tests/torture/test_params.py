"""Nothing written into params.yaml is silently ignored, read as something else, or answered with a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from instruct_ipt import params

from .child import DONE, MIB, ROOT, Child, sound

TEXT = (ROOT / "params.yaml").read_text(encoding="utf-8")
BOMB = "[&a [x, x, x, x, x, x, x, x], " + ", ".join(
    f"&{b} [{', '.join(['*' + a] * 8)}]" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
VALUES = (
    *("-1", "0", "0.5", "3", "1e400", "1" + "0" * 25, "9" * 5000, "0x" + "f" * 5000, ".nan", ".inf", "-.inf", "null"),
    *("", "''", "[]", "{}", "[1, 2]", "[2, 1]", "[[1]]", "{a: 1}", "yes", "text", "'4'", '"two\\nlines"', '"\\e[31m"'),
    *("2024-99-99", "1:99:99", "0x", "0b", "1_000", "*nothing", "'open", "@x", "%x", "`x", "&a [*a]", BOMB + "]"),
    *("&b {<<: {x: 1}}", "[" * 40 + "]" * 40, "[" * 3000 + "]" * 3000, "!!int text", "!!bool text", "!!float ''"),
    *("!!timestamp text", "!!binary '%'", "!!set {a}", "!!omap [a]", "!!pairs 3", "!own text", "!!null text"),
    *("!!python/name:os.system", "!!python/object/apply:os.system ['touch {planted}']", "!!python/tuple [1, 2]"),
)
ANY, REFUSED, SAME = "anything sound", "refused", "refused or the same"


@dataclass(frozen=True)
class Entry:
    """A key and its value in the text: where each begins and ends, the keys that lead there, and the key's column."""

    path: tuple[str, ...]
    key: tuple[int, int]
    value: tuple[int, int]
    column: int
    flow: bool

    @property
    def free(self) -> bool:
        """Whether a person may choose the key: the readers of the ablation grid have names of one's own."""
        return self.path[-3:-1] == ("ablations", "instruction")


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes:
        content: of the file.
        expected: `ANY`, `REFUSED` or `SAME`.
        names: one of these has to stand in a refusal; empty: nothing has to.
        profile: at which it is read.
        value: (old, new) where one value was replaced.
    """

    content: bytes
    expected: str
    names: tuple[str, ...] = ()
    profile: str = "quick"
    value: tuple[str, str] | None = None


def entries() -> list[Entry]:
    """All of the repository's file."""
    root = yaml.compose(TEXT)
    return list(_entries(root, ()))


def _entries(node: yaml.Node, path: tuple[str, ...]) -> Iterator[Entry]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _entries(item, path)
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        place, at = (*path, key.value), key.start_mark
        span = (value.start_mark.index, value.end_mark.index)
        yield Entry(place, (at.index, key.end_mark.index), span, at.column, bool(node.flow_style))
        yield from _entries(value, place)


def _with(begin: int, end: int, new: str) -> bytes:
    return (TEXT[:begin] + new + TEXT[end:]).encode()


def _said(entry: Entry, *more: str) -> tuple[str, ...]:
    """What a refusal may name: the key or one above it, or the line."""
    return (*more, *entry.path, "line ", "nested too deeply")


def _profile(entry: Entry) -> str:
    return entry.path[1] if entry.path[0] == "profiles" and len(entry.path) > 1 else "quick"


def renamed(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A letter of a key is lost, doubled, exchanged, or made a capital; or the key becomes something else."""
    old = entry.path[-1]
    at = int(rng.integers(len(old)))
    others = (old[:at] + old[at + 1 :] or "q", old[: at + 1] + old[at:], old[:at] + "q" + old[at + 1 :], old.upper())
    new = (*others, f"{old}2", "null", "7", '"a\\nb"', '"\\e[31m"')[int(rng.integers(9))]
    expected = ANY if entry.free or new == old else REFUSED
    return Mutant(_with(*entry.key, new), expected, _said(entry, new), _profile(entry))


def dropped(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A key and its value are gone."""
    end = entry.value[1]
    if entry.flow and TEXT[end : end + 2] == ", ":
        end += 2
    optional = entry.free or entry.path[-2:-1] == ("demo",) or "few_texts" in entry.path or len(entry.path) > 5
    return Mutant(_with(entry.key[0], end, ""), ANY if optional else REFUSED, _said(entry, "missing"), _profile(entry))


def doubled(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A key is there twice, in its own place."""
    text = TEXT[entry.key[0] : entry.value[1]].rstrip()
    gap = ", " if entry.flow else "\n" + " " * entry.column
    return Mutant(_with(entry.key[0], entry.key[0], text + gap), REFUSED, _said(entry, "twice"), _profile(entry))


def added(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A key that means nothing stands before another."""
    gap = ", " if entry.flow else "\n" + " " * entry.column
    value = ("1", "text", "{}", "[]", "null")[int(rng.integers(5))]
    expected = ANY if entry.free and value == "{}" else REFUSED
    content = _with(entry.key[0], entry.key[0], f"nonsense: {value}{gap}")
    return Mutant(content, expected, _said(entry, "nonsense"), _profile(entry))


def replaced(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A value becomes another: wrong type, negative, huge, no number, a list, empty, a tag, a bomb."""
    new, old = VALUES[int(rng.integers(len(VALUES)))], TEXT[slice(*entry.value)]
    return Mutant(_with(*entry.value, new), ANY, _said(entry), _profile(entry), (old, new))


def indented(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A line begins further right or left, or with a tab."""
    begin = TEXT.rfind("\n", 0, entry.key[0]) + 1
    end = begin + len(TEXT[begin:]) - len(TEXT[begin:].lstrip(" "))
    spaces = end - begin
    new = (" " * (spaces + 1), " " * (spaces + 3), " " * max(0, spaces - 1), "\t" * max(1, spaces // 2))
    return Mutant(_with(begin, end, new[int(rng.integers(4))]), SAME if spaces else ANY, (), _profile(entry))


def anchored(rng: np.random.Generator, entry: Entry) -> Mutant:
    """A value gets an anchor, an alias after it, or a mapping is merged in."""
    old = TEXT[slice(*entry.value)]
    if rng.integers(2) and not old.startswith(("\n", "#")) and old.strip():
        return Mutant(_with(entry.value[0], entry.value[0], "&here "), SAME, (), _profile(entry))
    gap = ", " if entry.flow else "\n" + " " * entry.column
    merged = f"<<: &m {{nonsense: 1}}{gap}"
    return Mutant(_with(entry.key[0], entry.key[0], merged), REFUSED, _said(entry, "nonsense", "<<"), _profile(entry))


def whole(rng: np.random.Generator, entry: Entry) -> Mutant:
    """The file as a whole is cut, emptied, of another encoding, marked, or deeper than any other."""
    raw = TEXT.encode()
    at = int(rng.integers(len(raw)))
    found = (
        Mutant(raw[:at], ANY),
        Mutant(raw[:at] + bytes([int(rng.choice([0x80, 0xE9, 0xFE, 0xFF]))]) + raw[at:], REFUSED),
        Mutant(raw[:at] + bytes([int(rng.choice([0, 7, 0x1B, 0x7F]))]) + raw[at:], REFUSED),
        Mutant(b"\xef\xbb\xbf" + raw, SAME),
        Mutant(raw.replace(b"\n", b"\r\n"), SAME),
        Mutant(raw + b"\n---\n" + raw, REFUSED),
        Mutant(raw + b"\n...\n", SAME),
        Mutant(TEXT.encode(("utf-16", "utf-32", "utf-16-le")[at % 3]), REFUSED),
        Mutant((b"", b"\n", b"#", b"---", b"{}", b"[]", b"3", b"\0", b"%YAML 9.9\n---\n{}")[at % 9], REFUSED),
        Mutant((b"[" * 20_000, b"{a: " * 5000, b"- " * 5000, b"? " * 3000, b"!!x " * 900)[at % 5], REFUSED),
        Mutant(f"bomb: {BOMB}]\n".encode() + raw, REFUSED, ("bomb", "line ")),
        Mutant(b"<<: 3\n" + raw, REFUSED),
    )
    return found[int(rng.integers(len(found)))]


CHANGES: tuple[Callable[[np.random.Generator, Entry], Mutant], ...] = (
    *(renamed, dropped, doubled, added, indented, anchored, whole),
    *(replaced, replaced, replaced, replaced),
)


def load(path: Path) -> str:
    """The configuration in a file, at the profile that its folder is named after."""
    return json.dumps(params.load(path, path.parent.name).model_dump(mode="json"))


def equal(old: str, new: str) -> bool:
    """Whether two values in YAML mean the same to the schema: `4` and `'4'`, `1` and `true`."""
    one, other = yaml.safe_load(old), yaml.safe_load(new)
    try:
        return one == other or float(one) == float(other)
    except (TypeError, ValueError):
        return False


def problem(mutant: Mutant, outcome: str, text: str, before: str) -> str:
    """What is wrong with an answer that is sound in itself; empty where nothing is."""
    if outcome != DONE:
        return "" if not mutant.names or any(name in text for name in mutant.names) else f"names no key: {text}"
    if mutant.expected == REFUSED:
        return "was not refused"
    if mutant.expected == SAME:
        return "" if text == before else "is another configuration"
    if mutant.value and text == before and not equal(*mutant.value):
        return f"{mutant.value} changed nothing"
    return ""


def test_mutated_configurations(many, tally, tmp_path):
    """Mutated params.yaml: a valid configuration or one line that names the key, and no key ignored."""
    places, wrong, known = entries(), [], {}
    for profile in params.PROFILES:
        (tmp_path / profile).mkdir()
        known[profile] = json.dumps(params.load(ROOT / "params.yaml", profile).model_dump(mode="json"))
    planted = tmp_path / "planted"
    with Child(f"{__name__}:load", tmp_path, 512 * MIB) as child:
        for index in range(many(60, 1200)):
            rng = np.random.default_rng([5, index])
            change, entry = CHANGES[index % len(CHANGES)], places[int(rng.integers(len(places)))]
            mutant = change(rng, entry)
            path = tmp_path / mutant.profile / "params.yaml"
            path.write_bytes(mutant.content.replace(b"{planted}", str(planted).encode()))
            answer = child.ask(path)
            found = sound(answer, str(path)) or problem(mutant, answer.outcome, answer.text, known[mutant.profile])
            if found or answer.grown > 128 * MIB:
                wrong.append(f"{index} {change.__name__} {'.'.join(entry.path)} {mutant.value or ''}: {found}"[:500])
            tally.add("inputs")
            tally.add("loaded" if answer.outcome == DONE else "refused")
    assert not wrong, "\n".join(wrong)
    assert not planted.exists(), "a tag was obeyed"
