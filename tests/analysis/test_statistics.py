"""Intervals and tests against scipy, against brute force, and against what they promise over a thousand draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import linalg, stats

from instruct_ipt.analysis.statistics import (
    BestOf,
    Component,
    Estimate,
    Stratum,
    holm,
    mean_component,
    per_seed,
    photograph_component,
    two_sided,
    verdict,
)

# The bundled validation images: four crops of one photograph and four procedural images, the same for every task.
BUNDLED = ("china",) * 4 + ("a", "b", "c", "d")
SINGLE = tuple("abcdefgh")
# Standard deviations over seeds, photographs and what is neither, of the differences of one task.
RATIOS = [(1, 0, 0), (1, 0.1, 0.3), (1, 1, 1), (0.3, 1, 1), (0, 1, 0), (0, 0, 1), (5, 1, 1)]
MARGIN, DRAWS = 0.5, 1000


def strata_of(values: np.ndarray, photographs: tuple[str, ...]) -> list[Stratum]:
    """Strata of equal weight from values (tasks, seeds, images)."""
    return [Stratum(1 / len(values), task, photographs) for task in values]


def draw(rng, sds, photographs, seeds=3, tasks=5):
    """(differences (tasks, seeds, images) around an effect of 0, the part that the images alone give)."""
    seed_sd, image_sd, noise_sd = sds
    shape = (tasks, seeds, len(photographs))
    groups = {name: i for i, name in enumerate(dict.fromkeys(photographs))}
    member = [groups[name] for name in photographs]
    # A photograph acts on all tasks alike and on each in its own way; so does a seed.
    seen = rng.normal(size=(1, 1, len(groups))) + rng.normal(size=(tasks, 1, len(groups)))
    images = image_sd * seen[..., member] + 0.3 * image_sd * rng.normal(size=(tasks, 1, len(photographs)))
    of_seeds = seed_sd * (rng.normal(size=(1, seeds, 1)) + 0.5 * rng.normal(size=(tasks, seeds, 1)))
    return images + of_seeds + noise_sd * rng.normal(size=shape), images.mean()


def estimate_of(strata: list[Stratum], images: bool = True) -> Estimate:
    values = per_seed(strata)
    components = (mean_component(values),) + ((photograph_component(strata),) if images else ())
    return Estimate(float(values.mean()), components)


@pytest.mark.parametrize("photographs", [BUNDLED, SINGLE], ids=["crops", "single"])
@pytest.mark.parametrize("sds", RATIOS, ids=str)
def test_three_seeds_cover_the_truth_and_an_absent_effect_is_rarely_called(sds, photographs):
    rng = np.random.default_rng([20240701, RATIOS.index(sds), len(set(photographs))])
    covered, called = 0, {0.0: [], MARGIN: []}
    for _ in range(DRAWS):
        estimate = estimate_of(strata_of(draw(rng, sds, photographs)[0], photographs))
        covered += estimate.lower(0.025) <= 0 <= estimate.upper(0.025)
        for truth, said in called.items():
            shifted = replace(estimate, effect=estimate.effect + truth)
            said.append(verdict(shifted.effect, MARGIN, two_sided(shifted, MARGIN), 0.05))
    assert covered / DRAWS >= 0.93
    for said in called.values():
        assert said.count("supported") / DRAWS <= 0.05 and said.count("contradicted") / DRAWS <= 0.05


@pytest.mark.parametrize("sds", [(1, 1, 1), (0.1, 1, 1), (5, 1, 1)], ids=str)
def test_with_fixed_images_the_truth_is_the_effect_on_those_images(sds):
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(DRAWS):
        values, truth = draw(rng, sds, BUNDLED)
        estimate = estimate_of(strata_of(values, BUNDLED), images=False)
        covered += estimate.lower(0.025) <= truth <= estimate.upper(0.025)
    assert covered / DRAWS >= 0.93


def test_one_seed_covers_what_that_training_gives_on_other_images():
    rng = np.random.default_rng(6)
    for photographs in (BUNDLED, SINGLE):
        covered = 0
        for _ in range(DRAWS):
            strata = strata_of(draw(rng, (0, 1, 1), photographs, seeds=1)[0], photographs)
            estimate = Estimate(float(per_seed(strata)[0]), (photograph_component(strata),))
            covered += estimate.lower(0.025) <= 0 <= estimate.upper(0.025)
        assert covered / DRAWS >= 0.93


@pytest.mark.parametrize("similar", [False, True], ids=["features_fail", "gap_matters"])
def test_choosing_the_best_of_four_equal_rivals_costs_neither_coverage_nor_error(similar):
    """The truth is 0 against each of them; the observed effect against the best one is biased, the interval is not."""
    rng = np.random.default_rng(7)
    covered, said = 0, {0.0: [], MARGIN: []}
    for _ in range(DRAWS):
        ours, *rivals = (draw(rng, (1, 0.2, 0.2), SINGLE, tasks=2)[0] for _ in range(5))
        far = [strata_of(ours - rival, SINGLE) for rival in rivals]
        near = [[]]
        if similar:
            ours, *others = (draw(rng, (1, 0.2, 0.2), SINGLE, tasks=2)[0] for _ in range(5))
            near = [[replace(s, weight=-s.weight) for s in strata_of(ours - rival, SINGLE)] for rival in others]
        result = BestOf(tuple(tuple(estimate_of(a + b) for b in near) for a in far))
        covered += result.lower(0.025) <= 0 <= result.upper(0.025)
        for truth, found in said.items():
            moved = BestOf(tuple(tuple(replace(e, effect=e.effect + truth) for e in row) for row in result.estimates))
            found.append(verdict(moved.effect, MARGIN, two_sided(moved, MARGIN), 0.05))
    assert covered / DRAWS >= 0.93
    for found in said.values():
        assert found.count("supported") / DRAWS <= 0.05 and found.count("contradicted") / DRAWS <= 0.05


def test_a_clear_effect_is_called():
    rng = np.random.default_rng(8)
    said = []
    for _ in range(200):
        estimate = estimate_of(strata_of(3 + draw(rng, (0.1, 0.3, 0.3), SINGLE)[0], SINGLE))
        mirrored = replace(estimate, effect=-estimate.effect)
        said.append([verdict(e.effect, MARGIN, two_sided(e, MARGIN), 0.05) for e in (estimate, mirrored)])
    assert np.mean([pair == ["supported", "contradicted"] for pair in said]) >= 0.95


# ---- independent references -----------------------------------------------------------------------------------------


def test_seeds_alone_are_students_t():
    values = np.array([0.31, 0.42, 0.18])
    strata = strata_of(values[None, :, None] + np.zeros((5, 3, 8)), SINGLE)
    np.testing.assert_allclose(per_seed(strata), values)
    estimate = estimate_of(strata)
    reference = stats.ttest_1samp(values, 0.1, alternative="greater")
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert estimate.lower(0.025) == pytest.approx(interval.low) and estimate.upper(0.025) == pytest.approx(
        interval.high
    )
    assert estimate.p_above(0.1) == pytest.approx(reference.pvalue, rel=1e-9)
    assert estimate.p_below(0.1) == pytest.approx(1 - reference.pvalue, rel=1e-9)
    assert two_sided(estimate, 0.0) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)


def test_three_seeds_by_hand():
    # Means 1, 2, 3: mean 2, s^2 = 1, V = 1/3; the 97.5 % quantile at two degrees of freedom is 4.302653.
    estimate = Estimate(2.0, (mean_component(np.array([1.0, 2.0, 3.0])),))
    assert estimate.lower(0.025) == pytest.approx(2 - 4.302653 / 3**0.5, abs=1e-6)
    # Two sources: 0.04 * 4.302653^2 + 0.01 * 2.776445^2 = 0.817599; its root is 0.904212.
    mixed = Estimate(1.0, (Component(0.04, 2), Component(0.01, 4)))
    assert mixed.upper(0.025) == pytest.approx(1.904212, abs=1e-6)


def test_photographs_of_one_task_are_students_t():
    values = np.random.default_rng(1).normal(0.2, 1, size=(1, 9))
    found = photograph_component([Stratum(1.0, values, tuple("abcdefghi"))])
    assert found.freedom == pytest.approx(8) and found.variance**0.5 == pytest.approx(stats.sem(values[0]))


def test_equal_crops_of_the_same_photographs_are_students_t_over_photographs():
    rng = np.random.default_rng(2)
    names = tuple(name for name in "abcde" for _ in range(3))
    values = rng.normal(size=(4, 2, 15))
    found = photograph_component(strata_of(values, names))
    of_photographs = values.mean(axis=(0, 1)).reshape(5, 3).mean(axis=1)
    assert found.freedom == pytest.approx(4) and found.variance**0.5 == pytest.approx(stats.sem(of_photographs))


def test_tasks_with_photographs_of_their_own_give_the_stratified_variance():
    rng = np.random.default_rng(3)
    sizes, weights = (4, 7, 12), (0.5, 0.3, -0.2)
    values = [rng.normal(size=(1, n)) for n in sizes]
    strata = [
        Stratum(w, v, tuple(f"{t}{i}" for i in range(v.shape[1])))
        for t, (w, v) in enumerate(zip(weights, values, strict=True))
    ]
    found = photograph_component(strata)
    parts = [w**2 / v.size for w, v in zip(weights, values, strict=True)]
    assert found.variance == pytest.approx(sum(p * np.var(v, ddof=1) for p, v in zip(parts, values, strict=True)))
    # Satterthwaite for equal variances in all tasks.
    assert found.freedom == pytest.approx(
        sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, sizes, strict=True))
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_is_bell_and_mccaffreys_with_full_matrices(seed):
    rng = np.random.default_rng(seed)
    strata = []
    for weight in (0.4, 0.35, -0.25):
        names = ["p0", "p1", *(f"p{k}" for k in rng.integers(0, 6, size=rng.integers(3, 9)))]
        strata.append(Stratum(weight, rng.normal(size=(1, len(names))), tuple(names)))
    y = np.concatenate([s.differences[0] for s in strata])
    cluster = np.array([name for s in strata for name in s.photographs])
    design = linalg.block_diag(*[np.ones((s.differences.shape[1], 1)) for s in strata])
    inverse = np.linalg.inv(design.T @ design)
    residual_maker = np.eye(len(y)) - design @ inverse @ design.T
    contrast = np.array([s.weight for s in strata])
    rows = []
    for name in np.unique(cluster):
        own = cluster == name
        values, vectors = np.linalg.eigh(residual_maker[np.ix_(own, own)])
        adjust = vectors @ np.diag(values**-0.5) @ vectors.T
        rows.append(contrast @ inverse @ design[own].T @ adjust @ residual_maker[own])
    rows = np.array(rows)
    covariance = rows @ rows.T
    found = photograph_component(strata)
    assert found.variance == pytest.approx(np.sum((rows @ y) ** 2))
    assert found.freedom == pytest.approx(np.trace(covariance) ** 2 / np.trace(covariance @ covariance))


def test_a_task_of_one_photograph_adds_nothing_and_alone_is_refused():
    rng = np.random.default_rng(4)
    wide = Stratum(0.5, rng.normal(size=(3, 4)), tuple("abcd"))
    narrow = Stratum(0.5, rng.normal(size=(3, 4)), ("clip",) * 4)
    assert photograph_component([wide, narrow]) == photograph_component([wide])
    with pytest.raises(ValueError, match="two photographs"):
        photograph_component([narrow])


def test_p_value_and_bound_are_two_sides_of_one_thing():
    estimate = Estimate(0.7, (Component(0.04, 2), Component(0.09, 5.5), Component(0.01, 1)))
    grid = BestOf(
        tuple(
            tuple(Estimate(a - b, (Component(0.02 + 0.1 * abs(a), 2), Component(0.01, 4))) for b in (0.1, 0.2))
            for a in (0.9, 1.0, 1.4)
        )
    )
    for result in (estimate, grid):
        for tail in (1e-9, 1e-4, 0.025, 0.2):
            assert result.p_above(result.lower(tail)) == pytest.approx(tail, rel=1e-6)
            assert result.p_below(result.upper(tail)) == pytest.approx(tail, rel=1e-6)
    assert estimate.p_above(0.7) == 0.5 and estimate.p_above(0.9) == pytest.approx(1 - estimate.p_above(0.5))


def test_the_best_rival_by_hand():
    def advantage(effect, variance):
        return Estimate(effect, (Component(variance, 2),))

    near, far = advantage(0.5, 0.01), advantage(0.8, 0.25)
    result = BestOf(((near,), (far,)))
    assert result.effect == 0.5
    # Above a value only if both are: the wide interval of the weaker rival decides.
    assert result.lower(0.025) == far.lower(0.025) and result.p_above(0.1) == far.p_above(0.1)
    assert result.upper(0.025) == near.upper(0.0125) and result.p_below(1.0) == pytest.approx(2 * near.p_below(1.0))
    assert BestOf(((near,),)).lower(0.1) == near.lower(0.1) and BestOf(((near,),)).upper(0.1) == near.upper(0.1)


def test_scores_that_never_differ_leave_no_doubt():
    certain = Estimate(0.2, (Component(0.0, 2),))
    assert certain.lower(0.025) == certain.upper(0.025) == 0.2
    assert certain.p_above(0.1) == 0 and certain.p_above(0.3) == 1 and certain.p_above(0.2) == 0.5


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04, and never falling.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([0.03]) == [0.03] and holm([]) == []


def test_holm_keeps_the_error_of_a_whole_family_and_rejects_what_bonferroni_does():
    rng = np.random.default_rng(9)
    families = [stats.norm.sf(rng.normal(size=6) + 0.5 * rng.normal()) for _ in range(500)]
    for p in families:
        adjusted = np.array(holm(p))
        assert np.all(adjusted <= np.minimum(1, 6 * p) + 1e-12) and np.all(adjusted >= p)
        assert min(adjusted) == pytest.approx(min(1, 6 * min(p)))
    assert np.mean([min(holm(rng.random(6))) <= 0.05 for _ in range(2000)]) <= 0.065


@pytest.mark.parametrize(
    ("effect", "p", "said"),
    [
        (0.3, 0.04, "supported"),
        (-0.01, 0.04, "contradicted"),
        (0.3, 0.06, "inconclusive"),
        (0.3, np.nan, "inconclusive"),
    ],
)
def test_verdicts(effect, p, said):
    assert verdict(effect, 0.1, p, 0.05) == said
