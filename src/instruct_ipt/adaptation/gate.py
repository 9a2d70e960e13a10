"""Channel gate, after InstructIR (Conde et al. 2024, arXiv 2401.16468): the task weighs the channels a block sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .sites import FeatureAdaptation, SiteBackbone, check_size, nearest_size, zero_linear


class ChannelGate(FeatureAdaptation):
    """h + update(h * m) at each site, where update(h) = block(h) - h and m = 1 + s * (2 sigmoid(z) - 1), strength s.

    z = Linear(embedding[task]), one per channel; the Linears start at zero, so that m = 1. Differs from the source
    (its instruction condition block is f + B(f * m) with m = sigmoid(z)): B is the backbone's own residual block and
    not a new one, so that the gate stands in front of every block; m lies in (0, 2) at s = 1, so that it can start
    at one; the condition is a learned task embedding, not that of a sentence.

    Args:
        backbone: a module with `adaptation_sites()`.
        tasks: task names.
        hidden: width of the task embedding, >= 1.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], hidden: int) -> None:
        embedding = torch.randn(len(tasks), check_size("hidden", hidden))
        sites = backbone.adaptation_sites().items()
        super().__init__(backbone, tasks, {site: zero_linear(hidden, channels) for site, channels in sites})
        self.embedding = nn.Parameter(embedding)

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        embedding = mix.to(self.embedding) @ self.embedding
        for module, linear in self.parts():
            # 2 sigmoid(z) - 1 = tanh(z / 2)
            yield from _gated(module, strength * torch.tanh(linear(embedding) / 2)[:, None, None])


def _gated(module: nn.Module, excess: Tensor) -> Iterator[RemovableHandle]:
    """Hooks that turn block(h) into block(h * (1 + excess)) - h * excess; excess (1 or N, 1, 1, C)."""
    features: list[Tensor] = []

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        features.append(inputs[0])
        return (torch.addcmul(inputs[0], inputs[0], excess),)

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return torch.addcmul(output, features.pop(), excess, value=-1)

    yield module.register_forward_pre_hook(before)
    yield module.register_forward_hook(after)


def gate_hidden_for_budget(backbone: SiteBackbone, tasks: Sequence[str], budget: int) -> int:
    """The embedding width (>= 1) with which `ChannelGate` adds as near as possible to `budget` parameters."""
    outputs = sum(backbone.adaptation_sites().values())
    return nearest_size(budget, outputs, len(tasks) + outputs)
