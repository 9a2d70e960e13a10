"""The increment of one weight for every task: in two factors, or in full where the weight is tiny."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .rank import RankRule, matrix_shape


@dataclass(frozen=True)
class TaskRows:
    """G rows of task weights, prepared once for all the weights of a model.

    Attributes:
        mix: float (G, T); a one-hot row selects a task, a scaled row sets the strength.
        tasks: the task of each row, where no row mixes two tasks; else None. int64 (G,), or a slice, which saves
            gathering, where they follow each other.
        share: float (G,), the strength of each row's task, where one is not 1 and `tasks` is not None.
    """

    mix: Tensor
    tasks: Tensor | slice | None
    share: Tensor | None

    @classmethod
    def of(cls, mix: Tensor, like: Tensor) -> TaskRows:
        """From (G, T) weights on the CPU, for parameters of the device and type of `like`."""
        rows = mix.to(like)
        if bool(((mix != 0).sum(1) > 1).any()):
            return cls(rows, None, None)
        index, share = mix.argmax(1), mix.sum(1)
        first = int(index[0])
        run = slice(first, first + len(index))
        follow = torch.equal(index, torch.arange(run.start, run.stop))
        return cls(rows, run if follow else index.to(like.device), None if bool((share == 1).all()) else share.to(like))

    def pick(self, stack: Tensor) -> Tensor:
        """(T, ...) per task -> (G, ...) per row, times the row's strength; only where no row mixes tasks."""
        picked = stack[self.tasks]
        return picked if self.share is None else picked * self.share.view(-1, *[1] * (stack.ndim - 1))


class TaskBias(nn.Module, ABC):
    """What is added to one weight, for each of T tasks. A fresh bias is exactly zero for every task."""

    shape: torch.Size

    @abstractmethod
    def increment(self, mix: Tensor) -> Tensor:
        """The increment for task weights `mix`, float (T,): sum over t of mix[t] * bias[t], in the shape of the weight.

        A one-hot row selects a task, a scaled row sets the strength.
        """

    @abstractmethod
    def add_to(self, weight: Tensor, rows: TaskRows) -> Tensor:
        """weight + increment, for each of G rows of task weights at once: (G, *shape)."""

    @abstractmethod
    def write(self, into: Tensor, weight: Tensor, rows: TaskRows) -> None:
        """Set `into`, in the shape of the weight, to what `add_to` gives for one row.

        Bit for bit, and without a copy where memory order allows.
        """

    @abstractmethod
    def delta(self, task: int) -> Tensor:
        """The increment of one task, in the shape of the weight."""


class FullBias(TaskBias):
    """One tensor in the shape of the weight per task; for 1-D weights and depthwise kernels, which are tiny.

    Args:
        shape: of the weight.
        tasks: T.
    """

    def __init__(self, shape: Sequence[int], tasks: int) -> None:
        super().__init__()
        self.shape = torch.Size(shape)
        self.full = nn.Parameter(torch.zeros(tasks, *shape))

    def increment(self, mix: Tensor) -> Tensor:
        return torch.tensordot(mix.to(self.full), self.full, dims=1)

    def add_to(self, weight: Tensor, rows: TaskRows) -> Tensor:
        return weight + self._increments(rows)

    def _increments(self, rows: TaskRows) -> Tensor:
        """(G, *shape)."""
        return torch.tensordot(rows.mix, self.full, dims=1) if rows.tasks is None else rows.pick(self.full)

    def write(self, into: Tensor, weight: Tensor, rows: TaskRows) -> None:
        torch.add(weight, self._increments(rows)[0], out=into)

    def delta(self, task: int) -> Tensor:
        return self.full[task]


class LowRankBias(TaskBias):
    """bias[t] = up[t] @ down[t] on the weight flattened to (rows, cols), as in LoRA (Hu et al. 2022, arXiv 2106.09685).

    Args:
        shape: of the weight, two axes or more.
        tasks: T.
        rank: r in [1, min(rows, cols)].
        generator: source of the random start of `down` (T, r, cols), uniform in +-1 / sqrt(cols) as in LoRA; `up` (T,
            rows, r) starts at zero. None: torch's global generator.
    """

    def __init__(self, shape: Sequence[int], tasks: int, rank: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        rows, cols = matrix_shape(shape)
        if not 1 <= rank <= min(rows, cols):
            raise ValueError(f"rank is {rank}; allowed for a {rows} x {cols} matrix: 1 to {min(rows, cols)}")
        self.shape = torch.Size(shape)
        bound = 1 / math.sqrt(cols)
        self.down = nn.Parameter(torch.empty(tasks, rank, cols).uniform_(-bound, bound, generator=generator))
        self.up = nn.Parameter(torch.zeros(tasks, rows, rank))

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[1]

    def increment(self, mix: Tensor) -> Tensor:
        up, down = self._concatenated(mix.to(self.up)[None])
        return (up[0] @ down[0]).view(self.shape)

    def add_to(self, weight: Tensor, rows: TaskRows) -> Tensor:
        up, down = self._factors(rows)
        matrix = weight.reshape(1, *matrix_shape(self.shape)).expand(len(up), -1, -1)
        return torch.baddbmm(matrix, up, down).view(-1, *self.shape)

    def _factors(self, rows: TaskRows) -> tuple[Tensor, Tensor]:
        """(G, rows, k) and (G, k, cols)."""
        if rows.tasks is None:
            return self._concatenated(rows.mix)
        return rows.pick(self.up), self.down[rows.tasks]

    def _concatenated(self, mix: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (G, rows, T r) and (G, T r, cols) whose product is the mixed bias: one product, not a sum of T."""
        up = (mix[:, :, None, None] * self.up).transpose(1, 2).flatten(2)
        return up, self.down.flatten(0, 1).expand(len(mix), -1, -1)

    def write(self, into: Tensor, weight: Tensor, rows: TaskRows) -> None:
        if not into.is_contiguous():
            into.copy_(self.add_to(weight, rows)[0])
            return
        matrix = 1, *matrix_shape(self.shape)
        torch.baddbmm(weight.reshape(matrix), *self._factors(rows), out=into.view(matrix))

    def delta(self, task: int) -> Tensor:
        return (self.up[task] @ self.down[task]).view(self.shape)


def task_bias(weight: Tensor, tasks: int, rule: RankRule, generator: torch.Generator | None = None) -> TaskBias:
    """The bias of T = `tasks` tasks that fits `weight`, (rows, ...), in its type and on its device.

    It is full for vectors and depthwise kernels (weight.shape[1] is 1), else as `rule` says.
    """
    depthwise = weight.ndim > 2 and weight.shape[1] == 1
    if weight.ndim < 2 or depthwise or rule.kind == "full":
        bias: TaskBias = FullBias(weight.shape, tasks)
    else:
        bias = LowRankBias(weight.shape, tasks, rule.rank(*matrix_shape(weight.shape)), generator)
    return bias.to(weight)
