"""PSNR on the validation split: the only score by which training and the stages of the pipeline choose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from instruct_ipt.data.prepared import Pair, pairs
from instruct_ipt.evaluation.protocol import psnr
from instruct_ipt.tasks import TASKS, split_level

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel


class Validation:
    """The validation crops of some tasks, loaded once.

    Args:
        root: `data/prepared`.
        settings: the `degradation` section of the parameters; noise is taken at its middle level.
        tasks: names; ``denoise-15`` is noise of one level.

    Attributes:
        samples: task -> (input, output, target) of its first crop as scored last, float32 (H, W, 3), not clipped.
    """

    def __init__(self, root: Path, settings: Any, tasks: Sequence[str] = TASKS) -> None:
        self.tasks = tuple(tasks)
        self.samples: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
        self._sets = {task: _stacks(validation_pairs(root, settings, task)) for task in tasks}

    def __call__(self, model: TaskModel, tasks: Sequence[str] = ()) -> dict[str, float]:
        """Mean PSNR in dB of some tasks (default: all)."""
        return {task: float(np.mean(self.scores(model, task))) for task in tasks or self.tasks}

    def scores(self, model: TaskModel, task: str) -> list[float]:
        """PSNR in dB of each crop."""
        found = []
        for number, (inputs, targets) in enumerate(self._sets[task]):
            outputs = restore_stack(model, inputs, task)
            if number == 0:
                self.samples[task] = (inputs[0], outputs[0], targets[0])
            found += [psnr(out, target) for out, target in zip(outputs, targets, strict=True)]
        return found


def middle_level(settings: Any) -> float:
    """The middle noise level in 1/255, the one at which denoising is validated (the upper of two)."""
    levels = sorted(settings.denoise.sigma)
    return levels[len(levels) // 2]


def restore_stack(model: TaskModel, inputs: np.ndarray, task: str, strength: float = 1.0) -> np.ndarray:
    """Restore float32 (N, H, W, 3) images of one size; the same shape comes back, not clipped."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        output = model(torch.from_numpy(inputs).to(device).permute(0, 3, 1, 2), task, strength)
    return output.permute(0, 2, 3, 1).float().cpu().numpy()


def validation_pairs(root: Path, settings: Any, task: str) -> Iterator[Pair]:
    """The validation crops of a task; noise is taken at the task's level, or at the middle one."""
    damage, level = split_level(task)
    return pairs(root, "validation", damage, settings, [level or middle_level(settings)])


def _stacks(found: Iterable[Pair]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Crops as (inputs, targets), one pair of arrays per crop size."""
    sizes: dict[tuple[int, ...], list[Pair]] = {}
    for pair in found:
        sizes.setdefault(pair.target.shape, []).append(pair)
    return [(np.stack([p.input for p in found]), np.stack([p.target for p in found])) for found in sizes.values()]
