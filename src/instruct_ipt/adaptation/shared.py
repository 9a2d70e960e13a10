"""The lower bound: one network for all tasks, told nothing."""

from __future__ import annotations

from torch import Tensor

from instruct_ipt.modulation import TaskChoice, TaskModule, check_strength, task_mix


class Shared(TaskModule):
    """The bare backbone behind the interface of `TaskModel`: it checks the task and ignores it."""

    def forward(self, x: Tensor, task: TaskChoice, strength: float = 1.0) -> Tensor:
        """Restore x, (N, ...); a wrong task or strength is an error here too, though neither changes the result."""
        task_mix(task, self.tasks, len(x))
        check_strength(strength)
        return self.backbone(x)
