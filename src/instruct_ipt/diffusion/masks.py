"""Which pixels are missing: seeded masks for inpainting and outpainting.

Every mask is a distance to some shape, cut where the wanted share of the area lies below it: so the share is met, and
a mask of 10 % and one of 60 % are the same drawing, thinner and thicker.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Shape = Callable[[np.random.Generator, int, int], np.ndarray]


def strokes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance in px, (H, W), to one to four free-form strokes: random walks whose heading wanders."""
    drawn = np.ones((height, width), dtype=bool)
    for _ in range(rng.integers(1, 5)):
        length = int(rng.integers(max(height, width) // 2, 2 * max(height, width)))
        heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, length))
        start = rng.uniform(0, (height, width))
        path = start + np.cumsum(np.stack([np.sin(heading), np.cos(heading)], axis=1), axis=0)
        rows, columns = (_reflected(path[:, axis], side) for axis, side in enumerate((height, width)))
        drawn[rows, columns] = False
    return ndimage.distance_transform_edt(drawn)


def boxes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance, (H, W), to the centres of one to three rectangles of random proportions, each its own measure."""
    return _nearest(rng, height, width, int(rng.integers(1, 4)), lambda dy, dx, aspect: np.maximum(dy, dx * aspect))


def holes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance, (H, W), to the centres of 6 to 24 scattered ellipses."""
    return _nearest(rng, height, width, int(rng.integers(6, 25)), lambda dy, dx, aspect: np.hypot(dy, dx * aspect))


def one_side(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance in px, (H, W), to one of the four sides."""
    return _from_sides(height, width)[rng.integers(4)]


def all_sides(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Distance, (H, W), to the nearest of the four sides, each with a weight of its own: the rest is off centre."""
    weights = rng.uniform(0.6, 1.6, 4)
    return np.min(_from_sides(height, width) * weights[:, None, None], axis=0)


MASKS: dict[str, dict[str, Shape]] = {
    "inpaint": {"strokes": strokes, "boxes": boxes, "holes": holes},
    "outpaint": {"one side": one_side, "all sides": all_sides},
}
"""Task -> kind of mask -> what draws it."""


def mask(
    task: str, rng: np.random.Generator, size: tuple[int, int], share: tuple[float, float], kind: str | None = None
) -> np.ndarray:
    """A mask, bool (H, W), True where the pixel is missing.

    Args:
        task: ``inpaint`` or ``outpaint``.
        rng: decides everything.
        size: (H, W) in px, at least 8 each.
        share: least and largest share of the area that is missing, in (0, 1); drawn uniformly between.
        kind: of :data:`MASKS`; None draws one.

    Raises:
        KeyError: no such task or kind.
    """
    kinds = MASKS[task]
    name = list(kinds)[rng.integers(len(kinds))] if kind is None else kind
    wanted = rng.uniform(*share)
    return _cut(kinds[name](rng, *size), wanted, share)


def _cut(distance: np.ndarray, wanted: float, allowed: tuple[float, float]) -> np.ndarray:
    """The pixels nearest to a shape, ``wanted`` of the area.

    Pixels of one distance fall together, so the share is met as near as that allows, within ``allowed`` if it can be.
    """
    values, counts = np.unique(distance, return_counts=True)
    shares = np.cumsum(counts) / distance.size
    miss = np.abs(shares - wanted) + ((shares < allowed[0]) | (shares > allowed[1]))
    return distance <= values[miss.argmin()]


def _nearest(
    rng: np.random.Generator,
    height: int,
    width: int,
    count: int,
    measure: Callable[[np.ndarray, np.ndarray, float], np.ndarray],
) -> np.ndarray:
    """The least distance, (H, W), to ``count`` random centres; the size and proportions of each are random."""
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    found = np.full((height, width), np.inf)
    for _ in range(count):
        top, left = rng.uniform(0, (height, width))
        aspect, weight = np.exp(rng.uniform(-0.7, 0.7)), np.exp(rng.uniform(-0.5, 0.5))
        found = np.minimum(found, weight * measure(np.abs(rows - top), np.abs(columns - left), aspect))
    return found


def _from_sides(height: int, width: int) -> np.ndarray:
    """Distance in px to the top, bottom, left and right side, (4, H, W)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, height - 1 - rows, columns, width - 1 - columns])


def _reflected(walk: np.ndarray, side: int) -> np.ndarray:
    """Positions on a line as whole px in [0, side), mirrored at its ends."""
    folded = np.abs(np.mod(walk, 2 * side) - side)
    return np.minimum(np.floor(side - folded), side - 1).astype(int)
