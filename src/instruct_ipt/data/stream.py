"""The stream of training batches: a function of (seed, step) alone.

Nothing is remembered between steps, so resuming at step n gives the batches that an uninterrupted run would have seen,
and a batch can be made ahead of time in another thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from instruct_ipt.data.degradations import degrade
from instruct_ipt.data.images import to_float
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS


@dataclass(frozen=True)
class Batch:
    """A batch sorted by task.

    Attributes:
        input, target: float32 (N, H, W, 3); target in [0, 1].
        task: int64 (N,), index into :data:`instruct_ipt.tasks.TASKS`.
    """

    input: np.ndarray
    target: np.ndarray
    task: np.ndarray


class PatchStream:
    """Random patches of clean images, damaged on the fly.

    Args:
        images: clean images, uint8 (H, W, 3).
        settings: the `degradation` section of the parameters.
        seed: seed of the whole stream.

    Raises:
        InputError: there is no image.
    """

    def __init__(self, images: Sequence[np.ndarray], settings: Any, seed: int) -> None:
        if not images:
            raise InputError("no training image: data/prepared/train is empty; `dvc repro prepare` makes it")
        self._images, self._settings, self._seed = list(images), settings, seed
        # Larger images hold more distinct patches; the root keeps one photograph from drowning the small ones.
        weights = np.sqrt([image.shape[0] * image.shape[1] for image in images])
        self._share = weights / weights.sum()

    def batch(self, step: int, patch: int, counts: Mapping[str, int]) -> Batch:
        """The batch of training step ``step``: ``counts[task]`` patches of ``patch`` x ``patch`` pixels per task."""
        inputs, targets, tasks = [], [], []
        for task, count in counts.items():
            index = TASKS.index(task)
            rng = np.random.default_rng([self._seed, step, index])
            for _ in range(count):
                clean = self._patch(rng, patch)
                inputs.append(degrade(task, clean, rng, self._settings))
                targets.append(clean)
                tasks.append(index)
        return Batch(np.stack(inputs), np.stack(targets), np.asarray(tasks, dtype=np.int64))

    def _patch(self, rng: np.random.Generator, size: int) -> np.ndarray:
        image = self._images[rng.choice(len(self._images), p=self._share)]
        if min(image.shape[:2]) < size:
            missing = [(0, max(0, size - side)) for side in image.shape[:2]]
            image = np.pad(image, (*missing, (0, 0)), mode="symmetric")
        top, left = (rng.integers(0, side - size + 1) for side in image.shape[:2])
        crop = image[top : top + size, left : left + size]
        # Eight symmetries of the square and a shuffle of the colour channels: few photographs, many patches.
        crop = np.rot90(crop, k=int(rng.integers(4)))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        return to_float(np.ascontiguousarray(crop[..., rng.permutation(3)]))


def prefetch(stream: PatchStream, plan: Sequence[tuple[int, int, Mapping[str, int]]]) -> Iterator[Batch]:
    """Batches of ``plan`` (step, patch, counts), each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = [pool.submit(stream.batch, *item) for item in plan[:2]]
        for position in range(len(plan)):
            batch = waiting.pop(0).result()
            if position + 2 < len(plan):
                waiting.append(pool.submit(stream.batch, *plan[position + 2]))
            yield batch
