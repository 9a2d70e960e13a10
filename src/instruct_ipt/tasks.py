"""The restoration tasks, in the fixed order in which every tensor, table and file holds them."""

from __future__ import annotations

from collections.abc import Sequence

TASKS: tuple[str, ...] = ("denoise", "deblur", "derain", "dehaze", "desnow")


def task_index(task: str, tasks: Sequence[str] = TASKS) -> int:
    """Position of ``task`` in ``tasks``.

    Raises:
        KeyError: the task is unknown; the message names the known ones.
    """
    if task not in tasks:
        raise KeyError(f"unknown task {task!r}; known tasks: {', '.join(tasks)}")
    return tuple(tasks).index(task)
