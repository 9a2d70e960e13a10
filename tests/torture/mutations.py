"""What a broken disk, a cut transfer or an attacker does to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Mutation = Callable[[np.random.Generator, bytes, Sequence[bytes]], bytes]


def _place(rng: np.random.Generator, content: bytes) -> int:
    """A position; half of them in the first hundred bytes, where headers stand."""
    return int(rng.integers(min(len(content), 100) if rng.random() < 0.5 else len(content)))


def _stretch(rng: np.random.Generator, content: bytes) -> tuple[int, int]:
    begin = _place(rng, content)
    return begin, min(len(content), begin + int(rng.integers(1, 65)))


def _flipped(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        data[_place(rng, content)] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _overwritten(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(rng, content)
    run = [bytes(end - begin), b"\xff" * (end - begin), rng.bytes(end - begin)][int(rng.integers(3))]
    return content[:begin] + run + content[end:]


def _cut(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    return content[: int(rng.integers(len(content)))]


def _spliced(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    other = others[int(rng.integers(len(others)))]
    return content[: _place(rng, content)] + other[_place(rng, other) :]


def _repeated(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(rng, content)
    return content[:end] + content[begin:end] * int(rng.integers(1, 4)) + content[end:]


def _without(rng: np.random.Generator, content: bytes, others: Sequence[bytes]) -> bytes:
    begin, end = _stretch(rng, content)
    return content[:begin] + content[end:]


BYTES: tuple[Mutation, ...] = (_flipped, _overwritten, _cut, _spliced, _repeated, _without)
