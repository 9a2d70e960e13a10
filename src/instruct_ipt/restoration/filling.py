"""Filling in and extending pictures as people have them: of any mode, with what belongs to the file kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from instruct_ipt.diffusion.painter import Painted, Painter, Progress
from instruct_ipt.errors import InputError

from .files import Source, read
from .pictures import Picture

_HALF = 128


@dataclass(frozen=True)
class Sides:
    """How many px to add to a picture, as it is displayed.

    Attributes:
        top, right, bottom, left: in px, 0 or more.
    """

    top: int = 0
    right: int = 0
    bottom: int = 0
    left: int = 0


def read_mask(source: Source) -> np.ndarray:
    """A mask from a file: bool (H, W), True (missing) where it is lighter than the middle grey.

    Raises:
        InputError: it cannot be read; one line that says why.
    """
    upright = read(source).upright()
    values = (
        upright if upright.ndim == 2 else upright[..., : max(1, upright.shape[2] - 1 if _has_alpha(upright) else 3)]
    )
    grey = values if values.ndim == 2 else values.mean(axis=2)
    # Where the file says "transparent", nothing has been painted.
    clear = upright[..., -1] == 0 if _has_alpha(upright) else False
    return (grey >= _HALF * (257 if upright.dtype == np.uint16 else 1)) & ~np.asarray(clear)


def fill_picture(
    painter: Painter,
    picture: Picture,
    missing: np.ndarray,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress | None = None,
) -> tuple[Picture, Painted]:
    """Fill in the missing pixels of a picture; every other pixel keeps its bits, and the file what belongs to it.

    Args:
        painter: fills in.
        picture: grey or colour, 8 or 16 bits; transparency is left as it is.
        missing: bool (H, W), upright as the picture is displayed.
        seed, steps, progress: as for `Painter.fill`.

    Raises:
        InputError: as `Painter.fill`.
    """
    upright = picture.upright()
    painted = painter.fill(_colour(upright), missing, "inpaint", seed, steps, progress)
    return picture.with_upright(_with(upright, painted.pixels, missing)), painted


def extend_picture(
    painter: Painter,
    picture: Picture,
    sides: Sides,
    seed: int = 0,
    steps: int | None = None,
    progress: Progress | None = None,
) -> tuple[Picture, Painted]:
    """Add to a picture at its sides, as it is displayed; what was there keeps its bits.

    Args:
        painter, picture, seed, steps, progress: as for `fill_picture`.
        sides: how much to add. What is added is opaque.

    Raises:
        InputError: as `Painter.extend`.
    """
    upright = picture.upright()
    margins = (sides.top, sides.right, sides.bottom, sides.left)
    painted = painter.extend(_colour(upright), margins, seed, steps, progress)
    rows, columns = (sides.top, sides.bottom), (sides.left, sides.right)
    pad = (rows, columns, *[(0, 0)] * (upright.ndim - 2))
    canvas = np.pad(upright, pad, constant_values=_full(upright))
    missing = np.pad(np.zeros(upright.shape[:2], dtype=bool), (rows, columns), constant_values=True)
    done = _with(canvas, painted.pixels, missing)
    # EXIF may hold a preview and a size that are those of the old picture; only how to turn it is kept in pixels.
    return replace(picture, pixels=done, orientation=1, exif=None), painted


def write_name(source: Path, output: Path | None, word: str) -> Path:
    """Where a result goes: ``output``, or beside the source as ``<name>-<word>`` with its suffix."""
    return output or source.with_name(f"{source.stem}-{word}{source.suffix}")


def _has_alpha(upright: np.ndarray) -> bool:
    return upright.ndim == 3 and upright.shape[2] in (2, 4)


def _full(upright: np.ndarray) -> int:
    return int(np.iinfo(upright.dtype).max)


def _colour(upright: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3) in [0, 1]; grey is replicated, transparency left out."""
    values = upright[..., None] if upright.ndim == 2 else upright
    values = values[..., :1].repeat(3, axis=2) if values.shape[2] < 3 else values[..., :3]
    return values.astype(np.float32) / np.float32(_full(upright))


def _with(upright: np.ndarray, found: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """``upright`` with the missing pixels taken from ``found``, float (H, W, 3); grey takes their mean."""
    if found.shape[:2] != upright.shape[:2]:
        raise InputError("the filled picture has another size than the picture")
    values = np.rint(np.clip(found, 0, 1).astype(np.float64) * _full(upright)).astype(upright.dtype)
    result = upright.copy()
    if upright.ndim == 2 or upright.shape[2] < 3:
        grey = np.rint(np.clip(found, 0, 1).astype(np.float64).mean(axis=2) * _full(upright)).astype(upright.dtype)
        target = result if upright.ndim == 2 else result[..., 0]
        target[missing] = grey[missing]
    else:
        result[..., :3][missing] = values[missing]
    return result
