"""`ipt cell`: train and score one cell of the ablation grid."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instruct_ipt.data.prepared import pairs, training_stream
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.evaluation.validation import Validation, middle_level, restore_stack
from instruct_ipt.modulation import RankRule
from instruct_ipt.paths import PREPARED, SELECTION
from instruct_ipt.provenance import write_json
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation, build_shared, cost, read_selection
from instruct_ipt.training.loop import Trainer, write_history
from instruct_ipt.training.phases import Phase, phases_of

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.tracking import Tracker


def run(
    spec: dict[str, Any], settings: Any, degradation: Any, preset: str, checkpoints: Path, tracker: Tracker, out: Path
) -> None:
    """Train one cell and write ``metrics.json`` and ``history.csv`` into ``out``.

    Args:
        spec: ``study``, ``setting``, ``seed``, ``rule`` (kind, value).
        settings: the `training` section with the grid's steps, batch, patch and threads.
        degradation: the `degradation` section.
        preset: backbone preset.
        checkpoints: folder for rolling checkpoints.
        tracker: live view.
        out: an empty folder.
    """
    torch.set_num_threads(settings.threads)
    runner = _Runner(spec, settings, degradation, preset, checkpoints, tracker)
    models, history = runner.experts() if spec["setting"] == "experts" else runner.single()
    scores = {task: _score(models[task], task, degradation) for task in TASKS}
    facts = {key: spec[key] for key in ("study", "setting", "seed")}
    added = cost(models[TASKS[0]])["params_added"]
    if spec["setting"] == "experts":
        added = (len(TASKS) - 1) * cost(models[TASKS[0]])["params_total"]
    write_history(out / "history.csv", history)
    write_json(out / "metrics.json", facts | {"params_added": added, "steps": settings.steps, "tasks": scores})


class _Runner:
    """Builds and trains the network or networks of one cell."""

    def __init__(
        self, spec: dict[str, Any], settings: Any, degradation: Any, preset: str, checkpoints: Path, tracker: Tracker
    ) -> None:
        self.spec, self.settings, self.preset = spec, settings, preset
        self.stream = training_stream(PREPARED, degradation, spec["seed"], settings.real_share)
        self.validation = Validation(PREPARED, degradation)
        self.checkpoints, self.tracker = checkpoints, tracker

    def single(self) -> tuple[dict[str, TaskModel], list[list[Any]]]:
        """One network for all tasks."""
        strategy = self.spec["setting"] if self.spec["study"] == "strategy" else "synchronous"
        if strategy == "shared":
            model = build_shared(self.preset, self.spec["seed"])
        else:
            rule = RankRule(*self.spec["rule"])
            model = build_modulation(self.preset, self.spec["seed"], read_selection(SELECTION), rule)
        history = self._trainer(model, "network").train(phases_of(strategy, self.settings.steps))
        return dict.fromkeys(TASKS, model), history

    def experts(self) -> tuple[dict[str, TaskModel], list[list[Any]]]:
        """A shared network for half the steps, then one copy per task for an equal share of the other half."""
        steps = self.settings.steps
        shared = build_shared(self.preset, self.spec["seed"])
        history = self._trainer(shared, "shared").train(phases_of("shared", steps - steps // 2))
        models = {}
        for task in TASKS:
            models[task] = copy.deepcopy(shared)
            # A batch of one task holds as many samples as a mixed one.
            phase = Phase(max(1, steps // 2 // len(TASKS)), True, False, (task,))
            history += self._trainer(models[task], task, len(TASKS), [task]).train([phase])
        return models, history

    def _trainer(self, model: TaskModel, part: str, batch_factor: int = 1, tasks: list[str] | None = None) -> Trainer:
        batch = self.settings.batch_per_task * batch_factor
        return Trainer(
            model,
            self.stream,
            self.settings.model_copy(update={"batch_per_task": batch}),
            validate=lambda network: self.validation(network, tasks or list(TASKS)),
            checkpoints=self.checkpoints / part,
            observe=self.tracker.metrics,
            title=f"{self.spec['study']} {self.spec['setting']} seed {self.spec['seed']} ({part})",
        )


def _score(model: TaskModel, task: str, degradation: Any) -> dict[str, float]:
    """Mean PSNR and SSIM on the validation split: an ablation is a choice, and a choice may not see the test images."""
    protocol = PROTOCOLS["rgb"]
    found = pairs(PREPARED, "validation", task, degradation, [middle_level(degradation)])
    scores = [protocol.score(restore_stack(model, p.input[None], task)[0], p.target) for p in found]
    return {
        "psnr": round(float(np.mean([s[0] for s in scores])), 6),
        "ssim": round(float(np.mean([s[1] for s in scores])), 6),
    }
