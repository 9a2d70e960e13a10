"""The transformer backbone: `TransformerBlock` in the U shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .blocks import TransformerBlock
from .presets import BackboneConfig
from .ushape import Stage, UShape, depth_to_space


class DecoderStage(nn.Module):
    """Linear and pixel-shuffle up to one level, skip concatenated and fused by a Linear, then blocks.

    (N, H, W, 2 C) and skip (N, 2 H, 2 W, C) -> (N, 2 H, 2 W, C).
    """

    def __init__(self, channels: int, blocks: Callable[[], Stage]) -> None:
        super().__init__()
        self.up = nn.Linear(2 * channels, 4 * channels)
        self.fuse = nn.Linear(2 * channels, channels)
        # Made here and not by the caller: random starts are drawn in network order.
        self.blocks = blocks()

    def forward(self, x: Tensor, skip: Tensor, recompute: bool = False) -> Tensor:
        x = depth_to_space(self.up(x))
        return self.blocks(self.fuse(torch.cat([x, skip], dim=-1)), recompute)


class UNet(UShape):
    """The transformer; see `UShape` for what goes in and out."""

    config: BackboneConfig
    _MARKS = (
        (".qkv.", "attention.qkv"),
        (".proj.", "attention.proj"),
        (".expand.", "ffn.in"),
        (".depthwise.", "ffn.depthwise"),
        (".reduce.", "ffn.out"),
        (".norm", "norm"),
        (".temperature.", "norm"),
        (".logit_scale.", "norm"),
    )

    def _block(self, level: int, index: int) -> TransformerBlock:
        """Every other block of a stage has shifted windows."""
        config = self.config
        channels = config.channels(level)
        return TransformerBlock(
            channels,
            heads=config.heads[level],
            hidden=2 * round(config.ffn_ratio * channels / 2),
            kernel=config.kernel,
            window=config.window,
            shifted=index % 2 == 1,
            stride=max(1, config.stride >> level),
            grid=config.grid,
        )

    def _decoder_stage(self, level: int) -> DecoderStage:
        stage = len(self.config.depths) - 1 - level
        return DecoderStage(self.config.channels(level), lambda: self._stage(stage, level))

    @torch.no_grad()
    def _start_well(self) -> None:
        super()._start_well()
        # A skip is passed on from the first step, and the deeper path joins as it learns.
        for stage in self.decoder:
            channels = stage.fuse.out_features
            stage.fuse.weight.mul_(0.2)
            stage.fuse.weight[:, channels:].diagonal().add_(1.0)
