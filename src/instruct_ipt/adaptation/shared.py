"""The lower bound: one network for all tasks, told nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from instruct_ipt.modulation import TaskChoice, check_strength, set_trainable, task_mix


class Shared(nn.Module):
    """The bare backbone behind the interface of `TaskModel`: it checks the task and ignores it."""

    def __init__(self, backbone: nn.Module, tasks: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.tasks = tuple(tasks)

    def forward(self, x: Tensor, task: TaskChoice, strength: float = 1.0) -> Tensor:
        """Restore x, (N, ...); a wrong task or strength is an error here too, though neither changes the result."""
        task_mix(task, self.tasks, len(x))
        check_strength(strength)
        return self.backbone(x)

    def bias_parameters(self) -> list[nn.Parameter]:
        """None."""
        return []

    def backbone_parameters(self) -> list[nn.Parameter]:
        """All parameters."""
        return list(self.backbone.parameters())

    def added_parameters(self) -> int:
        """0."""
        return 0

    def parameters_per_task(self) -> float:
        """0."""
        return 0.0

    def set_trainable(self, *, backbone: bool, biases: bool) -> None:
        """Freeze or free the backbone; there are no biases."""
        set_trainable(self.backbone_parameters(), backbone)
