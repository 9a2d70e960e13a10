"""The classical methods do what their papers say, on images whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import convolve
from skimage.data import astronaut, camera

from instruct_ipt.classical import Method, available, choose
from instruct_ipt.classical.blur import gaussian_kernel, lucy, wiener
from instruct_ipt.classical.guided import guided_filter
from instruct_ipt.classical.haze import airlight, dark_channel, dark_channel_prior
from instruct_ipt.classical.noise import nl_means, noise_level, total_variation, wavelet
from instruct_ipt.classical.streaks import median, opened_across
from instruct_ipt.data.prepared import Pair
from instruct_ipt.evaluation.protocol import psnr
from instruct_ipt.tasks import TASKS

RNG = np.random.default_rng(0)
CLEAN = (astronaut()[100:260, 150:310] / 255).astype(np.float32)


@pytest.mark.parametrize("method", available(), ids=lambda method: f"{method.task} {method.name}")
def test_every_method_keeps_shape_and_is_a_function_of_the_image(method):
    given = CLEAN[:64, :72]
    first, second = (method.apply(given.copy(), **method.settings[0]) for _ in range(2))
    assert first.shape == given.shape and np.isfinite(first).all()
    assert np.array_equal(first, second)


def test_every_task_has_a_reference():
    assert {method.task for method in available()} == set(TASKS)


@pytest.mark.parametrize("sigma", [15 / 255, 50 / 255])
def test_noise_is_measured_and_removed(sigma):
    noisy = (CLEAN + sigma * RNG.standard_normal(CLEAN.shape)).astype(np.float32)
    assert noise_level(noisy) == pytest.approx(sigma, rel=0.15)
    before = psnr(noisy, CLEAN)
    for restored in (nl_means(noisy, 0.6), wavelet(noisy, "db2"), total_variation(noisy, 0.9)):
        assert psnr(restored, CLEAN) > before + 2.5


@pytest.mark.parametrize("deconvolve", [lambda image: lucy(image, 1.5, 20), lambda image: wiener(image, 1.5)])
def test_a_gaussian_blur_is_undone_by_its_own_kernel(deconvolve):
    kernel = gaussian_kernel(1.5)
    assert kernel.sum() == pytest.approx(1) and kernel.shape[0] % 2 == 1
    blurred = np.stack([convolve(CLEAN[..., c], kernel, mode="reflect") for c in range(3)], axis=2)
    assert psnr(deconvolve(blurred), CLEAN) > psnr(blurred, CLEAN) + 1


def test_the_guided_filter_is_the_regression_of_each_window():
    """Against its definition, eq. 4 to 6: a line fitted in every window, the fits averaged."""
    guide, image = RNG.random((20, 22)), RNG.random((20, 22))
    radius, epsilon = 2, 0.01
    slope, offset = np.empty_like(guide), np.empty_like(guide)
    inner = np.s_[radius:-radius, radius:-radius]
    for y in range(radius, 20 - radius):
        for x in range(radius, 22 - radius):
            window = np.s_[y - radius : y + radius + 1, x - radius : x + radius + 1]
            g, i = guide[window].ravel(), image[window].ravel()
            slope[y, x] = np.cov(g, i, bias=True)[0, 1] / (g.var() + epsilon)
            offset[y, x] = i.mean() - slope[y, x] * g.mean()
    far = 2 * radius
    for y in range(far, 20 - far):
        for x in range(far, 22 - far):
            window = np.s_[y - radius : y + radius + 1, x - radius : x + radius + 1]
            expected = slope[inner][y - far : y + 1, x - far : x + 1].mean() * guide[y, x] + offset[window].mean()
            assert guided_filter(guide, image, radius, epsilon)[y, x] == pytest.approx(expected, abs=1e-9)


def test_the_dark_channel_is_the_least_of_a_window():
    image = RNG.random((30, 31, 3))
    assert dark_channel(image, 5)[10, 12] == image[8:13, 10:15].min()


def test_uniform_haze_over_a_scene_with_shadows_is_removed():
    """Haze of one transmission and one colour (Koschmieder's law), on a scene with a dark spot in every window."""
    clean = 0.2 + 0.6 * CLEAN
    clean[::6, ::6] = 0.0
    light, transmission = np.array([0.9, 0.92, 0.94]), 0.5
    hazy = transmission * clean + (1 - transmission) * light
    hazy[:12, :12] = light
    assert airlight(hazy, dark_channel(hazy)) == pytest.approx(light, abs=1e-6)
    restored = dark_channel_prior(hazy, 0.95)
    part = np.s_[40:-8, 40:-8]
    assert psnr(restored[part], clean[part]) > psnr(hazy[part], clean[part]) + 6


def test_an_opening_removes_thin_bright_streaks_and_keeps_wide_things():
    scene = np.full((60, 80, 3), 0.3)
    scene[:, 40:] = 0.7
    rainy = scene.copy()
    rainy[5:55, 10:30:5] += 0.3
    restored = opened_across(rainy, 5, 0.4)
    assert psnr(restored, scene) > psnr(rainy, scene) + 10
    assert np.abs(opened_across(scene, 5, 0.4) - scene).max() < 1e-6
    # No more is taken away than the limit.
    assert (rainy - opened_across(rainy, 5, 0.1)).max() <= 0.1 + 1e-6


def test_a_median_removes_flakes_smaller_than_half_its_window():
    scene = np.full((40, 40, 3), 0.4)
    snowy = scene.copy()
    snowy[10:12, 10:12] = snowy[25:27, 30:32] = 1.0
    assert np.array_equal(median(snowy, 5), scene)


def pairs(count: int = 2) -> list[Pair]:
    grey = np.repeat(camera()[:64, :64, None] / 255, 3, axis=2).astype(np.float32)
    return [Pair("denoise", "set", str(i), grey - 0.1 * i - 0.1, grey) for i in range(count)]


def test_the_setting_is_chosen_by_the_mean_over_the_images():
    """Inputs are 0.1 and 0.2 too dark: 0.15 brighter is best for both together, though right for neither."""
    method = Method("brighter", "denoise", lambda image, by: image + by, [{"by": 0.05}, {"by": 0.15}, {"by": 0.3}])
    chosen = choose(method, pairs())
    assert chosen.setting == {"by": 0.15}
    assert chosen.validation == pytest.approx(np.mean([psnr(p.input + 0.15, p.target) for p in pairs()]))
    assert chosen(pairs()[0].input).dtype == np.float32
    assert chosen.method is method


def test_of_equal_settings_the_first_is_taken():
    method = Method("nothing", "denoise", lambda image, by: image, [{"by": 2}, {"by": 1}])
    assert choose(method, iter(pairs())).setting == {"by": 2}
