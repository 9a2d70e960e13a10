"""`data/prepared`: how the prepared photographs lie on disk, written and read in one place.

    train/<name>.png                     clean
    validation/clean/<name>.png          clean crops of one size
    validation/<task>/<name>.png         the same crops, damaged
    test/clean/<name>.png                whole photographs
    test/<task>/<name>.png               the same, damaged

Damage other than noise is stored in 8 bits, as a camera would store it. Noise is not stored: its rule (clipped or
not) belongs to the protocol, and it is made from the clean image when a pair is read, seeded by the image's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.images import read_image, to_bytes, to_float, write_image
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS


@dataclass(frozen=True)
class Pair:
    """One degraded image with its ground truth.

    Attributes:
        task, dataset, name: what damage, which set (noise levels are sets of their own), which photograph.
        input: float32 (H, W, 3); noise is not clipped, so values may leave [0, 1].
        target: float32 (H, W, 3) in [0, 1].
    """

    task: str
    dataset: str
    name: str
    input: np.ndarray
    target: np.ndarray


def names(folder: Path) -> list[str]:
    """Sorted stems of the PNG files in ``folder``.

    Raises:
        InputError: the folder is missing or empty.
    """
    found = sorted(path.stem for path in folder.glob("*.png"))
    if not found:
        raise InputError(f"{folder} holds no PNG image; `dvc repro prepare` makes it")
    return found


def training_images(root: Path) -> list[np.ndarray]:
    """The clean training images, uint8 (H, W, 3) each, sorted by name."""
    return [read_image(root / "train" / f"{name}.png") for name in names(root / "train")]


def pairs(root: Path, split: str, task: str, settings: Any, sigmas: list[float] | None = None) -> Iterator[Pair]:
    """The pairs of one task in ``split`` ("validation" or "test"), by noise level, then by name.

    Args:
        root: `data/prepared`.
        split: "validation" or "test".
        task: one of :data:`instruct_ipt.tasks.TASKS`.
        settings: the `degradation` section of the parameters.
        sigmas: noise levels in 1/255 for ``denoise``; those of ``settings`` when None.
    """
    folder = root / split
    levels = (sigmas or settings.denoise.sigma) if task == "denoise" else [None]
    for sigma in levels:
        for name in names(folder / "clean"):
            target = to_float(read_image(folder / "clean" / f"{name}.png"))
            if task == "denoise":
                yield Pair(
                    task, f"bundled-sigma{sigma:g}", name, degrade_named(task, target, name, settings, sigma), target
                )
            else:
                yield Pair(task, "bundled", name, to_float(read_image(folder / task / f"{name}.png")), target)


def write_split(root: Path, split: str, clean: dict[str, np.ndarray], settings: Any) -> None:
    """Write the clean images (uint8) of a split and their damaged versions for every task but noise.

    The damage depends on the image's name alone: runs with different training seeds are scored on the same files.
    """
    for name, image in clean.items():
        write_image(root / split / "clean" / f"{name}.png", image)
        for task in TASKS[1:]:
            damaged = degrade_named(task, to_float(image), name, settings)
            write_image(root / split / task / f"{name}.png", to_bytes(damaged))
