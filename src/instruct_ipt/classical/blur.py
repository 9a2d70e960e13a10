"""Deconvolution with a kernel assumed to be Gaussian: a photograph does not say how it was blurred."""

from __future__ import annotations

import numpy as np
from skimage.restoration import richardson_lucy, unsupervised_wiener


def gaussian_kernel(width: float) -> np.ndarray:
    """Float (n, n) of sum 1, n odd and at least six standard deviations; ``width``: standard deviation in pixels."""
    radius = max(1, round(3 * width))
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / width) ** 2)
    kernel = np.outer(line, line)
    return kernel / kernel.sum()


def lucy(image: np.ndarray, width: float, steps: int) -> np.ndarray:
    """Richardson-Lucy (Richardson 1972, Lucy 1974).

    Args:
        image: float (H, W, 3) in [0, 1].
        width: standard deviation of the assumed kernel in pixels.
        steps: iterations.
    """
    return _by_channel(image, width, lambda part, kernel: richardson_lucy(part, kernel, num_iter=steps))


def wiener(image: np.ndarray, width: float) -> np.ndarray:
    """Wiener-Hunt deconvolution whose regularisation is estimated (Orieux, Giovannelli, Rodet, JOSA A 2010).

    Args:
        image: float (H, W, 3) in [0, 1].
        width: standard deviation of the assumed kernel in pixels.
    """
    # The sampler draws random numbers; a seed makes the answer a function of the image.
    return _by_channel(image, width, lambda part, kernel: unsupervised_wiener(part, kernel, rng=0)[0])


def _by_channel(image: np.ndarray, width: float, solve) -> np.ndarray:
    """Each channel mirrored at its edges, solved, and cut to its size.

    One method takes images to wrap around, the other to end in black.
    """
    kernel = gaussian_kernel(width)
    margin = 4 * (len(kernel) // 2)
    padded = np.pad(image.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    channels = [solve(padded[..., c], kernel) for c in range(image.shape[2])]
    return np.stack(channels, axis=2)[margin:-margin, margin:-margin]
