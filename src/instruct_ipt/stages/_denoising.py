"""What the diffusion stages and cells share: the windows, the training of each method, the scores of a filling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instruct_ipt.analysis.claims import photograph_of
from instruct_ipt.data.images import to_bytes, to_float
from instruct_ipt.data.prepared import photographs
from instruct_ipt.data.shards import Shards
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.diffusion.learning import Asked, DenoiserTrainer, FillValidation, questions
from instruct_ipt.diffusion.store import Card
from instruct_ipt.diffusion.windows import FillStream, window
from instruct_ipt.params import PatchPhase
from instruct_ipt.paths import PREPARED
from instruct_ipt.training.experts import train_experts
from instruct_ipt.training.phases import phases_of

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.tracking import Tracker


def settings_of(training: Any, diffusion: Any, steps: int | None = None) -> Any:
    """The `training` section with the scale of the denoisers, as the training loop takes it.

    Args:
        training, diffusion: sections of the parameters.
        steps: None: those of ``diffusion``.
    """
    steps = steps or diffusion.steps
    scale = {
        "steps": steps,
        "batch_per_task": diffusion.batch_per_task,
        "patches": [PatchPhase(share=1.0, size=diffusion.size)],
        "learning_rate": diffusion.learning_rate,
        "task_weights": dict.fromkeys(FILL_TASKS, 1.0),
        # Four points of a curve.
        "validate_every": max(1, steps // 4),
    }
    return training.model_copy(update=scale)


def card_of(diffusion: Any, method: str) -> Card:
    """What a denoiser of these parameters is."""
    return Card(
        method,
        diffusion.preset,
        diffusion.size,
        FILL_TASKS,
        diffusion.rank,
        tuple(diffusion.weights),
        diffusion.sampler,
        diffusion.sampler_steps,
    )


def asked_of(split: str, diffusion: Any) -> list[Asked]:
    """The questions on the photographs of a split; they depend on the names of the photographs alone."""
    clean = photographs(PREPARED, split, limit=diffusion.windows)
    each = -(-diffusion.windows // max(1, len(clean)))
    found: dict[str, np.ndarray] = {}
    for name, picture in clean:
        rng = np.random.default_rng(list(name.encode()))
        for _ in range(each):
            # Crops of one photograph share its name: the intervals have to know that they belong together.
            source = photograph_of(name)
            number = sum(known.rpartition("-")[0] == source for known in found)
            found[f"{source}-{number}"] = to_float(window(to_bytes(picture), rng, diffusion.size))
    return questions(dict(list(found.items())[: diffusion.windows]), diffusion.share.model_dump())


@dataclass(frozen=True)
class Training:
    """How the denoisers of one stage or cell are trained.

    Attributes:
        diffusion, training: sections of the parameters.
        seed: of weights and stream.
        checkpoints: folder for rolling checkpoints.
        tracker: live view.
        title: shown by the progress bar.
        steps: None: those of ``diffusion``.
    """

    diffusion: Any
    training: Any
    seed: int
    checkpoints: Path
    tracker: Tracker
    title: str
    steps: int | None = None

    def run(self, method: str) -> tuple[dict[str, TaskModel], list[list[Any]]]:
        """Train one method: task -> the network that serves it, and the history.

        Raises:
            KeyError: no such method.
        """
        settings = settings_of(self.training, self.diffusion, self.steps)
        model, trainer = card_of(self.diffusion, method).build(self.seed), partial(self._trainer, settings)
        if method != "experts":
            history = trainer(model, FILL_TASKS, "network").train(phases_of(METHODS[method], settings.steps))
            models = dict.fromkeys(FILL_TASKS, model)
        else:
            models, history = train_experts(model, FILL_TASKS, settings.steps, trainer)
        for network in models.values():
            network.eval()  # type: ignore[attr-defined]
        return models, history

    def _trainer(self, settings: Any, model: TaskModel, tasks: Sequence[str], part: str) -> DenoiserTrainer:
        # A batch of one task holds as many samples as a mixed one.
        batch = settings.batch_per_task * (len(FILL_TASKS) // len(tasks))
        asked = [a for a in asked_of("validation", self.diffusion) if a.task in tasks]
        validation = FillValidation(asked, self.diffusion.sampler)
        return DenoiserTrainer(
            model,
            FillStream(Shards(PREPARED / "train").clean(), self.diffusion.share.model_dump(), self.seed),  # type: ignore[arg-type]
            settings.model_copy(update={"batch_per_task": batch}),
            validate=validation,
            checkpoints=self.checkpoints / part,
            observe=self.tracker.watch(validation.samples),
            title=f"{self.title} ({part})",
        )
