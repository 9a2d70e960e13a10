"""The U-shaped backbone: head, encoder, bottom, decoder, tail, and one residual around all of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import RepDepthwise, TransformerBlock
from .presets import BackboneConfig

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

# First match wins, on a parameter name with a dot on either side.
_GROUP_MARKS: tuple[tuple[str, str], ...] = (
    (".head.", "head"),
    (".tail.", "tail"),
    (".down.", "downsample"),
    (".up.", "upsample"),
    (".fuse.", "upsample"),
    (".qkv.", "attention.qkv"),
    (".proj.", "attention.proj"),
    (".expand.", "ffn.in"),
    (".depthwise.", "ffn.depthwise"),
    (".reduce.", "ffn.out"),
    (".norm", "norm"),
    (".temperature.", "norm"),
    (".logit_scale.", "norm"),
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


def _blocks(config: BackboneConfig, stage: int, level: int) -> nn.Sequential:
    """The blocks of one stage; every other one has shifted windows."""
    channels = config.channels(level)
    return nn.Sequential(
        *(
            TransformerBlock(
                channels,
                heads=config.heads[level],
                hidden=round(config.ffn_ratio * channels),
                window=config.window,
                shifted=index % 2 == 1,
                stride=max(1, config.stride >> level),
                grid=config.grid,
            )
            for index in range(config.depths[stage])
        )
    )


class EncoderStage(nn.Module):
    """Blocks, then pixel-unshuffle and Linear to the next level: (N, H, W, C) -> skip and (N, H / 2, W / 2, 2 C)."""

    def __init__(self, config: BackboneConfig, level: int) -> None:
        super().__init__()
        channels = config.channels(level)
        self.blocks = _blocks(config, level, level)
        self.down = nn.Linear(4 * channels, 2 * channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = self.blocks(x)
        return skip, self.down(space_to_depth(skip))


class DecoderStage(nn.Module):
    """Linear and pixel-shuffle up to one level, skip concatenated and fused by a Linear, then blocks.

    (N, H, W, 2 C) and skip (N, 2 H, 2 W, C) -> (N, 2 H, 2 W, C).
    """

    def __init__(self, config: BackboneConfig, level: int) -> None:
        super().__init__()
        channels = config.channels(level)
        self.up = nn.Linear(2 * channels, 4 * channels)
        self.fuse = nn.Linear(2 * channels, channels)
        self.blocks = _blocks(config, len(config.depths) - 1 - level, level)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = depth_to_space(self.up(x))
        return self.blocks(self.fuse(torch.cat([x, skip], dim=-1)))


class UNet(nn.Module):
    """Restore images with no knowledge of the task: (N, 3, H, W) float in [0, 1] -> (N, 3, H, W), not clipped.

    Any H, W >= 1. The network predicts the difference to its input. Sides are padded (edge repeated) to a multiple of
    `config.multiple` and the output is cropped back. Modules are registered in the order in which data flows, so that
    `named_parameters()` is the network order.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        scale = config.stem_stride**2
        bottom = config.levels - 1
        self.head = nn.Conv2d(3 * scale, config.width, 3, padding=1)
        self.encoder = nn.ModuleList(EncoderStage(config, level) for level in range(bottom))
        self.middle = _blocks(config, bottom, bottom)
        self.decoder = nn.ModuleList(DecoderStage(config, level) for level in reversed(range(bottom)))
        self.tail = nn.Conv2d(config.width, 3 * scale, 3, padding=1)
        self._start_well()

    @torch.no_grad()
    def _start_well(self) -> None:
        """Starting values that make the first hundred steps count."""
        # Features of unit size: the default leaves them so small that layer norm sees mostly the mean of the image.
        self.head.weight.mul_(3.0)
        # A skip is passed on from the first step, and the deeper path joins as it learns.
        for stage in self.decoder:
            channels = stage.fuse.out_features
            stage.fuse.weight.mul_(0.2)
            stage.fuse.weight[:, channels:] += torch.eye(channels)
        # Small, not zero: a fresh network is close to the identity, and yet every weight has a gradient at once.
        self.tail.weight.mul_(0.1)
        self.tail.bias.zero_()

    def forward(self, image: Tensor) -> Tensor:
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
            skip, x = stage(x)
            skips.append(skip)
        x = self.middle(x)
        for stage in self.decoder:
            x = stage(x, skips.pop())
        x = self.tail(x.permute(0, 3, 1, 2))
        return F.pixel_shuffle(x, stem) if stem > 1 else x

    def weight_groups(self) -> dict[str, list[str]]:
        """Weight group -> parameter names in network order; `WEIGHT_GROUPS` partition the parameters.

        `norm` holds the layer norms and the attention temperatures; `upsample` holds the skip fusion too.
        """
        groups: dict[str, list[str]] = {group: [] for group in WEIGHT_GROUPS}
        for name, _ in self.named_parameters():
            groups[next(group for mark, group in _GROUP_MARKS if mark in f".{name}.")].append(name)
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
            name: module.norm1.normalized_shape[0]
            for name, module in self.named_modules()
            if isinstance(module, TransformerBlock)
        }

    def fold(self) -> UNet:
        """Merge all re-parameterised branches in place for inference, and return self. Twice is the same as once.

        The branches' own parameters are gone afterwards: fold a task first, then its network.
        """
        for module in self.modules():
            if isinstance(module, RepDepthwise):
                module.fold()
        return self
