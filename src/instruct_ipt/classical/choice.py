"""A method, and the choice of what is free in it by the validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from instruct_ipt.data.prepared import Pair
from instruct_ipt.evaluation.protocol import psnr


@dataclass(frozen=True)
class Method:
    """A classical method for one task.

    Attributes:
        name: by which tables show it.
        task: what it removes.
        apply: (image, **setting) -> restored image, float (H, W, 3).
        settings: the settings to choose from, at least one.
    """

    name: str
    task: str
    apply: Callable[..., np.ndarray]
    settings: Sequence[Mapping[str, Any]] = ({},)


@dataclass(frozen=True)
class Chosen:
    """A method with the setting that was best on the validation images.

    Attributes:
        method: it.
        setting: of its `settings`.
        validation: mean PSNR in dB that the setting reached there.
    """

    method: Method
    setting: Mapping[str, Any]
    validation: float

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """The restored image, float32 (H, W, 3), not clipped."""
        return np.asarray(self.method.apply(image, **self.setting), dtype=np.float32)


def choose(method: Method, pairs: Iterable[Pair]) -> Chosen:
    """The setting with the highest mean PSNR on some pairs of the method's task; the first of equal ones."""
    pairs = list(pairs)
    reached = [
        float(np.mean([psnr(method.apply(pair.input, **setting), pair.target) for pair in pairs]))
        for setting in method.settings
    ]
    best = int(np.argmax(reached))
    return Chosen(method, method.settings[best], reached[best])
