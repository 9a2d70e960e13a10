"""What all backbones share: head, encoder, bottom, decoder, tail, one residual around all of it, any size of image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .presets import UShapeConfig

WEIGHT_GROUPS: tuple[str, ...] = (
    "attention.qkv",
    "attention.proj",
    "ffn.in",
    "ffn.depthwise",
    "ffn.out",
    "norm",
    "downsample",
    "upsample",
    "head",
    "tail",
)

# What stands outside the blocks is called the same in every network.
_COMMON_MARKS: tuple[tuple[str, str], ...] = (
    (".head.", "head"),
    (".tail.", "tail"),
    (".down.", "downsample"),
    (".up.", "upsample"),
    (".fuse.", "upsample"),
)


def space_to_depth(x: Tensor) -> Tensor:
    """Pixel-unshuffle by 2 on channels-last maps: (N, H, W, C) -> (N, H / 2, W / 2, 4 C)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
    return x.reshape(n, height // 2, width // 2, 4 * channels)


def depth_to_space(x: Tensor) -> Tensor:
    """Pixel-shuffle by 2 on channels-last maps, the inverse of `space_to_depth`: (N, H, W, 4 C) -> (N, 2 H, 2 W, C)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height, width, 2, 2, channels // 4).transpose(2, 3)
    return x.reshape(n, 2 * height, 2 * width, channels // 4)


class Stage(nn.Sequential):
    """Residual blocks one after another: (N, H, W, C) -> (N, H, W, C)."""

    def forward(self, x: Tensor, recompute: bool = False) -> Tensor:
        """`recompute`: keep only what enters each block, and run it again when its gradient is asked for."""
        for block in self:
            x = _recomputed(block, x) if recompute and torch.is_grad_enabled() else block(x)
        return x


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x) under gradient checkpointing (Chen et al. 2016, arXiv 1604.06174).

    Weights and hooks are noted now: callers lend other weights or hooks to a network for the length of one forward
    pass, and the second run, inside the backward pass, has to see the same.
    """
    weights = dict(block.named_parameters())
    hooks = [(module, dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module in block.modules()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        with _hooked(hooks):
            return functional_call(block, dict(zip(weights, values, strict=True)), (x,))

    return checkpoint(run, x, *weights.values(), use_reentrant=False, preserve_rng_state=False)


@contextmanager
def _hooked(hooks: list[tuple[nn.Module, dict, dict]]) -> Iterator[None]:
    """Give each module the noted forward hooks and pre-hooks, and its own back at the end."""
    own = [(module, dict(module._forward_hooks), dict(module._forward_pre_hooks)) for module, _, _ in hooks]
    try:
        _set_hooks(hooks)
        yield
    finally:
        _set_hooks(own)


def _set_hooks(hooks: list[tuple[nn.Module, dict, dict]]) -> None:
    for module, after, before in hooks:
        for registered, wanted in ((module._forward_hooks, after), (module._forward_pre_hooks, before)):
            if registered or wanted:
                registered.clear()
                registered.update(wanted)


class EncoderStage(nn.Module):
    """Blocks, then pixel-unshuffle and Linear to the next level: (N, H, W, C) -> skip and (N, H / 2, W / 2, 2 C)."""

    def __init__(self, blocks: Stage, channels: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.down = nn.Linear(4 * channels, 2 * channels)

    def forward(self, x: Tensor, recompute: bool = False) -> tuple[Tensor, Tensor]:
        skip = self.blocks(x, recompute)
        return skip, self.down(space_to_depth(skip))


class UShape(nn.Module, ABC):
    """Restore images with no knowledge of the task: (N, 3, H, W) float in [0, 1] -> (N, 3, H, W), not clipped.

    Grey images (N, 1, H, W) give grey ones: the network sees three equal channels, and its outputs are averaged. Any
    H, W >= 1. The network predicts the difference to its input. Sides are padded (edge repeated) to a multiple of
    `config.multiple` and the output is cropped back. Modules are registered in the order in which data flows, so that
    `named_parameters()` is the network order.

    Attributes:
        config: shape of the network.
        checkpoint: whether training recomputes the inside of each block in the backward pass instead of keeping it:
            the same gradients for less memory and a longer backward pass.
    """

    # (part of a parameter's name, its weight group) inside the blocks; the first match wins.
    _MARKS: ClassVar[tuple[tuple[str, str], ...]]

    def __init__(self, config: UShapeConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpoint = False
        scale = config.stem_stride**2
        bottom = config.levels - 1
        self.head = nn.Conv2d(3 * scale, config.width, 3, padding=1)
        self.encoder = nn.ModuleList(
            EncoderStage(self._stage(level, level), config.channels(level)) for level in range(bottom)
        )
        self.middle = self._stage(bottom, bottom)
        self.decoder = nn.ModuleList(self._decoder_stage(level) for level in reversed(range(bottom)))
        self.tail = nn.Conv2d(config.width, 3 * scale, 3, padding=1)
        self._start_well()

    def _stage(self, stage: int, level: int) -> Stage:
        """The blocks of one stage."""
        return Stage(*(self._block(level, index) for index in range(self.config.depths[stage])))

    @abstractmethod
    def _block(self, level: int, index: int) -> nn.Module:
        """The index-th block of a stage at `level`: (N, H, W, C) -> (N, H, W, C)."""

    @abstractmethod
    def _decoder_stage(self, level: int) -> nn.Module:
        """A module with forward(x, skip, recompute): (N, H, W, 2 C) and skip (N, 2 H, 2 W, C) -> (N, 2 H, 2 W, C)."""

    @torch.no_grad()
    def _start_well(self) -> None:
        """Starting values that make the first hundred steps count."""
        # Features of unit size: the default leaves them so small that layer norm sees mostly the mean of the image.
        self.head.weight.mul_(3.0)
        # Small, not zero: a fresh network is close to the identity, and yet every weight has a gradient at once.
        self.tail.weight.mul_(0.1)
        self.tail.bias.zero_()

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[1] == 1:
            return self._restore(image.expand(-1, 3, -1, -1)).mean(dim=1, keepdim=True)
        return self._restore(image)

    def _restore(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 3, H, W)."""
        height, width = image.shape[-2:]
        multiple = self.config.multiple
        padding = (0, -width % multiple, 0, -height % multiple)
        padded = F.pad(image, padding, mode="replicate") if any(padding) else image
        residual = self._residual(padded)[..., :height, :width]
        return image + residual

    def _residual(self, image: Tensor) -> Tensor:
        """What to add to an image whose sides are multiples of `config.multiple`."""
        stem = self.config.stem_stride
        # Centred: otherwise the mean brightness is most of what layer norm sees, and learning is several times slower.
        image = 2.0 * image - 1.0
        image = F.pixel_unshuffle(image, stem) if stem > 1 else image
        x = self.head(image.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1).contiguous()
        skips: list[Tensor] = []
        for stage in self.encoder:
            skip, x = stage(x, self.checkpoint)
            skips.append(skip)
        x = self.middle(x, self.checkpoint)
        for stage in self.decoder:
            x = stage(x, skips.pop(), self.checkpoint)
        x = self.tail(x.permute(0, 3, 1, 2))
        return F.pixel_shuffle(x, stem) if stem > 1 else x

    def weight_groups(self) -> dict[str, list[str]]:
        """Weight group -> parameter names in network order; `WEIGHT_GROUPS` partition the parameters.

        `norm` holds the layer norms and all learned scales; `upsample` holds the skip fusion too.
        """
        groups: dict[str, list[str]] = {group: [] for group in WEIGHT_GROUPS}
        for name, _ in self.named_parameters():
            marks = (*_COMMON_MARKS, *self._MARKS)
            groups[next(group for mark, group in marks if mark in f".{name}.")].append(name)
        return groups

    def stage_depths(self) -> dict[str, int]:
        """Parameter name -> U-Net level (0 = resolution of the stem) in network order."""
        return {name: self._level(name) for name, _ in self.named_parameters()}

    def _level(self, name: str) -> int:
        part, index, *_ = name.split(".")
        bottom = self.config.levels - 1
        if part == "encoder":
            return int(index)
        if part == "decoder":
            return bottom - 1 - int(index)
        return bottom if part == "middle" else 0

    def adaptation_sites(self) -> dict[str, int]:
        """Block name -> channels, in network order: modules with (N, H, W, channels) output that a rival may change."""
        return {
            f"{name}.{index}": block.norm1.normalized_shape[0]
            for name, stage in self.named_modules()
            if isinstance(stage, Stage)
            for index, block in stage.named_children()
        }

    def fold(self) -> Self:
        """Bring every part into its form for inference, in place, and return self. Twice is the same as once.

        Parameters that are merged into others are gone afterwards: fold a task first, then its network.
        """
        for module in self.modules():
            if module is not self and hasattr(module, "fold"):
                module.fold()
        return self
