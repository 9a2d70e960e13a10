"""Where a rival takes hold of a backbone, and for how long: forward hooks that live for one pass."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from instruct_ipt.modulation import TaskChoice, TaskModule, check_strength, task_mix


class SiteBackbone(Protocol):
    """A module that says where its features may be changed and which parameters are of which kind."""

    def adaptation_sites(self) -> Mapping[str, int]:
        """Module name -> channels C, in network order; each maps (N, H, W, C) to (N, H, W, C)."""
        ...

    def weight_groups(self) -> Mapping[str, Sequence[str]]:
        """Weight group -> parameter names; the rivals read `norm`, `head` and `tail`."""
        ...


class FeatureAdaptation(TaskModule, ABC):
    """A backbone and one small part for each of some of its modules. A fresh one equals its backbone bit for bit.

    Samples of different tasks share one pass: every part works with one row of task weights per sample. The backbone
    is not copied, and nothing stays attached to it between calls.

    Args:
        backbone: a `SiteBackbone`.
        tasks: task names.
        parts: module name in the backbone -> the part that changes its features.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], parts: Mapping[str, nn.Module]) -> None:
        super().__init__(backbone, tasks)
        self.sites = nn.ModuleDict({_key(name): part for name, part in parts.items()})
        self._names = tuple(parts)

    def forward(self, x: Tensor, task: TaskChoice, strength: float = 1.0) -> Tensor:
        """Restore x, (N, ...), for `task` (see `TaskChoice`); strength in [0, 1.5] scales the task's part.

        Soft task weights mix the parameters of the tasks, sample by sample.

        Raises:
            KeyError: unknown task; the message lists the known ones.
            ValueError: strength out of range or wrong shape of `task`.
        """
        mix = task_mix(task, self.tasks, len(x))
        with contextlib.ExitStack() as stack:
            for handle in self.attach(mix, check_strength(strength)):
                stack.callback(handle.remove)
            return self.backbone(x)

    @abstractmethod
    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        """Hook every part to its module, for task weights (1 or N, T) on the CPU; the caller removes the handles."""

    def parts(self) -> Iterator[tuple[nn.Module, Any]]:
        """Pairs of a module of the backbone and the part that changes its features."""
        for name in self._names:
            yield self.backbone.get_submodule(name), self.sites[_key(name)]


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A Linear whose weight and bias start at zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def nearest_size(budget: int, fixed: int, per_unit: int) -> int:
    """The size n >= 1 whose fixed + n * per_unit parameters are nearest to `budget`."""
    return max(1, round((budget - fixed) / per_unit))


def check_size(name: str, size: int) -> int:
    """Return `size`; ValueError unless it is at least 1."""
    if size < 1:
        raise ValueError(f"{name} is {size}; allowed: an integer >= 1")
    return size


def _key(name: str) -> str:
    """Module names hold no dots; the slash in front keeps clear of the names of `ModuleDict`'s own methods."""
    return "/" + name.replace(".", "/")
