"""Experts on a common schedule: what the other methods have in steps and samples, they have together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from instruct_ipt.training.phases import Phase, phases_of

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.training.loop import Trainer


def train_experts(
    shared: TaskModel, tasks: Sequence[str], steps: int, trainer: Callable[[TaskModel, Sequence[str], str], Trainer]
) -> tuple[dict[str, TaskModel], list[list[Any]]]:
    """Train a shared network for half the steps, then a copy per task for an equal share of the other half.

    Args:
        shared: a fresh network; it is trained.
        tasks: their experts are returned.
        steps: of all networks together, but for what rounding takes; no copy gets less than one.
        trainer: of (network, tasks, name). The batch of one task has to hold as many samples as a mixed one.

    Returns:
        Task -> its expert, and the rows of the history.
    """
    history = trainer(shared, tasks, "shared").train(phases_of("shared", steps - steps // 2))
    models = {}
    for task in tasks:
        models[task] = copy.deepcopy(shared)
        phase = Phase(max(1, steps // 2 // len(tasks)), True, False, (task,))
        history += trainer(models[task], (task,), task).train([phase])
    return models, history
