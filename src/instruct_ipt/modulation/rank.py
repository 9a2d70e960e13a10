"""How large a task bias may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RankRule:
    """Rank of the bias of a (rows, cols) matrix.

    Attributes:
        kind: "constant" (the same rank everywhere), "proportional" (a share of the full rank) or "full" (no
            factorisation).
        value: the rank r, an integer >= 1; the share rho in (0, 1]; or None.

    Raises:
        ValueError: unknown kind, or a value that does not fit it.
    """

    kind: Literal["constant", "proportional", "full"]
    value: float | int | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "proportional", "full"):
            raise ValueError(f"rank rule {self.kind!r} is unknown; allowed: constant, proportional, full")
        if self.kind == "full":
            if self.value is not None:
                raise ValueError(f"rank rule full takes no value, got {self.value}")
        elif isinstance(self.value, bool) or not isinstance(self.value, int | float):
            raise ValueError(f"rank rule {self.kind} needs a number, got {self.value!r}")
        elif self.kind == "constant" and (self.value < 1 or self.value != int(self.value)):
            raise ValueError(f"constant rank is {self.value}; allowed: an integer >= 1")
        elif self.kind == "proportional" and not 0 < self.value <= 1:
            raise ValueError(f"proportional rank is {self.value}; allowed: a share in (0, 1]")

    def rank(self, rows: int, cols: int) -> int:
        """Rank for a (rows, cols) matrix, in [1, min(rows, cols)]."""
        full = min(rows, cols)
        if self.kind == "constant":
            return min(int(self.value), full)
        return full if self.kind == "full" else max(1, round(self.value * full))


def matrix_shape(weight_shape: Sequence[int]) -> tuple[int, int]:
    """The (rows, cols) = (out, in / groups * kernel) matrix of a weight: the axes after the first are flattened.

    Raises:
        ValueError: fewer than two axes.
    """
    if len(weight_shape) < 2:
        raise ValueError(f"a weight of shape {tuple(weight_shape)} is no matrix; expected two axes or more")
    return weight_shape[0], math.prod(weight_shape[1:])
