"""Ratios of run times, robust against whatever else the machine does."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median, quantiles

Work = Callable[[], object]


def seconds(work: Work) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(a: Work, b: Work, pairs: int = 50) -> dict[str, float]:
    """Time of `a` over time of `b`: both are called in turn, and each pair gives one ratio.

    The order within a pair alternates, so that neither always finds the other's caches. Two pairs before the first are
    not counted.

    Args:
        a: the work in question.
        b: what it is compared with.
        pairs: number of pairs that count, >= 2.

    Returns:
        `median`, and the quartiles `low` and `high`, of the pairs' ratios.
    """
    ratios = []
    for index in range(pairs + 2):
        if index % 2:
            below, above = seconds(b), seconds(a)
        else:
            above, below = seconds(a), seconds(b)
        ratios.append(above / below)
    low, _, high = quantiles(ratios[2:], n=4)
    return {"median": median(ratios[2:]), "low": low, "high": high}
