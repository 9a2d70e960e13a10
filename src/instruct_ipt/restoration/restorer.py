"""`Restorer`: a network, and everything between it and an image as a person has it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from instruct_ipt.backbone import UShapeConfig
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import Modulated, check_strength

from .arrays import Adopted, adopt
from .choice import Choice, Guides
from .tiling import Span, blend
from .tiling import spans as cut
from .weights import find_weights, load_model

DEFAULT_TILE = 768
"""Pixels. Larger tiles see more of the image at once and repeat less of it; memory grows with their area."""
OVERLAP = 64
"""Pixels that neighbouring tiles share, at least. On half as many one fades into the other; the rest is dropped."""

Task = str | Mapping[str, float] | Sequence[float]
"""A task's name, weights by name (those left out are 0), or one weight per task in the order of `Restorer.tasks`."""
Progress = Callable[[int, int], None]
"""Called with the number of finished tiles and of all tiles."""
AnyImage = TypeVar("AnyImage", np.ndarray, Image.Image, Tensor)


class Restorer:
    """Restores images with one network; build it with `load`.

    Images may have any size: those larger than a tile are restored in overlapping tiles, whose results are blended on
    the CPU. The network is folded: it costs what the plain backbone costs. Several threads may restore at once.

    Args:
        model: a modulated backbone of this package; it is not changed.
        device: where the network runs; None takes a GPU where there is one.
        guides: what reads instructions and guesses damage; None: nothing does, and a task has to be named.
    """

    def __init__(
        self, model: Modulated, device: str | torch.device | None = None, guides: Guides | None = None
    ) -> None:
        self._model, self._guides = model.eval(), guides or Guides()
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._lock = threading.Lock()
        self._folded: tuple[tuple[tuple[float, ...], float], nn.Module] | None = None

    @classmethod
    def load(cls, weights: Path | str | None = None, device: str | torch.device | None = None) -> Restorer:
        """A restorer with weights from a folder.

        Args:
            weights: a release (`ipt release`), or `models` or `models/modulation` of a finished replication. None takes
                the first of `weights/` and `models/modulation` below the working directory, and `weights/` of the
                repository or the installed package.
            device: see the class.

        Raises:
            InputError: there are no weights there, or they are damaged; says what to do.
        """
        folder = Path(weights) if weights is not None else find_weights()
        return cls(load_model(folder), device, Guides.beside(folder))

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the network can remove, by name."""
        return self._model.tasks

    def task_weights(self, task: Task | None) -> dict[str, float]:
        """Each task's share in `task`.

        Raises:
            InputError: no task, an unknown one, or weights that are negative or do not sum to 1.
        """
        names = ", ".join(self.tasks)
        if task is None:
            raise InputError(f"name a task: {names}")
        if isinstance(task, str):
            task = {task: 1.0}
        if isinstance(task, Mapping):
            if unknown := [name for name in task if name not in self.tasks]:
                raise InputError(f"unknown task {unknown[0]!r}; known tasks: {names}")
            task = [task.get(name, 0.0) for name in self.tasks]
        try:
            weights = [float(weight) for weight in task]
        except (TypeError, ValueError):
            raise InputError(f"the task is {task!r:.60}; give a name or weights: {names}") from None
        if len(weights) != len(self.tasks):
            raise InputError(f"{len(weights)} task weights were given; give one for each of {names}")
        if not (min(weights) >= 0 and abs(sum(weights) - 1) <= 1e-3):
            raise InputError("task weights must not be negative and must sum to 1; use strength for less or more of it")
        return dict(zip(self.tasks, weights, strict=True))

    def check(self, task: Task | None, strength: float | None = None, tile: int | None = None) -> None:
        """Nothing, if `restore` takes these, without an instruction.

        Raises:
            InputError: as there.
        """
        if task is None:
            self._guide("estimator")
        else:
            self.task_weights(task)
        _strength(1.0 if strength is None else strength)
        self.spans(1, tile)

    def read(self, instruction: str, strength: float | None = None) -> Choice:
        """What a sentence asks for; `strength` takes the place of the sentence's own.

        Raises:
            InputError: it asks for nothing that this network can do, or no reader stands beside the weights.
        """
        reading = self._guide("reader")(instruction)
        asked = {task: weight for task, weight in reading.weights.items() if weight > 0}
        weights = self.task_weights(asked)
        return Choice(weights, _strength(reading.strength if strength is None else strength), "instruction")

    def guess(self, image: AnyImage, strength: float | None = None) -> Choice:
        """What seems to have damaged an image, of the kinds that `restore` takes.

        Raises:
            InputError: it seems undamaged, or is a batch, or nothing that could guess stands beside the weights.
        """
        adopted = adopt(image)
        if len(adopted.colour) > 1:
            raise InputError(f"the damage of a batch is not guessed; name a task: {', '.join(self.tasks)}")
        values = _as_float(adopted.colour[0], adopted.top)
        found = self._guide("estimator")(np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values)
        if found.clean > 0.5:
            raise InputError(
                f"this image seems undamaged (probability {found.clean:.2f}); to restore it all the same, name a task: "
                + ", ".join(self.tasks)
            )
        known = {task: weight for task, weight in found.weights.items() if task in self.tasks and weight > 0}
        if not known:
            raise InputError(f"the damage seems to be none of {', '.join(self.tasks)}; name a task")
        total = sum(known.values())
        weights = self.task_weights({task: weight / total for task, weight in known.items()})
        return Choice(weights, _strength(1.0 if strength is None else strength), "image")

    @property
    def can_read(self) -> bool:
        """Whether sentences are understood: a reader stands beside the weights, and is sound."""
        return self._has("reader")

    @property
    def can_guess(self) -> bool:
        """Whether damage is guessed: an estimator stands beside the weights, and is sound."""
        return self._has("estimator")

    def _has(self, name: Literal["reader", "estimator"]) -> bool:
        try:
            self._guide(name)
        except InputError:
            return False
        return True

    def _guide(self, name: Literal["reader", "estimator"]) -> Callable[..., Any]:
        try:
            return getattr(self._guides, name)
        except InputError as error:
            raise InputError(f"{error}; or name a task: {', '.join(self.tasks)}") from None

    def asked(
        self, task: Task | None = None, strength: float | None = None, instruction: str | None = None
    ) -> Choice | None:
        """What is asked for, known before there is an image; None: its damage is to be guessed.

        Raises:
            InputError: as `restore`, or nothing that could guess stands beside the weights.
        """
        if task is not None:
            return Choice(self.task_weights(task), _strength(1.0 if strength is None else strength), "task")
        if instruction is not None:
            return self.read(instruction, strength)
        self.check(None, strength)
        return None

    def choose(
        self, image: AnyImage, task: Task | None = None, strength: float | None = None, instruction: str | None = None
    ) -> Choice:
        """What `restore` does to an image: a task wins over an instruction, and that over a guess.

        Raises:
            InputError: as there.
        """
        return self.asked(task, strength, instruction) or self.guess(image, strength)

    def restore(
        self,
        image: AnyImage,
        task: Task | None = None,
        strength: float | None = None,
        tile: int | None = None,
        progress: Progress | None = None,
        instruction: str | None = None,
    ) -> AnyImage:
        """The restored image: of the same type, dtype, size and mode as `image`.

        Alpha passes through untouched and grey stays grey. Values are computed in float32, and the network's correction
        is added to the given ones: where it is zero, they stay what they were, at 16 bits too.

        Args:
            image: one of

                * a numpy array, (H, W) or (H, W, C): uint8 in [0, 255], uint16 in [0, 65535], or float32 or float64 in
                  [0, 1]; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA;
                * a Pillow image; it is restored as it is displayed and returned as it was stored (EXIF orientation);
                  colour profile, EXIF and resolution are in the result's `info`. Palettes, one bit, CMYK and YCbCr give
                  grey or RGB, a transparent colour gives alpha;
                * a torch tensor, (C, H, W) or (N, C, H, W), C as above: uint8, or float32 or float64 in [0, 1]; on any
                  device, to which the result goes back.
            task: what to remove. With neither a task nor an instruction, the damage is guessed (`guess`).
            strength: in [0, 1.5]; scales the task's part of the weights. 0 is the bare backbone, which is no identity.
                None takes the instruction's own, and 1 without one.
            tile: side of the tiles in pixels, at least `min_tile`; None takes `DEFAULT_TILE`, 0 the whole image at
                once.
            progress: called after each tile.
            instruction: what to do in words, at most 1000 characters; a task wins over it.

        Raises:
            InputError: something of this is not as it should be; one line that says what is allowed.
        """
        chosen = self.choose(image, task, strength, instruction)
        adopted = adopt(image)
        rows, columns = (self.spans(length, tile) for length in adopted.colour.shape[1:3])
        network = self._network(tuple(chosen.weights.values()), chosen.strength)
        result = np.empty_like(adopted.colour, order="C")
        with torch.inference_mode():
            for first, band in self._bands(network, adopted, rows, columns, progress):
                part = slice(first, first + band.shape[1])
                result[:, part] = _corrected(adopted.colour[:, part], band, adopted.top)
        return adopted.finish(result)

    def network(self, task: Task, strength: float = 1.0) -> nn.Module:
        """The plain network for a task, a copy on the CPU: float32 (N, 3, H, W) in [0, 1] -> the same, not clipped.

        Raises:
            InputError: as `restore`.
        """
        weights = torch.tensor([list(self.task_weights(task).values())])
        return self._model.fold(weights, _strength(strength)).fold().eval().requires_grad_(False)  # type: ignore[operator]

    @property
    def config(self) -> UShapeConfig:
        """Shape of the backbone."""
        return self._model.backbone.config

    @property
    def min_tile(self) -> int:
        """The smallest side of a tile: an overlap, and the distance after which the network's windows repeat."""
        return OVERLAP + self._period

    def tiles(self, height: int, width: int, tile: int | None = None) -> int:
        """How many tiles an image of `height` x `width` pixels is restored in."""
        return len(self.spans(height, tile)) * len(self.spans(width, tile))

    @property
    def _period(self) -> int:
        """Images moved by this many pixels fall on the same windows and grids."""
        config = self.config
        window, stride = getattr(config, "window", 1), getattr(config, "stride", 1)
        return math.lcm(config.multiple * window, config.stem_stride * stride)

    def spans(self, length: int, tile: int | None = None) -> list[Span]:
        """The tiles along an axis of `length` pixels; `tile` as in `restore`."""
        tile = DEFAULT_TILE if tile is None else tile
        if tile != 0 and tile < self.min_tile:
            raise InputError(f"tile is {tile}; allowed: 0 (none), or at least {self.min_tile} pixels for this network")
        return cut(length, tile or length, OVERLAP, self._period)

    def _network(self, weights: tuple[float, ...], strength: float) -> nn.Module:
        """The backbone with task and branches folded in; the last one is kept."""
        wanted = (weights, strength)
        with self._lock:
            if self._folded is None or self._folded[0] != wanted:
                named = dict(zip(self.tasks, weights, strict=True))
                self._folded = wanted, self.network(named, strength).to(self._device)
            return self._folded[1]

    def _bands(
        self, network: nn.Module, adopted: Adopted, rows: list[Span], columns: list[Span], progress: Progress | None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Finished rows of the correction: the first row, and float32 (N, rows, W, C)."""
        done, total = 0, len(rows) * len(columns)

        def answer(row: Span, column: Span) -> np.ndarray:
            nonlocal done
            piece = adopted.colour[:, row.start : row.stop, column.start : column.stop]
            said = self._correction(network, piece, adopted.top)[:, row.said, column.said]
            done += 1
            if progress is not None:
                progress(done, total)
            return said

        return blend(rows, columns, answer)

    def _correction(self, network: nn.Module, piece: np.ndarray, top: float) -> np.ndarray:
        """What the network adds to (N, H, W, C) values, float32; small images go together through the network."""
        count, height, width, _ = piece.shape
        together = max(1, DEFAULT_TILE**2 // (height * width))
        found = np.empty(piece.shape, np.float32)
        for first in range(0, count, together):
            part = slice(first, first + together)
            given = torch.from_numpy(_as_float(piece[part], top)).permute(0, 3, 1, 2).to(self._device)
            found[part] = (network(given) - given).permute(0, 2, 3, 1).cpu().numpy()
        return found


def _strength(strength: float) -> float:
    try:
        return check_strength(strength)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from None


def _as_float(values: np.ndarray, top: float) -> np.ndarray:
    """Values in [0, top] as contiguous float32 in [0, 1]."""
    return np.ascontiguousarray(values, dtype=np.float32) / np.float32(top)


def _corrected(values: np.ndarray, correction: np.ndarray, top: float) -> np.ndarray:
    """`values` plus `correction` in the type of `values`: clipped to its range, and rounded to integers."""
    if not np.isfinite(correction).all():
        raise InputError("the network's answer is not finite: the weights are damaged, or too strong for this image")
    if values.dtype.kind == "f":
        return np.clip(values + correction, 0, 1)
    return np.rint(np.clip(_as_float(values, top) + correction, 0, 1) * np.float32(top))
