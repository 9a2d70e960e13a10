"""No file of weights, and no card beside one, is taken on trust: what is not whole is refused, and nothing is obeyed.

What the formats promise, and no more, is asked for. The backbone of a release has a digest in every pack: nothing in
it can change. Checkpoints have one in front. The others have none, so that values which are finite and fit are
believed; names, shapes, types and finiteness are not.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from .child import DONE, MIB, Child, sound
from .hoards import HOARDS, tensors_of
from .mutations import BYTES

ANY, REFUSED, SAME = "anything sound", "refused", "refused or the same"
JSON_VALUES: tuple[Any, ...] = (
    *(None, -1, 0, 1.5, 10**6, 10**30, float("nan"), float("inf"), True, "text", "", "..", [], [[]], {}, {"a": 1}),
    *([0] * 3, ["norm"], ["text"], [None], "norm", ["norm", "norm"], "x" * 5000, [1] * 5000, ["x"] * 5000),
)
LENGTHS = (0, 1, 7, 2**31, 100_000_001, 2**40, 2**63, 2**64 - 1)


class Plant:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


@dataclass(frozen=True)
class Mutant:
    """Another content for a file, and what is expected of it: `ANY`, `REFUSED` or `SAME`."""

    content: bytes
    expected: str


def foreign(rng: np.random.Generator, content: bytes, planted: Path) -> Mutant:
    """Something else altogether: empty, text, an archive, a pickle that would do something."""
    evil, stream = pickle.dumps(Plant(str(planted))), io.BytesIO()
    torch.save({"model": Plant(str(planted))}, stream)
    zipped = stream.getvalue()
    others = (
        *(b"", b"\0", b"Dear Sir or Madam,\n", b"\xff\xfe", b"[" * 100_000, b"{}", b"null", b"[]", evil, zipped),
        *(sha256(evil).digest() + evil, sha256(zipped).digest() + zipped, struct.pack("<Q", 2) + b"{}", bytes(4096)),
        *(struct.pack("<Q", 100_000) + b"[" * 100_000, sha256(b"").digest()),
    )
    return Mutant(others[int(rng.integers(len(others)))], REFUSED)


def bytewise(rng: np.random.Generator, content: bytes, planted: Path) -> Mutant:
    """Bits flipped, bytes overwritten, cut, spliced, repeated or left out; mostly in the header."""
    changed = BYTES[int(rng.integers(len(BYTES)))](rng, content, [content])
    begin = 8 + int.from_bytes(content[:8], "little") if content[8:9] == b"{" else 0
    return Mutant(changed, SAME if changed[begin:] == content[begin:] and begin else ANY)


def headed(rng: np.random.Generator, content: bytes, planted: Path) -> Mutant:
    """The header of a safetensors file says something else: its length, a shape, a type, an offset, a name."""
    length = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name, other = (names[int(n)] for n in rng.integers(len(names), size=2))
    entry = header[name]
    what, expected = int(rng.integers(11)), REFUSED
    if what == 0:
        false = (*LENGTHS, length - 1, length + 1)[int(rng.integers(len(LENGTHS) + 2))]
        return Mutant(struct.pack("<Q", false) + content[8:], REFUSED)
    if what == 1:
        entry["dtype"] = ("I32", "U32", "F64", "F16", "BOOL", "F8_E4M3", "f32", "", 7, None)[int(rng.integers(10))]
    elif what == 2:
        entry["shape"] = ([], [0], [2**40, 2**40], [-1], "4", None, [*entry["shape"], 1], [1.5])[int(rng.integers(8))]
        expected = SAME if entry["shape"] == [] else REFUSED  # a scalar has that shape
    elif what == 3:
        entry["shape"], expected = entry["shape"][::-1], SAME
    elif what == 4:
        begin, end = entry["data_offsets"]
        false = ([end, begin], [begin, end + 4], [begin + 4, end], [0, 2**62], [-4, 0], [], None, [0.5, 1])
        entry["data_offsets"] = false[int(rng.integers(8))]
    elif what == 5:
        header[f"{name}s"] = header.pop(name)
    elif what == 6:
        del header[name]
    elif what == 7:
        header["more"] = dict(entry)
    elif what == 8:
        header["__metadata__"] = (7, [], {"a": 7}, {"pack": []}, "text", {"pack": None})[int(rng.integers(6))]
    elif what == 9:
        header[name] = (None, 7, [], {}, "text")[int(rng.integers(5))]
    else:
        header[name]["more"], expected = 7, SAME
    text = json.dumps(header).encode()
    return Mutant(struct.pack("<Q", len(text)) + text + data, expected)


def filled(rng: np.random.Generator, content: bytes, planted: Path) -> Mutant:
    """A sound safetensors file with other tensors: not finite, of another type or shape, too many, too few."""
    length = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + length]).get("__metadata__")
    tensors = {name: value.clone() for name, value in tensors_of(content).items()}
    names = sorted(name for name, value in tensors.items() if value.is_floating_point())
    name = names[int(rng.integers(len(names)))]
    value = tensors[name]
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: t.index_fill(0, torch.tensor([0]), float("nan")) if t.ndim else t * float("nan"),
        lambda t: t * float("inf"),
        lambda t: t.to(torch.int32),
        lambda t: t > 0,
        lambda t: torch.cat([t, t]) if t.ndim else t[None, None],
        lambda t: t[:0] if t.ndim else t[None, None],
        lambda t: t[None, None, None],
    )
    # Whole numbers may be what was there (norms begin as ones); a tensor that nobody asks for may be left alone.
    expected = SAME if (what := int(rng.integers(len(changes) + 2))) in (2, 3, len(changes) + 1) else REFUSED
    if what < len(changes):
        tensors[name] = changes[what](value).contiguous()
    elif what == len(changes):
        del tensors[name]
    else:
        tensors[f"{name}.more"] = value.clone()
    return Mutant(save(tensors, told), expected)


def told(rng: np.random.Generator, content: bytes, planted: Path) -> Mutant:
    """A fact of a pack, of a release's architecture or of an export is missing, or becomes another."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = header.get("__metadata__")
    if not facts:
        return headed(rng, content, planted)
    key = sorted(facts)[int(rng.integers(len(facts)))]
    facts[key] = _card(rng, facts[key].encode()).content.decode(errors="replace")
    text = json.dumps(header).encode()
    return Mutant(struct.pack("<Q", len(text)) + text + content[8 + length :], ANY)


def card(rng: np.random.Generator, content: bytes, planted: Path) -> Mutant:
    """A value in a JSON file becomes another, or a key is gone, or new."""
    return _card(rng, content)


def _card(rng: np.random.Generator, content: bytes) -> Mutant:
    facts = json.loads(content)
    places = list(_places(facts))
    holder, key = places[int(rng.integers(len(places)))]
    if (what := int(rng.integers(8))) == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[f"{key}s"] = holder.pop(key)
    elif "format_version" in facts and what == 2:
        facts["format_version"] = (2, 0, -1, 1.5, "1", None, 10**30, [1])[int(rng.integers(8))]
        return Mutant(json.dumps(facts).encode(), REFUSED)
    else:
        holder[key] = JSON_VALUES[int(rng.integers(len(JSON_VALUES)))]
    return Mutant(json.dumps(facts).encode(), ANY)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Holders and keys of all values, those of a long list or object by their first few."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    for key, inner in pairs[:40]:
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


def changes(path: Path) -> tuple[Callable[[np.random.Generator, bytes, Path], Mutant], ...]:
    """What is tried on a file."""
    if path.suffix == ".json":
        return foreign, bytewise, card, card, card
    if path.suffix == ".pt":
        return foreign, bytewise, bytewise
    return foreign, bytewise, headed, headed, filled, filled, told


def problem(mutant: Mutant, outcome: str, text: str, before: str) -> str:
    """What is wrong with an answer that is sound in itself; empty where nothing is."""
    if outcome != DONE:
        return ""
    if mutant.expected == REFUSED:
        return "was not refused"
    return "is something else" if mutant.expected == SAME and text != before else ""


def test_mutated_weights(many, tally, tmp_path):
    """Mutated weights, packs, cards and checkpoints are refused in one line or hold what they held."""
    planted, wrong, files = tmp_path / "planted", [], []
    # The import of its network takes longer than all the rest.
    kinds = [kind for kind in HOARDS if kind != "denoiser" or many(0, 1)]
    for kind in kinds:
        HOARDS[kind][0](tmp_path / kind)
        found = sorted(path for path in (tmp_path / kind).rglob("*") if path.is_file() and path.name != "metrics.json")
        files += [(tmp_path / kind, path) for path in found if path.stem not in ("deblur", "dehaze", "desnow")]
    with Child("tests.torture.hoards:load", tmp_path, 1024 * MIB, seconds=60) as child:
        known, warm = {}, 0
        for folder in {folder: None for folder, _ in files}:
            answer = child.ask(folder)
            assert answer.outcome == DONE, answer
            known[folder], warm = answer.text, answer.grown
        for index in range(many(120, 1500)):
            rng, (folder, path) = np.random.default_rng([9, index]), files[index % len(files)]
            tried = changes(path)
            content, change = path.read_bytes(), tried[index // len(files) % len(tried)]
            mutant = change(rng, content, planted)
            path.write_bytes(mutant.content)
            answer = child.ask(folder)
            path.write_bytes(content)
            if folder.name == "checkpoints":
                found = passed_over(path, mutant, answer.outcome, answer.text, answer.printed)
            else:
                found = sound(answer, str(folder))
                found = found or problem(mutant, answer.outcome, answer.text, known[folder])
            if found or answer.grown - warm > 256 * MIB:
                wrong.append(
                    f"{index} {folder.name}/{path.name} {change.__name__}: {found} {answer.grown // MIB}"[:400]
                )
            tally.add("inputs")
            tally.add("loaded" if answer.outcome == DONE else "refused")
    assert not wrong, "\n".join(wrong)
    assert not planted.exists(), "a pickle was obeyed"


def passed_over(path: Path, mutant: Mutant, outcome: str, text: str, printed: str) -> str:
    """What is wrong with how a damaged checkpoint was met: named, and the one before or after it taken."""
    other = "1" if path.stem.endswith("2") else "2"
    if outcome != DONE or text not in ("2", other):
        return f"{outcome}: {text}"
    if path.stem.endswith("2") and (text != "1" or "Traceback" in printed or f"{path} is damaged" not in printed):
        return f"read {text} and said {printed!r}"
    return ""
