"""`ipt train-film`: the feature-adaptation rival FiLM, at the parameter budget that the low-rank biases have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_ipt.stages._training import modulation_model, train_arm
from instruct_ipt.training.build import build_rival

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/film`."""
    params = context.params
    budget = modulation_model(params).added_parameters()
    train_arm(context, build_rival("film", params.backbone, params.seed, budget), "film", "synchronous")
