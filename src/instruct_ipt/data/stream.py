"""The stream of training batches: a function of (seed, step) alone.

Nothing is remembered between steps, so resuming at step n gives the batches that an uninterrupted run would have seen,
and batches can be made ahead of time in a thread or in any number of worker processes.
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

Plan = Sequence[tuple[int, int, Mapping[str, int]]]


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
    """Random patches: of clean images, damaged on the fly, and of real pairs.

    Args:
        images: clean images, uint8 (H, W, 3).
        settings: the `degradation` section of the parameters.
        seed: seed of the whole stream.
        pairs: task -> real pairs (input, target), uint8 (H, W, 3), of one size.
        masks: real snow masks, uint8 (H, W, 3).
        real_share: probability that a sample is a real pair, for tasks that have any.

    Raises:
        InputError: there is no clean image.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        settings: Any,
        seed: int,
        pairs: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]] | None = None,
        masks: Sequence[np.ndarray] = (),
        real_share: float = 0.5,
    ) -> None:
        if not len(images):
            raise InputError("no training image: data/prepared/train is empty; `dvc repro prepare` makes it")
        self._images, self._settings, self._seed = images, settings, seed
        self._pairs, self._masks, self._real_share = dict(pairs or {}), masks, real_share
        self._share = _shares(sizes_of(images))
        self._pair_share = {task: _shares(sizes_of(found)) for task, found in self._pairs.items()}

    def batch(self, step: int, patch: int, counts: Mapping[str, int]) -> Batch:
        """The batch of training step ``step``: ``counts[task]`` patches of ``patch`` x ``patch`` pixels per task."""
        inputs, targets, tasks = [], [], []
        for task, count in counts.items():
            index = TASKS.index(task)
            rng = np.random.default_rng([self._seed, step, index])
            for _ in range(count):
                given, target = self._sample(task, rng, patch)
                inputs.append(given)
                targets.append(target)
                tasks.append(index)
        return Batch(np.stack(inputs), np.stack(targets), np.asarray(tasks, dtype=np.int64))

    def _sample(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        # A task without real pairs draws no number here, so that adding pairs to one task leaves the others' stream.
        if task in self._pairs and rng.random() < self._real_share:
            return self._real(task, rng, size)
        image = self._images[rng.choice(len(self._images), p=self._share)]
        (crop,) = _crop(rng, size, image)
        # A shuffle of the colour channels: few photographs, many patches.
        clean = to_float(np.ascontiguousarray(crop[..., rng.permutation(3)]))
        return degrade(task, clean, rng, self._settings, masks=self._masks), clean

    def _real(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A patch of a real pair. Its colours stay: haze and rain have a colour of their own that is worth learning."""
        pairs = self._pairs[task]
        given, target = _crop(rng, size, *pairs[rng.choice(len(pairs), p=self._pair_share[task])])
        return to_float(np.ascontiguousarray(given)), to_float(np.ascontiguousarray(target))


def sizes_of(images: Any) -> list[tuple[int, int]]:
    """(height, width) of images or of pairs, without reading pixels where the sequence knows them."""
    if hasattr(images, "sizes"):
        return list(images.sizes)
    return [(item[0] if isinstance(item, tuple) else item).shape[:2] for item in images]


def _shares(sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Larger images hold more distinct patches; the root keeps one photograph from drowning the small ones."""
    weights = np.sqrt([height * width for height, width in sizes])
    return weights / weights.sum()


def _crop(rng: np.random.Generator, size: int, *images: np.ndarray) -> list[np.ndarray]:
    """The same random window and the same one of the eight symmetries of the square, of images of one size."""
    shape = images[0].shape[:2]
    if min(shape) < size:
        missing = [(0, max(0, size - side)) for side in shape]
        images = tuple(np.pad(image, (*missing, (0, 0)), mode="symmetric") for image in images)
        shape = images[0].shape[:2]
    top, left = (rng.integers(0, side - size + 1) for side in shape)
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    crops = [np.rot90(image[top : top + size, left : left + size], k=turns) for image in images]
    return [crop[:, ::-1] for crop in crops] if mirrored else crops


def prefetch(stream: PatchStream, plan: Plan, workers: int = 0) -> Iterator[Batch]:
    """Batches of ``plan`` (step, patch, counts), in order, made ahead of time.

    Args:
        stream: where batches come from.
        plan: which batches.
        workers: 0 makes them in one thread of this process, N >= 1 in N processes. The batches are the same.

    Raises:
        InputError: a worker process died (mostly: the system ran out of memory and killed it).
    """
    yield from _by_processes(stream, plan, workers) if workers else _by_thread(stream, plan)


def _by_thread(stream: PatchStream, plan: Plan) -> Iterator[Batch]:
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting = [pool.submit(stream.batch, *item) for item in plan[:2]]
        for position in range(len(plan)):
            batch = waiting.pop(0).result()
            if position + 2 < len(plan):
                waiting.append(pool.submit(stream.batch, *plan[position + 2]))
            yield batch


@dataclass(frozen=True)
class _Planned:
    """The plan as a map-style data set for torch's DataLoader."""

    stream: PatchStream
    plan: Plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        batch = self.stream.batch(*self.plan[position])
        return batch.input, batch.target, batch.task


def _by_processes(stream: PatchStream, plan: Plan, workers: int) -> Iterator[Batch]:
    import torch
    from torch.utils.data import DataLoader

    # Tensors travel between processes through shared memory, arrays would be pickled.
    loader: DataLoader[Any] = DataLoader(
        _Planned(stream, plan),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(workers, max(1, len(plan))),
        collate_fn=_to_tensors,
        worker_init_fn=lambda _: torch.set_num_threads(1),
    )
    try:
        for parts in loader:
            yield Batch(*(part.numpy() for part in parts))
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            f"a process that makes batches was killed ({' '.join(str(error).split())[:120]}); most often memory ran "
            "out: lower training.workers or training.batch_per_task in params.yaml; training resumes where it was"
        ) from error


def _to_tensors(parts: tuple[np.ndarray, ...]) -> list[Any]:
    import torch

    return [torch.from_numpy(part) for part in parts]
