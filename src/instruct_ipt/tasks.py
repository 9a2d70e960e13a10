"""The restoration tasks, in the fixed order in which every tensor, table and file holds them."""

from __future__ import annotations

from collections.abc import Sequence

TASKS: tuple[str, ...] = ("denoise", "deblur", "derain", "dehaze", "desnow")


NOISE = "denoise"
"""The task whose damage has a level, the noise's standard deviation in 1/255."""


def split_level(task: str) -> tuple[str, float | None]:
    """Damage and noise level of a task: ``denoise-15`` is denoising at sigma 15 alone, a task like any other.

    Every other name is its own damage, without a level: also that of a task of one's own.
    """
    damage, _, level = task.rpartition("-")
    if damage == NOISE and level.replace(".", "", 1).isdigit():
        return damage, float(level)
    return task, None


def task_index(task: str, tasks: Sequence[str] = TASKS) -> int:
    """Position of ``task`` in ``tasks``.

    Raises:
        KeyError: the task is unknown; the message names the known ones.
    """
    if task not in tasks:
        raise KeyError(f"unknown task {task!r}; known tasks: {', '.join(tasks)}")
    return tuple(tasks).index(task)
