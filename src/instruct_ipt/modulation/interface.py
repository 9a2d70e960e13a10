"""What a model that knows tasks offers: modulation and every feature-adaptation rival are called in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from instruct_ipt.tasks import task_index

TaskChoice = str | int | Tensor
"""A task: its name, its index, an integer tensor (N,) of one index per sample, or a float (N, T) of convex weights."""

MAX_STRENGTH = 1.5


@runtime_checkable
class TaskModel(Protocol):
    """A `torch.nn.Module` that restores images for a chosen task."""

    tasks: tuple[str, ...]

    def __call__(self, x: Tensor, task: TaskChoice, strength: float = 1.0) -> Tensor:
        """Restore x, (N, ...), for `task`; strength in [0, 1.5] scales the task's part, 0 is the bare backbone."""
        ...

    def bias_parameters(self) -> list[nn.Parameter]:
        """The parameters that depend on the task."""
        ...

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The parameters that all tasks share."""
        ...

    def added_parameters(self) -> int:
        """Number of parameters added to the backbone, for all tasks together."""
        ...

    def parameters_per_task(self) -> float:
        """Added parameters divided by the number of tasks."""
        ...

    def set_trainable(self, *, backbone: bool, biases: bool) -> None:
        """Freeze or free the two families of parameters."""
        ...


class TaskModule(nn.Module):
    """The part of `TaskModel` that every method shares: a backbone, and beside it whatever serves its tasks.

    Args:
        backbone: the module whose parameters all tasks share.
        tasks: task names.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.tasks = tuple(tasks)

    def bias_parameters(self) -> list[nn.Parameter]:
        """The parameters that serve the tasks: all but the backbone's."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("backbone.")]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters of the backbone."""
        return list(self.backbone.parameters())

    def added_parameters(self) -> int:
        """Number of parameters beside the backbone's, all tasks together."""
        return sum(parameter.numel() for parameter in self.bias_parameters())

    def parameters_per_task(self) -> float:
        """Added parameters divided by the number of tasks."""
        return self.added_parameters() / len(self.tasks)

    def set_trainable(self, *, backbone: bool, biases: bool) -> None:
        """Freeze or free the two families of parameters."""
        set_trainable(self.backbone_parameters(), backbone)
        set_trainable(self.bias_parameters(), biases)


def check_strength(strength: float) -> float:
    """Return `strength`; ValueError unless it lies in [0, 1.5]."""
    if not 0.0 <= strength <= MAX_STRENGTH:
        raise ValueError(f"strength is {strength}; allowed: a number in [0, {MAX_STRENGTH}]")
    return float(strength)


def task_mix(task: TaskChoice, tasks: tuple[str, ...], samples: int) -> Tensor:
    """Task weights, float32 on the CPU: (1, T) when all samples share a task, else (N, T).

    No gradient flows to weights that are given as a tensor.

    Raises:
        KeyError: unknown name or index; the message lists the known tasks.
        ValueError: a tensor of the wrong shape, or weights that are negative or do not sum to 1.
    """
    if isinstance(task, str):
        return torch.eye(len(tasks))[task_index(task, tasks)][None]
    if isinstance(task, int):
        task = torch.tensor([task])
    elif task.shape[:1] != (samples,):
        raise ValueError(f"task has shape {tuple(task.shape)}; expected one entry for each of {samples} samples")
    task = task.detach().cpu()
    return _soft(task, tasks) if task.is_floating_point() else _one_hot(task, tasks)


def _one_hot(index: Tensor, tasks: tuple[str, ...]) -> Tensor:
    """(N,) integers -> (N, T) rows of the identity."""
    if index.ndim != 1:
        raise ValueError(f"task indices have shape {tuple(index.shape)}; expected (N,)")
    if index.numel() and (int(index.min()) < 0 or int(index.max()) >= len(tasks)):
        raise KeyError(f"unknown task index in {index.tolist()}; known tasks: {', '.join(tasks)}, numbered from 0")
    return torch.eye(len(tasks))[index.long()]


def _soft(weights: Tensor, tasks: tuple[str, ...]) -> Tensor:
    """Check (N, T) convex weights."""
    if weights.ndim != 2 or weights.shape[1] != len(tasks):
        raise ValueError(f"task weights have shape {tuple(weights.shape)}; expected (N, {len(tasks)})")
    weights = weights.float()
    if not bool((weights >= 0).all()) or not torch.allclose(weights.sum(1), torch.ones(len(weights)), atol=1e-3):
        raise ValueError("task weights must be non-negative and sum to 1 for every sample")
    return weights


def set_trainable(parameters: Iterable[nn.Parameter], trainable: bool) -> None:
    """Set `requires_grad` of all `parameters`; a frozen one drops its gradient, so that no optimiser moves it."""
    for parameter in parameters:
        parameter.requires_grad_(trainable)
        if not trainable:
            parameter.grad = None
