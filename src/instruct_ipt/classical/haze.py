"""Haze removal by the dark channel prior."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import minimum_filter
from skimage.color import rgb2gray

from .guided import guided_filter

WINDOW = 15
LEAST_TRANSMISSION = 0.1
BRIGHTEST = 0.001


def dark_channel(image: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """The least value of any channel in a window around each pixel: float (H, W, 3) -> (H, W)."""
    return minimum_filter(image.min(axis=2), window, mode="reflect")


def airlight(image: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Colour of the haze, float (3,): the brightest pixel among the thousandth with the highest dark channel."""
    count = max(1, round(BRIGHTEST * dark.size))
    candidates = np.argpartition(dark.ravel(), -count)[-count:]
    pixels = image.reshape(-1, 3)[candidates]
    return pixels[pixels.sum(axis=1).argmax()]


def dark_channel_prior(image: np.ndarray, removed: float) -> np.ndarray:
    """He, Sun, Tang, Single Image Haze Removal Using Dark Channel Prior, CVPR 2009 and IEEE TPAMI 2011.

    With the paper's window of 15 pixels, least transmission of 0.1 and thousandth of brightest pixels; the transmission
    is refined by the guided filter that the authors published later; its radius (60 px) and epsilon (1e-4) are ours.

    Args:
        image: float (H, W, 3) in [0, 1].
        removed: share of the haze that is removed, the paper's omega.
    """
    light = np.maximum(airlight(image, dark_channel(image)), 1e-3)
    rough = 1.0 - removed * dark_channel(image / light)
    transmission = guided_filter(rgb2gray(image), rough, 60, 1e-4)
    transmission = np.clip(transmission, LEAST_TRANSMISSION, 1.0)[..., None]
    return (image - light) / transmission + light
