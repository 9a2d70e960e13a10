"""Rank rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instruct_ipt.modulation import RankRule, matrix_shape


@pytest.mark.parametrize(
    ("rule", "rows", "cols", "rank"),
    [
        (RankRule("constant", 4), 24, 72, 4),
        (RankRule("constant", 4), 24, 3, 3),
        (RankRule("proportional", 0.25), 24, 72, 6),
        (RankRule("proportional", 0.01), 24, 72, 1),
        (RankRule("proportional", 1.0), 8, 5, 5),
        (RankRule("full"), 8, 5, 5),
    ],
)
def test_rank(rule: RankRule, rows: int, cols: int, rank: int) -> None:
    assert rule.rank(rows, cols) == rank


@given(st.floats(0.001, 1.0), st.integers(1, 500), st.integers(1, 500))
def test_proportional_rank_stays_in_range(rho: float, rows: int, cols: int) -> None:
    assert 1 <= RankRule("proportional", rho).rank(rows, cols) <= min(rows, cols)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("constant", 0),
        ("constant", 1.5),
        ("constant", None),
        ("constant", True),
        ("proportional", 0.0),
        ("proportional", 1.1),
        ("proportional", "4"),
        ("proportional", float("nan")),
        ("full", 3),
        ("some", 1),
    ],
)
def test_wrong_rules_are_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match="rank"):
        RankRule(kind, value)


def test_matrix_shape_flattens_the_kernel() -> None:
    assert matrix_shape((8, 4, 3, 5)) == (8, 60)
    assert matrix_shape((8, 4)) == (8, 4)
    with pytest.raises(ValueError, match="no matrix"):
        matrix_shape((8,))
