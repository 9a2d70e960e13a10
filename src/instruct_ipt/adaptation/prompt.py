"""Prompt block, after PromptIR (Potlapalli et al. 2023, arXiv 2306.13090): learned maps join the decoder's features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .sites import FeatureAdaptation, SiteBackbone, check_size, nearest_size, zero_linear

PROMPT_SIDE = 8
"""Side S of a prompt in its own pixels; it is stretched over the features, whatever their size."""


class PromptBlock(nn.Module):
    """One learned map per task that meets the features in a small feed-forward; adds zero when fresh.

    Args:
        tasks: T.
        channels: C of the features.
        width: K, channels of the prompts (T, S, S, K) and of the feed-forward.
    """

    def __init__(self, tasks: int, channels: int, width: int) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.rand(tasks, PROMPT_SIDE, PROMPT_SIDE, width))
        self.expand = nn.Linear(channels, width, bias=False)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.reduce = zero_linear(width, channels)

    def hook(self, mix: Tensor, strength: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """A forward hook h -> h + strength * interaction(h, prompt) on (N, H, W, C), for task weights (1 or N, T)."""
        prompt = torch.tensordot(mix.to(self.prompts), self.prompts, dims=1).permute(0, 3, 1, 2)
        return lambda module, inputs, h: h + strength * self._interaction(h, prompt)

    def _interaction(self, h: Tensor, prompt: Tensor) -> Tensor:
        """reduce(depthwise(gelu(expand(h) + stretched prompt))); prompt (1 or N, K, S, S)."""
        stretched = F.interpolate(prompt, h.shape[1:3], mode="bilinear").permute(0, 2, 3, 1)
        hidden = F.gelu(self.expand(h) + stretched).permute(0, 3, 1, 2)
        return self.reduce(self.depthwise(hidden).permute(0, 2, 3, 1))


class Prompt(FeatureAdaptation):
    """h + s * interaction(h, prompt[task]) at the end of the bottom and of each decoder level, with strength s.

    Differs from the source: the task is given, so the prompt is the task's and not a softmax mixture guessed from the
    pooled features; the interaction is a feed-forward (1x1, depthwise 3x3, 1x1) around a residual and not a whole
    transformer block on concatenated features: a 1x1 layer on [h, prompt] is the sum that stands here; the last
    decoder level has a prompt too, since our U-shapes may have fewer levels than the source's four. As in the source,
    prompts are stretched over any image, so a tile is treated like a whole image.

    Args:
        backbone: a module with `adaptation_sites()`.
        tasks: task names.
        width: channels of the prompts, >= 1.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], width: int) -> None:
        check_size("width", width)
        sites = prompt_sites(backbone).items()
        super().__init__(backbone, tasks, {name: PromptBlock(len(tasks), c, width) for name, c in sites})

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        for module, block in self.parts():
            yield module.register_forward_hook(block.hook(mix, strength))


def prompt_sites(backbone: SiteBackbone) -> dict[str, int]:
    """Site -> channels of the sites that carry a prompt: the last of each stage, from the widest stage on.

    A stage is a run of sites of equal width, so the widest is the bottom of a U.
    """
    sites = backbone.adaptation_sites().items()
    ends = [list(run)[-1] for _, run in groupby(sites, key=lambda site: site[1])]
    widest = max(range(len(ends)), key=lambda stage: ends[stage][1])
    return dict(ends[widest:])


def prompt_width_for_budget(backbone: SiteBackbone, tasks: Sequence[str], budget: int) -> int:
    """The prompt width (>= 1) with which `Prompt` adds as near as possible to `budget` parameters."""
    channels = prompt_sites(backbone).values()
    per_site = len(tasks) * PROMPT_SIDE**2 + 9
    return nearest_size(budget, sum(channels), 2 * sum(channels) + per_site * len(channels))
