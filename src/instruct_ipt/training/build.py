"""Building the network of each method from the parameters: one place decides what "shared" or "modulation" means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from instruct_ipt.adaptation import RIVALS, Shared
from instruct_ipt.backbone import WEIGHT_GROUPS, build_backbone
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.backbone import UShape
    from instruct_ipt.modulation import TaskModel


def new_backbone(backbone: Any, seed: int) -> UShape:
    """A freshly initialised backbone; the same choice and seed give the same weights.

    Args:
        backbone: the `backbone` section of the parameters (preset, kind, checkpoint), or the name of a preset of the
            transformer.
        seed: of torch's global generator.
    """
    torch.manual_seed(seed)
    if isinstance(backbone, str):
        return build_backbone(backbone)
    return build_backbone(backbone.preset, backbone.kind, backbone.checkpoint)


def read_selection(path: Path) -> list[str]:
    """The selected weight groups of `models/selection.json`.

    Raises:
        InputError: the file is missing or has no groups.
    """
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))["groups"]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `dvc repro sensitivity` makes it") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        groups = None
    if not isinstance(groups, list) or not all(isinstance(g, str) and g in WEIGHT_GROUPS for g in groups):
        raise InputError(f"{path}: is not a selection with a list `groups`; `dvc repro sensitivity` makes it")
    return groups


def selected_weights(backbone: UShape, groups: list[str]) -> list[str]:
    """Parameter names of the weight groups, in network order."""
    members = backbone.weight_groups()
    return [name for group in groups for name in members[group]]


def build_shared(backbone: Any, seed: int, tasks: Sequence[str] = TASKS) -> TaskModel:
    """One network for all tasks, without task biases."""
    return Shared(new_backbone(backbone, seed), tasks)


def build_modulation(backbone: Any, seed: int, groups: list[str], rule: RankRule) -> TaskModel:
    """A backbone with task biases on the selected weight groups."""
    network = new_backbone(backbone, seed)
    return build_biases(network, seed, selected_weights(network, groups), rule)


def build_biases(
    network: nn.Module, seed: int, names: Sequence[str], rule: RankRule, tasks: Sequence[str] = TASKS
) -> TaskModel:
    """Task biases on the parameters ``names`` of a backbone."""
    return modulate(network, tasks, names, rule, generator=torch.Generator().manual_seed(seed))


def build_rival(name: str, backbone: Any, seed: int, budget: int, tasks: Sequence[str] = TASKS) -> TaskModel:
    """A feature-adaptation rival (``film``, ``prompt``, ...) on the same backbone, near ``budget`` added parameters."""
    return RIVALS[name](new_backbone(backbone, seed), tasks, budget)


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
