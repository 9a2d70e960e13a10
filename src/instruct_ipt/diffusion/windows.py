"""Square windows of photographs at the size that a denoiser works at, and the stream of training batches from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from instruct_ipt.data.images import to_float
from instruct_ipt.data.stream import Batch
from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.fill import ask
from instruct_ipt.diffusion.schedule import TIMES, signal
from instruct_ipt.errors import InputError


def window(picture: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    """A random square of a photograph, uint8 (H, W, 3), scaled down to ``size`` px: (size, size, 3).

    Its side is drawn between ``size`` and the whole photograph, evenly in octaves: a small network has to see whole
    things too, not only their texture. A photograph smaller than ``size`` is mirrored at its ends.
    """
    height, width = picture.shape[:2]
    if min(height, width) < size:
        picture = np.pad(picture, ((0, max(0, size - height)), (0, max(0, size - width)), (0, 0)), mode="symmetric")
        height, width = picture.shape[:2]
    side = int(round(np.exp(rng.uniform(np.log(size), np.log(min(height, width))))))
    top, left = (int(rng.integers(0, length - side + 1)) for length in (height, width))
    return scaled(picture[top : top + side, left : left + side], (size, size))


def scaled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture, uint8 (H, W, 3), at another size (H, W), with Lanczos' filter, which looks at all pixels."""
    if picture.shape[:2] == tuple(size):
        return np.ascontiguousarray(picture)
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))


class FillStream:
    """Random windows with missing pixels and noise, as the training loop takes them: a function of (seed, step) alone.

    A batch's ``input`` is what the network takes, float32 (N, H, W, 8); its ``target`` the velocity it should predict
    and the mask of missing pixels, (N, H, W, 4).

    Args:
        images: clean photographs, uint8 (H, W, 3).
        share: task -> (least, largest) missing share of the area.
        seed: of the whole stream.
        tasks: names that batches may ask for, in the order of their indices.

    Raises:
        InputError: there is no image.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        share: Mapping[str, Any],
        seed: int,
        tasks: Sequence[str] = FILL_TASKS,
    ) -> None:
        if not len(images):
            raise InputError(
                "no training image: data/prepared/train has no clean one; `ipt data list` says what to fetch"
            )
        self.tasks = tuple(tasks)
        self._images, self._share, self._seed = images, dict(share), seed

    def batch(self, step: int, patch: int, counts: Mapping[str, int]) -> Batch:
        """The batch of training step ``step``: ``counts[task]`` windows of ``patch`` x ``patch`` pixels per task."""
        inputs, targets, tasks = [], [], []
        for task, count in counts.items():
            index = self.tasks.index(task)
            rng = np.random.default_rng([self._seed, step, index])
            for _ in range(count):
                given, target = self._sample(task, rng, patch)
                inputs.append(given)
                targets.append(target)
                tasks.append(index)
        return Batch(np.stack(inputs), np.stack(targets), np.asarray(tasks, dtype=np.int64))

    def _sample(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
        """((H, W, 8), (H, W, 4))."""
        picture = window(self._images[int(rng.integers(len(self._images)))], rng, size)
        picture = to_float(picture[:, ::-1] if rng.random() < 0.5 else picture)
        fill = ask(task, picture, rng, self._share)
        time = int(rng.integers(TIMES))
        a = float(signal()[time])
        kept, hidden = np.float32(np.sqrt(a)), np.float32(np.sqrt(1 - a))
        clean, noise = picture * 2 - 1, rng.standard_normal(picture.shape, dtype=np.float32)
        missing = fill.missing[..., None].astype(np.float32)
        plane = np.full_like(missing, time)
        given = np.concatenate([kept * clean + hidden * noise, fill.known * 2 - 1, missing, plane], axis=-1)
        return given, np.concatenate([kept * noise - hidden * clean, missing], axis=-1)
