"""What the training stages share: the stream, the validation set, the loop, and how a trained model is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruct_ipt.data.prepared import training_stream
from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.paths import MODELS, PREPARED, SELECTION
from instruct_ipt.provenance import write_json
from instruct_ipt.training.build import build_modulation, cost, rank_rule, read_selection
from instruct_ipt.training.checkpoint import save_weights
from instruct_ipt.training.loop import Trainer, write_history
from instruct_ipt.training.phases import phases_of

if TYPE_CHECKING:
    from instruct_ipt.data.stream import PatchStream
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.pipeline import Context


def stream_of(params: Any) -> PatchStream:
    """The training stream of `data/prepared`."""
    return training_stream(PREPARED, params.degradation, params.seed, params.training.real_share)


def train_arm(context: Context, model: TaskModel, name: str, strategy: str, settings: Any = None) -> None:
    """Train ``model`` by ``strategy`` and write `models/<name>`."""
    params = context.params
    validation = Validation(PREPARED, params.degradation)
    trainer = Trainer(
        model,
        stream_of(params),
        settings or params.training,
        validate=validation,
        checkpoints=context.checkpoints,
        observe=context.tracker.watch(validation.samples),
        title=f"training {name}",
    )
    history = trainer.train(phases_of(strategy, trainer.settings.steps))
    write_model(context.out / MODELS / name, model, history, {"method": name, "strategy": strategy})


def write_model(folder: Path, model: TaskModel, history: list[list[Any]], facts: dict[str, Any]) -> None:
    """`weights.safetensors`, `history.csv` and `metrics.json` (method, strategy, parameters, last PSNR per task)."""
    save_weights(folder / "weights.safetensors", model.state_dict())
    write_history(folder / "history.csv", history)
    last = history[-1][0]
    psnr = {task: round(value, 4) for step, task, _, value, _ in history if step == last}
    write_json(folder / "metrics.json", facts | cost(model) | {"validation_psnr": psnr, "steps": last})


def write_models(
    folder: Path, models: Mapping[str, TaskModel], history: list[list[Any]], facts: dict[str, Any], steps: int
) -> None:
    """`<task>.safetensors`, `history.csv` and `metrics.json` of networks that serve a task each."""
    for task, model in models.items():
        save_weights(folder / f"{task}.safetensors", model.state_dict())
    write_history(folder / "history.csv", history)
    one = cost(next(iter(models.values())))["params_total"]
    # Whole networks: what is added per task is a whole network.
    counts = {"params_total": one * len(models), "params_added": one * (len(models) - 1), "params_per_task": one}
    # The last word on each task is its own network's.
    psnr = {task: round(value, 4) for _, task, _, value, _ in history}
    write_json(folder / "metrics.json", facts | counts | {"validation_psnr": psnr, "steps": steps})


def modulation_model(params: Any) -> TaskModel:
    """The low-rank modulated network of the parameters, on the selected weight groups."""
    rule = rank_rule(params.modulation.rule, params.modulation.value)
    return build_modulation(params.backbone, params.seed, read_selection(SELECTION), rule)
