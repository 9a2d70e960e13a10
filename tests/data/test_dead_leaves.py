"""Dead leaves share the two statistics that make photographs hard to restore: their spectrum and their edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kurtosis

from instruct_ipt.data.dead_leaves import dead_leaves


def _spectrum_slope(grey: np.ndarray) -> float:
    """Slope of log power against log frequency, over rings from 1/64 to 1/4 cycles per px (Hann window)."""
    side = len(grey)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power = np.abs(np.fft.fft2((grey - grey.mean()) * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    edges = np.geomspace(1 / 64, 1 / 4, 12)
    rings = [power[(radius >= low) & (radius < high)].mean() for low, high in zip(edges, edges[1:], strict=False)]
    return float(np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(rings), 1)[0])


@pytest.fixture(scope="module")
def leaves() -> list[np.ndarray]:
    return [dead_leaves(np.random.default_rng(seed), 256) for seed in range(12)]


def test_type_and_range(leaves: list[np.ndarray]) -> None:
    for image in leaves:
        assert image.shape == (256, 256, 3) and image.dtype == np.float32
        assert image.min() >= 0 and image.max() <= 1 and image.std() > 0.03


def test_power_falls_with_frequency_as_in_photographs(leaves: list[np.ndarray]) -> None:
    slopes = [_spectrum_slope(image.mean(2)) for image in leaves]
    assert min(slopes) > -3 and max(slopes) < -1


def test_gradients_are_heavy_tailed(leaves: list[np.ndarray]) -> None:
    assert np.median([kurtosis(np.diff(image.mean(2), axis=1), axis=None) for image in leaves]) > 5


def test_there_is_texture_inside_leaves(leaves: list[np.ndarray]) -> None:
    flat = [(np.abs(np.diff(image.mean(2), axis=1)) < 1e-4).mean() for image in leaves]
    assert np.median(flat) < 0.2


def test_same_seed_same_bytes_other_seed_other_image() -> None:
    first, again, other = (dead_leaves(np.random.default_rng(seed), 64) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.allclose(first, other)


@pytest.mark.parametrize("size", [1, 2, 7, 33])
def test_any_size(size: int) -> None:
    image = dead_leaves(np.random.default_rng(0), size)
    assert image.shape == (size, size, 3) and np.isfinite(image).all()
