"""Procedural images with the statistics of photographs: occluding leaves of all sizes, with edges, shading and texture.

The dead leaves model (Lee, Mumford and Huang, IJCV 2001): discs with radii from a power law near ``r ** -3``, each one
hiding what lies under it, have the scale-invariant spectrum (Ruderman, Vision Research 1997) and the heavy-tailed
gradients of natural images. Uniform leaves hold no texture, so shading and texture are added to each leaf.
"""

from __future__ import annotations

import numpy as np

_OVERSAMPLE = 2
_COVERAGE = 3.5  # summed area of the circles over image area; what stays bare shows the background
_MAX_LEAVES = 1500
_MIN_RADIUS = 4.0  # oversampled px; smaller leaves would be texture, which costs less to draw at once


def dead_leaves(rng: np.random.Generator, size: int) -> np.ndarray:
    """One random image of occluding, shaded, textured ellipses.

    Args:
        rng: source of every random number.
        size: side in pixels, at least 1.

    Returns:
        float32 (size, size, 3) in [0, 1].
    """
    side = size * _OVERSAMPLE
    radii = _radii(rng, side)
    centres = rng.uniform(-0.05, 1.05, (len(radii), 2)) * side
    labels = _paint(rng, side, radii, centres)
    leaves = len(radii) + 1  # label 0 is the background
    image = _downsample(_palette(rng, leaves)[labels])
    image *= _shading(rng, labels[::_OVERSAMPLE, ::_OVERSAMPLE], radii, centres)[..., None]
    image += _texture(rng, labels, leaves)[..., None]
    return np.clip(image, 0.0, 1.0, out=image)


def _radii(rng: np.random.Generator, side: int) -> np.ndarray:
    """Radii in oversampled px from p(r) ~ r ** -e, e in [1.8, 3], by inversion; enough of them for _COVERAGE."""
    low, high = min(max(_MIN_RADIUS, side / 100), side / 4), side / 2.2
    power = 1.0 - rng.uniform(1.8, 3.0)
    u = rng.random(_MAX_LEAVES)
    radii = (low**power + u * (high**power - low**power)) ** (1.0 / power)
    count = np.searchsorted(np.cumsum(np.pi * radii**2), _COVERAGE * side * side)
    return radii[: count + 1]


def _paint(rng: np.random.Generator, side: int, radii: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """uint16 (side, side): the number, from 1, of the top leaf at each pixel; 0 where none lies."""
    angle, aspect = rng.uniform(0, np.pi, len(radii)), rng.uniform(0.45, 1.0, len(radii))
    labels = np.zeros((side, side), np.uint16)
    # An ellipse is |M p| <= 1; the quadratic form a x^2 + 2 b x y + c y^2 of M'M needs no rotation of the grid.
    cos, sin, inner = np.cos(angle), np.sin(angle), 1.0 / (radii * aspect) ** 2
    outer = 1.0 / radii**2
    a, b, c = cos**2 * outer + sin**2 * inner, cos * sin * (outer - inner), sin**2 * outer + cos**2 * inner
    axis = np.arange(side, dtype=np.float32) + 0.5
    top, left = np.maximum(centres - radii[:, None], 0).astype(int).T
    bottom, right = np.minimum(centres + radii[:, None] + 1, side).astype(int).T
    for k in np.flatnonzero((top < bottom) & (left < right)):
        y = (axis[top[k] : bottom[k]] - np.float32(centres[k, 0]))[:, None]
        x = axis[left[k] : right[k]] - np.float32(centres[k, 1])
        inside = np.float32(a[k]) * x * x + y * (np.float32(2 * b[k]) * x + np.float32(c[k]) * y) <= 1
        labels[top[k] : bottom[k], left[k] : right[k]][inside] = k + 1
    return labels


def _palette(rng: np.random.Generator, leaves: int) -> np.ndarray:
    """float32 (leaves, 3): mixtures of a few hues of one scene, mostly muted, with a wide spread of brightness."""
    hues = rng.uniform(0, 1, (5, 3))
    grey = hues.mean(1, keepdims=True)
    scene_light = rng.normal(0, 0.05, 3)  # one cast for the whole image, as of evening sun or shade
    muted = grey + rng.beta(1.2, 2.5, (5, 1)) * (hues - grey) + scene_light
    colours = muted[rng.integers(0, 5, leaves)] + rng.normal(0, 0.03, (leaves, 3))
    brightness = rng.beta(1.6, 1.8, (leaves, 1)) * 1.5 + 0.15
    return np.clip(colours * brightness, 0.02, 0.98).astype(np.float32)


def _shading(rng: np.random.Generator, labels: np.ndarray, radii: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """float32, shape of ``labels``: a linear ramp across each leaf, as of a curved surface lit from one side."""
    leaves, side = len(radii) + 1, labels.shape[0]
    light = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.6, leaves)
    reach = np.concatenate(([side * _OVERSAMPLE / 2], radii)).astype(np.float32)
    slope = rng.uniform(0.0, 0.35, leaves) / reach
    middle = np.concatenate(([[side * _OVERSAMPLE / 2] * 2], centres))
    down, across = slope * np.sin(light), slope * np.cos(light)
    # ramp = 1 + down * (y - cy) + across * (x - cx); its constant part per leaf is gathered once.
    base = 1.0 - down * middle[:, 0] - across * middle[:, 1]
    table = np.stack((base, down, across)).astype(np.float32)
    axis = np.arange(side, dtype=np.float32) * _OVERSAMPLE
    return np.clip(table[0][labels] + table[1][labels] * axis[:, None] + table[2][labels] * axis, 0.3, 1.5)


def _texture(rng: np.random.Generator, labels: np.ndarray, leaves: int) -> np.ndarray:
    """float32 (size, size): grain in all leaves and a fine stripe in some, each leaf with its own strength."""
    size = labels.shape[0] // _OVERSAMPLE
    small = labels[::_OVERSAMPLE, ::_OVERSAMPLE]
    grain = rng.standard_normal((size, size), dtype=np.float32)
    grain += 2.0 * _smooth_noise(rng, size, 4) + 2.0 * _smooth_noise(rng, size, 16)
    strength = (rng.gamma(1.0, 0.018, leaves)).astype(np.float32)
    stripe = np.where(rng.random(leaves) < 0.35, rng.uniform(0.02, 0.10, leaves), 0.0).astype(np.float32)
    period, angle = rng.uniform(3.0, 14.0, leaves), rng.uniform(0, np.pi, leaves)
    turn = (2 * np.pi / period * np.stack((np.sin(angle), np.cos(angle)))).astype(np.float32)
    axis = np.arange(size, dtype=np.float32)
    phase = turn[0][small] * axis[:, None] + turn[1][small] * axis
    return strength[small] * grain + stripe[small] * np.sin(phase + grain * 0.3)


def _smooth_noise(rng: np.random.Generator, size: int, cell: int) -> np.ndarray:
    """float32 (size, size): normal noise on a lattice of ``cell`` px, joined by straight lines."""
    knots = size // cell + 2
    coarse = rng.standard_normal((knots, knots), dtype=np.float32)
    at = np.arange(size, dtype=np.float32) / cell
    low = at.astype(int)
    weights = np.zeros((size, knots), np.float32)
    rows = np.arange(size)
    weights[rows, low], weights[rows, low + 1] = 1 - (at - low), at - low
    return weights @ coarse @ weights.T


def _downsample(image: np.ndarray) -> np.ndarray:
    """Mean over _OVERSAMPLE x _OVERSAMPLE cells: the antialiasing of the leaf edges."""
    step = _OVERSAMPLE
    parts = [image[i::step, j::step] for i in range(step) for j in range(step)]
    total = parts[0] + parts[1]
    for part in parts[2:]:
        total += part
    total /= step * step
    return total
