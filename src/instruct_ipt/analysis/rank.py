"""PCA rank analysis: how few singular directions hold a task bias, and which rank rule spends parameters best.

The singular values s_i of a bias B (flattened to a matrix) give its principal components; the cumulative energy at
rank r is sum_{i<=r} s_i^2 / sum_i s_i^2 (the share of the Frobenius norm squared that the best rank-r approximation
keeps, Eckart and Young 1936).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Delta:
    """One task's increment to one weight.

    Attributes:
        source: ``bias`` (synchronous training) or ``expert`` (fine-tuned minus shared).
        task, group, layer: whose it is; ``layer`` is the parameter's name.
        stage_depth: U-Net level, 0 = the finest.
        matrix: float64 (rows, columns), the increment on the flattened weight.
    """

    source: str
    task: str
    group: str
    layer: str
    stage_depth: int
    matrix: np.ndarray

    @property
    def full_rank(self) -> int:
        """The largest rank the matrix can have."""
        return min(self.matrix.shape)


def cumulative_energy(matrix: np.ndarray) -> np.ndarray:
    """Cumulative energy at rank 1, 2, ..., min(matrix.shape); float64, non-decreasing, ending at 1.

    A zero matrix is held by any rank: all ones.
    """
    energy = np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2
    total = energy.sum()
    return np.ones_like(energy) if total == 0 else np.minimum(np.cumsum(energy) / total, 1.0)


def truncate(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The best rank-``rank`` approximation of ``matrix`` in the Frobenius norm, same shape, float64."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def constant_ranks(shapes: Sequence[tuple[int, int]], rank: int) -> list[int]:
    """The same rank for every matrix, capped by what the matrix allows."""
    return [min(rank, *shape) for shape in shapes]


def proportional_ranks(shapes: Sequence[tuple[int, int]], share: float) -> list[int]:
    """A rank proportional to the smaller side of each matrix, at least 1."""
    return [max(1, round(share * min(shape))) for shape in shapes]


def factor_parameters(shapes: Sequence[tuple[int, int]], ranks: Sequence[int]) -> int:
    """Parameters of the two factors of every matrix at the given ranks."""
    return sum(rank * (rows + columns) for (rows, columns), rank in zip(shapes, ranks, strict=True))


def matching_share(shapes: Sequence[tuple[int, int]], rank: int) -> float:
    """The proportional share whose total parameters come nearest to those of a constant ``rank``.

    Ranks change where share * side crosses a half; one share between each two such places is tried, which is all.
    """
    target = factor_parameters(shapes, constant_ranks(shapes, rank))
    sides = {min(shape) for shape in shapes}
    crossings = sorted({0.0, 1.0} | {(k - 0.5) / side for side in sides for k in range(1, side + 1)})
    candidates = [(low + high) / 2 for low, high in itertools.pairwise(crossings)]
    cost = {share: factor_parameters(shapes, proportional_ranks(shapes, share)) for share in candidates}
    return min(candidates, key=lambda share: (abs(cost[share] - target), share))


def energy_kept(curves: Mapping[str, np.ndarray], ranks: Mapping[str, int]) -> dict[str, float]:
    """Energy kept in each layer when it is cut to its rank (``curves`` as :func:`cumulative_energy`)."""
    return {layer: float(curve[min(ranks[layer], len(curve)) - 1]) for layer, curve in curves.items()}
