"""The frozen rules of a benchmark. A number without its protocol means nothing, so the name stands beside each one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Protocol:
    """How a restored image is scored.

    Attributes:
        name: the name that stands beside every number.
        quantise: whether the output is rounded to 8 bits before it is scored.
        ssim_window: side of SSIM's uniform window in pixels.
        description: one sentence for captions.
    """

    name: str
    quantise: bool
    ssim_window: int
    description: str

    def score(self, output: np.ndarray, target: np.ndarray) -> tuple[float, float]:
        """PSNR in dB and SSIM of ``output`` against ``target``.

        Both come from scikit-image with ``data_range=1``, in float64, after clipping the output to [0, 1].

        Args:
            output: float (H, W, 3); values outside [0, 1] are clipped.
            target: float (H, W, 3) in [0, 1].

        Returns:
            PSNR (infinite when equal) and SSIM (Wang et al. 2004, mean over channels).
        """
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity

        shown = np.clip(output.astype(np.float64), 0.0, 1.0)
        if self.quantise:
            shown = np.rint(shown * 255.0) / 255.0
        truth = target.astype(np.float64)
        psnr = peak_signal_noise_ratio(truth, shown, data_range=1.0)
        ssim = structural_similarity(truth, shown, data_range=1.0, channel_axis=2, win_size=self.ssim_window)
        return float(psnr), float(ssim)


PROTOCOLS: dict[str, Protocol] = {
    "rgb": Protocol(
        name="rgb",
        quantise=False,
        ssim_window=7,
        description=(
            "PSNR and SSIM on RGB in [0, 1] (scikit-image, 7x7 uniform SSIM window), no border crop, output clipped "
            "and not quantised, Gaussian noise not clipped and seeded by image name"
        ),
    )
}


def psnr(output: np.ndarray, target: np.ndarray) -> float:
    """PSNR in dB of one image (H, W, 3) as protocol `rgb` scores it, without the cost of SSIM."""
    error = np.mean((np.clip(output, 0.0, 1.0).astype(np.float64) - target) ** 2)
    return float(-10.0 * np.log10(max(error, 1e-12)))
