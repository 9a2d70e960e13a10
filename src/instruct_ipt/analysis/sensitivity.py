"""Task-sensitivity search: free one weight group at a time for one task on a trained shared network, note the gain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from instruct_ipt.data.stream import PatchStream
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.loop import to_tensor
from instruct_ipt.training.losses import restoration_loss
from instruct_ipt.training.phases import patch_at, rate_at

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel

COLUMNS = ["estimator", "task", "group", "seed", "gain_db", "freed_params", "score"]


def exact_search(
    shared: TaskModel,
    stream: PatchStream,
    score: Callable[[TaskModel, str], float],
    settings: Any,
    training: Any,
    seed: int,
    advance: Callable[[int, str], None] = lambda done, note: None,
) -> pd.DataFrame:
    """The exact search of the paper: every weight group, every task, the same steps.

    Args:
        shared: trained shared network; left unchanged.
        stream: training batches; every group of a task sees the same ones.
        score: validation PSNR in dB of a model on a task.
        settings: the `sensitivity` section of the parameters.
        training: the `training` section (patches, loss, clip, warm-up).
        seed: written into the table.

    Returns:
        Rows of `results/sensitivity.csv`. ``score`` is the gain in dB per 100 000 freed parameters.
    """
    groups = shared.backbone.weight_groups()
    rows: list[list[Any]] = []
    for task in TASKS:
        before = score(shared, task)
        for group, names in groups.items():
            tuned, freed = free_group(shared, names, task, stream, settings, training)
            gain = score(tuned, task) - before
            rows.append(["exact", task, group, seed, gain, freed, gain / freed * 1e5])
            advance(len(rows), f"{task} {group} {gain:+.3f} dB")
    return pd.DataFrame(rows, columns=COLUMNS)


def free_group(
    shared: TaskModel, names: list[str], task: str, stream: PatchStream, settings: Any, training: Any
) -> tuple[TaskModel, int]:
    """Fine-tune only the parameters ``names`` of a copy of ``shared`` on one task.

    Returns:
        The tuned copy and the number of parameters that were free.
    """
    tuned = copy.deepcopy(shared)
    chosen = set(names)
    free = []
    for name, parameter in tuned.backbone.named_parameters():
        parameter.requires_grad_(name in chosen)
        free += [parameter] if name in chosen else []
    optimiser = torch.optim.AdamW(free, lr=settings.learning_rate, weight_decay=0.0, fused=True)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate_at(step, settings.steps, training.warmup)
        batch = stream.batch(step, patch_at(step, settings.steps, training.patches), {task: settings.batch})
        output = tuned(to_tensor(batch.input, free[0].device), task)
        target = to_tensor(batch.target, free[0].device)
        optimiser.zero_grad(set_to_none=True)
        restoration_loss(output, target, training.loss.l1, training.loss.frequency).backward()
        torch.nn.utils.clip_grad_norm_(free, training.clip)
        optimiser.step()
    return tuned, sum(parameter.numel() for parameter in free)


def select_groups(table: pd.DataFrame, backbone_parameters: int, budget: float) -> list[str]:
    """Weight groups to modulate: largest mean gain over tasks first, as long as they fit the budget.

    Args:
        table: as :func:`exact_search` returns it, judged on the validation split.
        backbone_parameters: parameters of the whole backbone.
        budget: largest share of them that the selected groups may hold together.

    Returns:
        Group names, the most sensitive first. A group that does not fit is passed over, a later smaller one may fit;
        groups without a gain are left out. There is always at least one: the best group that fits, else the smallest.
    """
    mean = table.groupby("group", sort=False).agg(gain=("gain_db", "mean"), size=("freed_params", "first"))
    chosen: list[str] = []
    spent = 0
    for group, row in mean.sort_values("gain", ascending=False, kind="stable").iterrows():
        if row.gain > 0 and spent + row["size"] <= budget * backbone_parameters:
            chosen.append(str(group))
            spent += int(row["size"])
    return chosen or [str(mean["size"].idxmin())]
