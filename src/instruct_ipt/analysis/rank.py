"""PCA rank analysis: how few singular directions hold a task bias, and which rank rule spends parameters best.

The singular values s_i of a bias B (flattened to a matrix) give its principal components; the cumulative energy at
rank r is sum_{i<=r} s_i^2 / sum_i s_i^2 (the share of the Frobenius norm squared that the best rank-r approximation
keeps, Eckart and Young 1936).

The decomposition is always the exact one: it costs nothing here. At `base`, all 335 matrices of the network, for one
task, take 1.3 times as long as one forward-backward pass of one 128 px patch (2.5 times one of 96 px at `small`), while
a randomised SVD to rank 32 (scikit-learn) takes 3 times (`base`) to 14 times (`small`) as long as the exact one.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from instruct_ipt.modulation import RankRule, matrix_shape


@dataclass(frozen=True)
class Decomposition:
    """Singular value decomposition of a bias: ``left @ diag(values) @ right`` is the matrix; made once, used for all.

    Attributes:
        left: float64 (rows, k), orthonormal columns, k = min(rows, columns).
        values: float64 (k,), singular values, descending.
        right: float64 (k, columns), orthonormal rows.
    """

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, matrix: np.ndarray) -> Decomposition:
        """Decompose ``matrix`` (rows, columns) in float64."""
        return cls(*np.linalg.svd(matrix.astype(np.float64), full_matrices=False))

    @property
    def full_rank(self) -> int:
        """The largest rank the matrix can have."""
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix."""
        return len(self.left), self.right.shape[1]

    def cumulative_energy(self) -> np.ndarray:
        """Cumulative energy at rank 1, 2, ..., k; float64 (k,), non-decreasing, ending at 1.

        A zero matrix is held by any rank: all ones.
        """
        energy = self.values**2
        total = energy.sum()
        return np.ones_like(energy) if total == 0 else np.minimum(np.cumsum(energy) / total, 1.0)

    def effective_rank(self) -> float:
        """exp(H(p)), H the entropy of p_i = s_i / sum_j s_j (Roy and Vetterli 2007, EUSIPCO); in [1, k].

        It is k when all singular values are equal and 1 when there is one. A zero matrix, for which they do not define
        it, has 0.
        """
        total = self.values.sum()
        if total == 0:
            return 0.0
        shares = self.values[self.values > 0] / total
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def rank_at(self, energy: float) -> int:
        """The least rank whose cumulative energy reaches ``energy`` in (0, 1]; 0 for a zero matrix."""
        if not self.values.any():
            return 0
        return int(np.searchsorted(self.cumulative_energy(), energy)) + 1

    def truncate(self, rank: int) -> np.ndarray:
        """The best rank-``rank`` approximation in the Frobenius norm, float64 (rows, columns)."""
        return (self.left[:, :rank] * self.values[:rank]) @ self.right[:rank]


@dataclass(frozen=True)
class Delta:
    """One task's increment to one weight.

    Attributes:
        source: ``bias`` (synchronous training) or ``expert`` (fine-tuned minus shared).
        task, group, layer: whose it is; ``layer`` is the parameter's name.
        stage_depth: U-Net level, 0 = the finest.
        svd: of the increment on the flattened weight (out, in / groups * kernel).
    """

    source: str
    task: str
    group: str
    layer: str
    stage_depth: int
    svd: Decomposition


def is_matrix(weight: Tensor) -> bool:
    """Whether a rank rule can cut the weight: matrices and dense kernels; 1-D and depthwise ones stay whole."""
    depthwise = weight.ndim > 2 and weight.shape[1] == 1
    return weight.ndim > 1 and not depthwise and min(matrix_shape(weight.shape)) > 1


def decompose(increment: Tensor) -> Decomposition:
    """Decompose an increment in the shape of its weight, (out, ...); a kernel is flattened to (out, in * kernel)."""
    return Decomposition.of(increment.detach().double().flatten(1).cpu().numpy())


@torch.no_grad()
def with_increments(base: nn.Module, increments: Mapping[str, Tensor], cut: Mapping[str, np.ndarray]) -> nn.Module:
    """A copy of ``base`` with increments added to its parameters.

    Args:
        base: left unchanged.
        increments: parameter name -> increment in the shape of the parameter.
        cut: parameter name -> matrix (rows, columns) that stands in for the increment of that name.
    """
    model = copy.deepcopy(base)
    for name, weight in model.named_parameters():
        if name in cut:
            weight += torch.from_numpy(cut[name]).view(weight.shape).to(weight)
        elif name in increments:
            weight += increments[name]
    return model


def ranks_of(shapes: Sequence[tuple[int, int]], rule: RankRule) -> list[int]:
    """The rank that ``rule`` gives each matrix."""
    return [rule.rank(*shape) for shape in shapes]


def factor_parameters(shapes: Sequence[tuple[int, int]], ranks: Sequence[int]) -> int:
    """Parameters of the two factors of every matrix at the given ranks, for one task."""
    return sum(rank * (rows + columns) for (rows, columns), rank in zip(shapes, ranks, strict=True))


def matching_share(shapes: Sequence[tuple[int, int]], rank: int) -> float:
    """The proportional share whose total parameters come nearest to those of a constant ``rank``.

    Ranks change where share * side crosses a half; one share between each two such places is tried, which is all.
    """
    target = factor_parameters(shapes, ranks_of(shapes, RankRule("constant", rank)))
    sides = {min(shape) for shape in shapes}
    crossings = sorted({0.0, 1.0} | {(k - 0.5) / side for side in sides for k in range(1, side + 1)})
    candidates = [(low + high) / 2 for low, high in itertools.pairwise(crossings)]
    cost = {share: factor_parameters(shapes, ranks_of(shapes, RankRule("proportional", share))) for share in candidates}
    return min(candidates, key=lambda share: (abs(cost[share] - target), share))


def matched_rules(shapes: Sequence[tuple[int, int]], constants: Sequence[int]) -> list[RankRule]:
    """``full``, then each constant rank and the proportional rule whose total parameters come nearest to it.

    Ranks are whole numbers, so that they are not always equal: from `quick` to `base` they differ by up to 9 %, and the
    tables give both counts.
    """
    pairs = [[RankRule("constant", rank), RankRule("proportional", matching_share(shapes, rank))] for rank in constants]
    return [RankRule("full"), *itertools.chain.from_iterable(pairs)]
