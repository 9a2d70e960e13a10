"""Denoisers of scikit-image, and BM3D where a package for it is installed; they estimate the noise from the image."""

from __future__ import annotations

import numpy as np
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet, estimate_sigma


def noise_level(image: np.ndarray) -> float:
    """Standard deviation of Gaussian noise on the scale of `image` (H, W, 3), by the median of the finest wavelets."""
    return float(estimate_sigma(image, average_sigmas=True, channel_axis=2))


def nl_means(image: np.ndarray, strength: float) -> np.ndarray:
    """Non-local means (Buades, Coll, Morel, CVPR 2005), patches of 5 px in windows of 13 px.

    Args:
        image: float (H, W, 3).
        strength: the filter's h over the estimated noise level.
    """
    sigma = noise_level(image)
    return denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=strength * sigma, sigma=sigma, fast_mode=True, channel_axis=2
    )


def wavelet(image: np.ndarray, wavelet: str) -> np.ndarray:
    """Soft thresholds by BayesShrink (Chang, Yu, Vetterli, IEEE TIP 2000) in YCbCr."""
    # Rescaled by the library to its own range, which is that of the image: noise may leave [0, 1].
    return denoise_wavelet(
        image, wavelet=wavelet, mode="soft", method="BayesShrink", convert2ycbcr=True, channel_axis=2,
        rescale_sigma=True,
    )  # fmt: skip


def total_variation(image: np.ndarray, weight: float) -> np.ndarray:
    """Total variation (Rudin, Osher, Fatemi 1992) by Chambolle's algorithm (2004).

    Args:
        image: float (H, W, 3).
        weight: of the variation, over the estimated noise level.
    """
    return denoise_tv_chambolle(image, weight=weight * noise_level(image), channel_axis=2)


def bm3d(image: np.ndarray) -> np.ndarray:
    """BM3D of colour images (Dabov, Foi, Katkovnik, Egiazarian, IEEE TIP 2007), by its authors' package `bm3d`.

    Raises:
        ImportError: that package is not installed; its licence allows non-commercial use only, so we do not require it.
    """
    from bm3d import bm3d_rgb

    return np.asarray(bm3d_rgb(image, noise_level(image)))
