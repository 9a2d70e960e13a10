"""The four ways to make one denoiser serve several tasks, and the experts above them, at one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from instruct_ipt.adaptation import Film, Shared, hidden_for_budget
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.diffusion.denoiser import Denoiser, build_denoiser
from instruct_ipt.modulation import RankRule, TaskModel, modulate


class DenoiserFilm(Film):
    """`Film` for features with their channels first, as a U-Net of convolutions has them: (N, C, H, W)."""

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        embedding = mix.to(self.embedding) @ self.embedding
        for module, linear in self.parts():
            gamma, beta = (linear(embedding) * strength)[:, :, None, None].chunk(2, dim=1)
            yield module.register_forward_hook(lambda m, i, h, gamma=gamma, beta=beta: h * (1 + gamma) + beta)


def fresh(preset: str, seed: int) -> Denoiser:
    """A freshly initialised denoiser; the same preset and seed give the same weights."""
    torch.manual_seed(seed)
    return build_denoiser(preset)


def build_method(
    method: str,
    preset: str,
    seed: int,
    rule: RankRule,
    kinds: Sequence[str],
    tasks: Sequence[str] = FILL_TASKS,
) -> TaskModel:
    """The fresh network of a method.

    Args:
        method: of `METHODS`; ``experts`` gives the network that each expert is a copy of.
        preset: size of the denoiser.
        seed: of all random starts.
        rule: rank of the biases; ``film`` is made as large as they are.
        kinds: which weights carry biases, of `denoiser.weights_of`.
        tasks: names.

    Raises:
        KeyError: no such method, preset or kind of weight.
    """
    if method not in METHODS:
        raise KeyError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    network = fresh(preset, seed)
    if method in ("shared", "experts"):
        return Shared(network, tasks)
    members = network.weight_groups()
    names = [name for kind in kinds for name in members[kind]]
    biased = modulate(network, tasks, names, rule, torch.Generator().manual_seed(seed))
    if method != "film":
        return biased
    budget = biased.added_parameters()
    torch.manual_seed(seed)
    return DenoiserFilm(network, tasks, hidden_for_budget(network, tasks, budget))
