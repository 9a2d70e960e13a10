"""Training a new bias on a frozen backbone; the best one on the validation pairs is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from instruct_ipt.evaluation.protocol import psnr
from instruct_ipt.evaluation.validation import restore_stack
from instruct_ipt.modulation import FullBias, LowRankBias, Modulated, TaskBias, TaskModel
from instruct_ipt.training.loop import Trainer
from instruct_ipt.training.phases import Phase

from .material import Judged, Material

Say = Callable[[str], None]
_CHECKS = 8
"""Validations in a training."""


@dataclass(frozen=True)
class Settings:
    """How a bias is trained.

    Attributes:
        steps: of the optimiser, >= 1.
        rank: of the biases of matrices, >= 1, at most what each matrix can have; None: that of the other tasks.
        patch: side of the training patches in pixels.
        batch: patches per step, >= 1.
        seed: of the first values and of the patches.
    """

    steps: int = 600
    rank: int | None = None
    patch: int = 64
    batch: int = 8
    seed: int = 0


def fit(
    task: str, base: Modulated, ranks: Mapping[str, int | None], material: Material, settings: Settings, say: Say
) -> tuple[Modulated, int]:
    """A network that knows `task` alone, on the very backbone of `base`, which stays as it is; and its best step.

    Args:
        task: its name.
        base: the released network.
        ranks: modulated parameter -> rank of its bias, None where the bias is full, as in a pack.
        material: what to train and judge on.
        settings: see there.
        say: told how it goes, a line at each validation.

    Raises:
        InputError: the training diverged.
    """
    model = _fresh(task, base, ranks, settings)
    best = _Best(task, material.validation)
    trainer = Trainer(
        model,
        material.stream(task, settings.seed),
        training_settings(task, settings),
        validate=best,
        observe=lambda step, found: say(
            f"step {step} of {settings.steps}: {found[f'{task}/psnr']:.2f} dB on {len(material.validation)} validation "
            f"pairs ({best.given:.2f} dB before restoration)"
        ),
        title=f"training {task}",
    )
    trainer.train([Phase(settings.steps, backbone=False, biases=True)])
    return best.restored(model.cpu()), best.step(trainer.run.history)


def _fresh(task: str, base: Modulated, ranks: Mapping[str, int | None], settings: Settings) -> Modulated:
    """Biases of zero for `task` on the backbone of `base`."""
    generator = torch.Generator().manual_seed(settings.seed)
    weights = dict(base.backbone.named_parameters())
    biases: dict[str, TaskBias] = {}
    for name in base.selection():
        shape, rank = weights[name].shape, ranks[name]
        if rank is None:
            biases[name] = FullBias(shape, 1)
        else:
            full = min(shape[0], shape[1:].numel())
            biases[name] = LowRankBias(shape, 1, min(settings.rank or rank, full), generator)
    return Modulated(base.backbone, (task,), biases)


def training_settings(task: str, settings: Settings) -> SimpleNamespace:
    """The `training` section of the parameters for one task: rates and loss of the profile `quick`."""
    return SimpleNamespace(
        batch_per_task=settings.batch,
        task_weights={task: 1.0},
        patches=[SimpleNamespace(share=1.0, size=settings.patch)],
        validate_every=max(1, settings.steps // _CHECKS),
        checkpoint_every=settings.steps,
        learning_rate=SimpleNamespace(backbone=0.0, biases=0.003),
        loss=SimpleNamespace(l1=1.0, frequency=0.05),
        precision="fp32",
        warmup=0.03,
        weight_decay=0.0001,
        clip=1.0,
        ema=0.995,
        threads=torch.get_num_threads(),
        workers=0,
    )


class _Best:
    """Scores a network on the validation pairs, as the loop asks for it, and remembers the best biases."""

    def __init__(self, task: str, pairs: list[Judged]) -> None:
        self._task, self._pairs = task, pairs
        self._score, self._biases = -np.inf, []
        self.given = float(np.mean([psnr(pair.input, pair.target) for pair in pairs]))

    def __call__(self, model: TaskModel) -> dict[str, float]:
        outputs = (restore_stack(model, pair.input[None], self._task)[0] for pair in self._pairs)
        score = float(np.mean([psnr(out, pair.target) for out, pair in zip(outputs, self._pairs, strict=True)]))
        if score > self._score:
            self._score = score
            self._biases = [p.detach().cpu().clone() for p in model.bias_parameters()]
        return {self._task: score}

    @torch.no_grad()
    def restored(self, model: Modulated) -> Modulated:
        """`model` with the best biases."""
        for parameter, kept in zip(model.bias_parameters(), self._biases, strict=True):
            parameter.copy_(kept)
        return model.eval()

    def step(self, history: list[list[object]]) -> int:
        """The step that the best biases are of."""
        return next(int(row[0]) for row in history if row[3] == self._score)  # type: ignore[call-overload]
