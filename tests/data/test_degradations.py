"""The five damages against their physics, written out a second time here."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.ndimage import convolve, gaussian_filter

from instruct_ipt.data.degradations import (
    add_noise,
    blur,
    camera_shake_kernel,
    degrade,
    degrade_named,
    haze,
    rain_streaks,
    scene_depth,
    snow_flakes,
    transmission,
)
from instruct_ipt.data.images import read_image
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS


@pytest.fixture
def settings() -> SimpleNamespace:
    return SimpleNamespace(
        denoise=SimpleNamespace(sigma=[15.0, 25.0, 50.0]),
        deblur=SimpleNamespace(support=[9, 21], anxiety=[0.3, 2.5], gamma=2.2, noise=[0.0, 0.0]),
        derain=SimpleNamespace(
            length=[8, 44],
            angle=[-30, 30],
            density=[0.003, 0.010],
            width=[0.6, 2.2],
            opacity=[0.45, 0.8],
            veil=[0.02, 0.12],
        ),
        dehaze=SimpleNamespace(beta=[0.5, 1.3], airlight=[0.7, 0.95], relief=[0.1, 0.5]),
        desnow=SimpleNamespace(size=[0.6, 4.5], density=[2, 8], motion=[0, 8], opacity=[0.7, 0.95], veil=[0.02, 0.12]),
    )


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _image(*shape: int, seed: int = 0) -> np.ndarray:
    return _rng(seed).random((*shape, 3), dtype=np.float32)


# --- what holds for all of them


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (7, 5), (64, 96)])
def test_any_size_and_the_range(task: str, shape: tuple[int, int], settings: SimpleNamespace) -> None:
    for seed in range(5):
        clean = _image(*shape)
        before = clean.copy()
        damaged = degrade(task, clean, _rng(seed), settings)
        assert damaged.shape == clean.shape and damaged.dtype == np.float32 and np.isfinite(damaged).all()
        assert np.array_equal(clean, before), "the clean image is left alone"
        if task != "denoise":
            assert damaged.min() >= 0 and damaged.max() <= 1


@pytest.mark.parametrize("task", TASKS)
def test_a_named_image_gets_the_same_damage_in_any_order(task: str, settings: SimpleNamespace) -> None:
    clean = _image(32, 40)
    first = degrade_named(task, clean, "a", settings)
    for other in TASKS:
        degrade_named(other, clean, "b", settings)
    assert degrade_named(task, clean, "a", settings).tobytes() == first.tobytes()
    assert not np.array_equal(degrade_named(task, clean, "b", settings), first)
    assert not np.array_equal(degrade_named(task, clean, "a", settings, seed=1), first)


def test_named_noise_depends_on_the_level_and_equals_its_written_rule(settings: SimpleNamespace) -> None:
    clean = np.zeros((8, 8, 3), np.float32)
    low, high = (degrade_named("denoise", clean, "a", settings, sigma=sigma) for sigma in (25, 50))
    assert not np.allclose(low * 2, high), "each level has its own noise"
    assert np.array_equal(low, degrade_named("denoise", clean, "a", settings, sigma=25.0))
    # First value of sha256("0|denoise|a|25") -> PCG64: guards the test sets of everyone against a change here.
    assert low[0, 0, 0] == pytest.approx(-0.09813625, abs=1e-7)


@pytest.mark.parametrize("task", TASKS[1:])
def test_the_noise_level_is_ignored_elsewhere(task: str, settings: SimpleNamespace) -> None:
    clean = _image(16, 16)
    first, second = (degrade_named(task, clean, "a", settings, sigma=sigma) for sigma in (50, None))
    assert np.array_equal(first, second)


def test_bad_input_is_named(settings: SimpleNamespace) -> None:
    with pytest.raises(InputError, match="'defog'.*denoise, deblur, derain, dehaze, desnow"):
        degrade("defog", _image(4, 4), _rng(), settings)
    with pytest.raises(InputError, match=r"\(4, 4\)"):
        degrade("derain", np.zeros((4, 4), np.float32), _rng(), settings)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    return [read_image(locate(photo)).astype(np.float32) / 255 for photo in BUNDLED if photo.split == "test"]


@pytest.mark.parametrize(
    ("task", "low", "high"), [("deblur", 22, 29), ("derain", 18, 26), ("dehaze", 11, 17), ("desnow", 16, 24)]
)
def test_strength_is_moderate_on_photographs(
    task: str, low: float, high: float, settings: SimpleNamespace, photographs: list[np.ndarray]
) -> None:
    for clean in photographs:
        errors = [np.mean((degrade(task, clean, _rng(seed), settings) - clean) ** 2) for seed in range(12)]
        assert low < np.mean(-10 * np.log10(errors)) < high


# --- noise


@pytest.mark.parametrize("sigma", [15.0, 50.0])
def test_noise_has_the_level_asked_for_and_is_not_clipped(sigma: float, settings: SimpleNamespace) -> None:
    clean = np.zeros((200, 200, 3), np.float32)
    noisy = degrade("denoise", clean, _rng(), settings, sigma=sigma)
    # The standard error of a standard deviation is sigma / sqrt(2 n) = 0.2 % here; of a mean, 0.3 % of sigma.
    assert noisy.std() * 255 == pytest.approx(sigma, rel=0.01)
    assert abs(noisy.mean()) * 255 < 0.015 * sigma
    assert noisy.min() < 0


def test_noise_level_is_drawn_from_the_list(settings: SimpleNamespace) -> None:
    levels = [degrade("denoise", np.zeros((64, 64, 3)), _rng(seed), settings).std() * 255 for seed in range(40)]
    nearest = {min(settings.denoise.sigma, key=lambda sigma: abs(sigma - level)) for level in levels}
    assert nearest == set(settings.denoise.sigma)
    assert max(min(abs(sigma - level) for sigma in settings.denoise.sigma) for level in levels) < 1.5


def test_noise_is_white() -> None:
    noise = add_noise(np.zeros((256, 256, 3), np.float32), _rng(), 25)
    for lag in ((0, 1, 0), (1, 0, 0), (0, 0, 1)):
        assert abs(np.corrcoef(noise.ravel(), np.roll(noise, lag, (0, 1, 2)).ravel())[0, 1]) < 0.01


# --- blur


@given(seed=st.integers(0, 10**6), half=st.integers(0, 15), anxiety=st.floats(0, 5))
@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
def test_kernel_is_a_share_of_light_that_fills_its_support(seed: int, half: int, anxiety: float) -> None:
    support = 2 * half + 1
    kernel = camera_shake_kernel(_rng(seed), support, anxiety)
    assert kernel.shape == (support, support) and kernel.dtype == np.float32
    assert kernel.min() >= 0 and kernel.sum() == pytest.approx(1, abs=1e-5)
    assert half == 0 or kernel.sum() > kernel[1:-1, 1:-1].sum(), "the path touches the border"


def test_the_middle_of_the_kernel_is_a_moment_of_the_middle_half_of_the_exposure() -> None:
    """On a straight path a quarter of the light or more comes before it, and after it, whatever the speed."""
    y, x = np.mgrid[:41, :41] - 20
    shares = []
    for seed in range(60):
        kernel = camera_shake_kernel(_rng(seed), 41, 0.0).astype(float)
        moments = [[(kernel * a * b).sum() for b in (y, x)] for a in (y, x)]
        down, right = np.linalg.eigh(moments)[1][:, 1]
        along = down * y + right * x
        before, after = kernel[along < -0.75].sum(), kernel[along > 0.75].sum()
        assert before < 0.75 and after < 0.75 and before + after > 0.8, "the rest lies within a pixel"
        shares.append(before / (before + after))
    assert 0.2 < min(shares) < 0.3 and 0.7 < max(shares) < 0.8 and 0.4 < np.mean(shares) < 0.6


def test_without_anxiety_the_kernel_is_a_straight_line() -> None:
    kernel = camera_shake_kernel(_rng(3), 21, 0.0).astype(float)
    y, x = np.mgrid[:21, :21] - 10
    moments = [[(kernel * a * b).sum() for b in (y, x)] for a in (y, x)]
    small, large = np.linalg.eigvalsh(moments)
    assert small < 0.3 < 5 < large, "as wide as a bilinear splat across, long along"


@pytest.mark.parametrize("gamma", [1.0, 2.2])
def test_blur_is_a_convolution_in_linear_light(gamma: float) -> None:
    clean, kernel = _image(30, 41), camera_shake_kernel(_rng(1), 11, 2.0)
    linear = clean.astype(float) ** gamma
    expected = np.stack([convolve(linear[..., c], kernel.astype(float), mode="reflect") for c in range(3)], -1)
    np.testing.assert_allclose(blur(clean, kernel, gamma), expected ** (1 / gamma), atol=2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (40, 40)])
def test_blur_leaves_a_constant_image_as_it_is(shape: tuple[int, int], settings: SimpleNamespace) -> None:
    for value in (0.0, 0.3, 1.0):
        clean = np.full((*shape, 3), value, np.float32)
        np.testing.assert_allclose(degrade("deblur", clean, _rng(), settings), clean, atol=1e-4)


def test_the_noise_of_the_sensor_comes_after_the_blur(settings: SimpleNamespace) -> None:
    """White, of the level that was asked for, and on a flat image all that there is."""
    settings.deblur.noise = [4.0, 4.0]
    noise = degrade("deblur", np.full((90, 90, 3), 0.5, np.float32), _rng(), settings) - 0.5
    assert noise.std() * 255 == pytest.approx(4, rel=0.03) and abs(noise.mean()) < 1e-3
    assert abs((noise[1:] * noise[:-1]).mean()) < 0.05 * noise.var(), "neighbours know nothing of each other"


# --- rain and snow


@pytest.mark.parametrize("task", ["derain", "desnow"])
def test_without_veil_no_pixel_gets_darker(task: str, settings: SimpleNamespace) -> None:
    getattr(settings, task).veil = [0.0, 0.0]
    clean = _image(80, 90)
    damaged = degrade(task, clean, _rng(), settings)
    assert (damaged >= clean - 1e-6).all() and (damaged > clean + 0.05).mean() > 0.02


@pytest.mark.parametrize("task", ["derain", "desnow"])
def test_veil_is_a_blend_with_one_grey(task: str, settings: SimpleNamespace) -> None:
    group = getattr(settings, task)
    group.veil, group.density = [0.3, 0.3], [0.0, 0.0]
    clean = _image(20, 20)
    rest = (degrade(task, clean, _rng(), settings) - 0.7 * clean) / 0.3
    assert rest.std() < 1e-5 and 0.5 < rest.mean() < 1


@pytest.mark.parametrize("draw", [rain_streaks, snow_flakes])
def test_particles_are_opacities_and_cover_more_when_denser(draw: object, settings: SimpleNamespace) -> None:
    group = copy.copy(settings.derain if draw is rain_streaks else settings.desnow)
    covered = []
    for density in (0.002, 0.01):
        scale = 1 if draw is rain_streaks else 1000
        group.density = [density * scale] * 2
        opacity = draw(_rng(), (200, 300), group)
        assert opacity.shape == (200, 300) and opacity.dtype == np.float32
        assert opacity.min() >= 0 and opacity.max() < 1
        covered.append(opacity.mean())
    assert covered[1] > 2.5 * covered[0]


def test_rain_falls_along_its_angle() -> None:
    for angle in (-30, 0, 30):
        # Wide streaks: finite differences of a line as thin as a px lean towards the diagonal.
        group = SimpleNamespace(
            length=[90, 90], width=[6, 6], angle=[angle, angle], density=[2e-4, 2e-4], opacity=[0.5, 0.5]
        )
        gy, gx = np.gradient(gaussian_filter(rain_streaks(_rng(), (500, 500), group), 1.5))
        # Orientation by the structure tensor: gradients stand across the streaks. x runs right, y runs down.
        across = 0.5 * math.degrees(math.atan2(2 * (gx * gy).mean(), (gx * gx - gy * gy).mean()))
        assert -across == pytest.approx(angle, abs=4)


def test_opacity_of_one_wide_streak_is_its_area() -> None:
    group = SimpleNamespace(length=[40, 40], width=[3, 3], angle=[0, 0], density=[2e-5, 2e-5], opacity=[0.5, 0.5])
    total = np.mean([rain_streaks(_rng(seed), (200, 200), group).mean() for seed in range(300)])
    # Mean strength 0.5 * (0.35 + 0.65 / 3) * 0.75; the ends fade over a third of the half length 20 on each side.
    expected = 2e-5 * 3 * (40 - 40 / 3) * 0.5 * (0.35 + 0.65 / 3) * 0.75
    assert total == pytest.approx(expected, rel=0.15)


def test_flakes_grow_with_size_and_stretch_with_motion() -> None:
    base = SimpleNamespace(size=[2, 2], density=[1, 1], motion=[0, 0], opacity=[0.9, 0.9])
    mean = {}
    for name, change in (("base", {}), ("large", {"size": [4, 4]}), ("moving", {"motion": [12, 12]})):
        group = SimpleNamespace(**{**vars(base), **change})
        mean[name] = np.mean([snow_flakes(_rng(seed), (150, 150), group).mean() for seed in range(20)])
    assert mean["large"] > 2.5 * mean["base"] and mean["moving"] > 1.3 * mean["base"]


# --- haze


def test_haze_recovers_the_scene_when_depth_is_known() -> None:
    clean, depth, air, beta = _image(20, 30), scene_depth(_rng(), (20, 30), 0.4), np.array([0.8, 0.85, 0.9]), 1.2
    hazy = haze(clean, transmission(depth, beta), air)
    t = np.exp(-beta * depth.astype(float))[..., None]
    np.testing.assert_allclose((hazy - air * (1 - t)) / t, clean, atol=2e-6)


def test_haze_at_both_ends() -> None:
    clean = _image(6, 6)
    np.testing.assert_allclose(haze(clean, np.ones((6, 6), np.float32), 0.9), clean, atol=1e-6)
    np.testing.assert_allclose(haze(clean, np.zeros((6, 6), np.float32), 0.9), 0.9, atol=1e-6)


def test_depth_is_smooth_in_range_and_far_at_the_top() -> None:
    falls, ranges = [], []
    for seed in range(60):
        depth = scene_depth(_rng(seed), (60, 80), 0.3)
        assert depth.shape == (60, 80) and depth.min() >= 0.25 and depth.max() <= 1
        assert np.abs(np.diff(depth, axis=1)).max() < 0.05
        falls.append(depth[0].mean() > depth[-1].mean())
        ranges.append(np.ptp(depth))
    assert np.mean(falls) > 0.8
    assert min(ranges) < 0.12 and max(ranges) > 0.5, "from near-constant to full depth"


def test_depth_does_not_depend_on_the_sampling() -> None:
    small, large = scene_depth(_rng(5), (20, 30), 0.4), scene_depth(_rng(5), (60, 90), 0.4)
    np.testing.assert_allclose(large[1::3, 1::3], small, atol=1e-5)
