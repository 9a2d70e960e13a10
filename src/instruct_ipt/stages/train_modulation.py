"""`ipt train-modulation`: backbone and low-rank task biases, trained synchronously. The method of the paper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_ipt.stages._training import modulation_model, train_arm

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/modulation`."""
    train_arm(context, modulation_model(context.params), "modulation", "synchronous")
