"""Intervals and tests for paired differences between two trained networks, sound with three seeds.

Two settings are scored on the same images for several seeds. What varies from one draw to the next is named, each with
the degrees of freedom that its estimate has: the seeds (few), the photographs (crops of one photograph are not
independent) and, where there are any, random draws of a setting. The half-width at tail probability a is

    sqrt(sum_k V_k t_k(a)^2),   V_k: the source's variance of the estimate, t_k(a): Student quantile with its freedom

which is Student's interval when one source stands alone, and keeps its coverage when two of them mix, where the usual
Welch-Satterthwaite freedom does not (two seeds and 24 images: 88 % instead of 95 %). The idea is that of Cochran and
Cox (Experimental Designs, 1950) for two unequal variances: a quantile of its own for each. Noise that is neither of
the seed nor of the image is counted under both: the interval is never too short for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

# Below this tail no p-value is resolved; it is printed as 0.
_SMALLEST = 1e-15


@dataclass(frozen=True)
class Stratum:
    """Paired differences of one task.

    Attributes:
        weight: share of the task's mean in the effect; negative where the mean is subtracted.
        differences: float64 (seeds, images), first setting minus second, the same images for every seed.
        photographs: for each image the photograph it was cut from, named alike in every stratum.
    """

    weight: float
    differences: np.ndarray
    photographs: tuple[str, ...]


@dataclass(frozen=True)
class Component:
    """One source of variation.

    Attributes:
        variance: estimated variance that it gives the estimated effect, in squared units of the effect.
        freedom: degrees of freedom of that estimate, > 0.
    """

    variance: float
    freedom: float


@dataclass(frozen=True)
class Estimate:
    """An estimated effect and the sources of its variation (at least one)."""

    effect: float
    components: tuple[Component, ...]

    def lower(self, tail: float) -> float:
        """The bound that the true effect lies below with probability at most ``tail`` in (0, 0.5)."""
        return self.effect - self._reach(tail)

    def upper(self, tail: float) -> float:
        """The bound that the true effect lies above with probability at most ``tail`` in (0, 0.5)."""
        return self.effect + self._reach(tail)

    def p_above(self, value: float) -> float:
        """One-sided p-value of the hypothesis ``effect <= value``: the tail at which the lower bound meets it."""
        return self._tail(self.effect - value)

    def p_below(self, value: float) -> float:
        """One-sided p-value of the hypothesis ``effect >= value``: the tail at which the upper bound meets it."""
        return self._tail(value - self.effect)

    def _reach(self, tail: float) -> float:
        return math.sqrt(sum(c.variance * stdtrit(c.freedom, tail) ** 2 for c in self.components))

    def _tail(self, distance: float) -> float:
        if distance == 0:
            return 0.5
        if distance < 0:
            return 1.0 - self._tail(-distance)
        if self._reach(_SMALLEST) <= distance:
            return 0.0

        # The reach falls as the tail grows, to 0 at a half.
        def gap(logarithm: float) -> float:
            return self._reach(math.exp(logarithm)) - distance

        return math.exp(brentq(gap, math.log(_SMALLEST), math.log(0.5), xtol=1e-12))


@dataclass(frozen=True)
class BestOf:
    """The effect min_j max_k effect[j][k]: an advantage over the best of several rivals, not chosen beforehand.

    Row j is the rival that the advantage is measured against; column k, where there is more than one, the rival of a
    second advantage that is subtracted (effect[j][k] = a_j - b_k, so that min and max may be exchanged). To lie above
    a value, the effect must do so for *every* j: no correction is needed (intersection-union test, Berger 1982). To
    lie below it, *some* j suffices: the tail is divided by their number (Bonferroni). For k it is the other way round.
    The interval therefore covers the advantage over the truly best rival, whichever looks best in the data.
    """

    estimates: tuple[tuple[Estimate, ...], ...]

    @property
    def effect(self) -> float:
        """The observed effect: against the rivals that look best."""
        return min(max(e.effect for e in row) for row in self.estimates)

    def lower(self, tail: float) -> float:
        """As :meth:`Estimate.lower`."""
        share = tail / len(self._columns)
        return max(min(e.lower(share) for e in column) for column in self._columns)

    def upper(self, tail: float) -> float:
        """As :meth:`Estimate.upper`."""
        share = tail / len(self.estimates)
        return min(max(e.upper(share) for e in row) for row in self.estimates)

    def p_above(self, value: float) -> float:
        """As :meth:`Estimate.p_above`."""
        return min(1.0, len(self._columns) * min(max(e.p_above(value) for e in column) for column in self._columns))

    def p_below(self, value: float) -> float:
        """As :meth:`Estimate.p_below`."""
        return min(1.0, len(self.estimates) * min(max(e.p_below(value) for e in row) for row in self.estimates))

    @property
    def _columns(self) -> list[tuple[Estimate, ...]]:
        return list(zip(*self.estimates, strict=True))


def per_seed(strata: Sequence[Stratum]) -> np.ndarray:
    """The effect of each seed, float64 (seeds,): the weighted sum over tasks of the mean over images."""
    return np.sum([s.weight * s.differences.mean(axis=1) for s in strata], axis=0)


def mean_component(values: np.ndarray) -> Component:
    """Variance of the mean of independent ``values``, float64 (n,), n >= 2: s^2 / n with n - 1 degrees of freedom."""
    return Component(float(np.var(values, ddof=1)) / len(values), len(values) - 1)


def photograph_component(strata: Sequence[Stratum]) -> Component:
    """Variance that the choice of photographs gives the effect.

    Seeds are averaged first. The mean of task t is a regression on a constant, its errors correlated within a
    photograph g, across its crops and across tasks: the bias-reduced cluster-robust variance (Bell and McCaffrey,
    Survey Methodology 28, 2002; "CR2"), which for means has a closed form,

        V = sum_g z_g^2,   z_g = sum_t w_t / (n_t sqrt(1 - n_gt / n_t)) * (sum over images of g of d - mean_t)

    with n_t images of task t, n_gt of them from g. The freedom is theirs too: tr(C)^2 / tr(C C), where C is the
    covariance of z were all images independent. One image per photograph in a single task gives Student's s^2 / n with
    n - 1; tasks with photographs of their own give the stratified variance. A task with images of one photograph only
    adds nothing: they are taken as they are.

    Raises:
        ValueError: no task has images of two photographs.
    """
    strata = [s for s in strata if len(set(s.photographs)) > 1]
    if not strata:
        raise ValueError("no task has images of two photographs")
    names = sorted({name for s in strata for name in s.photographs})
    position = {name: g for g, name in enumerate(names)}
    totals, covariance = np.zeros(len(names)), np.zeros((len(names), len(names)))
    for stratum in strata:
        values = stratum.differences.mean(axis=0)
        member = [position[name] for name in stratum.photographs]
        counts = np.bincount(member, minlength=len(names))
        n = len(values)
        scale = stratum.weight / (n * np.sqrt(1 - counts / n))
        totals += scale * np.bincount(member, values - values.mean(), len(names))
        loads = scale * counts
        covariance += np.diag(scale * loads) - np.outer(loads, loads) / n
    return Component(float(totals @ totals), float(np.trace(covariance) ** 2 / np.sum(covariance**2)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values that keep the family-wise error whatever the dependence (Holm, Scand. J. Stat. 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def two_sided(result: Estimate | BestOf, margin: float) -> float:
    """The smaller p-value of the two tests ``effect <= margin`` and ``effect >= 0`` (margin >= 0), doubled.

    Doubled, the errors of both directions together stay below the level.
    """
    return min(1.0, 2 * min(result.p_above(margin), result.p_below(0.0)))


def verdict(effect: float, margin: float, p_value: float, level: float) -> str:
    """What a p-value of :func:`two_sided`, corrected or not, says at ``level``; NaN says ``inconclusive``.

    ``supported``: the interval at that level lies above the margin; ``contradicted``: it lies below 0.
    """
    if not p_value <= level:
        return "inconclusive"
    # A p-value below a half belongs to one side only: the effect lies above the margin or below 0.
    return "supported" if effect > margin else "contradicted"
