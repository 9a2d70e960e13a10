"""Every feature-adaptation rival by name, each at the size whose added parameters are nearest to a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from instruct_ipt.modulation import TaskModel

from .adapter import BottleneckAdapter, bottleneck_for_budget
from .film import Film, hidden_for_budget
from .gate import ChannelGate, gate_hidden_for_budget
from .prompt import Prompt, prompt_width_for_budget
from .task_head import TaskHead
from .task_norm import TaskNorm

Build = Callable[[nn.Module, Sequence[str], int], TaskModel]


def _sized(rival: Callable[[nn.Module, Sequence[str], int], TaskModel], size: Callable[..., int]) -> Build:
    """`rival` at the size that `size` chooses for a budget."""
    return lambda backbone, tasks, budget: rival(backbone, tasks, size(backbone, tasks, budget))


RIVALS: dict[str, Build] = {
    "film": _sized(Film, hidden_for_budget),
    "prompt": _sized(Prompt, prompt_width_for_budget),
    "gate": _sized(ChannelGate, gate_hidden_for_budget),
    "adapter": _sized(BottleneckAdapter, bottleneck_for_budget),
    "task_norm": lambda backbone, tasks, budget: TaskNorm(backbone, tasks),
    "task_head": lambda backbone, tasks, budget: TaskHead(backbone, tasks),
}
"""(backbone, tasks, budget of added parameters, all tasks together) -> a fresh model, equal to its backbone.

Task norm and task head have no size to choose: they add what they add, whatever the budget.
"""
