"""`ipt prepare`: split the photographs by image and make the degraded pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.images import read_image, to_bytes, write_image
from instruct_ipt.data.photographs import BUNDLED
from instruct_ipt.data.prepared import write_split
from instruct_ipt.errors import InputError
from instruct_ipt.paths import PREPARED, RAW

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `data/prepared`: training images, validation crops and test photographs with their damaged versions."""
    params, out = context.params, context.out / PREPARED
    photographs = {split: _photographs(split, params.data.level) for split in ("train", "validation", "test")}
    for name, image in (photographs["train"] | _procedural(params, params.data.procedural, "leaves")).items():
        write_image(out / "train" / f"{name}.png", image)
    crops = _crops(photographs["validation"], params.data.validation_size, params.data.validation_crops)
    leaves = _procedural(params, params.data.validation_crops, "validation-leaves")
    size = params.data.validation_size
    crops |= {name: image[:size, :size] for name, image in leaves.items()}
    write_split(out, "validation", crops, params.degradation)
    write_split(out, "test", photographs["test"], params.degradation)


def _photographs(split: str, level: str) -> dict[str, np.ndarray]:
    folder = RAW / level
    return {p.name: read_image(_file(folder, p.name)) for p in BUNDLED if p.split == split}


def _file(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}.*"))
    if not found:
        raise InputError(f"{folder}/{name}.* is missing; `dvc repro --force --single-item fetch` brings it back")
    return found[0]


def _procedural(params: Any, count: int, prefix: str) -> dict[str, np.ndarray]:
    """Dead-leaves images: without them a handful of photographs is learned by heart within minutes."""
    # The prefix is part of the seed, so that validation never sees a training image.
    key = int.from_bytes(prefix.encode(), "big") % 2**32
    size = max(params.data.procedural_size, params.data.validation_size)
    return {
        f"{prefix}-{i:03d}": to_bytes(dead_leaves(np.random.default_rng([params.seed, key, i]), size))
        for i in range(count)
    }


def _crops(images: dict[str, np.ndarray], size: int, count: int) -> dict[str, np.ndarray]:
    """``count`` square crops spread over the photographs, with the largest distances that fit."""
    crops: dict[str, np.ndarray] = {}
    for name, image in images.items():
        height, width = image.shape[:2]
        side = min(size, height, width)
        tops, lefts = _corners(height, width, side, -(-count // len(images)))
        for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            crops[f"{name}-{i}"] = image[top : top + side, left : left + side]
    return dict(list(crops.items())[:count])


def _corners(height: int, width: int, side: int, count: int) -> tuple[list[int], list[int]]:
    columns = min(count, max(1, round(np.sqrt(count * width / height))))
    rows = -(-count // columns)
    tops = np.linspace(0, height - side, rows).round().astype(int)
    lefts = np.linspace(0, width - side, columns).round().astype(int)
    grid = [(int(t), int(left)) for t in tops for left in lefts][:count]
    return [t for t, _ in grid], [left for _, left in grid]
