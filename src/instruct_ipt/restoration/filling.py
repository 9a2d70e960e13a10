"""Filling in and extending pictures as people have them: of any mode, with what belongs to the file kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from instruct_ipt.diffusion.painter import Painted, Painter, Progress

from .arrays import Adopted, adopt
from .files import Source, read
from .pictures import Picture


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
    adopted = adopt(upright)
    light = adopted.colour[0].mean(axis=2) >= adopted.top / 2
    # Where the file says "transparent", nothing has been painted.
    has_alpha = upright.ndim == 3 and upright.shape[2] in (2, 4)
    return light & (upright[..., -1] > 0) if has_alpha else light


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
    adopted = adopt(upright)
    painted = painter.fill(_colour(adopted.colour[0], adopted.top), missing, "inpaint", seed, steps, progress)
    return picture.with_upright(_with(adopted, painted.pixels, missing)), painted


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
    adopted, margins = adopt(upright), (sides.top, sides.right, sides.bottom, sides.left)
    painted = painter.extend(_colour(adopted.colour[0], adopted.top), margins, seed, steps, progress)
    rows, columns = (sides.top, sides.bottom), (sides.left, sides.right)
    pad = (rows, columns, *[(0, 0)] * (upright.ndim - 2))
    canvas = np.pad(upright, pad, constant_values=np.iinfo(upright.dtype).max)
    missing = np.pad(np.zeros(upright.shape[:2], dtype=bool), (rows, columns), constant_values=True)
    done = _with(adopt(canvas), painted.pixels, missing)
    # EXIF may hold a preview and a size that are those of the old picture; only how to turn it is kept in pixels.
    return replace(picture, pixels=done, orientation=1, exif=None), painted


def _colour(values: np.ndarray, top: float) -> np.ndarray:
    """(H, W, 1 or 3) of any type -> float32 (H, W, 3) in [0, 1]; grey is replicated."""
    return np.broadcast_to(values.astype(np.float32) / np.float32(top), (*values.shape[:2], 3))


def _with(adopted: Adopted, found: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """The adopted array with the missing pixels taken from ``found``, float (H, W, 3); grey takes their mean."""
    given = adopted.colour[0]
    found = found.mean(axis=2, keepdims=True) if given.shape[2] == 1 else found
    values = np.rint(np.clip(found, 0, 1).astype(np.float64) * adopted.top).astype(given.dtype)
    return adopted.finish(np.where(missing[..., None], values, given)[None])
