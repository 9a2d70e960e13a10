"""The task-general network. It knows no task, no data and nothing else of this package."""

from __future__ import annotations

from .blocks import (
    FocalContextSelfAttention,
    GlobalGridSelfAttention,
    LocallyEnhancedFeedForward,
    RepDepthwise,
    TransformerBlock,
)
from .naf import NafBlock, NafNet
from .presets import KINDS, NAF_PRESETS, PRESETS, BackboneConfig, NafConfig, UShapeConfig, build_backbone
from .unet import UNet
from .ushape import WEIGHT_GROUPS, UShape

__all__ = [
    "KINDS",
    "NAF_PRESETS",
    "PRESETS",
    "WEIGHT_GROUPS",
    "BackboneConfig",
    "FocalContextSelfAttention",
    "GlobalGridSelfAttention",
    "LocallyEnhancedFeedForward",
    "NafBlock",
    "NafConfig",
    "NafNet",
    "RepDepthwise",
    "TransformerBlock",
    "UNet",
    "UShape",
    "UShapeConfig",
    "build_backbone",
]
