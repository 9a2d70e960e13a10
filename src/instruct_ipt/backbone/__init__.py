"""The task-general network. It knows no task, no data and nothing else of this package."""

from __future__ import annotations

from .blocks import (
    FocalContextSelfAttention,
    GlobalGridSelfAttention,
    LocallyEnhancedFeedForward,
    RepDepthwise,
    TransformerBlock,
)
from .presets import PRESETS, BackboneConfig, build_backbone
from .unet import WEIGHT_GROUPS, UNet

__all__ = [
    "PRESETS",
    "WEIGHT_GROUPS",
    "BackboneConfig",
    "FocalContextSelfAttention",
    "GlobalGridSelfAttention",
    "LocallyEnhancedFeedForward",
    "RepDepthwise",
    "TransformerBlock",
    "UNet",
    "build_backbone",
]
