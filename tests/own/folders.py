"""Folders of small images for a task of one's own, and damages, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.images import to_bytes, write_image
from instruct_ipt.own import Settings

QUICK = Settings(steps=4, patch=24, batch=2)


def clean(index: int, side: int = 40) -> np.ndarray:
    """A scene, uint8 (side, side + 8, 3)."""
    return to_bytes(dead_leaves(np.random.default_rng(index), side + 8))[:side]


def write_pairs(folder: Path, count: int = 6) -> tuple[Path, Path]:
    """Pairs whose inputs have 40 % of the light; the folders of inputs and targets."""
    for index in range(count):
        image = clean(index)
        write_image(folder / f"in/{index}.png", (image * 0.4).astype(np.uint8))
        write_image(folder / f"out/{index}.png", image)
    return folder / "in", folder / "out"


def dim(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Less light, a little noise."""
    noise = 0.02 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image * np.float32(0.4) + noise, 0, 1)


def grey(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another shape."""
    return image[..., 0]


def double(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another type."""
    return image.astype(np.float64)


def bright(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another range."""
    return image + np.float32(1)


def empty(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """No numbers."""
    return image * np.float32("nan")


def nothing(image: np.ndarray, rng: np.random.Generator) -> None:
    """No image."""


def failing(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Not even that."""
    raise KeyError("no\nsuch key")


number = 7
