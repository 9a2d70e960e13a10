"""`Painter`: fills in, or adds to, a photograph of any size with a denoiser that works at one small size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from instruct_ipt.diffusion.denoiser import Denoiser
from instruct_ipt.diffusion.fill import Fill
from instruct_ipt.diffusion.sampling import sample
from instruct_ipt.diffusion.store import Card, load_denoiser
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import Modulated, TaskModel
from instruct_ipt.paths import MODELS

METHOD = "synchronous"
# A window shows this many times the extent of what is missing, where the photograph has that much.
_CONTEXT = 2.0
_REACH = 3.0

Progress = Callable[[int, int], None]
"""Called with the number of finished passes and of all passes."""


@dataclass(frozen=True)
class Painted:
    """What came out.

    Attributes:
        pixels: float32 (H, W, 3) in [0, 1]; every known pixel as it was, bit for bit.
        windows: how many windows were filled.
        enlarged: by how much the coarsest of them was enlarged; 1: filled at the photograph's own resolution.
        size: side in px of the windows that the denoiser was trained on.
    """

    pixels: np.ndarray
    windows: int
    enlarged: float
    size: int

    def __str__(self) -> str:
        """How fine the filled part can be, in words."""
        if self.enlarged <= 1:
            return f"filled at full resolution (trained on {self.size} x {self.size} px)"
        return f"filled at {self.size} px and enlarged {self.enlarged:.1f} times: it has no finer detail than that"


class Painter:
    """Fills in missing parts of photographs; build it with `load`.

    Args:
        model: a modulated denoiser; it is not changed.
        card: what it is.
    """

    def __init__(self, model: TaskModel, card: Card) -> None:
        self.card = card
        self._folded: dict[str, Denoiser] = {}
        self._model = model

    @classmethod
    def load(cls, weights: Path | str | None = None) -> Painter:
        """From a folder that `ipt train-diffusion` wrote; None: that of this repository.

        Raises:
            InputError: there is none, or it is damaged; says what to do.
        """
        folder = Path(weights) if weights is not None else MODELS / "diffusion"
        if not (folder / "denoiser.json").is_file() and (folder / METHOD / "denoiser.json").is_file():
            folder = folder / METHOD
        return cls(*load_denoiser(folder))

    def fill(
        self,
        picture: np.ndarray,
        missing: np.ndarray,
        task: str = "inpaint",
        seed: int = 0,
        steps: int | None = None,
        progress: Progress | None = None,
    ) -> Painted:
        """Fill in the missing pixels of a photograph.

        Each region that hangs together is filled through a window around it, scaled down to what the denoiser knows;
        what was filled before is known to the next.

        Args:
            picture: float32 (H, W, 3) in [0, 1].
            missing: bool (H, W).
            task: ``inpaint`` or ``outpaint``.
            seed: of the noise; another gives another filling.
            steps: passes per window; None: as the denoiser was evaluated.
            progress: see `Progress`.

        Raises:
            InputError: nothing or everything is missing, the shapes differ, or the numbers are out of range.
        """
        steps = self._check(picture, missing, task, steps)
        result, left = picture.astype(np.float32), missing.copy()
        windows = _windows(missing, self.card.size)
        enlarged = 1.0
        for number, (window, part) in enumerate(windows):
            scale = max(1.0, max(part.shape) / self.card.size)
            enlarged = max(enlarged, scale)
            told = None if progress is None else _told(progress, number * steps, len(windows) * steps)
            filled = self._window(result[window], left[window], task, seed + number, steps, scale, told)
            result[window] = np.where(part[..., None], filled, result[window])
            left[window] &= ~part
        return Painted(result, len(windows), enlarged, self.card.size)

    def extend(
        self,
        picture: np.ndarray,
        margins: tuple[int, int, int, int],
        seed: int = 0,
        steps: int | None = None,
        progress: Progress | None = None,
    ) -> Painted:
        """Add to a photograph at its sides.

        Args:
            picture: float32 (H, W, 3) in [0, 1].
            margins: px to add at the top, right, bottom and left.
            seed, steps, progress: as for `fill`.

        Raises:
            InputError: no margin, a negative one, or one larger than the photograph.
        """
        height, width = picture.shape[:2]
        limits = (height, width, height, width)
        if min(margins) < 0 or not any(margins) or any(m > limit for m, limit in zip(margins, limits, strict=True)):
            raise InputError(
                f"margins are {', '.join(map(str, margins))} px (top, right, bottom, left); allowed: 0 up to the side "
                f"of the photograph ({width} x {height} px), one of them above 0"
            )
        top, right, bottom, left = margins
        missing = np.pad(np.zeros((height, width), dtype=bool), ((top, bottom), (left, right)), constant_values=True)
        canvas = np.pad(picture, ((top, bottom), (left, right), (0, 0)), constant_values=0.5)
        return self.fill(canvas, missing, "outpaint", seed, steps, progress)

    def _check(self, picture: np.ndarray, missing: np.ndarray, task: str, steps: int | None) -> int:
        if missing.shape != picture.shape[:2]:
            raise InputError(
                f"the mask is {missing.shape[1]} x {missing.shape[0]} and the picture {picture.shape[1]} x "
                f"{picture.shape[0]} px; give a mask of the picture's size"
            )
        if not missing.any() or missing.all():
            what = "nothing" if not missing.any() else "everything"
            raise InputError(f"the mask marks {what} as missing; white is what shall be filled in, black what is kept")
        if task not in self.card.tasks:
            raise InputError(f"this denoiser knows no task {task}; it knows: {', '.join(self.card.tasks)}")
        steps = self.card.steps if steps is None else steps
        if not 1 <= steps <= 1000:
            raise InputError(f"steps is {steps}; allowed: 1 to 1000")
        return steps

    def _network(self, task: str) -> Denoiser:
        """The network with the task in its weights, which costs what the bare network costs."""
        if not isinstance(self._model, Modulated):
            raise InputError("this denoiser has no task biases; name the folder of `synchronous` or `frozen`")
        if task not in self._folded:
            self._folded = {task: self._model.fold(task).eval()}
        return self._folded[task]

    def _window(
        self,
        picture: np.ndarray,
        missing: np.ndarray,
        task: str,
        seed: int,
        steps: int,
        scale: float,
        told: Callable[[int], None] | None,
    ) -> np.ndarray:
        """The window with its missing pixels filled in, float32 of its own size."""
        network = self._network(task)
        small = _shrunk(picture, missing, scale, network.multiple)
        observe = None if told is None else lambda done, guesses: told(done)
        (guess,) = sample(network, None, [small], [seed], steps, self.card.sampler, observe=observe)
        height, width = picture.shape[:2]
        inner = guess[: max(1, round(height / scale)), : max(1, round(width / scale))]
        large = inner if scale == 1 else _resized(inner, (height, width), Image.Resampling.BICUBIC)
        return Fill(picture, missing).complete(large, _REACH * scale)


def _told(progress: Progress, begun: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(begun + done, total)


def _windows(missing: np.ndarray, size: int) -> list[tuple[tuple[slice, slice], np.ndarray]]:
    """Windows that together cover what is missing, each with the part (bool, of the window's size) that it fills.

    A window that is taken for one region fills also the others that lie inside it.
    """
    # Regions a few pixels apart are one: what lies between is too little to go by.
    labels, _ = ndimage.label(ndimage.binary_dilation(missing, iterations=2))
    labels[~missing] = 0
    boxes = ndimage.find_objects(labels)
    # top, left, bottom, right
    ends = np.array([[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in boxes])
    todo, found = np.ones(len(boxes), dtype=bool), []
    # The largest first: small regions often lie in its window.
    for number in np.argsort(-(ends[:, 2:] - ends[:, :2]).max(axis=1), kind="stable"):
        if not todo[number]:
            continue
        window = _around(boxes[number], missing.shape, size)
        low, high = ([part.start for part in window], [part.stop for part in window])
        inside = todo & (ends[:, :2] >= low).all(axis=1) & (ends[:, 2:] <= high).all(axis=1)
        todo &= ~inside
        # Label 0 is what is known.
        found.append((window, np.r_[False, inside][labels[window]]))
    return found


def _extent(box: tuple[slice, slice]) -> int:
    return max(part.stop - part.start for part in box)


def _around(box: tuple[slice, slice], shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """A window around a box, as square as the photograph allows and at least ``size`` px on a side."""
    side = max(size, round(_CONTEXT * _extent(box)))
    window = []
    for part, length in zip(box, shape, strict=True):
        span = min(side, length)
        middle = (part.start + part.stop) // 2
        start = min(max(0, middle - span // 2), length - span)
        window.append(slice(start, start + span))
    return window[0], window[1]


def _shrunk(picture: np.ndarray, missing: np.ndarray, scale: float, multiple: int) -> Fill:
    """What the network sees: scaled down, and padded with missing pixels to sides that it can halve.

    A small pixel is known if all that it stands for is.
    """
    height, width = (max(1, round(side / scale)) for side in picture.shape[:2])
    share = _resized(missing.astype(np.float32), (height, width), Image.Resampling.BOX)
    gone = share > 1e-4
    # The mean of the known pixels; where there are none, the grey of the missing.
    weight = np.maximum(1 - share, 1e-6)[..., None]
    known = _resized(np.where(missing[..., None], 0, picture), (height, width), Image.Resampling.BOX) / weight
    known = np.where(gone[..., None], np.float32(0.5), known).astype(np.float32)
    pad = [(0, -side % multiple) for side in (height, width)]
    return Fill(np.pad(known, (*pad, (0, 0)), constant_values=0.5), np.pad(gone, pad, constant_values=True))


def _resized(values: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    """float32 (H, W) or (H, W, C) at another size (H, W), channel by channel, without rounding."""
    if values.shape[:2] == size:
        return values.astype(np.float32)
    if values.ndim == 3:
        return np.stack([_resized(values[..., c], size, filter) for c in range(values.shape[2])], axis=-1)
    image = Image.fromarray(values.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), filter))
