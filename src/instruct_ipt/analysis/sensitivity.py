"""Task-sensitivity search: free one weight group at a time for one task on a trained shared network, note the gain.

What the search chooses is `select_groups`; what it is held against, at the same added parameters, `random_selection`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from instruct_ipt.data.stream import PatchStream
from instruct_ipt.errors import InputError
from instruct_ipt.modulation.bias import task_bias
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.checkpoint import Checkpoints
from instruct_ipt.training.loop import to_tensor
from instruct_ipt.training.losses import restoration_loss
from instruct_ipt.training.phases import patch_at, rate_at

if TYPE_CHECKING:
    from instruct_ipt.modulation import RankRule, TaskModel

COLUMNS = ["estimator", "task", "group", "seed", "gain_db", "freed_params", "score"]

# A random selection counts as equal in size when its added parameters come this near to the budget ...
NEAR_ENOUGH = 0.01
# ... and as possible at all when the best of so many draws comes this near.
LARGEST_GAP = 0.05
DRAWS = 100


def exact_search(
    shared: TaskModel,
    streams: Mapping[int, PatchStream],
    score: Callable[[TaskModel, str], float],
    settings: Any,
    training: Any,
    advance: Callable[[int, str], None] = lambda done, note: None,
    checkpoints: Path | None = None,
) -> pd.DataFrame:
    """The exact search of the paper: every weight group, every task, every seed, the same steps.

    Args:
        shared: trained shared network; left unchanged.
        streams: seed -> training batches; every group of a task sees the same ones.
        score: validation PSNR in dB of a model on a task.
        settings: the `sensitivity` section of the parameters.
        training: the `training` section (patches, loss, clip, warm-up).
        advance: called after each group with the number of groups done and a note.
        checkpoints: folder in which every finished group is noted, so that a killed search repeats one at most.

    Returns:
        Rows of `results/sensitivity.csv`. ``score`` is the gain in dB per 100 000 freed parameters.

    Raises:
        InputError: a fine-tuned network gives what is not finite.
    """
    groups = shared.backbone.weight_groups()
    before = {task: score(shared, task) for task in TASKS}
    kept = Checkpoints(checkpoints)
    rows: list[list[Any]] = (kept.latest() or {"rows": []})["rows"]
    done = {tuple(row[1:4]) for row in rows}
    for seed, stream in streams.items():
        for task in TASKS:
            for group, names in groups.items():
                if (task, group, seed) in done:
                    continue
                tuned, freed = free_group(shared, names, task, stream, settings, training)
                gain = float(score(tuned, task) - before[task])
                if not math.isfinite(gain):
                    raise InputError(
                        f"sensitivity: freeing {group} for {task} (seed {seed}) gave a network whose output is not "
                        "finite; lower sensitivity.learning_rate in params.yaml"
                    )
                rows.append(["exact", task, group, seed, gain, freed, gain / freed * 1e5])
                kept.save(len(rows), {"rows": rows})
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


def pixel_passes(steps: int, batch: int, patches: Sequence[Any]) -> int:
    """Image pixels that pass forward and backward in ``steps`` steps of ``batch`` samples.

    It measures cost where seconds cannot: it is the same on every machine, and patches may grow over the steps.
    """
    return sum(batch * patch_at(step, steps, patches) ** 2 for step in range(steps))


def select_groups(table: pd.DataFrame, backbone_parameters: int, budget: float) -> list[str]:
    """Weight groups to modulate: largest mean gain over seeds and tasks first, as long as they fit the budget.

    Args:
        table: `results/sensitivity.csv`, judged on the validation split; only its rows of the exact search count.
        backbone_parameters: parameters of the whole backbone.
        budget: largest share of them that the selected groups may hold together.

    Returns:
        Group names, the most sensitive first. A group that does not fit is passed over, a later smaller one may fit;
        groups without a gain are left out. There is always at least one: the best group that fits, else the smallest.
    """
    exact = table[table.estimator == "exact"]
    mean = exact.groupby("group", sort=False).agg(gain=("gain_db", "mean"), size=("freed_params", "first"))
    chosen: list[str] = []
    spent = 0
    for group, row in mean.sort_values("gain", ascending=False, kind="stable").iterrows():
        if row.gain > 0 and spent + row["size"] <= budget * backbone_parameters:
            chosen.append(str(group))
            spent += int(row["size"])
    return chosen or [str(mean["size"].idxmin())]


def bias_sizes(shapes: Mapping[str, Sequence[int]], tasks: int, rule: RankRule) -> dict[str, int]:
    """Parameter name -> parameters that its task bias would add, all ``tasks`` together.

    The biases are built as `modulate` builds them, on the meta device: no memory, no random number.
    """
    with torch.device("meta"):
        biases = {name: task_bias(torch.empty(tuple(shape)), tasks, rule) for name, shape in shapes.items()}
    return {name: sum(part.numel() for part in bias.parameters()) for name, bias in biases.items()}


def random_selection(
    shapes: Mapping[str, Sequence[int]], tasks: int, rule: RankRule, budget: int, seed: int
) -> list[str]:
    """Random weights of equal size, the control for "sensitive weights beat random weights".

    Weights are taken in a random order, those passed over that would overshoot, until what their biases add lies
    within 1 % of ``budget``. No weight is excluded, so that some may be in the sensitive selection too. Stopping there
    keeps a draw from ending with all the tiny weights that still fit.

    Args:
        shapes: parameter name -> shape, of all weights that can be modulated, in network order.
        tasks: number of tasks.
        rule: rank rule of the biases.
        budget: parameters that the selected set's biases add, all tasks together (`Modulated.added_parameters`).
        seed: the same seed and arguments give the same weights.

    Returns:
        Parameter names in network order.

    Raises:
        InputError: no draw comes within 5 % of the budget (it is below the smallest bias, or above all of them).
    """
    sizes = bias_sizes(shapes, tasks, rule)
    generator = np.random.default_rng(seed)
    best: list[str] = []
    missing = budget
    for _ in range(DRAWS):
        drawn, left = _draw(sizes, budget, generator)
        if left < missing:
            best, missing = drawn, left
        if missing <= NEAR_ENOUGH * budget:
            break
    if not best or missing > LARGEST_GAP * budget:
        raise InputError(
            f"random selection: no set of weights adds {budget} parameters within {LARGEST_GAP:.0%}; "
            f"at this rank rule one weight adds {min(sizes.values())} at least and all add {sum(sizes.values())}; "
            "change modulation.value or sensitivity.budget in params.yaml"
        )
    chosen = set(best)
    return [name for name in shapes if name in chosen]


def _draw(sizes: Mapping[str, int], budget: int, generator: np.random.Generator) -> tuple[list[str], int]:
    """One random order of the weights, filled up to the budget: the names taken and how much is left of it."""
    names = list(sizes)
    drawn: list[str] = []
    left = budget
    for index in generator.permutation(len(names)):
        name = names[index]
        if sizes[name] <= left:
            drawn.append(name)
            left -= sizes[name]
        if left <= NEAR_ENOUGH * budget:
            break
    return drawn, left
