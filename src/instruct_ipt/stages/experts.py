"""`ipt experts`: the whole shared network fine-tuned on each task; the upper bound, and the rank analysis's deltas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.paths import MODELS, PREPARED
from instruct_ipt.provenance import write_json
from instruct_ipt.stages._training import stream_of
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared, cost
from instruct_ipt.training.checkpoint import load_weights, save_weights
from instruct_ipt.training.loop import Trainer, write_history
from instruct_ipt.training.phases import Phase

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/experts/<task>.safetensors`, one history and one metrics file."""
    out, rows, psnr = context.out / MODELS / "experts", [], {}
    for task in TASKS:
        history = _tune(context, task, out / f"{task}.safetensors")
        rows += history
        psnr[task] = round(history[-1][3], 4)
    write_history(out / "history.csv", rows)
    params = context.params
    one = cost(build_shared(params.backbone, params.seed))["params_total"]
    facts = {"method": "experts", "strategy": "experts", "validation_psnr": psnr, "steps": params.experts.steps}
    # Five whole networks: what is added per task is a whole network.
    counts = {"params_total": one * len(TASKS), "params_added": one * (len(TASKS) - 1), "params_per_task": one}
    write_json(out / "metrics.json", facts | counts)


def _tune(context: Context, task: str, path: Path) -> list[list]:
    params = context.params
    model = build_shared(params.backbone, params.seed)
    load_weights(MODELS / "shared" / "weights.safetensors", model)
    validation = Validation(PREPARED, params.degradation)
    settings = params.training.model_copy(
        update={"batch_per_task": params.experts.batch, "task_weights": dict.fromkeys(TASKS, 1.0)}
    )
    trainer = Trainer(
        model,
        stream_of(params),
        settings,
        validate=lambda network: validation(network, [task]),
        checkpoints=context.checkpoints / task,
        observe=context.tracker.watch(validation.samples),
        title=f"expert for {task}",
    )
    history = trainer.train([Phase(params.experts.steps, True, False, (task,))])
    save_weights(path, model.state_dict())
    return history
