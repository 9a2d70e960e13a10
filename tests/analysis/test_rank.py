"""Rank analysis against numpy's SVD in float64 and against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_ipt.analysis import rank

SHAPES = [(24, 24), (48, 16), (16, 144), (64, 64)]


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


@pytest.mark.parametrize("shape", SHAPES)
def test_cumulative_energy_is_what_the_best_approximation_keeps(shape):
    m = matrix(*shape)
    curve = rank.cumulative_energy(m)
    total = np.sum(m**2)
    kept = [np.sum(rank.truncate(m, r) ** 2) / total for r in range(1, min(shape) + 1)]
    np.testing.assert_allclose(curve, kept, rtol=1e-12)
    lost = [1 - np.sum((m - rank.truncate(m, r)) ** 2) / total for r in range(1, min(shape) + 1)]
    np.testing.assert_allclose(curve, lost, rtol=1e-10)


def test_a_matrix_of_rank_two_is_held_by_two_directions():
    m = matrix(20, 2) @ matrix(2, 30, seed=1)
    curve = rank.cumulative_energy(m)
    assert curve[0] < 1 - 1e-6 and curve[1] == pytest.approx(1)
    np.testing.assert_allclose(rank.truncate(m, 2), m, atol=1e-12)


def test_a_zero_matrix_is_held_by_any_rank():
    assert rank.cumulative_energy(np.zeros((3, 5))).tolist() == [1, 1, 1]


def test_truncating_at_full_rank_gives_the_matrix_back():
    m = matrix(13, 29)
    np.testing.assert_allclose(rank.truncate(m, 13), m, atol=1e-12)


@pytest.mark.parametrize("constant", [1, 2, 4, 8, 16])
def test_the_matched_share_is_the_nearest_of_a_fine_grid(constant):
    share = rank.matching_share(SHAPES, constant)
    target = rank.factor_parameters(SHAPES, rank.constant_ranks(SHAPES, constant))

    def distance(s: float) -> int:
        return abs(rank.factor_parameters(SHAPES, rank.proportional_ranks(SHAPES, s)) - target)

    assert distance(share) <= min(distance(s) for s in np.linspace(1e-4, 1, 4001))


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=8), st.integers(1, 80))
def test_ranks_are_always_possible(shapes, value):
    for ranks in (rank.constant_ranks(shapes, value), rank.proportional_ranks(shapes, min(1.0, value / 80))):
        assert all(1 <= r <= min(shape) for r, shape in zip(ranks, shapes, strict=True))
    # Two factors by hand: r * rows + columns * r.
    assert rank.factor_parameters(shapes, [1] * len(shapes)) == sum(a + b for a, b in shapes)
