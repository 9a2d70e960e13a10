"""The way from noise to a picture: against closed forms, reproducible, and never a known pixel touched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.fill import SCALE, Fill, ask, coarse
from instruct_ipt.diffusion.sampling import sample
from instruct_ipt.diffusion.schedule import TIMES, Ddim, noised, signal, time_of

from .denoisers import SHARE, Oracle, picture, stirred


def asked(task: str, seed: int = 0) -> Fill:
    return ask(task, picture(seed), np.random.default_rng(seed), SHARE)


# ---- the noise ------------------------------------------------------------------------------------------------------


def test_the_signal_falls_to_nothing():
    a = signal().double().numpy()
    assert a.shape == (TIMES,) and (np.diff(a) < 0).all()
    assert a[0] > 0.999 and a[-1] == pytest.approx(0, abs=1e-7)


def test_the_schedule_is_the_rescaled_cosine_of_its_papers():
    """Nichol and Dhariwal 2021 (betas of a cosine, at most 0.999), rescaled as in Lin et al. 2024, in float64."""
    bar = [math.cos((i / TIMES + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(TIMES + 1)]
    root = np.sqrt(np.cumprod([1 - min(1 - bar[i + 1] / bar[i], 0.999) for i in range(TIMES)]))
    rescaled = (root - root[-1]) * root[0] / (root[0] - root[-1])
    np.testing.assert_allclose(signal().double().numpy(), rescaled**2, atol=2e-5)


def test_noise_and_velocity_give_back_the_picture():
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    time = torch.tensor([0, 300, 700, 999])
    noisy, v = noised(x, noise, time)
    a = signal().double()[time].view(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * noisy - (1 - a).sqrt() * v, x)
    torch.testing.assert_close((1 - a).sqrt() * noisy + a.sqrt() * v, noise)


def test_the_time_of_a_level_is_the_time_that_has_it():
    for time in (5, 250, 900):
        a = float(signal().double()[time])
        assert time_of(math.sqrt((1 - a) / a)) == pytest.approx(time, abs=1e-3)


# ---- one step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 7, 19])
def test_a_ddim_step_is_the_closed_form(number):
    """Song et al. 2021, equation 12 with sigma = 0, in float64."""
    way = Ddim(20)
    time = way.times[number]
    after = way.times[number + 1] if number < 19 else None
    generator = torch.Generator().manual_seed(1)
    x, v = (0.2 * torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    a = signal().double()[time]
    then = signal().double()[after] if after is not None else torch.tensor(1.0, dtype=torch.float64)
    clean, noise = a.sqrt() * x - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x
    found, guess = way.step(v, time, x)
    torch.testing.assert_close(guess, clean.clamp(-1, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(found, then.sqrt() * clean.clamp(-1, 1) + (1 - then).sqrt() * noise, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampler", ["ddim", "edm"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_a_network_that_knows_the_picture_samples_it(sampler, steps):
    truth = picture(3)
    everything = Fill(np.full_like(truth, 0.5), np.ones(truth.shape[:2], dtype=bool))
    (found,) = sample(Oracle(truth), None, [everything], [7], steps, sampler)
    np.testing.assert_allclose(found, truth, atol=2e-3)


# ---- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["ddim", "edm"])
def test_the_seed_decides_and_the_company_does_not(sampler):
    model, fills = stirred(), [asked("inpaint", seed) for seed in range(3)]
    together = sample(model, "inpaint", fills, [1, 2, 3], 4, sampler)
    again = sample(model, "inpaint", fills, [1, 2, 3], 4, sampler)
    (alone,) = sample(model, "inpaint", fills[1:2], [2], 4, sampler)
    (other,) = sample(model, "inpaint", fills[1:2], [9], 4, sampler)
    assert all(np.array_equal(a, b) for a, b in zip(together, again, strict=True))
    np.testing.assert_allclose(alone, together[1], atol=1e-4)
    assert np.abs(other - alone).max() > 0.01


@pytest.mark.parametrize("task", ["inpaint", "outpaint"])
def test_known_pixels_keep_their_bits(task):
    fill, truth = asked(task, 4), picture(4)
    (found,) = sample(stirred(), task, [fill], [0], 3)
    assert np.array_equal(found[~fill.missing], truth[~fill.missing])
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("task", FILL_TASKS)
@pytest.mark.parametrize("sampler", ["ddim", "edm"])
def test_folded_weights_sample_exactly_as_unfolded(task, sampler):
    model, fill = stirred(), asked(task, 2)
    (unfolded,) = sample(model, task, [fill], [5], 4, sampler)
    (folded,) = sample(model.fold(task).eval(), None, [fill], [5], 4, sampler)
    assert np.array_equal(folded, unfolded)


def test_tasks_give_different_pictures():
    model, fill = stirred(), asked("inpaint")
    found = [sample(model, task, [fill], [5], 3)[0] for task in FILL_TASKS]
    assert np.abs(found[0] - found[1]).max() > 1e-3 and np.abs(found[1] - found[2]).max() > 1e-3


def test_every_pass_is_shown_and_the_last_is_the_result():
    seen = []
    (found,) = sample(stirred(), "inpaint", [asked("inpaint")], [1], 5, observe=lambda n, p: seen.append((n, p[0])))
    assert [number for number, _ in seen] == [1, 2, 3, 4, 5]
    assert np.array_equal(seen[-1][1], found)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="2 seeds for 1 picture"):
        sample(stirred(), "inpaint", [asked("inpaint")], [1, 2], 3)
    with pytest.raises(KeyError):
        sample(stirred(), "inpaint", [asked("inpaint")], [1], 3, "euler")


# ---- what is asked --------------------------------------------------------------------------------------------------


def test_what_is_missing_is_not_shown():
    fill, truth = asked("outpaint", 1), picture(1)
    assert (fill.known[fill.missing] == 0.5).all()
    assert np.array_equal(fill.known[~fill.missing], truth[~fill.missing])


def test_a_coarse_picture_holds_the_means_of_its_blocks():
    truth = picture(2)
    found = coarse(truth)
    means = truth.reshape(8, SCALE, 8, SCALE, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(found[::SCALE, ::SCALE], means, atol=0.5 / 255 + 1e-6)
    assert np.array_equal(found[1::SCALE, 2::SCALE], found[::SCALE, ::SCALE])


def test_a_shade_off_everywhere_leaves_no_seam():
    truth = np.full((32, 32, 3), 0.5, np.float32)
    missing = np.zeros((32, 32), dtype=bool)
    missing[8:24, 8:24] = True
    fill = Fill(np.where(missing[..., None], 0.5, truth).astype(np.float32), missing)
    found = fill.complete(truth + 0.1)
    assert np.array_equal(found[~missing], truth[~missing])
    assert abs(found[8, 16, 0] - 0.5) < 0.03  # beside the border the shade is taken back
    assert found[16, 16, 0] == pytest.approx(0.6, abs=0.01)  # far from it the guess stands
    assert np.abs(np.diff(found[:, 16, 0])).max() < 0.04  # and nowhere is there a step of 0.1
