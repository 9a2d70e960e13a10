"""Building the network of each method from the parameters: one place decides what "shared" or "modulation" means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from instruct_ipt.adaptation import RIVALS, Shared
from instruct_ipt.backbone import build_backbone
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.backbone import UNet
    from instruct_ipt.modulation import TaskModel


def new_backbone(preset: str, seed: int) -> UNet:
    """A freshly initialised backbone; the same preset and seed give the same weights."""
    torch.manual_seed(seed)
    return build_backbone(preset)


def read_selection(path: Path) -> list[str]:
    """The selected weight groups of `models/selection.json`.

    Raises:
        InputError: the file is missing or has no groups.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))["groups"]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `dvc repro sensitivity` makes it") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: is not a selection with a list `groups`; `dvc repro sensitivity` makes it") from None
    return list(groups)


def selected_weights(backbone: UNet, groups: list[str]) -> list[str]:
    """Parameter names of the weight groups, in network order."""
    members = backbone.weight_groups()
    return [name for group in groups for name in members[group]]


def build_shared(preset: str, seed: int) -> TaskModel:
    """One network for all tasks, without task biases."""
    return Shared(new_backbone(preset, seed), TASKS)


def build_modulation(preset: str, seed: int, groups: list[str], rule: RankRule) -> TaskModel:
    """A backbone with task biases on the selected weight groups."""
    backbone = new_backbone(preset, seed)
    generator = torch.Generator().manual_seed(seed)
    return modulate(backbone, TASKS, selected_weights(backbone, groups), rule, generator=generator)


def build_rival(name: str, preset: str, seed: int, budget: int) -> TaskModel:
    """A feature-adaptation rival (``film``, ``prompt``, ...) on the same backbone, near ``budget`` added parameters."""
    return RIVALS[name](new_backbone(preset, seed), TASKS, budget)


def rank_rule(kind: str, value: float) -> RankRule:
    """The rank rule of the parameters; a constant rank is a whole number."""
    return RankRule(kind, int(value) if kind == "constant" else value)


def cost(model: TaskModel) -> dict[str, Any]:
    """Parameter counts that stand beside every result: ``params_total``, ``params_added``, ``params_per_task``."""
    backbone = sum(parameter.numel() for parameter in model.backbone_parameters())
    return {
        "params_total": backbone + model.added_parameters(),
        "params_added": model.added_parameters(),
        "params_per_task": model.parameters_per_task(),
    }
