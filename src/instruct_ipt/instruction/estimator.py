"""Image -> task weights: a guess at what damaged it, for when neither a sentence nor a task is given.

Closed-form measurements of a window (noise level, share of light at each scale, dark channel, bright streaks by
direction, bright blobs), then a linear head. Large images are judged by windows spread over them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.special import softmax

from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS

CLEAN = "clean"
CLASSES: tuple[str, ...] = (*TASKS, CLEAN)
WINDOWS = 9
NEGLIGIBLE = 0.1
_ANGLES = (-60, -30, -15, 0, 15, 30, 60, 90)
_FLOOR = 1e-4


@dataclass(frozen=True)
class Estimate:
    """What seems to have damaged an image.

    Attributes:
        weights: task -> weight, convex over the five tasks; below :data:`NEGLIGIBLE` it is exactly 0.
        clean: probability in [0, 1] that nothing did.
    """

    weights: Mapping[str, float]
    clean: float


def features(window: np.ndarray) -> np.ndarray:
    """Measurements of a window, float64 (F,).

    Args:
        window: float (H, W, 3) with H, W >= 8; values near [0, 1].
    """
    image = np.clip(np.asarray(window, np.float64), 0, 1)
    grey = image.mean(axis=2)
    return np.concatenate([_noise(image, grey), _scales(grey), _haze(image, grey), _particles(image, grey)])


def _log(values: np.ndarray | float) -> np.ndarray:
    return np.log(np.atleast_1d(values) + _FLOOR)


def _noise(image: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Level of the finest diagonal detail (after Immerkaer, 1996): overall, in flat blocks, in the colours."""
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], float) / 6
    fine = ndimage.convolve(grey, mask)
    colour = ndimage.convolve(image[..., 0] - image[..., 1], mask)
    blocks = [_block_levels(part) for part in (fine, colour)]
    spread = float(np.mean(fine**4) / (np.mean(fine**2) ** 2 + 1e-12))
    levels = [np.median(np.abs(fine)), *np.quantile(blocks[0], (0.1, 0.5, 0.9)), *np.quantile(blocks[1], (0.1, 0.9))]
    return np.concatenate([_log(np.array(levels)), [np.log(spread + 1)]])


def _block_levels(detail: np.ndarray, side: int = 8) -> np.ndarray:
    rows, columns = (n // side for n in detail.shape)
    blocks = detail[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return np.sqrt(np.mean(blocks**2, axis=(1, 3))).ravel()


def _scales(grey: np.ndarray) -> np.ndarray:
    """Energy of each octave band and how it falls off: blur takes the finest; shape of the gradients' distribution."""
    levels = [grey, *(ndimage.gaussian_filter(grey, s) for s in (0.7, 1.4, 2.8, 5.6))]
    bands = _log(np.array([np.std(a - b) for a, b in zip(levels, levels[1:], strict=False)]))
    across, down = np.diff(grey, axis=1), np.diff(grey, axis=0)
    size = np.abs(across).mean(), np.abs(down).mean()
    steep = np.quantile(np.abs(across), (0.5, 0.99)), np.quantile(np.abs(down), (0.5, 0.99))
    # Blur has one direction: the weakest direction of all is weaker than the middle one.
    turned = [np.abs(_shift_difference(grey, angle)).mean() for angle in range(0, 180, 30)]
    uneven = _log(np.max(turned)) - _log(np.min(turned))
    return np.concatenate([bands, np.diff(bands), _log(np.array(size)), _log(np.concatenate(steep)), uneven])


def _shift_difference(grey: np.ndarray, angle: float, reach: float = 3.0) -> np.ndarray:
    dy, dx = (round(reach * f(np.deg2rad(angle))) for f in (np.sin, np.cos))
    return (grey - np.roll(grey, (dy, dx), (0, 1)))[3:-3, 3:-3]


def _haze(image: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """Dark channel (He et al., 2009), contrast, saturation, range of brightness."""
    dark = ndimage.minimum_filter(image.min(axis=2), 7)
    colourful = (image.max(axis=2) - image.min(axis=2)).mean()
    ends = np.quantile(grey, (0.01, 0.05, 0.5, 0.95, 0.99))
    local = ndimage.uniform_filter(grey**2, 15) - ndimage.uniform_filter(grey, 15) ** 2
    contrast = np.sqrt(np.maximum(local, 0)).mean()
    values = [dark.mean(), np.quantile(dark, 0.05), np.quantile(dark, 0.95), colourful, grey.std(), contrast]
    return np.concatenate([values, ends, _log(np.array([dark.min(), colourful, contrast, ends[4] - ends[0]]))])


def _particles(image: np.ndarray, grey: np.ndarray) -> np.ndarray:
    """What is brighter than its surroundings: in all colours at once, as long lines by direction, as round blobs."""
    rest = []
    for side in (3, 7, 13):
        bright, dark = ndimage.white_tophat(grey, side), ndimage.black_tophat(grey, side)
        rest += [*_log(bright.mean()), *(_log(bright.mean()) - _log(dark.mean())), *_log(np.quantile(bright, 0.98))]
    bright = ndimage.white_tophat(image, (9, 9, 1))
    white = bright.min(axis=2)
    rest += [*(_log(white.mean()) - _log(bright.max(axis=2).mean()))]
    lines = np.array([ndimage.grey_opening(white, footprint=_line(angle)).mean() for angle in _ANGLES])
    upright = lines[1:6]
    rest += [*_log(lines), *(_log(upright.max()) - _log(lines[[0, 6, 7]].max()))]
    disc = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2.3
    blobs = ndimage.grey_opening(white, footprint=disc)
    rest += [*_log(blobs.mean()), *_log(np.quantile(blobs, 0.98)), *(_log(blobs.mean()) - _log(white.mean()))]
    return np.array(rest)


def _line(angle: float, length: int = 9) -> np.ndarray:
    """A line of pixels through the middle, ``angle`` degrees from the vertical, bool (length, length)."""
    steps = np.linspace(-(length // 2), length // 2, 2 * length)
    foot = np.zeros((length, length), bool)
    y, x = (np.rint(steps * f(np.deg2rad(angle))).astype(int) + length // 2 for f in (np.cos, np.sin))
    foot[y, x] = True
    return foot


class Estimator:
    """Guesses task weights.

    Args:
        mean, scale: of the training windows' features, (F,).
        weight: (C, F), one row per class of :data:`CLASSES`.
        bias: (C,).
        size: side of a window in px.
    """

    def __init__(self, mean: np.ndarray, scale: np.ndarray, weight: np.ndarray, bias: np.ndarray, size: int) -> None:
        self.mean, self.scale, self.weight, self.bias, self.size = mean, scale, weight, bias, size

    @classmethod
    def fit(cls, windows: np.ndarray, classes: np.ndarray, freedom: float, size: int) -> Estimator:
        """Fit the head.

        Args:
            windows: features, (N, F).
            classes: index into :data:`CLASSES`, (N,).
            freedom: inverse of the regularisation, > 0.
            size: side of the windows in px.
        """
        from sklearn.linear_model import LogisticRegression

        mean, scale = windows.mean(axis=0), windows.std(axis=0) + 1e-6
        model = LogisticRegression(C=freedom, max_iter=2000).fit((windows - mean) / scale, classes)
        arrays = (np.asarray(a, np.float32) for a in (mean, scale, model.coef_, model.intercept_))
        return cls(*arrays, size=size)

    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """Probability of each class, (C,): the mean of the windows' log-odds.

        Args:
            image: float (H, W, 3) in [0, 1], of any size from 1 x 1; noise may leave the range.
        """
        found = np.array([features(window) for window in _windows(image, self.size)])
        odds = (found - self.mean) / self.scale @ self.weight.T + self.bias
        return softmax(odds.mean(axis=0))

    def __call__(self, image: np.ndarray) -> Estimate:
        """The guess for an image, float (H, W, 3) in [0, 1], of any size from 1 x 1."""
        found = self.probabilities(image)
        share = found[:-1] / found[:-1].sum()
        share = np.where(share < NEGLIGIBLE, 0, share)
        share = share / share.sum()
        return Estimate(dict(zip(TASKS, map(float, share), strict=True)), float(found[-1]))

    def save(self, folder: Path) -> None:
        """Write `estimator.safetensors` and `estimator.json`."""
        from safetensors.numpy import save

        names = ("mean", "scale", "weight", "bias")
        packed = save({name: np.ascontiguousarray(getattr(self, name)) for name in names})
        write_whole(folder / "estimator.safetensors", packed)
        content = {"classes": CLASSES, "size": self.size}
        write_whole(folder / "estimator.json", (json.dumps(content) + "\n").encode())

    @classmethod
    def load(cls, folder: Path) -> Estimator:
        """The estimator that was kept in ``folder``.

        Raises:
            InputError: it is missing, damaged, or of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            content = json.loads((folder / "estimator.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "estimator.safetensors")
            if tuple(content["classes"]) != CLASSES:
                raise InputError(
                    f"{folder} was made for other tasks than {', '.join(TASKS)}; `ipt estimator` makes it anew"
                )
            found = cls(*(arrays[name] for name in ("mean", "scale", "weight", "bias")), size=content["size"])
            found._check()
            return found
        except FileNotFoundError:
            raise InputError(f"{folder} holds no estimator; `ipt estimator` makes it") from None
        except InputError:
            raise
        except (OSError, KeyError, TypeError, ValueError, RecursionError, SafetensorError):
            raise InputError(f"{folder} holds a damaged estimator; `ipt estimator` makes it anew") from None

    def _check(self) -> None:
        """ValueError unless the arrays are finite float32 of the shapes that :func:`features` needs, size a window."""
        width = len(features(np.zeros((8, 8, 3))))
        shapes = (width,), (width,), (len(CLASSES), width), (len(CLASSES),)
        for array, shape in zip((self.mean, self.scale, self.weight, self.bias), shapes, strict=True):
            if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"not finite float32 {shape}")
        if type(self.size) is not int or self.size < 8 or not (self.scale > 0).all():
            raise ValueError(self.size)


def _windows(image: np.ndarray, size: int) -> list[np.ndarray]:
    """At most :data:`WINDOWS` windows spread evenly; a small image is mirrored to 8 px at least."""
    least = [(0, max(0, 8 - side)) for side in image.shape[:2]]
    image = np.pad(image, (*least, (0, 0)), mode="symmetric")
    starts = [np.unique(np.linspace(0, max(0, side - size), 3).astype(int)) for side in image.shape[:2]]
    return [image[y : y + size, x : x + size] for y in starts[0] for x in starts[1]]
