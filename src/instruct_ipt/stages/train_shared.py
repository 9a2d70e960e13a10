"""`ipt train-shared`: one network for all tasks, without task biases; the base of the search and of the experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_ipt.stages._training import train_arm
from instruct_ipt.training.build import build_shared

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/shared`."""
    model = build_shared(context.params.backbone, context.params.seed)
    train_arm(context, model, "shared", "shared")
