"""`ipt experts`: the whole shared network fine-tuned on each task; the upper bound, and the rank analysis's deltas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.paths import MODELS, PREPARED
from instruct_ipt.stages._training import stream_of, write_models
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared
from instruct_ipt.training.checkpoint import load_weights
from instruct_ipt.training.loop import Trainer
from instruct_ipt.training.phases import Phase

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/experts/<task>.safetensors`, one history and one metrics file."""
    models, rows = {}, []
    for task in TASKS:
        models[task], history = _tune(context, task)
        rows += history
    facts = {"method": "experts", "strategy": "experts"}
    write_models(context.out / MODELS / "experts", models, rows, facts, context.params.experts.steps)


def _tune(context: Context, task: str) -> tuple[TaskModel, list[list[Any]]]:
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
    return model, trainer.train([Phase(params.experts.steps, True, False, (task,))])
