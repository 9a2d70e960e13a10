"""What a task of one's own is trained and judged on: pairs from two folders, or clean images with a damage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.folders import check_partners, image_files
from instruct_ipt.data.images import image_size, read_image, to_bytes, to_float
from instruct_ipt.data.overlap import fingerprint, overlaps
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.data.stream import PatchStream
from instruct_ipt.errors import InputError

from .damage import Damage

EVERY = 5
"""One pair in so many, in the order of the names, is kept for validation."""
MOST_JUDGED = 24
"""Validation pairs at most; with more images, fewer are kept for it."""
WINDOW = 256
"""Side in pixels of the middle of a validation image that is scored, at most."""
LEAST = 5
"""Images, fewer leave nothing to train on beside what is judged."""
MEMORY = 200_000_000
"""Pixels that all training images together are held with, at most: 1.2 GB of pairs."""
LEAVES, LEAVES_SIZE = 40, 256
"""Procedural images beside the bundled photographs, and their side in pixels."""


@dataclass(frozen=True)
class Judged:
    """A validation pair.

    Attributes:
        name: of its file.
        input, target: float32 (H, W, 3) in [0, 1], sides of at most `WINDOW` pixels; the values of 8 bits.
    """

    name: str
    input: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Material:
    """Training and validation of one task.

    Attributes:
        training: uint8 (input, target) of one size (H, W, 3) each; with a damage both are the clean image.
        validation: at least one pair; no pixel of it is trained on.
        damage: what makes inputs of clean images; None for pairs.
        source: what it is, for records: how many images, how they were split.
        notes: what a person should know about it, a line each.
    """

    training: list[tuple[np.ndarray, np.ndarray]]
    validation: list[Judged]
    damage: Damage | None
    source: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def stream(self, task: str, seed: int) -> PatchStream:
        """Random patches of the training images, turned and mirrored; damage is drawn anew for each."""
        kind = PatchStream if self.damage is None else _DamagedStream
        stream = kind((), None, seed, {task: self.training}, tasks=(task,))
        if isinstance(stream, _DamagedStream):
            stream.damage = self.damage
        return stream


class _DamagedStream(PatchStream):
    """Patches of clean images, which are pairs with themselves, damaged on the fly."""

    damage: Damage | None = None

    def _sample(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, str]:
        _, clean, name = super()._sample(task, rng, size)
        assert self.damage is not None
        return self.damage(clean, rng), clean, name


def from_pairs(given: Path, target: Path, patch: int) -> Material:
    """Pairs of two folders: files of the same name, whatever their extensions.

    Raises:
        InputError: a file without a partner or with one of another size, smaller than `patch`, unreadable; too few.
    """
    if given.resolve() == target.resolve():
        raise InputError(f"--input and --target are the same folder {given}; pairs come from two")
    inputs, targets = image_files(given, LEAST), image_files(target, LEAST)
    check_partners(inputs, targets, given, target)
    for name, path in inputs.items():
        size, other = (" x ".join(map(str, image_size(p))) for p in (path, targets[name]))
        if size != other:
            raise InputError(f"{path} is {size} pixels and {targets[name]} {other}; a pair has one size")
    train, judged = _split(targets, patch)
    side = _side(len(train), targets.values())
    return _material(
        [(_middle(read_image(inputs[n]), side), _middle(read_image(targets[n]), side)) for n in train],
        [Judged(n, *(to_float(_middle(read_image(p[n]), WINDOW)) for p in (inputs, targets))) for n in judged],
        names=(train, judged),
        damage=None,
        source={"pairs": len(inputs)},
    )


def from_images(folder: Path, damage: Damage, patch: int) -> Material:
    """Clean images of a folder and a damage.

    Raises:
        InputError: an image is smaller than `patch` or unreadable, there are too few, or the damage breaks its promise.
    """
    found = image_files(folder, LEAST)
    train, judged = _split(found, patch)
    side = _side(len(train), found.values())
    clean = [_middle(read_image(found[name]), side) for name in train]
    targets = {name: _middle(read_image(found[name]), WINDOW) for name in judged}
    return _damaged(clean, targets, (train, judged), damage, {"images": len(found)})


def from_bundled(damage: Damage, seed: int) -> Material:
    """The bundled training photographs and procedural images, judged on windows of the bundled validation photograph.

    Raises:
        InputError: the damage breaks its promise.
    """
    photos = {split: [p for p in BUNDLED if p.split == split] for split in ("train", "validation")}
    clean = [read_image(locate(photo)) for photo in photos["train"]]
    # Else so few photographs are learned by heart.
    leaves = [to_bytes(dead_leaves(np.random.default_rng([seed, i]), LEAVES_SIZE)) for i in range(LEAVES)]
    targets = {
        f"{photo.name}-{i}": window
        for photo in photos["validation"]
        for i, window in enumerate(_windows(read_image(locate(photo))))
    }
    names = [photo.name for photo in photos["train"]] + [f"leaves-{i}" for i in range(LEAVES)]
    source = {"bundled photographs": len(photos["train"]), "procedural images": LEAVES}
    return _damaged(clean + leaves, targets, (names, list(targets)), damage, source)


def _damaged(
    clean: Sequence[np.ndarray],
    targets: Mapping[str, np.ndarray],
    names: tuple[list[str], list[str]],
    damage: Damage,
    source: dict[str, Any],
) -> Material:
    """Clean images, uint8 (H, W, 3); the damage of a validation image follows from its name and is stored in 8 bits."""
    judged = [
        Judged(name, to_float(to_bytes(damage.named(to_float(target), name))), to_float(target))
        for name, target in targets.items()
    ]
    return _material([(image, image) for image in clean], judged, names, damage, source | {"damage": damage.name})


def _material(
    training: list[tuple[np.ndarray, np.ndarray]],
    judged: list[Judged],
    names: tuple[list[str], list[str]],
    damage: Damage | None,
    source: dict[str, Any],
) -> Material:
    known = {name: fingerprint(target) for name, (_, target) in zip(names[0], training, strict=True)}
    held = {pair.name: fingerprint(to_bytes(pair.target)) for pair in judged}
    notes = [
        f"{match.first} (validation) looks like {match.second} (training): the gain may be overstated"
        for match in overlaps(held, known)
    ]
    source = source | {"training": len(training), "validation": [pair.name for pair in judged]}
    return Material(training, judged, damage, source, notes)


def _split(found: Mapping[str, Path], patch: int) -> tuple[list[str], list[str]]:
    """Names for training and for validation: every `EVERY`-th, or rarer where that would be more than `MOST_JUDGED`."""
    for path in found.values():
        width, height = image_size(path)
        if min(width, height) < patch:
            raise InputError(
                f"{path} is {width} x {height} pixels, smaller than the patch of {patch}; leave it out or lower --patch"
            )
    every = max(EVERY, math.ceil(len(found) / MOST_JUDGED))
    names = list(found)
    judged = names[every // 2 :: every]
    return [name for name in names if name not in set(judged)], judged


def _side(count: int, paths: Any) -> int:
    """The side to which large images are cut, so that `count` of them fit into memory; in pixels."""
    sizes = [image_size(path) for path in paths]
    fits = math.isqrt(MEMORY // count)
    return max(max(size) for size in sizes) if sum(w * h for w, h in sizes) <= MEMORY else fits


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    """The middle (min(H, side), min(W, side), 3) of an image (H, W, 3)."""
    top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def _windows(image: np.ndarray) -> list[np.ndarray]:
    """An image (H, W, 3) cut in 2 x 3 windows."""
    rows, columns = image.shape[0] // 2, image.shape[1] // 3
    return [
        np.ascontiguousarray(image[rows * i : rows * (i + 1), columns * j : columns * (j + 1)])
        for i in range(2)
        for j in range(3)
    ]
