"""How good a filled part is, with nothing downloaded: PSNR, SSIM, L1, seam, diversity, sliced Wasserstein distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from skimage.metrics import structural_similarity
from skimage.transform import pyramid_reduce

PATCH = 7
_DIRECTIONS = 128
_PATCHES = 64


def hole_psnr(found: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> float:
    """PSNR in dB over the missing pixels alone.

    Args:
        found, truth: float (H, W, 3) in [0, 1].
        missing: bool (H, W), at least one True.
    """
    error = np.mean((found[missing].astype(np.float64) - truth[missing]) ** 2)
    return float(-10 * np.log10(max(error, 1e-10)))


def hole_l1(found: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> float:
    """Mean absolute error over the missing pixels, in [0, 1]."""
    return float(np.abs(found[missing].astype(np.float64) - truth[missing]).mean())


def hole_ssim(found: np.ndarray, truth: np.ndarray, missing: np.ndarray) -> float:
    """Mean of the SSIM map (Wang et al. 2004; 7 x 7 window, whose pixels need not all be missing) over the missing."""
    _, values = structural_similarity(
        found.astype(np.float64), truth.astype(np.float64), channel_axis=2, data_range=1.0, full=True
    )
    return float(values[missing].mean())


def seam(picture: np.ndarray, missing: np.ndarray) -> float:
    """How much stronger the picture changes across the border of the mask than between missing pixels.

    The mean absolute difference of neighbours on two sides of the border, over that of neighbours that are both
    missing. A photograph gives a value near 1; a visible seam more. NaN without a border or without missing neighbours.

    Args:
        picture: float (H, W, 3).
        missing: bool (H, W).
    """
    across, inside = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(picture.astype(np.float64), axis=axis)).mean(axis=2)
        one, other = (np.take(missing, range(start, missing.shape[axis] - 1 + start), axis) for start in (0, 1))
        across.append(steps[one != other])
        inside.append(steps[one & other])
    border, within = np.concatenate(across), np.concatenate(inside)
    if not border.size or not within.size or within.mean() == 0:
        return float("nan")
    return float(border.mean() / within.mean())


def diversity(draws: Sequence[np.ndarray], missing: np.ndarray) -> float:
    """Mean absolute difference of the missing pixels between two draws, over all pairs, in [0, 1]."""
    pairs = [(a, b) for i, a in enumerate(draws) for b in draws[i + 1 :]]
    return float(np.mean([np.abs(a[missing].astype(np.float64) - b[missing]).mean() for a, b in pairs]))


def sliced_wasserstein(
    found: Sequence[np.ndarray], real: Sequence[np.ndarray], seed: int = 0, patches: int = _PATCHES
) -> float:
    """Sliced Wasserstein distance of patches over a Laplacian pyramid, after Karras et al. 2018 (arXiv 1710.10196).

    On each level :data:`PATCH` x :data:`PATCH` patches of both sets, drawn at the same places, are normalised by the
    spread of the real ones and projected onto random directions; sorted projections are compared. The mean over levels,
    times 1000 as there. Differences from the source: fewer patches and directions, and levels down to 16 px.

    Args:
        found, real: as many pictures each, float (H, W, 3) in [0, 1], of one size.
        seed: of places and directions.
        patches: per picture and level.

    Raises:
        ValueError: the sets differ in number.
    """
    if len(found) != len(real):
        raise ValueError(f"{len(found)} pictures against {len(real)} real ones; expected as many")
    rng = np.random.default_rng(seed)
    distances = []
    for mine, theirs in zip(_pyramid(found), _pyramid(real), strict=True):
        places = _places(rng, mine.shape, patches)
        a, b = (_cut(level, places) for level in (mine, theirs))
        centre, spread = b.mean((0, 1, 2)), b.std((0, 1, 2)) + 1e-8
        a, b = (((part - centre) / spread).reshape(len(part), -1) for part in (a, b))
        directions = rng.standard_normal((a.shape[1], _DIRECTIONS))
        directions /= np.linalg.norm(directions, axis=0)
        distances.append(np.abs(np.sort(a @ directions, axis=0) - np.sort(b @ directions, axis=0)).mean())
    return float(1000 * np.mean(distances))


def _pyramid(pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Levels (N, H, W, 3), finest first: what each halving loses, and what is left at the end."""
    current = np.stack([picture.astype(np.float64) for picture in pictures])
    levels = []
    while min(current.shape[1:3]) >= 32:
        half = np.stack([pyramid_reduce(picture, channel_axis=2) for picture in current])
        back = half.repeat(2, axis=1).repeat(2, axis=2)[:, : current.shape[1], : current.shape[2]]
        levels.append(current - back)
        current = half
    return [*levels, current]


def _places(rng: np.random.Generator, shape: tuple[int, ...], patches: int) -> np.ndarray:
    """(N * patches, 3) of picture, top, left."""
    number = np.repeat(np.arange(shape[0]), patches)
    corner = [rng.integers(0, side - PATCH + 1, len(number)) for side in shape[1:3]]
    return np.stack([number, *corner], axis=1)


def _cut(level: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(M, PATCH, PATCH, 3)."""
    return np.stack([level[n, top : top + PATCH, left : left + PATCH] for n, top, left in places])
