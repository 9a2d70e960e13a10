"""The guided filter, which smooths one image along the edges of another."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter


def guided_filter(guide: np.ndarray, image: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He, Sun, Tang, Guided Image Filtering, IEEE TPAMI 2013, eq. 4 to 6, with a grey guide.

    Args:
        guide: float (H, W) in [0, 1].
        image: float (H, W), what is smoothed.
        radius: of the box windows, in pixels.
        epsilon: variance below which the guide counts as flat, in squared units of the guide.
    """
    size = 2 * radius + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size, mode="reflect")

    guide, image = guide.astype(np.float64), image.astype(np.float64)
    centre, level = mean(guide), mean(image)
    slope = (mean(guide * image) - centre * level) / (mean(guide * guide) - centre**2 + epsilon)
    return mean(slope) * guide + mean(level - slope * centre)
