"""Scores that need somebody else's network: FID, KID and LPIPS, computed where its file lies and absent where not.

The files are the TorchScript modules that StyleGAN's authors distribute (`inception-2015-12-05.pt`, `vgg16.pt`); they
take uint8-ranged RGB (N, 3, H, W) and are called with ``return_features=True`` and ``return_lpips=True``. Nothing is
ever downloaded by itself: who wants these scores places the files under `data/metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy import linalg

from instruct_ipt.errors import InputError

FOLDER = Path("data/metrics")
INCEPTION, VGG = "inception-2015-12-05.pt", "vgg16.pt"


def inception_scores(
    found: Sequence[np.ndarray], real: Sequence[np.ndarray], folder: Path = FOLDER
) -> dict[str, float]:
    """``fid`` (Heusel et al. 2017) and ``kid`` (Binkowski et al. 2018, times 1000); NaN where the file is absent.

    Args:
        found, real: float (H, W, 3) in [0, 1]; at least two each.
        folder: holds :data:`INCEPTION`.

    Raises:
        InputError: the file is there but cannot be used; the line names it.
    """
    if not (folder / INCEPTION).is_file():
        return {"fid": float("nan"), "kid": float("nan")}
    features = [_features(folder / INCEPTION, pictures, return_features=True) for pictures in (found, real)]
    return {"fid": frechet(*features), "kid": 1000 * kernel_distance(*features)}


def perceptual(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], folder: Path = FOLDER) -> float:
    """Mean LPIPS (Zhang et al. 2018) of pairs; NaN where :data:`VGG` is absent.

    Raises:
        InputError: the file is there but cannot be used; the line names it.
    """
    if not (folder / VGG).is_file():
        return float("nan")
    a, b = (_features(folder / VGG, pictures, return_lpips=True) for pictures in (found, truth))
    return float(((a - b) ** 2).sum(axis=1).mean())


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two normal distributions fitted to features (N, D): |m - n|^2 + tr(S + T - 2 (S T)^(1/2))."""
    means = a.mean(0), b.mean(0)
    spreads = np.atleast_2d(np.cov(a, rowvar=False)), np.atleast_2d(np.cov(b, rowvar=False))
    root = linalg.sqrtm(spreads[0] @ spreads[1])
    trace = np.trace(spreads[0]) + np.trace(spreads[1]) - 2 * np.trace(np.real(root))
    return float(((means[0] - means[1]) ** 2).sum() + trace)


def kernel_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy of features (N, D) and (M, D), kernel (x.y / D + 1)^3."""
    n, m, width = len(a), len(b), a.shape[1]
    kernel = [(x @ y.T / width + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = [(k.sum() - np.trace(k)) / (size * (size - 1)) for k, size in zip(kernel[:2], (n, m), strict=True)]
    return float(sum(within) - 2 * kernel[2].mean())


def _features(file: Path, pictures: Sequence[np.ndarray], **wanted: bool) -> np.ndarray:
    """(N, D) float64."""
    try:
        network = torch.jit.load(str(file), map_location="cpu").eval()
        with torch.inference_mode():
            rows = [
                network(torch.from_numpy(p.astype(np.float32) * 255).permute(2, 0, 1)[None], **wanted) for p in pictures
            ]
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{file}: is not a TorchScript network that gives {', '.join(wanted)}: {reason}") from None
    return torch.cat(rows).flatten(1).double().numpy()
