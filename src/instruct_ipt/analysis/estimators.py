"""Two cheap estimators of task sensitivity, and how far they agree with the exact search.

Both read the gradients of the trained shared network on a few batches and train nothing. One sweep over the samples
serves both: the mean of the per-sample gradients is the gradient of the batch.

* ``fisher``: the trace of a weight group's block of the empirical Fisher information, the mean over samples of the
  squared gradient, summed over the parameters of the group. Gradients are those of single samples, taken at the true
  targets. That is the *empirical* Fisher: how it differs from the Fisher proper is in Kunstner et al. 2019 (arXiv
  1905.12558); the Fisher says which weights matter to a task in Kirkpatrick et al. 2017 (arXiv 1612.00796), and
  which ones to fine-tune, in its empirical form, in Sung et al. 2021 (arXiv 2111.09839). The training
  loss stands for the negative log-likelihood (an L1 loss is that of Laplace noise, up to a factor that all groups
  share).
* ``conflict``: one minus the mean cosine between the task's gradient and those of the other tasks, per weight group;
  in [0, 2], above 1 where the tasks pull apart. Negative cosines as the sign of conflict: Yu et al. 2020 (arXiv
  2001.06782). Noise in the gradients draws every cosine towards 0, so that it takes several times as many samples as
  ``fisher`` until two seeds agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor

from instruct_ipt.analysis.sensitivity import COLUMNS
from instruct_ipt.data.stream import PatchStream
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.loop import to_tensor
from instruct_ipt.training.losses import restoration_loss
from instruct_ipt.training.phases import patch_at

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel

ESTIMATORS = ("fisher", "conflict")
CONFLICT_COLUMNS = ["task_a", "task_b", "group", "cosine"]
AGREEMENT_COLUMNS = ["estimator", "task", "spearman", "n_groups", "passes", "passes_exact", "times_cheaper"]
# In the place of a task: all tasks in one ranking; in the place of a group: the whole network.
ALL = "all"


@dataclass(frozen=True)
class TaskGradients:
    """Gradients of one task, gathered by weight group.

    Attributes:
        fisher: group -> mean over samples of the squared norm of the group's gradient, >= 0.
        mean: group -> mean gradient, float32 (parameters of the group,), parameters in network order.
    """

    fisher: dict[str, float]
    mean: dict[str, Tensor]


def task_gradients(shared: TaskModel, task: str, stream: PatchStream, settings: Any, training: Any) -> TaskGradients:
    """Per-sample gradients of the training loss of ``task``, over the first ``settings.batches`` batches.

    Args:
        shared: trained shared network; left unchanged, its ``.grad`` too.
        task: whose samples and output.
        stream: training batches.
        settings: the `sensitivity` section of the parameters (batches, batch).
        training: the `training` section (patches, loss).
    """
    named = dict(shared.backbone.named_parameters())
    parameters = list(named.values())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    squares = np.zeros(len(parameters))
    for step in range(settings.batches):
        patch = patch_at(step, settings.batches, training.patches)
        batch = stream.batch(step, patch, {task: settings.batch})
        inputs, targets = (to_tensor(part, parameters[0].device) for part in (batch.input, batch.target))
        for given, target in zip(inputs.split(1), targets.split(1), strict=True):
            loss = restoration_loss(shared(given, task), target, training.loss.l1, training.loss.frequency)
            gradients = torch.autograd.grad(loss, parameters)
            torch._foreach_add_(sums, gradients)
            squares += [float(gradient.square().sum(dtype=torch.float64)) for gradient in gradients]
    samples = settings.batches * settings.batch
    place = {name: index for index, name in enumerate(named)}
    members = {group: [place[name] for name in names] for group, names in shared.backbone.weight_groups().items()}
    return TaskGradients(
        {group: float(squares[indices].sum()) / samples for group, indices in members.items()},
        {group: torch.cat([sums[i].flatten() for i in indices]) / samples for group, indices in members.items()},
    )


def estimate(
    shared: TaskModel, streams: Mapping[int, PatchStream], settings: Any, training: Any
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both estimators for every task, group and seed, and the task-conflict matrix.

    Args:
        shared, settings, training: as in :func:`task_gradients`.
        streams: seed -> training batches.

    Returns:
        Rows of `results/sensitivity.csv`, whose ``gain_db`` is missing, for nothing was trained; and
        `results/task_conflict.csv`: the cosine between the gradients of every two tasks, both orders and each task with
        itself, per weight group and for the whole network (group ``all``), averaged over seeds.
    """
    sizes = _group_sizes(shared)
    rows: list[list[Any]] = []
    matrices = []
    for seed, stream in streams.items():
        gradients = {task: task_gradients(shared, task, stream, settings, training) for task in TASKS}
        cosines = cosine_matrices([gradients[task].mean for task in TASKS])
        matrices.append(cosines)
        scores = {
            "fisher": {(task, group): gradients[task].fisher[group] for task in TASKS for group in sizes},
            "conflict": {
                (task, group): disagreement
                for group in sizes
                for task, disagreement in zip(TASKS, conflict_scores(cosines[group]), strict=True)
            },
        }
        rows += [
            [estimator, task, group, seed, np.nan, sizes[group], scores[estimator][task, group]]
            for estimator in ESTIMATORS
            for task in TASKS
            for group in sizes
        ]
    return pd.DataFrame(rows, columns=COLUMNS), _conflict_table(matrices)


def cosine_matrices(gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, np.ndarray]:
    """Cosines between the gradients of T tasks.

    Args:
        gradients: per task, group -> gradient, float (P,).

    Returns:
        Group -> float64 (T, T), symmetric, and the same for all groups together under ``all``. A gradient of zero has
        cosine 0 with everything.
    """
    products = {}
    for group in gradients[0]:
        stack = torch.stack([gradient[group] for gradient in gradients]).double()
        products[group] = (stack @ stack.T).cpu().numpy()
    products[ALL] = sum(products.values())
    return {group: _cosines(product) for group, product in products.items()}


def _cosines(products: np.ndarray) -> np.ndarray:
    """Inner products (T, T) -> cosines."""
    norms = np.sqrt(np.diag(products))
    scale = np.outer(norms, norms)
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


def conflict_scores(cosines: np.ndarray) -> np.ndarray:
    """(T, T) cosines, T >= 2 -> (T,): one minus each task's mean cosine with the other tasks."""
    others = len(cosines) - 1
    return 1.0 - (cosines.sum(axis=1) - np.diag(cosines)) / others


def agreement(table: pd.DataFrame, searched: int, estimated: int) -> pd.DataFrame:
    """How each estimator ranks the weight groups against the exact search, and what it costs.

    Ranks are those of ``score`` (estimator) and ``gain_db`` (exact), each averaged over seeds: what selection orders
    by. Spearman's coefficient is taken over the groups of a task, and over all pairs of task and group (``all``).

    Cost is counted in pixels that pass forward and backward (`sensitivity.pixel_passes`). The exact search also
    validates once per group, which is left out: ``times_cheaper`` is a lower bound. The row of a task says what its
    scores alone take: for ``conflict`` that is the gradients of all tasks, which serve all tasks at once.

    Args:
        table: rows of the exact search and of both estimators, the same groups and seeds for every task.
        searched: pixels of the exact search for one group, task and seed.
        estimated: pixels of the gradients of one task and seed.

    Returns:
        Columns ``AGREEMENT_COLUMNS``; ``n_groups`` is the number of ranks compared.
    """

    def mean(estimator: str, column: str) -> pd.Series:
        return table[table.estimator == estimator].groupby(["task", "group"], sort=False)[column].mean()

    tasks, seeds = list(dict.fromkeys(table.task)), table.seed.nunique()
    gains = mean("exact", "gain_db")
    rows = []
    for estimator in ESTIMATORS:
        scores = mean(estimator, "score").reindex(gains.index)
        for task in (*tasks, ALL):
            compared = gains.index.get_level_values("task").isin(tasks if task == ALL else [task])
            spent = seeds * estimated * (len(tasks) if task == ALL or estimator == "conflict" else 1)
            exact = seeds * searched * int(compared.sum())
            correlation = float(spearmanr(gains[compared], scores[compared]).statistic)
            rows.append([estimator, task, correlation, int(compared.sum()), spent, exact, exact / spent])
    return pd.DataFrame(rows, columns=AGREEMENT_COLUMNS)


def _group_sizes(shared: TaskModel) -> dict[str, int]:
    """Weight group -> number of its parameters."""
    named = dict(shared.backbone.named_parameters())
    return {group: sum(named[n].numel() for n in names) for group, names in shared.backbone.weight_groups().items()}


def _conflict_table(matrices: Sequence[Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """The mean over seeds of the cosines, one row per ordered pair of tasks and group."""
    rows = [
        [task_a, task_b, group, float(np.mean([matrix[group][a, b] for matrix in matrices]))]
        for group in matrices[0]
        for a, task_a in enumerate(TASKS)
        for b, task_b in enumerate(TASKS)
    ]
    return pd.DataFrame(rows, columns=CONFLICT_COLUMNS)
