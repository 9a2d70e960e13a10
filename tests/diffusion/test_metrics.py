"""Scores of a filling, against scikit-image, brute force and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from instruct_ipt.diffusion.features import (
    INCEPTION,
    VGG,
    frechet,
    inception_scores,
    kernel_distance,
    perceptual,
)
from instruct_ipt.diffusion.metrics import diversity, hole_l1, hole_psnr, hole_ssim, seam, sliced_wasserstein
from instruct_ipt.errors import InputError

from .denoisers import picture


def pair(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = picture(seed)
    found = np.clip(truth + rng.normal(0, 0.05, truth.shape), 0, 1).astype(np.float32)
    return found, truth, rng.random(truth.shape[:2]) < 0.4


def test_psnr_and_l1_are_those_of_the_missing_pixels():
    found, truth, missing = pair()
    expected = peak_signal_noise_ratio(truth[missing].astype(float), found[missing].astype(float), data_range=1)
    assert hole_psnr(found, truth, missing) == pytest.approx(expected)
    assert hole_l1(found, truth, missing) == pytest.approx(np.abs(found[missing] - truth[missing]).mean(), rel=1e-5)
    elsewhere = np.where(missing[..., None], found, 0.0)
    assert hole_psnr(elsewhere, truth, missing) == hole_psnr(found, truth, missing)


def test_ssim_of_everything_is_that_of_the_map():
    found, truth, _ = pair()
    everywhere = np.ones(truth.shape[:2], dtype=bool)
    _, values = structural_similarity(found.astype(float), truth.astype(float), channel_axis=2, data_range=1, full=True)
    assert hole_ssim(found, truth, everywhere) == pytest.approx(values.mean())


def test_a_step_at_the_border_is_a_seam():
    rows = np.linspace(0, 0.5, 32)[:, None, None].repeat(32, 1).repeat(3, 2)
    missing = np.zeros((32, 32), dtype=bool)
    missing[10:20] = True
    assert seam(rows, missing) == pytest.approx(brute_seam(rows, missing))
    stepped = np.where(missing[..., None], rows + 0.2, rows)
    assert seam(stepped, missing) > 5 * seam(rows, missing)
    assert np.isnan(seam(rows, np.ones((32, 32), dtype=bool)))


def brute_seam(values: np.ndarray, missing: np.ndarray) -> float:
    across, inside = [], []
    for y in range(32):
        for x in range(32):
            for other in ((y + 1, x), (y, x + 1)):
                if max(other) < 32:
                    step = np.abs(values[y, x] - values[other]).mean()
                    (across if missing[y, x] != missing[other] else inside if missing[y, x] else []).append(step)
    return float(np.mean(across) / np.mean(inside))


def test_draws_that_agree_are_not_diverse():
    missing = np.ones((4, 4), dtype=bool)
    draws = [np.full((4, 4, 3), value) for value in (0.0, 0.0, 0.3)]
    assert diversity(draws[:2], missing) == 0
    assert diversity(draws, missing) == pytest.approx(0.2)


# ---- sets of pictures -----------------------------------------------------------------------------------------------


def sets(count: int = 6) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [picture(seed, 64) for seed in range(count)], [picture(seed + 50, 64) for seed in range(count)]


def test_a_set_is_at_no_distance_from_itself_and_noise_is_far():
    real, others = sets()
    rng = np.random.default_rng(0)
    noisy = [np.clip(p + rng.normal(0, 0.3, p.shape), 0, 1) for p in real]
    assert sliced_wasserstein(real, real) == 0
    assert sliced_wasserstein(noisy, real) > 2 * sliced_wasserstein(others, real)
    assert sliced_wasserstein(others, real) == sliced_wasserstein(others, real)


def test_sorted_projections_are_the_wasserstein_distance():
    """The inner step, by scipy, on one level small enough that there is no pyramid: pictures of constant colour."""
    rng = np.random.default_rng(2)
    found, others, real = ([np.full((16, 16, 3), v) for v in rng.random(20)] for _ in range(3))

    def exact(one):
        return wasserstein_distance(*([p[0, 0, 0] for p in pictures] for pictures in (one, real)))

    # A patch of one colour is 147 equal numbers: every direction only scales it, the same ones for both sets.
    near, far = (sliced_wasserstein(s, real, patches=1) for s in (found, others))
    assert near / far == pytest.approx(exact(found) / exact(others)) and near > 0
    doubled = [2 * p for p in found], [2 * p for p in real]
    assert sliced_wasserstein(*doubled, patches=1) == pytest.approx(near)  # normalised by the spread of the real


def test_sets_of_different_number_are_refused():
    with pytest.raises(ValueError, match="5 pictures against 6"):
        sliced_wasserstein(sets()[0][:5], sets()[1])


def test_frechet_distance_of_two_normals_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (200_000, 2)), rng.normal(0, 2, (200_000, 2)) + [3, 0]
    # means 3 apart; spreads 1 and 2 on both axes: 2 (1 - 2)^2
    assert frechet(a, b) == pytest.approx(9 + 2, rel=0.02)


def test_kernel_distance_is_the_double_sum():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(5, 3)), rng.normal(0.5, 1, size=(4, 3))

    def kernel(x, y):
        return (float(x @ y) / 3 + 1) ** 3

    within = [np.mean([kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j]) for s in (a, b)]
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(sum(within) - 2 * between)


# ---- scores that need somebody else's network -----------------------------------------------------------------------


class Stand(torch.nn.Module):
    """With the interface of the networks that StyleGAN's authors distribute."""

    def forward(self, x: torch.Tensor, return_features: bool = False, return_lpips: bool = False) -> torch.Tensor:
        means = x.mean(dim=[2, 3]) / 255.0
        return means * 2.0 if return_lpips else torch.cat([means, means.square()], 1)


def test_without_the_files_the_scores_are_absent(tmp_path):
    found, real = sets()
    assert all(np.isnan(value) for value in inception_scores(found, real, tmp_path).values())
    assert np.isnan(perceptual(found, real, tmp_path))


def test_with_the_files_the_scores_are_there(tmp_path):
    for name in (INCEPTION, VGG):
        torch.jit.script(Stand()).save(str(tmp_path / name))
    found, real = sets()
    means = [np.stack([p.reshape(-1, 3).mean(0) for p in s]) for s in (found, real)]
    features = [np.concatenate([m, m**2], axis=1) for m in means]
    scores = inception_scores(found, real, tmp_path)
    assert scores["fid"] == pytest.approx(frechet(*features), abs=1e-4)
    assert scores["kid"] == pytest.approx(1000 * kernel_distance(*features), abs=1e-2)
    expected = (4 * (means[0] - means[1]) ** 2).sum(1).mean()
    assert perceptual(found, real, tmp_path) == pytest.approx(expected, rel=1e-3)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / INCEPTION).write_bytes(b"not a network")
    with pytest.raises(InputError, match=INCEPTION):
        inception_scores(*sets(), tmp_path)
