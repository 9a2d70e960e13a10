"""`ipt train-diffusion`: one denoiser for several filling tasks, made so in each of the ways that are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.diffusion.store import save_denoiser
from instruct_ipt.paths import MODELS
from instruct_ipt.provenance import write_json
from instruct_ipt.stages._denoising import Training, card_of
from instruct_ipt.training.build import cost
from instruct_ipt.training.loop import write_history

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/diffusion/<method>`; the experts have a folder per task below theirs."""
    params, out = context.params, context.out / MODELS / "diffusion"
    torch.set_num_threads(params.training.threads)
    for method in METHODS:
        checkpoints = context.checkpoints / method
        training = Training(
            params.diffusion, params.training, params.seed, checkpoints, context.tracker, f"denoiser {method}"
        )
        models, history = training.run(method)
        card = card_of(params.diffusion, method)
        parts = FILL_TASKS if method == "experts" else ("",)
        for part in parts:
            save_denoiser(out / method / part, models[part or FILL_TASKS[0]], card)  # type: ignore[arg-type]
        write_history(out / method / "history.csv", history)
        facts = {"method": method, "strategy": METHODS[method], "steps": params.diffusion.steps}
        write_json(out / method / "metrics.json", facts | counts(method, models))


def counts(method: str, models: dict[str, TaskModel]) -> dict[str, Any]:
    """``params_added`` to one denoiser, ``params_total`` and ``params_per_task``; each expert is a whole network."""
    one = cost(next(iter(models.values())))
    if method != "experts":
        return one
    total, tasks = one["params_total"], len(models)
    return {"params_added": (tasks - 1) * total, "params_total": tasks * total, "params_per_task": float(total)}
