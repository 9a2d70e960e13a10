"""What a restoration costs, and what folding a task in costs, in multiply-adds: exact, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from instruct_ipt.modulation import Modulated

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel


def restoration_cost(model: TaskModel, task: str, side: int) -> dict[str, int]:
    """Cost of one image whose task is known, in matrix products and convolutions.

    A modulated network is counted as it is used then, with the task folded into its weights.

    Args:
        model: takes images (1, 3, side, side).
        task: one of its tasks.
        side: pixels.

    Returns:
        ``side``, ``multiply_adds``, ``multiply_adds_fold`` (0 where there is nothing to fold).
    """
    image = torch.zeros(1, 3, side, side, device=next(model.parameters()).device)  # type: ignore[attr-defined]
    if not isinstance(model, Modulated):
        return {"side": side, "multiply_adds": counted(lambda: model(image, task)), "multiply_adds_fold": 0}
    network = model.fold(task)
    folding = counted(lambda: model.fold(task))
    return {"side": side, "multiply_adds": counted(lambda: network(image)), "multiply_adds_fold": folding}


def counted(run: Callable[[], object]) -> int:
    """Multiply-adds of ``run()``, without gradient."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    # The counter counts a multiply-add as two.
    return int(counter.get_total_flops()) // 2
