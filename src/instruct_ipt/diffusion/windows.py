"""Square windows of photographs at the size that a denoiser works at, and the stream of training batches from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from instruct_ipt.data.images import to_float
from instruct_ipt.data.stream import PatchStream, name_of
from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.fill import ask
from instruct_ipt.diffusion.schedule import TIMES, noised


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
    cut = np.ascontiguousarray(picture[top : top + side, left : left + side])
    if side == size:
        return cut
    # Lanczos' filter looks at all pixels of the larger window.
    return np.asarray(Image.fromarray(cut).resize((size, size), Image.Resampling.LANCZOS))


class FillStream(PatchStream):
    """Random windows with missing pixels and noise, as the training loop takes them: a function of (seed, step) alone.

    A batch's ``input`` is what the network takes, float32 (N, H, W, 8), but for `fill.carried`, which is made for a
    whole batch at once; its ``target`` the velocity it should predict and the mask of missing pixels, (N, H, W, 4).

    Args:
        images: clean photographs, uint8 (H, W, 3).
        missing: task -> (least, largest) missing share of the area.
        seed: of the whole stream.
        tasks: names that batches may ask for, in the order of their indices.

    Raises:
        InputError: there is no image.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        missing: Mapping[str, Any],
        seed: int,
        tasks: Sequence[str] = FILL_TASKS,
    ) -> None:
        super().__init__(images, None, seed, tasks=tasks)
        self._missing = dict(missing)

    def _sample(self, task: str, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, str]:
        """((H, W, 8), (H, W, 4), name of the photograph)."""
        chosen = rng.choice(len(self._images), p=self._share)
        picture = window(self._images[chosen], rng, size)
        picture = to_float(picture[:, ::-1] if rng.random() < 0.5 else picture)
        fill = ask(task, picture, rng, self._missing)
        time = int(rng.integers(TIMES))
        clean, noise = picture * 2 - 1, rng.standard_normal(picture.shape, dtype=np.float32)
        parts = (torch.from_numpy(part).permute(2, 0, 1)[None] for part in (clean, noise))
        noisy, velocity = noised(*parts, torch.tensor([time]))
        noisy, velocity = (part[0].permute(1, 2, 0).numpy() for part in (noisy, velocity))
        missing = fill.missing[..., None].astype(np.float32)
        given = [noisy, fill.known * 2 - 1, missing, np.full_like(missing, time)]
        target = np.concatenate([velocity, missing], axis=-1)
        return np.concatenate(given, axis=-1), target, name_of(self._images, chosen)
