"""How a strategy spends its steps, and how a schedule changes within them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from instruct_ipt.tasks import split_level


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one set of trainable parameters.

    Attributes:
        steps: how many steps.
        backbone, biases: which parameter family learns.
        tasks: tasks in each batch; empty means all.
    """

    steps: int
    backbone: bool
    biases: bool
    tasks: tuple[str, ...] = ()


def phases_of(strategy: str, steps: int) -> list[Phase]:
    """The phases of a strategy for one network, at equal total steps.

    * ``synchronous``: backbone and task biases learn together from the first step (the paper's way).
    * ``shared``: the backbone alone.
    * ``frozen``: first half the backbone alone, second half the biases on the frozen backbone.
    * ``two_stage``: first half the backbone alone, second half backbone and biases together.

    ``experts`` needs a network per task: `training/experts.py`. The paper's exact arms are not public; this reading is
    ours.

    Raises:
        KeyError: no such strategy.
    """
    first, second = steps - steps // 2, steps // 2
    table = {
        "synchronous": [Phase(steps, True, True)],
        "shared": [Phase(steps, True, False)],
        "frozen": [Phase(first, True, False), Phase(second, False, True)],
        "two_stage": [Phase(first, True, False), Phase(second, True, True)],
    }
    if strategy not in table:
        raise KeyError(f"no phases for strategy {strategy!r}; known: {', '.join(table)}")
    return table[strategy]


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate: linear warm-up over a share ``warmup`` of ``steps``, then a cosine down to 0.02."""
    ramp = max(1, round(warmup * steps))
    if step < ramp:
        return (step + 1) / ramp
    progress = (step - ramp) / max(1, steps - ramp)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * progress))


def patch_at(step: int, steps: int, patches: Sequence[Any]) -> int:
    """Patch side in pixels at ``step``: progressive patches, each entry holding for its share of the steps."""
    done = 0.0
    for phase in patches:
        done += phase.share
        if step < done * steps - 1e-9:
            return int(phase.size)
    return int(patches[-1].size)


def counts_of(weights: Mapping[str, float], batch_per_task: int, tasks: Sequence[str]) -> dict[str, int]:
    """Samples per task in a batch: ``batch_per_task`` times the weight of the task's damage, at least one."""
    return {task: max(1, round(batch_per_task * weights[split_level(task)[0]])) for task in tasks}
