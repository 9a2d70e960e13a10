"""FiLM (Perez et al. 2018, arXiv 1709.07871): a task embedding scales and shifts the features after every block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .sites import FeatureAdaptation, SiteBackbone, check_size, nearest_size, zero_linear


class Film(FeatureAdaptation):
    """h * (1 + s * gamma) + s * beta after each site, with (gamma, beta) = Linear(embedding[task]) and strength s.

    The Linears start at zero. Differs from the source: the condition is a learned task embedding, not a question, and
    the features are those of whole residual blocks, not of a normalisation inside them.

    Args:
        backbone: a module with `adaptation_sites()`.
        tasks: task names.
        hidden: width of the task embedding, >= 1.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], hidden: int) -> None:
        embedding = torch.randn(len(tasks), check_size("hidden", hidden))
        sites = backbone.adaptation_sites().items()
        super().__init__(backbone, tasks, {site: zero_linear(hidden, 2 * channels) for site, channels in sites})
        self.embedding = nn.Parameter(embedding)

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        embedding = mix.to(self.embedding) @ self.embedding
        for module, linear in self.parts():
            yield module.register_forward_hook(_hook(linear(embedding) * strength))


def _hook(scale_shift: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that applies (1 or N, 2 C) scales and shifts to (N, H, W, C) features."""
    gamma, beta = scale_shift[:, None, None, :].chunk(2, dim=-1)
    return lambda module, inputs, features: features * (1 + gamma) + beta


def hidden_for_budget(backbone: SiteBackbone, tasks: Sequence[str], budget: int) -> int:
    """The embedding width (>= 1) with which `Film` adds as near as possible to `budget` parameters."""
    outputs = sum(2 * channels for channels in backbone.adaptation_sites().values())
    # added = hidden * (tasks + outputs) + outputs
    return nearest_size(budget, outputs, len(tasks) + outputs)
