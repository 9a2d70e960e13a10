"""`ipt cell`: train and score one cell of the ablation grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from instruct_ipt.analysis.rank import is_matrix, matching_share
from instruct_ipt.analysis.sensitivity import bias_sizes, random_selection
from instruct_ipt.data.prepared import training_stream
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.evaluation.validation import Validation, restore_stack, validation_pairs
from instruct_ipt.modulation import RankRule, matrix_shape
from instruct_ipt.paths import PREPARED
from instruct_ipt.provenance import write_json
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import (
    build_biases,
    build_rival,
    build_shared,
    cost,
    new_backbone,
    rank_rule,
    selected_weights,
)
from instruct_ipt.training.checkpoint import load_weights
from instruct_ipt.training.experts import train_experts
from instruct_ipt.training.loop import Trainer, write_history
from instruct_ipt.training.phases import counts_of, phases_of

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.tracking import Tracker

PROTOCOL = PROTOCOLS["rgb"]
PER_IMAGE = ["task", "image", "psnr", "ssim"]


@dataclass(frozen=True)
class Job:
    """What one cell is made from.

    Attributes:
        facts: ``study``, ``setting``, ``seed``.
        recipe: the fields of `_cells.Recipe`.
        settings: the `training` section with the grid's steps, batch, patch and threads.
        degradation: the `degradation` section.
        backbone: the `backbone` section.
        groups: the selected weight groups.
        checkpoints: folder for rolling checkpoints.
        tracker: live view.
        start: weights of a network of the same recipe to go on from; None: fresh ones.
        trained_before: how many trainings in a row led to ``start``; each draws samples of its own.
    """

    facts: dict[str, Any]
    recipe: dict[str, Any]
    settings: Any
    degradation: Any
    backbone: Any
    groups: list[str]
    checkpoints: Path
    tracker: Tracker
    start: Path | None = None
    trained_before: int = 0


def train(job: Job) -> tuple[dict[str, TaskModel], list[list[Any]]]:
    """Train the network or networks of a job.

    Returns:
        Task -> its network, the same one for all unless they are experts; and the rows of the history.

    Raises:
        InputError: the weights to start from are not those of such a network, or training diverged.
    """
    torch.set_num_threads(job.settings.threads)
    runner = _Runner(job)
    return runner.experts() if job.recipe["method"] == "experts" else runner.single()


def run(job: Job, out: Path) -> None:
    """Train one cell; write ``metrics.json``, ``per_image.csv`` and ``history.csv`` into the empty folder ``out``."""
    recipe, degradation = job.recipe, job.degradation
    models, history = train(job)
    images = pd.concat([_score(models[task], task, degradation) for task in recipe["tasks"]])
    write_history(out / "history.csv", history)
    images.to_csv(out / "per_image.csv", index=False, lineterminator="\n")
    metrics = job.facts | counts(recipe, models) | {"steps": job.settings.steps, "tasks": _means(images)}
    if recipe["method"] == "modulation":
        alone = [_score(models[task], task, degradation, strength=0.0) for task in recipe["tasks"]]
        metrics["backbone_alone"] = _means(pd.concat(alone))
    write_json(out / "metrics.json", metrics)


def of_equal_batch(settings: Any, tasks: Sequence[str]) -> Any:
    """The `training` section for a set of tasks: a batch holds as many samples as one of all five, shared equally."""
    if tuple(tasks) == TASKS:
        return settings
    samples = sum(counts_of(settings.task_weights, settings.batch_per_task, TASKS).values())
    even = {"task_weights": dict.fromkeys(TASKS, 1.0), "batch_per_task": max(1, round(samples / len(tasks)))}
    return settings.model_copy(update=even)


def counts(recipe: dict[str, Any], models: dict[str, TaskModel]) -> dict[str, int]:
    """``params_added`` to one backbone and ``params_total``; each expert is a whole network."""
    one = cost(next(iter(models.values())))
    if recipe["method"] == "experts":
        total = one["params_total"]
        return {"params_added": (len(models) - 1) * total, "params_total": len(models) * total}
    return {"params_added": one["params_added"], "params_total": one["params_total"]}


def build(recipe: dict[str, Any], backbone: Any, seed: int, groups: list[str]) -> TaskModel:
    """The fresh network of a recipe whose method is not ``experts``.

    Args:
        recipe: the fields of `_cells.Recipe`.
        backbone: the `backbone` section, or the name of a preset.
        seed: of all random starts.
        groups: the selected weight groups.
    """
    tasks, method = tuple(recipe["tasks"]), recipe["method"]
    if method == "shared":
        return build_shared(backbone, seed, tasks)
    network = new_backbone(backbone, seed)
    shapes = {name: weight.shape for name, weight in network.named_parameters()}
    selected = selected_weights(network, groups)
    rule, sizing = _rules(recipe, [network.get_parameter(name) for name in selected])
    budget = sum(bias_sizes({name: shapes[name] for name in selected}, len(tasks), sizing).values())
    if method != "modulation":
        return build_rival(method, backbone, seed, budget, tasks)
    kind, _, draw = recipe["weights"].partition("-")
    if kind == "random":
        # The draw is the setting's, not the seed's: all seeds of a setting modulate the same weights.
        selected = random_selection(shapes, len(tasks), rule, budget, int(draw))
    names = list(shapes) if kind == "all" else selected
    return build_biases(network, seed, names, rule, tasks)


def _rules(recipe: dict[str, Any], weights: list[nn.Parameter]) -> tuple[RankRule, RankRule]:
    """The rank rule of the recipe's biases, and the one whose biases give all methods their size."""
    kind, value = recipe["rule"]
    sizing = rank_rule(kind, value)
    if recipe["match"] == "proportional":
        shapes = [matrix_shape(weight.shape) for weight in weights if is_matrix(weight)]
        return RankRule("proportional", matching_share(shapes, int(value))), sizing
    return (RankRule("full") if recipe["match"] == "full" else sizing), sizing


class _Runner:
    """Builds and trains the network or networks of one cell."""

    def __init__(self, job: Job) -> None:
        self.job, self.tasks, self.seed = job, tuple(job.recipe["tasks"]), job.facts["seed"]
        self.settings = of_equal_batch(job.settings, self.tasks)
        share = self.settings.real_share
        self.stream = training_stream(PREPARED, job.degradation, _seed_of_samples(job), share, self.tasks)
        self.validation = Validation(PREPARED, job.degradation, self.tasks)

    def single(self) -> tuple[dict[str, TaskModel], list[list[Any]]]:
        """One network for all tasks."""
        model = build(self.job.recipe, self.job.backbone, self.seed, self.job.groups)
        if self.job.start is not None:
            load_weights(self.job.start, model)
        history = self._trainer(model, self.tasks, "network").train(
            phases_of(self.job.recipe["strategy"], self.settings.steps)
        )
        return dict.fromkeys(self.tasks, model.eval()), history

    def experts(self) -> tuple[dict[str, TaskModel], list[list[Any]]]:
        """A network per task."""
        shared = build_shared(self.job.backbone, self.seed, self.tasks)
        return train_experts(shared, self.tasks, self.settings.steps, self._trainer)

    def _trainer(self, model: TaskModel, tasks: Sequence[str], part: str) -> Trainer:
        # A batch of one task holds as many samples as a mixed one.
        batch = self.settings.batch_per_task * (len(self.tasks) // len(tasks))
        return Trainer(
            model,
            self.stream,
            self.settings.model_copy(update={"batch_per_task": batch}),
            validate=lambda network: self.validation(network, tasks),
            checkpoints=self.job.checkpoints / part,
            observe=self.job.tracker.watch(self.validation.samples),
            title=" ".join(str(self.job.facts[key]) for key in ("study", "setting", "seed")) + f" ({part})",
        )


def _seed_of_samples(job: Job) -> int:
    """Seed of the training samples: who goes on from a network would else see those of its training again, in order."""
    seed = int(job.facts["seed"])
    if not job.trained_before:
        return seed
    return int(np.random.SeedSequence([seed, job.trained_before]).generate_state(1)[0])


def _score(model: TaskModel, task: str, degradation: Any, strength: float = 1.0) -> pd.DataFrame:
    """PSNR and SSIM of each validation image: an ablation is a choice, and a choice may not see the test images."""
    rows = []
    for pair in validation_pairs(PREPARED, degradation, task):
        scores = PROTOCOL.score(restore_stack(model, pair.input[None], task, strength)[0], pair.target)
        rows.append([task, pair.name, *(round(score, 6) for score in scores)])
    return pd.DataFrame(rows, columns=PER_IMAGE)


def _means(images: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Task -> mean PSNR and SSIM."""
    means = images.groupby("task", sort=False)[["psnr", "ssim"]].mean()
    return {str(task): {key: round(float(value), 6) for key, value in row.items()} for task, row in means.iterrows()}
