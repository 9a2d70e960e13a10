"""What to remove, and how much of it: named, said in a sentence, or guessed from the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from instruct_ipt.errors import InputError
from instruct_ipt.instruction import Estimate, Estimator, Reader

INSTRUCTION, ESTIMATOR = "instruction", "estimator"
"""Folders of the reader and the estimator, in a release as in `models`."""


@dataclass(frozen=True)
class Choice:
    """What is done to an image.

    Attributes:
        weights: task -> weight, convex.
        strength: in [0, 1.5].
        source: what it follows from.
    """

    weights: Mapping[str, float]
    strength: float
    source: Literal["task", "instruction", "image"]

    def __str__(self) -> str:
        named = " ".join(f"{task} {weight:.2f}" for task, weight in self.weights.items() if weight > 0)
        return f"{named}, strength {self.strength:g}"


def parse_task(text: str) -> str | dict[str, float]:
    """What a person types for a task: `derain`, or weights, `derain=0.7,denoise=0.3`.

    Raises:
        InputError: a part of it is no NAME=WEIGHT. Whether the names are known is not looked at.
    """
    if "=" not in text:
        return text
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise InputError(f"task {text:.100}: {part!r:.60} is not NAME=WEIGHT, as in derain=0.7") from None
    return found


class Read(Protocol):
    """What a sentence asks for; `instruction.Reading` is one."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Task -> weight, convex."""

    @property
    def strength(self) -> float:
        """In [0, 1.5]."""


class Guides:
    """Reader and estimator, each loaded when it is first asked for.

    Args:
        folder: where `instruction/` and `estimator/` stand; None: nowhere.
        reader: in the place of the one in `folder`.
        estimator: likewise; takes float (H, W, 3) in [0, 1].
    """

    def __init__(
        self,
        folder: Path | None = None,
        reader: Callable[[str], Read] | None = None,
        estimator: Callable[[np.ndarray], Estimate] | None = None,
    ) -> None:
        self._folder, self._reader, self._estimator = folder, reader, estimator

    @classmethod
    def beside(cls, weights: Path) -> Guides:
        """Those of a release, of `models/modulation`, or of `models`."""
        for place in (weights, weights.parent):
            if (place / INSTRUCTION).is_dir() or (place / ESTIMATOR).is_dir():
                return cls(place)
        return cls()

    @cached_property
    def reader(self) -> Callable[[str], Read]:
        """Sentence -> what it asks for.

        Raises:
            InputError: there is none, or it is damaged.
        """
        if self._reader is None and self._folder is None:
            raise InputError(
                "no reader of instructions stands beside the weights; `ipt instruction` makes one: name a task"
            )
        return self._reader or Reader.load(self._folder / INSTRUCTION)  # type: ignore[operator]

    @cached_property
    def estimator(self) -> Callable[[np.ndarray], Estimate]:
        """Image -> what seems to have damaged it.

        Raises:
            InputError: there is none, or it is damaged.
        """
        if self._estimator is None and self._folder is None:
            raise InputError("no estimator of damage stands beside the weights (`ipt estimator` makes it)")
        return self._estimator or Estimator.load(self._folder / ESTIMATOR)  # type: ignore[operator]
