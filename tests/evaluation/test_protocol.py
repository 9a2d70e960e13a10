"""Scores agree with an independent computation in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from instruct_ipt.evaluation.protocol import PROTOCOLS, psnr


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    target = rng.random((40, 56, 3)).astype(np.float32)
    return (target + rng.normal(0, 0.2, target.shape)).astype(np.float32), target


def reference_ssim(a: np.ndarray, b: np.ndarray, window: int) -> float:
    """Wang et al. 2004 with a uniform window and the sample covariance, written out; mean over the valid region."""
    c1, c2, n = 0.01**2, 0.03**2, window**2
    values = []
    for x, y in zip(np.moveaxis(a, 2, 0), np.moveaxis(b, 2, 0), strict=True):
        mx, my = uniform_filter(x, window), uniform_filter(y, window)
        k = n / (n - 1)
        vx, vy = k * (uniform_filter(x * x, window) - mx * mx), k * (uniform_filter(y * y, window) - my * my)
        cov = k * (uniform_filter(x * y, window) - mx * my)
        s = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
        edge = window // 2
        values.append(s[edge:-edge, edge:-edge].mean())
    return float(np.mean(values))


def test_scores_agree_with_scikit_image_and_with_the_formulas(pair):
    output, target = pair
    found_psnr, found_ssim = PROTOCOLS["rgb"].score(output, target)
    shown, truth = np.clip(output.astype(np.float64), 0, 1), target.astype(np.float64)
    assert found_psnr == pytest.approx(-10 * np.log10(np.mean((shown - truth) ** 2)), abs=1e-6)
    assert found_psnr == pytest.approx(peak_signal_noise_ratio(truth, shown, data_range=1), abs=1e-6)
    assert found_ssim == pytest.approx(structural_similarity(truth, shown, data_range=1, channel_axis=2), abs=1e-6)
    assert found_ssim == pytest.approx(reference_ssim(shown, truth, 7), abs=1e-6)


def test_an_equal_image_scores_perfectly(pair):
    _, target = pair
    assert PROTOCOLS["rgb"].score(target, target) == (float("inf"), pytest.approx(1.0))


def test_values_outside_the_range_are_clipped_before_scoring(pair):
    _, target = pair
    beyond = np.where(target > 0.5, 7.0, -7.0)
    assert PROTOCOLS["rgb"].score(beyond, target) == PROTOCOLS["rgb"].score(np.clip(beyond, 0, 1), target)


def test_the_curve_psnr_is_the_same_measure(pair):
    output, target = pair
    assert psnr(output, target) == pytest.approx(PROTOCOLS["rgb"].score(output, target)[0], abs=1e-6)
