"""Ratios of run times, robust against whatever else the machine does."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Literal

Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what is compared with what.
        median, low, high: of the pairs; the quartiles equal the median where there is one exact value.
        bound: what the median should stay within; None where nothing is promised.
        sense: whether the bound is the most or the least.
        unit: of all numbers.
        pairs: how many there were; 1 for an exact value.
    """

    what: str
    median: float
    low: float
    high: float
    bound: float | None = None
    sense: Literal["<=", ">="] = "<="
    unit: Literal["ratio", "dB"] = "ratio"
    pairs: int = 1

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None without a bound."""
        if self.bound is None:
            return None
        return self.median <= self.bound if self.sense == "<=" else self.median >= self.bound


def exact(what: str, value: float, bound: float | None = None) -> Row:
    """A row whose value does not vary."""
    return Row(what, value, value, value, bound)


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, and say whether it does (only glibc is asked).

    Else each pass over large activations gets fresh pages from the system or not, as the heap happens to lie, and one
    model timed against itself seems to differ by percents. Not for networks that touch different amounts of memory.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    # From malloc.h: no block of its own from the system, never give back the top, grow by 256 MiB.
    settings = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_TOP_PAD": (-2, 2**28)}
    return all(libc.mallopt(ctypes.c_int(key), ctypes.c_int(value)) for key, value in settings.values())


def seconds(work: Work) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(what: str, a: Work, b: Work, bound: float | None = None, pairs: int = 50) -> Row:
    """Time of `a` over time of `b`: both are called in turn, and each pair gives one ratio.

    The order within a pair alternates, so that neither always finds the other's caches. Two pairs before the first are
    not counted.

    Args:
        what: the name of the row.
        a: the work in question.
        b: what it is compared with.
        bound: the most that the median should be.
        pairs: number of pairs that count, >= 2.
    """
    ratios = []
    for index in range(pairs + 2):
        if index % 2:
            below, above = seconds(b), seconds(a)
        else:
            above, below = seconds(a), seconds(b)
        ratios.append(above / below)
    low, _, high = quantiles(ratios[2:], n=4)
    return Row(what, median(ratios[2:]), low, high, bound, pairs=pairs)
