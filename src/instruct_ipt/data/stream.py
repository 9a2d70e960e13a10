"""The stream of training batches: a function of (seed, step) alone.

Nothing is remembered between steps, so resuming at step n gives the batches that an uninterrupted run would have seen,
and batches can be made ahead of time in a thread or in any number of worker processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from instruct_ipt.data.degradations import SYNTHETIC, degrade
from instruct_ipt.data.images import to_float
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS, split_level

Plan = Sequence[tuple[int, int, Mapping[str, int]]]
# Task -> how many times a photograph may be shrunk before a patch is cut. Haze obeys the same law at any scale, and how
# dense it is shows in the whole scene, of which a patch at full size holds a corner. Rain, snow, noise and blur have a
# size of their own in pixels.
SHRUNK: Mapping[str, int] = MappingProxyType({"dehaze": 4})
# Task -> how far a patch may be enlarged, every other time: photographs at their full size are softer than the reduced
# ones of the training sets, and what never saw a soft one takes it for a blurred one and sharpens it.
ENLARGED: Mapping[str, float] = MappingProxyType({"deblur": 2.0})
# Task -> largest deviation in px of a Gaussian over target and input alike, every other time: how sharp a photograph
# is when nothing moves depends on lens, sensor and compression; only blur beyond that is to be undone. The Gaussian
# acts on the stored values, which is near enough for so small a one.
SOFTENED: Mapping[str, float] = MappingProxyType({"deblur": 1.5})


class Milder(NamedTuple):
    """How damage is made milder: the input becomes ``target + u * (input - target)``.

    Attributes:
        often: share of the samples in [0, 1].
        least, power: u = v ** power, with v uniform in [least, 1].
        synthetic: whether our own damage is made milder too, not the real pairs alone.
    """

    often: float
    least: float
    power: int
    synthetic: bool


# The mean of a hazy and a clear photograph is the same scene behind less of the same haze, by its law; the public pairs
# are dense, and few. That of a blurred and a sharp one is what a camera takes that rests for a part of the exposure (in
# linear light; near enough here): one that was hardly blurred has to stay as it is.
# The square makes half of the milder ones keep less than a quarter of their blur: nearly sharp photographs lose most.
MILDER: Mapping[str, Milder] = MappingProxyType(
    {
        "dehaze": Milder(often=0.5, least=0.2, power=1, synthetic=False),
        "deblur": Milder(often=0.5, least=0.0, power=2, synthetic=True),
    }
)
_KILLED = (
    "a process that makes batches was killed, most often because memory (or /dev/shm) ran out; lower training.workers "
    "in params.yaml (0 needs no process) and start again: training resumes where it was"
)


@dataclass(frozen=True)
class Batch:
    """A batch sorted by task.

    Attributes:
        input, target: float32 (N, H, W, 3); target in [0, 1].
        task: int64 (N,), index into the tasks of the stream.
        names: of the N images that the samples were cut from, for messages.
    """

    input: np.ndarray
    target: np.ndarray
    task: np.ndarray
    names: tuple[str, ...] = ()


class PatchStream:
    """Random patches: of clean images, damaged on the fly, and of real pairs.

    Args:
        images: clean images, uint8 (H, W, 3), for our own damage; may be empty where every task has pairs.
        settings: the `degradation` section of the parameters.
        seed: seed of the whole stream.
        pairs: task -> real pairs (input, target), uint8 (H, W, 3), of one size.
        masks: real snow masks, uint8 (H, W, 3).
        real_share: probability in [0, 1] that a sample is a real pair, for tasks that have any; one for all, or one for
            each damage of ``tasks``. A task whose damage we cannot make (one of a user's own), or a stream without
            clean images, gives real pairs only.
        tasks: names that batches may ask for, in the order of their indices; ``denoise-15`` is noise of one level.

    Raises:
        InputError: there is neither a clean image nor a pair.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        settings: Any,
        seed: int,
        pairs: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]] = MappingProxyType({}),
        masks: Sequence[np.ndarray] = (),
        real_share: float | Mapping[str, float] = 0.5,
        tasks: Sequence[str] = TASKS,
    ) -> None:
        self.tasks = tuple(tasks)
        self._images, self._settings, self._seed = images, settings, seed
        self._pairs = {task: found for task, found in pairs.items() if len(found)}
        self._masks = masks
        damages = [split_level(task)[0] for task in self.tasks]
        self._real_share = real_share if isinstance(real_share, Mapping) else dict.fromkeys(damages, real_share)
        if not len(images) and not self._pairs:
            raise InputError("no training image: data/prepared/train is empty; `dvc repro prepare` makes it")
        self._share = _shares(images)
        self._pair_share = {task: _shares(found) for task, found in self._pairs.items()}

    def batch(self, step: int, patch: int, counts: Mapping[str, int]) -> Batch:
        """The batch of training step ``step``: ``counts[task]`` patches of ``patch`` x ``patch`` pixels per task.

        Raises:
            InputError: a task has no pairs, and there is no clean image to damage, or we do not know how.
        """
        inputs, targets, tasks, names = [], [], [], []
        for task, count in counts.items():
            index = self.tasks.index(task)
            rng = np.random.default_rng([self._seed, step, index])
            for _ in range(count):
                given, target, name = self._sample(task, rng, patch)
                inputs.append(given)
                targets.append(target)
                tasks.append(index)
                names.append(name)
        return Batch(np.stack(inputs), np.stack(targets), np.asarray(tasks, dtype=np.int64), tuple(names))

    def _sample(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, str]:
        """(input, target, name of the image)."""
        damage, level = split_level(task)
        synthetic = damage in SYNTHETIC and len(self._images) > 0
        if task in self._pairs:
            # Only such a task draws this number: pairs of one task leave the stream of the others as it was.
            if not synthetic or rng.random() < self._real_share[damage]:
                return self._real(task, rng, size)
        elif not synthetic:
            raise InputError(_nothing_for(task))
        chosen = rng.choice(len(self._images), p=self._share)
        (crop,) = _cut(task, rng, size, self._images[chosen])
        # A shuffle of the colour channels: few photographs, many patches.
        clean = to_float(np.ascontiguousarray(crop[..., rng.permutation(3)]))
        given = degrade(damage, clean, rng, self._settings, level, self._masks)
        return _milder(task, rng, given, clean, synthetic=True), clean, name_of(self._images, chosen)

    def _real(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, str]:
        """A patch of a real pair. Its colours stay: real haze, rain and snow have one of their own to be learnt."""
        pairs = self._pairs[task]
        chosen = rng.choice(len(pairs), p=self._pair_share[task])
        given, target = (to_float(np.ascontiguousarray(cut)) for cut in _cut(task, rng, size, *pairs[chosen]))
        return _milder(task, rng, given, target, synthetic=False), target, name_of(pairs, chosen)


def _milder(task: str, rng: np.random.Generator, given: np.ndarray, target: np.ndarray, synthetic: bool) -> np.ndarray:
    """The input of a sample, or a milder one where :data:`MILDER` has the task; others draw no number."""
    how = MILDER.get(task)
    if how is None or (synthetic and not how.synthetic) or rng.random() >= how.often:
        return given
    return target + np.float32(rng.uniform(how.least, 1.0) ** how.power) * (given - target)


def _nothing_for(task: str) -> str:
    if task in SYNTHETIC:
        return f"data/prepared/train has neither clean images nor pairs for {task}; `ipt data list` says what to fetch"
    return f"there is no pair for {task}, and no damage of ours; give pairs: `ipt data add NAME --task {task} ...`"


def name_of(images: Sequence[Any], index: int) -> str:
    """What a message calls an image or pair of a training set; shards know the names, plain lists have none."""
    names = getattr(images, "names", None)
    return f"image {index}" if names is None else names[index]


def _shares(images: Sequence[Any]) -> np.ndarray:
    """Probability of each image or pair.

    Larger images hold more distinct patches; the root keeps one photograph from drowning the small ones.
    """
    # Shards know their sizes: thousands of them need not be opened for it.
    sizes = getattr(images, "sizes", None)
    if sizes is None:
        sizes = [(item[0] if isinstance(item, tuple) else item).shape[:2] for item in images]
    weights = np.sqrt([height * width for height, width in sizes])
    return weights / weights.sum()


def _cut(task: str, rng: np.random.Generator, size: int, *images: np.ndarray) -> list[np.ndarray]:
    """The same patch of images of one size: of a task in :data:`SOFTENED` through one lens, every other time."""
    patches = _resized(task, rng, size, *images)
    if task not in SOFTENED or rng.random() >= 0.5:
        return patches
    deviation = rng.uniform(0.0, SOFTENED[task])
    return [soften(patch, deviation) for patch in patches]


def _resized(task: str, rng: np.random.Generator, size: int, *images: np.ndarray) -> list[np.ndarray]:
    """The same patch of images of one size, of a task in :data:`SHRUNK` or :data:`ENLARGED` out of resized ones."""
    if task in ENLARGED and rng.random() < 0.5:
        side = int(np.ceil(size / rng.uniform(1.0, ENLARGED[task])))
        return [enlarge(crop, size) for crop in _crop(rng, side, *images)]
    if task not in SHRUNK:  # only such a task draws the factor: the stream of the others stays as it was
        return _crop(rng, size, *images)
    factor = int(rng.integers(1, max(1, min(SHRUNK[task], min(images[0].shape[:2]) // size)) + 1))
    crops = _crop(rng, size * factor, *images)
    return crops if factor == 1 else [shrink(crop, factor) for crop in crops]


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of ``factor`` x ``factor`` pixels: uint8 (H, W, 3), sides multiples of it, to 8 bits again."""
    height, width = (side // factor for side in image.shape[:2])
    return np.rint(image.reshape(height, factor, width, factor, 3).mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """A square image, uint8 (N, N, 3), by bicubic interpolation as uint8 (size, size, 3)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((size, size), Image.Resampling.BICUBIC))


def soften(image: np.ndarray, deviation: float) -> np.ndarray:
    """uint8 (H, W, 3), convolved with a Gaussian of ``deviation`` px, borders mirrored, to 8 bits again."""
    return np.rint(gaussian_filter(image.astype(np.float32), (deviation, deviation, 0))).astype(np.uint8)


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
        InputError: a worker process died (mostly: the system ran out of memory and killed it), or met one itself.
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

    def __getitem__(self, position: int) -> Any:
        import torch

        # Tensors travel between processes through shared memory, arrays would be copied through a pipe.
        try:
            batch = self.stream.batch(*self.plan[position])
            return [torch.from_numpy(part) for part in (batch.input, batch.target, batch.task)], batch.names
        except InputError as error:
            return error  # raised there, it would arrive with a traceback in its message


def _by_processes(stream: PatchStream, plan: Plan, workers: int) -> Iterator[Batch]:
    import torch
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        _Planned(stream, plan),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(workers, max(1, len(plan))),
        collate_fn=_as_is,
        generator=torch.Generator(),  # else it would draw from the global one, and the worker count would matter
    )
    # From a thread: in the main one torch would raise a worker's death by signal, in whatever line is running then.
    with ThreadPoolExecutor(max_workers=1) as pool:
        batches = pool.submit(iter, loader).result()
        for _ in range(len(plan)):
            try:
                made = pool.submit(next, batches).result()
            except Exception as error:
                if not _died(error):
                    raise
                raise InputError(_KILLED) from error
            if isinstance(made, InputError):
                raise made
            parts, names = made
            yield Batch(*(part.numpy() for part in parts), names)


def _died(error: Exception) -> bool:
    """Whether a worker is dead: torch found it so, or it broke off while it handed a batch over."""
    said = str(error)
    if isinstance(error, (ConnectionError, EOFError)):
        return not said.startswith("Caught ")  # so torch passes on what a worker that lives has met
    return isinstance(error, RuntimeError) and said.startswith("DataLoader worker (pid")


def _as_is(item: Any) -> Any:
    return item
