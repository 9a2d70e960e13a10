"""`ipt train-full`: backbone and unfactored task biases, trained synchronously; what the rank analysis looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_ipt.modulation import RankRule
from instruct_ipt.paths import SELECTION
from instruct_ipt.stages._training import train_arm
from instruct_ipt.training.build import build_modulation, read_selection

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/full`."""
    params = context.params
    model = build_modulation(params.backbone, params.seed, read_selection(SELECTION), RankRule("full", None))
    settings = params.training.model_copy(
        update={"steps": max(1, round(params.rank.steps_share * params.training.steps))}
    )
    train_arm(context, model, "full", "synchronous", settings)
