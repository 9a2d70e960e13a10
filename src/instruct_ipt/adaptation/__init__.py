"""The feature-adaptation rivals: weights stay shared, features change with the task. One file each, one interface."""

from __future__ import annotations

from .adapter import BottleneckAdapter, bottleneck_for_budget
from .film import Film, hidden_for_budget
from .gate import ChannelGate, gate_hidden_for_budget
from .prompt import Prompt, prompt_width_for_budget
from .rivals import RIVALS
from .shared import Shared
from .sites import FeatureAdaptation, SiteBackbone
from .task_head import TaskHead
from .task_norm import TaskNorm

__all__ = [
    "RIVALS",
    "BottleneckAdapter",
    "ChannelGate",
    "FeatureAdaptation",
    "Film",
    "Prompt",
    "Shared",
    "SiteBackbone",
    "TaskHead",
    "TaskNorm",
    "bottleneck_for_budget",
    "gate_hidden_for_budget",
    "hidden_for_budget",
    "prompt_width_for_budget",
]
