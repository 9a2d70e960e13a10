"""Low-rank task biases on the weights of any `torch.nn.Module`: attach, select a task, fold, pack to a file."""

from __future__ import annotations

from .bias import FullBias, LowRankBias, TaskBias, TaskRows
from .interface import TaskChoice, TaskModel, TaskModule, check_strength, set_trainable, task_mix
from .modulated import Modulated, modulate
from .pack import Pack, backbone_digest, install_pack, load_pack, save_pack
from .rank import RankRule, matrix_shape
from .release import BACKBONE_FILE, load_release, read_architecture, rounded, save_release

__all__ = [
    "BACKBONE_FILE",
    "FullBias",
    "LowRankBias",
    "Modulated",
    "Pack",
    "RankRule",
    "TaskBias",
    "TaskChoice",
    "TaskModel",
    "TaskModule",
    "TaskRows",
    "backbone_digest",
    "check_strength",
    "install_pack",
    "load_pack",
    "load_release",
    "matrix_shape",
    "modulate",
    "read_architecture",
    "rounded",
    "save_pack",
    "save_release",
    "set_trainable",
    "task_mix",
]
