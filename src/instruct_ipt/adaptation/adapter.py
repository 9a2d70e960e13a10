"""Bottleneck adapter (Houlsby et al. 2019, arXiv 1902.00751), as in AdaIR (Chen et al. 2024, arXiv 2404.11475)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .sites import FeatureAdaptation, SiteBackbone, check_size, nearest_size


class TaskBottleneck(nn.Module):
    """C -> width -> C with weights of their own for each of T tasks; zero for every task when fresh.

    Args:
        tasks: T.
        channels: C.
        width: of the bottleneck. `down` (T, width, C) starts uniform in +-1 / sqrt(C), `up` (T, C, width) at zero.
    """

    def __init__(self, tasks: int, channels: int, width: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(channels)
        self.down = nn.Parameter(torch.empty(tasks, width, channels).uniform_(-bound, bound))
        self.down_bias = nn.Parameter(torch.zeros(tasks, width))
        self.up = nn.Parameter(torch.zeros(tasks, channels, width))
        self.up_bias = nn.Parameter(torch.zeros(tasks, channels))

    def hook(self, mix: Tensor, strength: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """A forward hook h -> h + strength * up(gelu(down(h))) on (N, H, W, C), for task weights (1 or N, T)."""
        mix = mix.to(self.up)
        down, down_bias = (torch.tensordot(mix, p, dims=1) for p in (self.down, self.down_bias))
        up, up_bias = (torch.tensordot(strength * mix, p, dims=1) for p in (self.up, self.up_bias))
        return lambda module, inputs, h: h + _linear(F.gelu(_linear(h, down, down_bias)), up, up_bias)


class BottleneckAdapter(FeatureAdaptation):
    """h + s * up[task](gelu(down[task](h))) after each site, with strength s.

    Differs from the sources: one adapter after each block, where Houlsby et al. put two inside it, before its residual
    additions; no depthwise part; and backbone and adapters may be trained together, where both sources freeze a
    pre-trained network. Soft task weights mix the weights of the adapters, not their outputs, so that a mixture costs
    what a task costs.

    Args:
        backbone: a module with `adaptation_sites()`.
        tasks: task names.
        width: of the bottleneck, >= 1.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], width: int) -> None:
        check_size("width", width)
        sites = backbone.adaptation_sites().items()
        parts = {site: TaskBottleneck(len(tasks), channels, width) for site, channels in sites}
        super().__init__(backbone, tasks, parts)

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        for module, bottleneck in self.parts():
            yield module.register_forward_hook(bottleneck.hook(mix, strength))


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A Linear per sample: x (N, H, W, I), weight (1 or N, O, I), bias (1 or N, O) -> (N, H, W, O)."""
    if len(weight) == 1:
        return F.linear(x, weight[0], bias[0])
    return torch.baddbmm(bias[:, None], x.flatten(1, 2), weight.transpose(1, 2)).unflatten(1, x.shape[1:3])


def bottleneck_for_budget(backbone: SiteBackbone, tasks: Sequence[str], budget: int) -> int:
    """The bottleneck width (>= 1) with which `BottleneckAdapter` adds as near as possible to `budget` parameters."""
    sites = backbone.adaptation_sites().values()
    channels = len(tasks) * sum(sites)
    return nearest_size(budget, channels, 2 * channels + len(tasks) * len(sites))
