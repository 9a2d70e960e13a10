"""PSNR on the validation split: the only score that training and every choice may see."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instruct_ipt.data.prepared import pairs
from instruct_ipt.evaluation.protocol import psnr
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel


class Validation:
    """The validation crops of all tasks, loaded once.

    Args:
        root: `data/prepared`.
        settings: the `degradation` section of the parameters; noise is taken at its middle level.
    """

    def __init__(self, root: Path, settings: Any) -> None:
        sigmas = [middle_level(settings)]
        self._sets = {task: _stacks(root, task, settings, sigmas) for task in TASKS}

    def __call__(self, model: TaskModel, tasks: Sequence[str] = TASKS) -> dict[str, float]:
        """Mean PSNR in dB per task."""
        return {task: float(np.mean(self.scores(model, task))) for task in tasks}

    def scores(self, model: TaskModel, task: str) -> list[float]:
        """PSNR in dB of each crop."""
        found = []
        for inputs, targets in self._sets[task]:
            outputs = restore_stack(model, inputs, task)
            found += [psnr(out, target) for out, target in zip(outputs, targets, strict=True)]
        return found


def middle_level(settings: Any) -> float:
    """The middle noise level in 1/255, the one at which denoising is validated (the upper of two)."""
    levels = sorted(settings.denoise.sigma)
    return levels[len(levels) // 2]


def restore_stack(model: TaskModel, inputs: np.ndarray, task: str) -> np.ndarray:
    """Restore float32 (N, H, W, 3) images of one size; the same shape comes back, not clipped."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        output = model(torch.from_numpy(inputs).to(device).permute(0, 3, 1, 2), task)
    return output.permute(0, 2, 3, 1).float().cpu().numpy()


def _stacks(root: Path, task: str, settings: Any, sigmas: list[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The crops of a task as (inputs, targets), one pair of arrays per crop size."""
    sizes: dict[tuple[int, ...], list[Any]] = {}
    for pair in pairs(root, "validation", task, settings, sigmas):
        sizes.setdefault(pair.target.shape, []).append(pair)
    return [(np.stack([p.input for p in found]), np.stack([p.target for p in found])) for found in sizes.values()]
