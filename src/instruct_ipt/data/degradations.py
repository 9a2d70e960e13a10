"""The five damages, defined once: training, evaluation, tests and the web page all call ``degrade``.

Every image here is float32 (H, W, 3) RGB in [0, 1], of any size from 1 x 1. Every random number comes from the numpy
Generator that is passed in. ``settings`` is the ``degradation`` section of the parameters: one group of ranges per
task. A range ``[lo, hi]`` is drawn from once per image unless said otherwise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import fft

from instruct_ipt.errors import InputError


def degrade(
    task: str,
    image: np.ndarray,
    rng: np.random.Generator,
    settings: Any,
    sigma: float | None = None,
    masks: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Damage one image.

    Args:
        task: one of :data:`SYNTHETIC`.
        image: float32 (H, W, 3) in [0, 1].
        rng: source of every random number.
        settings: degradation parameters, with the groups ``denoise``, ``deblur``, ``derain``, ``dehaze``, ``desnow``.
        sigma: noise level in 1/255 for ``denoise``; None draws one of ``settings.denoise.sigma``. Others ignore it.
        masks: real snow masks, uint8 (H, W, 3), laid among the flakes of ``desnow``; others ignore them.

    Returns:
        float32 (H, W, 3); noise is left unclipped, the other four are clipped to [0, 1].

    Raises:
        InputError: the task is unknown, or the image is not (H, W, 3).
    """
    if task not in SYNTHETIC:
        raise InputError(f"unknown degradation task {task!r}; use one of {', '.join(SYNTHETIC)}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InputError(f"cannot degrade an array of shape {image.shape}; give an RGB image of shape (H, W, 3)")
    clean = np.asarray(image, np.float32)
    if task == "denoise":
        level = float(rng.choice(settings.denoise.sigma)) if sigma is None else float(sigma)
        return add_noise(clean, rng, level)
    if task == "desnow":
        damaged = _desnow(clean, rng, settings.desnow, masks)
    else:
        damaged = _BLUR_RAIN_AND_HAZE[task](clean, rng, getattr(settings, task))
    return np.clip(damaged, 0.0, 1.0, out=damaged)


def degrade_named(
    task: str,
    image: np.ndarray,
    name: str,
    settings: Any,
    sigma: float | None = None,
    seed: int = 0,
    masks: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """``degrade`` with a generator that depends on (seed, task, name, sigma) alone.

    So a test set is the same on every machine, in any order, and when images are added. Arguments and result are those
    of ``degrade``; ``name`` is the image's name, and ``sigma`` counts for ``denoise`` only.
    """
    level = f"{float(sigma):g}" if task == "denoise" and sigma is not None else "none"
    digest = hashlib.sha256(f"{seed}|{task}|{name}|{level}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:16], "little"))
    return degrade(task, image, rng, settings, sigma, masks)


def _draw(rng: np.random.Generator, bounds: Sequence[float]) -> float:
    low, high = bounds
    return low + (high - low) * rng.random()


# --- noise


def add_noise(image: np.ndarray, rng: np.random.Generator, sigma: float) -> np.ndarray:
    """White Gaussian noise of standard deviation ``sigma`` / 255 on each channel, not clipped (the usual benchmark)."""
    return image + np.float32(sigma / 255.0) * rng.standard_normal(image.shape, dtype=np.float32)


# --- blur


def camera_shake_kernel(rng: np.random.Generator, support: int, anxiety: float) -> np.ndarray:
    """Point spread function of a hand-held camera.

    After Boracchi and Foi (IEEE TIP 2012), in the form popularised by Kupyn et al. (DeblurGAN, CVPR 2018): the sensor
    moves along a random path, and each instant leaves its share of light at a sub-pixel place (bilinear splat). Here
    the heading is a random walk with rare sudden reversals, so that the path is one vectorised cumulative sum.

    Args:
        rng: source of every random number.
        support: side of the kernel in px, odd; the path is scaled to touch its border.
        anxiety: standard deviation of the heading over the exposure in radians; 0 is a straight line.

    Returns:
        float32 (support, support), non-negative, sum 1. Its middle is where the sensor was at a random moment of the
        middle half of the exposure: a sharp photograph shows one moment (in GoPro the middle one of the averaged
        frames: Nah et al., CVPR 2017). That need not be the centroid of the light, and the blurred picture does not
        tell where it is.
    """
    if support < 3:
        return np.ones((1, 1), np.float32)
    steps = 12 * support
    turns = rng.standard_normal(steps) * (anxiety / np.sqrt(steps))
    turns += np.pi * (rng.random(steps) < 0.25 * anxiety / steps)
    speed = np.exp(rng.standard_normal(steps).cumsum() * (0.6 / np.sqrt(steps)))
    path = (speed * np.exp(1j * (rng.uniform(0, 2 * np.pi) + turns.cumsum()))).cumsum()
    path -= path[int(rng.integers(steps // 4, 3 * steps // 4 + 1))]
    half = (support - 1) / 2
    offsets = np.stack((path.imag, path.real))
    return _splat(np.clip(half + offsets * (half / np.abs(offsets).max()), 0, support - 1), support)


def _splat(points: np.ndarray, side: int) -> np.ndarray:
    """Bilinear histogram of ``points`` (2, N) in [0, side - 1], as float32 (side, side) with sum 1."""
    low = np.minimum(points.astype(np.intp), side - 2)
    (fy, fx), corner = points - low, low[0] * side + low[1]
    index = np.concatenate((corner, corner + 1, corner + side, corner + side + 1))
    weight = np.concatenate(((1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx))
    kernel = np.bincount(index, weight, side * side).reshape(side, side)
    return (kernel / kernel.sum()).astype(np.float32)


def blur(image: np.ndarray, kernel: np.ndarray, gamma: float) -> np.ndarray:
    """Convolve in linear light, borders mirrored.

    A shutter sums photons, not stored values: decode with ``image ** gamma``, convolve, encode with ``1 / gamma``
    (Nah et al., CVPR 2017, gamma 2.2).

    Args:
        image: float32 (H, W, 3) in [0, 1].
        kernel: float32 (K, K), K odd, sum 1.
        gamma: exponent of the display curve; 1 convolves the stored values.

    Returns:
        float32 (H, W, 3), in [0, 1] up to rounding.
    """
    linear = image ** np.float32(gamma)
    blurred = np.maximum(_convolve_mirrored(linear, kernel), 0)  # the transform rounds black to -1e-8
    return blurred ** np.float32(1.0 / gamma)


def _convolve_mirrored(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    (height, width, _), reach = image.shape, kernel.shape[0] // 2
    planes = np.pad(image.transpose(2, 0, 1), ((0, 0), (reach, reach), (reach, reach)), mode="symmetric")
    shape = [fft.next_fast_len(n, real=True) for n in planes.shape[1:]]
    spectrum = fft.rfft2(planes, shape)
    spectrum *= fft.rfft2(kernel, shape)
    valid = fft.irfft2(spectrum, shape)[:, 2 * reach : 2 * reach + height, 2 * reach : 2 * reach + width]
    return np.ascontiguousarray(valid.transpose(1, 2, 0))


def _deblur(image: np.ndarray, rng: np.random.Generator, settings: Any) -> np.ndarray:
    low, high = settings.support
    support = int(rng.integers(low // 2, high // 2 + 1)) * 2 + 1
    blurred = blur(image, camera_shake_kernel(rng, support, _draw(rng, settings.anxiety)), settings.gamma)
    # The sensor's, after the shutter. A network that never saw it takes the inverse of the blur for the answer, which
    # blows up what noise and compression a real photograph has.
    return add_noise(blurred, rng, _draw(rng, settings.noise))


# --- rain and snow share one idea: particles laid over each other, each of them white and partly transparent


def _cover(shape: tuple[int, int], y: np.ndarray, x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Opacity in [0, 1) of a stack of particles, float32 ``shape``; samples off the image are dropped.

    ``y``, ``x`` (integer px) and ``alpha`` (in [0, 1)) are broadcast to one shape. The "over" operator for particles
    of one colour is 1 - prod(1 - alpha), a sum of logarithms, which needs no order and no loop.
    """
    height, width = shape
    y, x, alpha = np.broadcast_arrays(y, x, alpha)
    seen = (alpha > 0) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    depth = np.bincount(y[seen] * width + x[seen], np.log1p(-alpha[seen]), height * width)
    return -np.expm1(depth).reshape(shape).astype(np.float32)


def _scatter(
    rng: np.random.Generator, shape: tuple[int, int], margin: float, density: float
) -> tuple[np.ndarray, np.ndarray]:
    """Poisson many particle centres (y, x) in px, ``density`` per px, also up to ``margin`` px outside the image."""
    height, width = shape[0] + 2 * margin, shape[1] + 2 * margin
    count = rng.poisson(density * height * width)
    return rng.random(count) * height - margin, rng.random(count) * width - margin


def _veiled(image: np.ndarray, opacity: np.ndarray, veil: float, light: float) -> np.ndarray:
    """White particles over ``image``, then a flat veil: (1 - veil) * (B + a (1 - B)) + veil * light.

    ``opacity`` is a, float32 (H, W); ``light`` in [0, 1]. With ``veil`` 0 no pixel gets darker.
    """
    white = image + opacity[..., None] * (1 - image)
    return white * np.float32(1 - veil) + np.float32(veil * light)


def rain_streaks(rng: np.random.Generator, shape: tuple[int, int], settings: Any) -> np.ndarray:
    """Opacity map of falling rain, float32 (H, W) in [0, 1).

    A drop in a short exposure is a bright streak, longer, wider and stronger the nearer it is (Garg and Nayar, IJCV
    2007). Each streak is one antialiased line with its own depth, sub-pixel place and small turn away from the wind.

    Args:
        rng: source of every random number.
        shape: (H, W).
        settings: ``length`` and ``width`` in px (from the farthest to the nearest streak), ``angle`` in degrees from
            vertical, at most 60 either way, ``density`` in streaks per px, ``opacity`` of a near streak in [0, 1].
    """
    wind, density, opacity = (_draw(rng, bounds) for bounds in (settings.angle, settings.density, settings.opacity))
    y, x = _scatter(rng, shape, settings.length[1] / 2, density)
    near = rng.random(len(y)) ** 2  # seen volume grows with distance: most drops are far
    length, width = (low + (high - low) * near for low, high in (settings.length, settings.width))
    angle = np.deg2rad(wind + 2.5 * rng.standard_normal(len(y)))
    strength = opacity * (0.35 + 0.65 * near) * rng.uniform(0.5, 1.0, len(y))
    return _lines(shape, y, x, length, width, angle, strength)


def _lines(
    shape: tuple[int, int],
    y: np.ndarray,
    x: np.ndarray,
    length: np.ndarray,
    width: np.ndarray,
    angle: np.ndarray,
    strength: np.ndarray,
) -> np.ndarray:
    """Opacity of steep lines, drawn row by row: a row crosses a line in a few px, so long lines stay cheap."""
    if len(y) == 0:
        return np.zeros(shape, np.float32)
    tall, wide = length * np.cos(angle), width / np.cos(angle)
    rows = np.arange(-1, int(tall.max()) + 2)
    top = np.floor(y - tall / 2).astype(np.intp)
    row = top[:, None] + rows  # (streaks, rows)
    along = row - y[:, None]
    centre = x[:, None] + along * np.tan(angle)[:, None]
    # Ends fade over the last third: the drop enters and leaves the exposure.
    fade = np.clip((tall[:, None] / 2 - np.abs(along)) / (tall[:, None] / 3) + 0.5 / tall[:, None], 0, 1)
    streak, line = np.nonzero((fade > 0) & (row >= 0) & (row < shape[0]))
    row, centre, fade, wide = row[streak, line], centre[streak, line], fade[streak, line], wide[streak]
    reach = int(wide.max(initial=0) / 2) + 2
    columns = np.floor(centre).astype(np.intp)[:, None] + np.arange(1 - reach, reach + 1)
    # Coverage of a unit px by a bar of ``wide`` px is a trapezoid; a thin bar never reaches full coverage.
    overlap = np.clip((wide[:, None] + 1) / 2 - np.abs(columns - centre[:, None]), 0, np.minimum(wide, 1)[:, None])
    return _cover(shape, row[:, None], columns, overlap * (strength[streak] * fade)[:, None])


def _derain(image: np.ndarray, rng: np.random.Generator, settings: Any) -> np.ndarray:
    """Streaks, then the mist that far rain adds up to (Yang et al., CVPR 2017): (1 - v) (B + s (1 - B)) + v A."""
    streaks = rain_streaks(rng, image.shape[:2], settings)
    return _veiled(image, streaks, _draw(rng, settings.veil), rng.uniform(0.6, 0.8))


def snow_flakes(rng: np.random.Generator, shape: tuple[int, int], settings: Any) -> np.ndarray:
    """Opacity map of falling snow, float32 (H, W) in [0, 1).

    Flakes of many sizes and transparencies with soft edges, drawn out along their fall (after Snow100K, Liu et al.,
    IEEE TIP 2018). Each is a soft capsule: the px whose distance to the flake's path is under its radius.

    Args:
        rng: source of every random number.
        shape: (H, W).
        settings: ``size`` = radius in px (from the farthest to the nearest flake), ``density`` in flakes per 1000 px,
            ``motion`` = path of a near flake in px, ``opacity`` of a near flake in [0, 1].
    """
    density, motion, opacity = (_draw(rng, bounds) for bounds in (settings.density, settings.motion, settings.opacity))
    fall = np.deg2rad(rng.uniform(-35, 35))
    (low, high), margin = settings.size, settings.size[1] + settings.motion[1] / 2
    y, x = _scatter(rng, shape, margin, density / 1000)
    near = np.sort(rng.random(len(y)) ** 3)  # sorted, so that flakes of like size are drawn together
    radius = low + (high - low) * near
    path = motion * (0.25 + 0.75 * near) * rng.uniform(0.4, 1.0, len(y))
    angle = fall + 0.2 * rng.standard_normal(len(y))
    strength = opacity * rng.uniform(0.45, 1.0, len(y)) * (0.65 + 0.35 * near)
    clear = np.ones(shape, np.float32)
    for part in np.array_split(np.arange(len(y)), 3):
        clear *= 1 - _capsules(shape, *(v[part] for v in (y, x, radius, path, angle, strength)))
    return 1 - clear


def _capsules(
    shape: tuple[int, int],
    y: np.ndarray,
    x: np.ndarray,
    radius: np.ndarray,
    path: np.ndarray,
    angle: np.ndarray,
    strength: np.ndarray,
) -> np.ndarray:
    """Opacity of soft capsules, each drawn in a square as large as the largest of them needs."""
    if len(y) == 0:
        return np.zeros(shape, np.float32)
    soft = 0.5 + 0.45 * radius  # half width of the edge in px; near flakes are out of focus
    reach = int(np.ceil((radius + soft + path / 2).max()))
    grid = np.arange(-reach, reach + 1)
    row, column = np.rint(y).astype(np.intp)[:, None] + grid, np.rint(x).astype(np.intp)[:, None] + grid
    dy, dx = (row - y[:, None])[:, :, None].astype(np.float32), (column - x[:, None])[:, None].astype(np.float32)
    sin, cos, half, r, s, peak = (
        v.astype(np.float32)[:, None, None] for v in (np.sin(angle), np.cos(angle), path / 2, radius, soft, strength)
    )
    beyond = np.maximum(np.abs(dx * sin + dy * cos) - half, 0)
    across = dx * cos - dy * sin
    edge = np.clip((r + s - np.sqrt(beyond * beyond + across * across)) / (2 * s), 0, 1)
    return _cover(shape, row[:, :, None], column[:, None], peak * edge * edge * (3 - 2 * edge))


def real_flakes(rng: np.random.Generator, shape: tuple[int, int], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Opacity of a random window of one real snow mask, float32 (H, W) in [0, 1).

    Masks such as Snow100K's (Liu et al., IEEE TIP 2018) are grey pictures of snow on black: brightness is opacity. The
    window is scaled by 0.7 to 1.4 and mirrored, not turned, since snow falls; a mask too small for it is continued by
    its mirror image.

    Args:
        rng: source of every random number.
        shape: (H, W).
        masks: uint8 (h, w, 3), at least one.
    """
    mask = masks[rng.integers(len(masks))][..., 1]
    scale = np.exp(rng.uniform(np.log(0.7), np.log(1.4)))
    window = [int(np.ceil(side / scale)) for side in shape]
    mask = np.pad(mask, [(0, max(0, n - side)) for n, side in zip(window, mask.shape, strict=True)], mode="symmetric")
    top, left = (int(rng.integers(0, side - n + 1)) for n, side in zip(window, mask.shape, strict=True))
    up, right = (1 - 2 * rng.integers(0, 2, 2)).tolist()
    cut = mask[top : top + window[0], left : left + window[1]][::up, ::right]
    scaled = Image.fromarray(np.ascontiguousarray(cut)).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(scaled, np.float32) / np.float32(256.0)


def _desnow(image: np.ndarray, rng: np.random.Generator, settings: Any, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Flakes, drawn and real, one over the other; then the veil of far snow (JSTASR, Chen et al., ECCV 2020)."""
    flakes = snow_flakes(rng, image.shape[:2], settings)
    if len(masks):
        flakes += (1 - flakes) * real_flakes(rng, image.shape[:2], masks)
    return _veiled(image, flakes, _draw(rng, settings.veil), rng.uniform(0.75, 0.9))


# --- haze


def transmission(depth: np.ndarray, beta: float) -> np.ndarray:
    """Share of the scene's light that arrives, ``exp(-beta * depth)``, float32 in (0, 1] (Koschmieder's law)."""
    return np.exp(-np.float32(beta) * np.asarray(depth, np.float32))


def haze(image: np.ndarray, arriving: np.ndarray, airlight: np.ndarray | float) -> np.ndarray:
    """``I = J t + A (1 - t)`` (Narasimhan and Nayar, IJCV 2002; RESIDE, Li et al., IEEE TIP 2019).

    Args:
        image: float32 (H, W, 3), J.
        arriving: float32 (H, W), t.
        airlight: one value in [0, 1] or one per channel, A.

    Returns:
        float32 (H, W, 3).
    """
    air = np.asarray(airlight, np.float32)
    return air + (image - air) * arriving[..., None]


def scene_depth(rng: np.random.Generator, shape: tuple[int, int], relief: float) -> np.ndarray:
    """A smooth made-up depth map, float32 (H, W) in [0.25, 1], far at the top.

    The image is a window into a scene: its side is 12 % to 100 % of the scene's, at random, so that depth may run
    through all of its range or stay near constant, whatever the size in px.

    Args:
        rng: source of every random number.
        shape: (H, W).
        relief: share in [0, 1] of the depth that smooth hills make; the rest is the vertical gradient.
    """
    window = np.exp(rng.uniform(np.log(0.12), 0))
    y, x = (
        start + window * (np.arange(n, dtype=np.float32) + 0.5) / n
        for start, n in zip(rng.uniform(0, 1 - window, 2), shape, strict=True)
    )
    hills = 0.5 + 0.5 * _plane_waves(rng, y, x)
    return 0.25 + 0.75 * ((1 - np.float32(relief)) * (1 - y[:, None]) + np.float32(relief) * hills)


def _plane_waves(rng: np.random.Generator, y: np.ndarray, x: np.ndarray, waves: int = 6) -> np.ndarray:
    """Sum of random waves of at most 2 cycles per scene, float32 (len(y), len(x)) in [-1, 1].

    cos(a + b) = cos a cos b - sin a sin b makes the whole map one product of thin matrices.
    """
    rate = rng.uniform(-2, 2, (2, waves))
    amplitude = rng.uniform(0.3, 1.0, waves) / (1 + np.hypot(*rate))
    a = (2 * np.pi * np.outer(y, rate[0]) + rng.uniform(0, 2 * np.pi, waves)).astype(np.float32)
    b = (2 * np.pi * np.outer(x, rate[1])).astype(np.float32)
    left = np.hstack((np.cos(a), np.sin(a))) * np.tile(amplitude / amplitude.sum(), 2).astype(np.float32)
    return left @ np.hstack((np.cos(b), -np.sin(b))).T


def _dehaze(image: np.ndarray, rng: np.random.Generator, settings: Any) -> np.ndarray:
    arriving = transmission(scene_depth(rng, image.shape[:2], _draw(rng, settings.relief)), _draw(rng, settings.beta))
    tint = 0.015 * rng.standard_normal(3)  # airlight is near neutral, at times bluish or warm
    return haze(image, arriving, np.clip(_draw(rng, settings.airlight) + tint, 0, 1))


_BLUR_RAIN_AND_HAZE: dict[str, Callable[[np.ndarray, np.random.Generator, Any], np.ndarray]] = {
    "deblur": _deblur,
    "derain": _derain,
    "dehaze": _dehaze,
}
SYNTHETIC: tuple[str, ...] = ("denoise", *_BLUR_RAIN_AND_HAZE, "desnow")
"""The tasks whose damage can be made here; a task of one's own comes as real pairs."""
