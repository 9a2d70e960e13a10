"""Sizes of the backbone, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ushape import UShape


@dataclass(frozen=True, kw_only=True)
class UShapeConfig:
    """What all U-shaped networks share: level i has width * 2**i channels and 1 / 2**i of the stem's resolution.

    Attributes:
        width: channels at level 0.
        depths: blocks per stage in network order: L - 1 encoder stages, the bottom, L - 1 decoder stages (2 L - 1
            numbers).
        stem_stride: 1 or 2; at 2 the network works at half of the image's resolution.

    Raises:
        ValueError: a value out of range; the message names the key and what is allowed.
    """

    width: int
    depths: tuple[int, ...]
    stem_stride: int = 2

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; allowed: an integer >= 1")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"stem_stride is {self.stem_stride}; allowed: 1 or 2")
        if len(self.depths) % 2 == 0 or min(self.depths) < 1:
            raise ValueError(f"depths is {self.depths}; allowed: an odd number of stages with at least one block each")

    @property
    def levels(self) -> int:
        """Number of resolutions L."""
        return (len(self.depths) + 1) // 2

    @property
    def multiple(self) -> int:
        """Image sides are padded up to a multiple of this many pixels."""
        return self.stem_stride * 2 ** (self.levels - 1)

    def channels(self, level: int) -> int:
        """Channels at `level`."""
        return self.width * 2**level


@dataclass(frozen=True, kw_only=True)
class NafConfig(UShapeConfig):
    """Shape of a `NafNet`; it needs nothing beside the attributes of `UShapeConfig`."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig(UShapeConfig):
    """Shape of the transformer `UNet`.

    Attributes:
        heads: attention heads per level (L numbers); each divides the channels of its level.
        ffn_ratio: channels of the feed-forward's depthwise layer over those of the block; the gate behind it halves
            them.
        kernel: side of the depthwise kernels, odd.
        window: side of the channel-attention window in feature pixels, even.
        stride: grid-attention stride at level 0 in feature pixels; halved at every level, so that it is the same number
            of image pixels on all of them, and never below 1.
        grid: most tokens of one grid group per axis.

    Raises:
        ValueError: a value out of range; the message names the key and what is allowed.
    """

    heads: tuple[int, ...]
    ffn_ratio: float = 3.0
    kernel: int = 3
    window: int = 16
    stride: int = 4
    grid: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("stride", "grid"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; allowed: an integer >= 1")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}; allowed: an odd integer >= 1")
        if self.window < 2 or self.window % 2:
            raise ValueError(f"window is {self.window}; allowed: an even integer >= 2 (shifted windows move by half)")
        if not self.ffn_ratio > 0 or round(self.ffn_ratio * self.width / 2) < 1:
            raise ValueError(
                f"ffn_ratio is {self.ffn_ratio}; allowed: a number that leaves at least two hidden channels"
            )
        self._check_heads()

    def _check_heads(self) -> None:
        if len(self.heads) != self.levels:
            raise ValueError(f"heads is {self.heads}; allowed: one number per level, here {self.levels}")
        for level, heads in enumerate(self.heads):
            if heads < 1 or self.channels(level) % heads:
                raise ValueError(f"heads[{level}] is {heads}; allowed: a divisor of {self.channels(level)} channels")


PRESETS: dict[str, BackboneConfig] = {
    "tiny": BackboneConfig(width=12, depths=(1, 2, 1), heads=(1, 2), window=4, stride=2),
    "quick": BackboneConfig(width=32, depths=(1, 1, 2, 1, 1), heads=(1, 2, 4)),
    "small": BackboneConfig(width=48, depths=(3, 4, 8, 4, 3), heads=(1, 2, 4), grid=8),
    "base": BackboneConfig(
        width=48,
        depths=(6, 8, 9, 8, 9, 8, 6),
        heads=(2, 4, 8, 16),
        kernel=5,
        window=8,
        stride=8,
        grid=16,
        stem_stride=1,
    ),
}
"""The transformer. tiny: tests. quick: minutes on two CPU cores. small: one GPU. base: the published size.

base has 26.03 M parameters and 41.16 G multiply-adds at 3 x 128 x 128 within 5 %, as published for the challenge entry
of that family. The counter is torch.utils.flop_counter.FlopCounterMode, which sees matrix products and convolutions,
halved: it counts two for a multiply-add.
"""

NAF_PRESETS: dict[str, NafConfig] = {
    "tiny": NafConfig(width=12, depths=(1, 2, 1)),
    "quick": NafConfig(width=32, depths=(1, 2, 4, 1, 1)),
    "small": NafConfig(width=32, depths=(2, 2, 4, 8, 2, 2, 2)),
    "base": NafConfig(width=32, depths=(1, 1, 1, 28, 1, 1, 1, 1, 1), stem_stride=1),
}
"""NAFNet at the sizes of the transformer's presets, except base: there it is the published width 32."""

KINDS: dict[str, Mapping[str, UShapeConfig]] = {"ipt": PRESETS, "naf": NAF_PRESETS}


def build_backbone(preset: str, kind: str = "ipt", checkpoint: bool = False) -> UShape:
    """A freshly initialised backbone of the named size; torch's global generator decides the weights.

    Args:
        preset: a key of `PRESETS`.
        kind: `ipt`, the transformer, or `naf`, the NAFNet-style CNN.
        checkpoint: whether training recomputes the inside of each block in the backward pass instead of keeping it.

    Raises:
        KeyError: unknown preset or kind; the message lists the known ones.
    """
    from .naf import NafNet
    from .unet import UNet

    if kind not in KINDS:
        raise KeyError(f"unknown backbone kind {kind!r}; known: {', '.join(KINDS)}")
    if preset not in KINDS[kind]:
        raise KeyError(f"unknown backbone preset {preset!r}; known: {', '.join(KINDS[kind])}")
    backbone = UNet(PRESETS[preset]) if kind == "ipt" else NafNet(NAF_PRESETS[preset])
    backbone.checkpoint = checkpoint
    return backbone
