"""Training a denoiser: the loop is that of restoration; the loss and the validation are of this place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from instruct_ipt.data.stream import Batch
from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.fill import PLANES, Fill, ask, with_carried
from instruct_ipt.diffusion.metrics import hole_psnr
from instruct_ipt.diffusion.sampling import sample
from instruct_ipt.diffusion.schedule import signal
from instruct_ipt.modulation import TaskModel
from instruct_ipt.training.loop import Trainer, autocast, to_tensor

# What is known is learned a little too: the guess of it beside the border is what closes the seam.
KNOWN = 0.1
# Most that an error of the picture counts, against one under noise alone (min-SNR; Hang et al. 2023, arXiv 2303.09556).
# Times of hardly any noise would else make up most of the loss, and they have the least to teach.
MOST = 5.0
# Passes of the samples that validation draws: enough to rank, few enough to be cheap.
VALIDATION_STEPS = 5


class DenoiserTrainer(Trainer):
    """Trains a task model on a `FillStream`: mean squared error of the velocity, mostly where pixels are missing.

    The error of v is that of the picture over the share of noise, 1 - a; that factor is kept below :data:`MOST`.
    """

    def _losses(self, batch: Batch) -> tuple[Tensor, Tensor]:
        task = torch.from_numpy(batch.task).to(self.device)
        target = to_tensor(batch.target, self.device)
        seen = with_carried(to_tensor(batch.input, self.device))
        with autocast(self.settings.precision, self.device):
            output = self.model(seen, task)
        noise = 1 - signal().to(seen)[seen[:, PLANES - 1, 0, 0].long()]
        errors = velocity_loss(output.float(), target[:, :3], target[:, 3:]) * (MOST * noise).clamp(max=1)
        return errors.mean(), errors.detach()


def velocity_loss(output: Tensor, target: Tensor, missing: Tensor) -> Tensor:
    """Mean squared error of each sample, (N,), over its missing pixels, and :data:`KNOWN` times that over the others.

    Args:
        output, target: (N, 3, H, W).
        missing: (N, 1, H, W), 1 where a pixel is missing; at least one is.
    """
    squared = (output - target).square().mean(dim=1, keepdim=True)
    known = 1 - missing
    inside = (squared * missing).sum((1, 2, 3)) / missing.sum((1, 2, 3))
    outside = (squared * known).sum((1, 2, 3)) / known.sum((1, 2, 3)).clamp(min=1)
    return inside + KNOWN * outside


@dataclass(frozen=True)
class Asked:
    """A picture and what was asked of it.

    Attributes:
        task, name: which task, and the window's name.
        truth: float32 (H, W, 3) in [0, 1].
        fill: what is left of it.
        seed: of the noise that sampling starts from.
    """

    task: str
    name: str
    truth: np.ndarray
    fill: Fill
    seed: int


def questions(
    windows: Mapping[str, np.ndarray], share: Mapping[str, object], tasks: Sequence[str] = FILL_TASKS
) -> list[Asked]:
    """Every window with every task; masks and noise depend on the names alone.

    Args:
        windows: name -> float32 (H, W, 3) in [0, 1].
        share: task -> (least, largest) missing share of the area.
        tasks: names.
    """
    found = []
    for task in tasks:
        for name, truth in windows.items():
            key = list(f"{task}/{name}".encode())
            rng = np.random.default_rng(key)
            fill = ask(task, truth, rng, dict(share))
            found.append(Asked(task, name, truth, fill, int(rng.integers(2**31))))
    return found


class FillValidation:
    """PSNR in dB of the missing pixels after a short sampling, per task.

    Args:
        asked: of `questions`, on windows of validation photographs.
        sampler: ``ddim`` or ``edm``.

    Attributes:
        samples: task -> (what was known, what was filled in, truth) of its first window, float32 (H, W, 3).
    """

    def __init__(self, asked: Sequence[Asked], sampler: str) -> None:
        self.samples: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._asked = {task: [a for a in asked if a.task == task] for task in dict.fromkeys(a.task for a in asked)}
        self._sampler = sampler

    def __call__(self, model: TaskModel) -> dict[str, float]:
        """Mean over the windows of each task."""
        return {task: self._score(model, task, asked) for task, asked in self._asked.items()}

    def _score(self, model: TaskModel, task: str, asked: Sequence[Asked]) -> float:
        found = fill_in(model, task, asked, VALIDATION_STEPS, self._sampler)
        self.samples[task] = (asked[0].fill.known, found[0], asked[0].truth)
        return float(np.mean([hole_psnr(f, a.truth, a.fill.missing) for f, a in zip(found, asked, strict=True)]))


def fill_in(
    model: TaskModel, task: str, asked: Sequence[Asked], steps: int, sampler: str, draw: int = 0, batch: int = 16
) -> list[np.ndarray]:
    """Sample an answer to each question, in batches; ``draw`` counts further answers to the same ones."""
    found: list[np.ndarray] = []
    for first in range(0, len(asked), batch):
        part = asked[first : first + batch]
        seeds = [a.seed + draw * 2**31 for a in part]
        found += sample(model, task, [a.fill for a in part], seeds, steps, sampler)
    return found
