"""Rain and snow are bright and thin: a morphological opening removes what is brighter and thinner than its element."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import grey_opening, median_filter
from skimage.color import rgb2gray

from .guided import guided_filter


def opened_across(image: np.ndarray, width: int, limit: float) -> np.ndarray:
    """Morphological derainer: what an opening across the streaks takes away is taken away, up to a limit.

    Streaks fall, so that a horizontal element does not fit into them, while it fits into what is wider. What is removed
    is one grey layer, since rain has no colour; it is smoothed along the edges of the grey image by a guided filter.

    Args:
        image: float (H, W, 3) in [0, 1].
        width: of the element, in pixels; streaks are thinner.
        limit: the most that is taken from a pixel, in [0, 1]; edges of the scene are brighter than rain.
    """
    grey = rgb2gray(image)
    opened = grey_opening(grey, size=(1, width), mode="reflect")
    layer = np.minimum(grey - opened, limit)
    return np.clip(image - guided_filter(grey, layer, 2, 1e-3)[..., None], 0.0, 1.0)


def median(image: np.ndarray, size: int) -> np.ndarray:
    """Median of each channel in a square window of ``size`` pixels; flakes smaller than half of it vanish."""
    return median_filter(image, size=(size, size, 1), mode="reflect")
