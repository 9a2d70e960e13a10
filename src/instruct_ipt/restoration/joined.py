"""Task biases of several ranks in one network: a task of one's own need not have the rank of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instruct_ipt.modulation import FullBias, LowRankBias, Modulated, TaskBias, TaskRows

Part = tuple[TaskBias, int]
"""A bias and the position of a task in it."""


class UnevenBias(LowRankBias):
    """Low-rank factors of T tasks of different ranks in one stack, the smaller ones padded with zeros.

    A task alone uses its own columns only: its weights are, bit for bit, those that it has without the others. In
    batches and mixtures of tasks the zeros take part, which changes nothing but rounding.

    Args:
        shape: of the weight, two axes or more.
        factors: down (r, cols) and up (rows, r) of each task.
    """

    def __init__(self, shape: Sequence[int], factors: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.ranks = tuple(len(down) for down, _ in factors)
        # A generator of its own: what it draws is overwritten, and the global one must not notice.
        super().__init__(shape, len(factors), max(self.ranks), torch.Generator())
        with torch.no_grad():
            self.down.zero_()
            for task, (down, up) in enumerate(factors):
                self.down[task, : len(down)] = down
                self.up[task, :, : len(down)] = up

    def _factors(self, rows: TaskRows) -> tuple[Tensor, Tensor]:
        up, down = super()._factors(rows)
        if rows.tasks is None or len(rows.mix) > 1:
            return up, down
        rank = self.ranks[rows.tasks.start if isinstance(rows.tasks, slice) else int(rows.tasks)]
        # Contiguous, as they are in a stack of one rank: the same product, the same bits.
        return up[:, :, :rank].contiguous(), down[:, :rank].contiguous()


def join(parts: Sequence[Modulated], tasks: Sequence[str]) -> Modulated:
    """One network for all tasks of networks with one backbone.

    Args:
        parts: of equal backbones and selections; their ranks may differ.
        tasks: the tasks of all parts, in the order of the result.

    Raises:
        ValueError: a part modulates other weights than the first.
    """
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    homes = {task: part for part in parts for task in part.tasks}
    for task, part in homes.items():
        kinds = [isinstance(part.bias(name), FullBias) for name in part.selection()]
        if (part.selection(), kinds) != (first.selection(), [isinstance(b, FullBias) for b in first.biases.values()]):
            raise ValueError(f"the pack of task {task!r} modulates other weights than that of {first.tasks[0]!r}")
    biases = {
        name: _stacked([(homes[task].bias(name), homes[task].tasks.index(task)) for task in tasks])
        for name in first.selection()
    }
    return Modulated(first.backbone, tasks, biases)


@torch.no_grad()
def _stacked(found: Sequence[Part]) -> TaskBias:
    """The biases of one weight, one task after another."""
    like = next(found[0][0].parameters())
    shape = found[0][0].shape
    if isinstance(found[0][0], FullBias):
        full = FullBias(shape, len(found)).to(like)
        full.full.copy_(torch.stack([bias.delta(task) for bias, task in found]))
        return full
    return UnevenBias(shape, [(bias.down[task], bias.up[task]) for bias, task in found]).to(like)  # type: ignore[attr-defined]
