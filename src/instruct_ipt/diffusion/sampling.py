"""From noise to a filled picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from instruct_ipt.diffusion.fill import Fill, condition, packed
from instruct_ipt.diffusion.schedule import SAMPLERS, noise_of
from instruct_ipt.modulation import TaskChoice, TaskModel

Observe = Callable[[int, list[np.ndarray]], None]


@torch.inference_mode()
def sample(
    model: TaskModel | nn.Module,
    task: TaskChoice | None,
    fills: Sequence[Fill],
    seeds: Sequence[int],
    steps: int,
    sampler: str = "ddim",
    strength: float = 1.0,
    observe: Observe | None = None,
) -> list[np.ndarray]:
    """Fill pictures of one size.

    Each sample starts from noise of its own seed, and both samplers are deterministic from there: what comes out does
    not depend on what else is in the batch (but for the last bits of a convolution, which a library may order
    differently in another batch size).

    Args:
        model: knows tasks (`Modulated`, a rival); or a bare network, such as one with a task folded in.
        task: which task; None for a bare network.
        fills: what is known and what is missing.
        seeds: of the starting noise, one per picture.
        steps: passes through the network.
        sampler: ``ddim`` or ``edm``.
        strength: of the task biases, in [0, 1.5].
        observe: called after each step with (passes so far, the pictures as they are guessed then).

    Returns:
        float32 (H, W, 3) in [0, 1], one per picture; every known pixel as it was, bit for bit.

    Raises:
        ValueError: not as many seeds as pictures.
        KeyError: no such sampler or task.
    """
    if len(seeds) != len(fills):
        raise ValueError(f"{len(seeds)} seeds for {len(fills)} pictures; expected one each")
    way = SAMPLERS[sampler](steps)
    device = next(model.parameters()).device
    given = condition(fills).to(device)
    height, width = given.shape[2:]
    x = torch.stack([noise_of(seed, (3, height, width)) for seed in seeds]).to(device) * way.start
    guess = x
    for number, time in enumerate(way.times, start=1):
        seen, at = way.seen(x, time)
        network_input = packed(seen, given, torch.full((len(x),), at))
        v = model(network_input) if task is None else model(network_input, task, strength)
        x, guess = way.step(v.float(), time, x)
        if observe is not None:
            observe(number, _pictures(guess, fills))
    return _pictures(guess, fills)


def _pictures(guess: torch.Tensor, fills: Sequence[Fill]) -> list[np.ndarray]:
    """(N, 3, H, W) in [-1, 1] -> pictures with their known pixels."""
    found = (guess.clamp(-1, 1) * 0.5 + 0.5).permute(0, 2, 3, 1).float().cpu().numpy()
    return [fill.complete(picture) for fill, picture in zip(fills, found, strict=True)]
