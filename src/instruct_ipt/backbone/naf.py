"""A NAFNet-style CNN (Chen et al. 2022, arXiv 2204.04676): the backbone's sibling of another family."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .presets import NafConfig
from .ushape import Stage, UShape, depth_to_space

_START = 0.1


def simple_gate(x: Tensor) -> Tensor:
    """Product of the two halves of the channels: (..., 2 C) -> (..., C)."""
    first, second = x.chunk(2, dim=-1)
    return first * second


class NafMixer(nn.Module):
    """Pointwise -> depthwise 3x3 -> gate -> simplified channel attention -> pointwise: (N, H, W, C) -> the same.

    The attention scales each channel by a Linear of the means of all channels over the whole map. A network trained on
    patches meets other statistics on whole images; test-time local statistics (TLC, Chu et al. 2022, arXiv 2112.04491)
    would mend that. Here the mean is over what the network is given: run it on tiles of about the size of the training
    patches, or accept the difference.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * channels)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.attention = nn.Linear(channels, channels)
        self.reduce = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.expand(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = simple_gate(x)
        return self.reduce(x * self.attention(x.mean(dim=(1, 2), keepdim=True)))


class NafFeedForward(nn.Module):
    """Pointwise -> gate -> pointwise: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * channels)
        self.reduce = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(simple_gate(self.expand(x)))


class NafBlock(nn.Module):
    """x + beta * mixer(norm(x)), then + gamma * ffn(norm(x)): (N, H, W, C) -> (N, H, W, C).

    beta and gamma, one number per channel, start at 0.1 and not at the published zero: a fresh network is close to the
    identity either way, and so every weight has a gradient at the first step (LayerScale, Touvron et al. 2021, arXiv
    2103.17239, starts shallow networks there). `fold()` multiplies them into the Linear before.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.mixer = NafMixer(channels)
        self.beta: nn.Parameter | None = nn.Parameter(torch.full((channels,), _START))
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = NafFeedForward(channels)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.full((channels,), _START))

    def forward(self, x: Tensor) -> Tensor:
        x = _add_scaled(x, self.mixer(self.norm1(x)), self.beta)
        return _add_scaled(x, self.ffn(self.norm2(x)), self.gamma)

    @torch.no_grad()
    def fold(self) -> None:
        """Merge beta and gamma into the last Linear of their branch. Doing it twice changes nothing."""
        for scale, linear in ((self.beta, self.mixer.reduce), (self.gamma, self.ffn.reduce)):
            if scale is not None:
                linear.weight.mul_(scale[:, None])
                linear.bias.mul_(scale)
        self.beta = self.gamma = None


def _add_scaled(x: Tensor, update: Tensor, scale: Tensor | None) -> Tensor:
    return x + update if scale is None else torch.addcmul(x, update, scale)


class NafDecoderStage(nn.Module):
    """Linear and pixel-shuffle up to one level, skip added, then blocks.

    (N, H, W, 2 C) and skip (N, 2 H, 2 W, C) -> (N, 2 H, 2 W, C).
    """

    def __init__(self, channels: int, blocks: Callable[[], Stage]) -> None:
        super().__init__()
        self.up = nn.Linear(2 * channels, 4 * channels, bias=False)
        # Made here and not by the caller: random starts are drawn in network order.
        self.blocks = blocks()

    def forward(self, x: Tensor, skip: Tensor, recompute: bool = False) -> Tensor:
        return self.blocks(skip + depth_to_space(self.up(x)), recompute)


class NafNet(UShape):
    """The CNN; see `UShape` for what goes in and out.

    Its mixer stands where the transformer has attention, so that its first pointwise layer counts as `attention.qkv`,
    its channel attention and its last layer as `attention.proj`: the weight groups are those of the transformer.
    """

    config: NafConfig
    _MARKS = (
        (".mixer.expand.", "attention.qkv"),
        (".mixer.attention.", "attention.proj"),
        (".mixer.reduce.", "attention.proj"),
        (".depthwise.", "ffn.depthwise"),
        (".ffn.expand.", "ffn.in"),
        (".ffn.reduce.", "ffn.out"),
        (".norm", "norm"),
        (".beta.", "norm"),
        (".gamma.", "norm"),
    )

    def _block(self, level: int, index: int) -> NafBlock:
        return NafBlock(self.config.channels(level))

    def _decoder_stage(self, level: int) -> NafDecoderStage:
        stage = len(self.config.depths) - 1 - level
        return NafDecoderStage(self.config.channels(level), lambda: self._stage(stage, level))
