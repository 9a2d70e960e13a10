"""The noise: how much at which time, what a network learns at it, and the two ways back (DDIM, EDM).

Pictures lie in [-1, 1]. At time t in [0, 1000) a picture x is seen as sqrt(a) x + sqrt(1 - a) noise, where a falls from
nearly 1 to exactly 0 (a cosine, rescaled so that the last step is noise alone; Lin et al. 2024, arXiv 2305.08891): else
the mean colour of a picture would always shine through in training and be missing in sampling. What the samplers take
is v = sqrt(a) noise - sqrt(1 - a) x (Salimans and Ho 2022, arXiv 2202.00512).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

TIMES = 1000
SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
# About how far photographs in [-1, 1] lie from what `fill.carried` makes of what is known (root of the mean square).
SPREAD = 0.25


@cache
def signal() -> Tensor:
    """The share a of the picture's energy at each time, float32 (1000,), from nearly 1 down to 0."""
    return _ddim().alphas_cumprod


def noised(picture: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """(noisy picture, v), each in the shape of the picture.

    Args:
        picture: (N, 3, H, W), or with the channels last, in [-1, 1].
        noise: standard normal, same shape.
        time: int64 (N,).
    """
    a = signal().to(picture)[time].view(-1, 1, 1, 1)
    kept, hidden = a.sqrt(), (1 - a).sqrt()
    return kept * picture + hidden * noise, kept * noise - hidden * picture


def velocity_of(picture: Tensor, noisy: Tensor, a: Tensor) -> Tensor:
    """The v that belongs to a guess of the picture; all (N, 3, H, W).

    Args:
        picture: the guess, in [-1, 1].
        noisy: what it was guessed from.
        a: the signal at the time of each sample, (N,).
    """
    a = a.view(-1, 1, 1, 1)
    return (a.sqrt() * noisy - picture) / (1 - a).sqrt()


def likely_picture(noisy: Tensor, expected: Tensor, a: Tensor) -> Tensor:
    """The mean of what a picture can be that lies about :data:`SPREAD` around ``expected``; all (N, 3, H, W).

    Under much noise that is what was expected, under little what is seen; noise in it never exceeds half of the spread.
    (Of independent normal pixels; the preconditioning of Karras et al. 2022, arXiv 2206.00364, around a mean.)

    Args:
        noisy: the picture under noise.
        expected: a guess without having seen that.
        a: the signal at the time of each sample, (N,).
    """
    a, variance = a.view(-1, 1, 1, 1), SPREAD**2
    return ((1 - a) * expected + a.sqrt() * variance * noisy) / (a * variance + 1 - a)


def signal_at(table: Tensor, time: Tensor) -> Tensor:
    """a at times that may lie between whole ones, linearly between their neighbours; float32 (N,).

    Args:
        table: of `signal`.
        time: float (N,) in [0, 999].
    """
    below = time.long().clamp(0, TIMES - 2)
    return torch.lerp(table[below], table[below + 1], time - below)


def _ddim() -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=TIMES,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=True,
    )


class Ddim:
    """The deterministic sampler of Song et al. 2021 (arXiv 2010.02502).

    Args:
        steps: passes through the network, 1 to 1000.
    """

    start = 1.0

    def __init__(self, steps: int) -> None:
        self._scheduler = _ddim()
        self._scheduler.set_timesteps(steps)
        self.times: list[Any] = self._scheduler.timesteps.tolist()

    def seen(self, x: Tensor, time: Any) -> tuple[Tensor, float]:
        """(x as the network takes it, time as the network takes it)."""
        return x, float(time)

    def step(self, v: Tensor, time: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """(x at the next time, the picture as it is guessed now), each in the shape of x."""
        return self._scheduler.step(v, time, x, return_dict=False)


class Edm:
    """Euler steps over the noise levels of Karras et al. 2022 (arXiv 2206.00364).

    With data of unit spread, their preconditioning of input and output is that of a network that predicts v, so one
    network serves both samplers. Only the time has to be found that has a level's noise.

    Args:
        steps: passes through the network, at least 1.
    """

    def __init__(self, steps: int) -> None:
        from diffusers import EDMEulerScheduler

        self._scheduler = EDMEulerScheduler(
            sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=1.0, prediction_type="v_prediction"
        )
        self._scheduler.set_timesteps(steps)
        self.times = list(self._scheduler.timesteps)
        self.start = SIGMA_MAX
        self._levels = {float(t): float(s) for t, s in zip(self.times, self._scheduler.sigmas, strict=False)}

    def seen(self, x: Tensor, time: Any) -> tuple[Tensor, float]:
        """As `Ddim.seen`; the time is between those of training where a level lies between theirs."""
        return self._scheduler.scale_model_input(x, time), time_of(self._levels[float(time)])

    def step(self, v: Tensor, time: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `Ddim.step`."""
        return self._scheduler.step(v, time, x, return_dict=False)


SAMPLERS = {"ddim": Ddim, "edm": Edm}


def time_of(level: float) -> float:
    """The time at which noise over signal is ``level``, between whole ones by interpolation."""
    a = signal().double().numpy()[:-1]  # the last is noise alone, of no finite level
    levels = np.log(np.sqrt((1 - a) / a))
    return float(np.interp(np.log(level), levels, np.arange(len(levels), dtype=np.float64)))


def noise_of(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 of one sample: its seed alone decides, whatever else is sampled beside it."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
