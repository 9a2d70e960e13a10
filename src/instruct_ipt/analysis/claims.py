"""The claims of the paper, each with an effect, an interval and a verdict that the scores give (docs/claims.md).

What is compared stands here; by how much it has to differ stands in `params.yaml`, section `claims`. Both stand before
a run begins.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

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
from instruct_ipt.errors import InputError

# Feature adaptations that are given as many parameters as the low-rank biases.
SIZE_MATCHED = ("film", "prompt", "gate", "adapter")
PER_IMAGE = ("profile", "study", "setting", "seed", "task", "image", "psnr", "ssim")
SUMMARY = ("profile", "study", "setting", "seed", "task", "params_added")

_METRIC = {"dB": "psnr", "SSIM": "ssim"}
_MODULATION = "five-constant"


@dataclass(frozen=True)
class Term:
    """Mean score of setting ``first`` minus that of ``second`` in one study, times ``weight``."""

    study: str
    first: str
    second: str
    weight: float = 1.0


Contrast = tuple[Term, ...]


@dataclass(frozen=True)
class Plan:
    """What a claim compares.

    Attributes:
        contrasts: as :class:`~instruct_ipt.analysis.statistics.BestOf`: rows are rivals, columns those of a second
            advantage that is subtracted; the effect of a contrast is the sum of its terms.
        rows, columns: what to call the rivals.
        drawn: whether the terms are random draws of one setting, so that how far they differ counts as variation.
    """

    contrasts: tuple[tuple[Contrast, ...], ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ("",)
    drawn: bool = False

    @property
    def terms(self) -> list[Term]:
        """All terms of all contrasts."""
        return [term for row in self.contrasts for contrast in row for term in contrast]


@dataclass(frozen=True)
class Row:
    """One line of `results/claims.csv`.

    Attributes:
        claim, statement: its name, and the sentence that is judged.
        effect, unit: the estimate; NaN where nothing can be estimated.
        ci_low, ci_high: interval at the level `claims.confidence`, not corrected for the number of claims.
        n_images: degraded images scored per seed; one photograph damaged in five ways counts five times.
        n_seeds: seeds that every setting of the claim has.
        verdict: supported, contradicted or inconclusive.
        margin: the effect that had to be exceeded (for `cost_is_humble`: not exceeded), in ``unit``.
        p_value, p_adjusted: two-sided, before and after the correction over all tested claims.
        interval: what the interval allows for.
        n_photographs: photographs (or sequences) that the images were cut from.
        note: what is missing, or which rivals were the best.
    """

    claim: str
    statement: str
    effect: float
    unit: str
    ci_low: float
    ci_high: float
    n_images: int
    n_seeds: int
    verdict: str
    margin: float
    p_value: float
    p_adjusted: float
    interval: str
    n_photographs: int
    note: str


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row))


class _Missing(Exception):
    """A claim cannot be estimated from the settings there are; the message says why."""


def photograph_of(image: str) -> str:
    """The photograph, or the video sequence, that a validation image was cut from: what is independent of the others.

    `prepare` names crops ``<photograph>-<k>``, k = 0, 1, ... without leading zeros; frames of a sequence end in six to
    eight digits (GoPro, REDS). A procedural image is named ``validation-leaves-<nnn>``, each a scene of its own.
    """
    if re.fullmatch(r"validation-leaves-\d+", image):
        return image
    return re.sub(r"[-_]\d{6,8}$", "", re.sub(r"-(0|[1-9]\d*)$", "", image))


class Scores:
    """The scores of one profile, as pairs of settings are compared.

    Args:
        table: `ablations/per_image.csv`, columns :data:`PER_IMAGE` (others are ignored).
        profile: the profile whose rows count.

    Raises:
        InputError: a column is missing, a score is not finite, or an image was scored twice.
    """

    def __init__(self, table: pd.DataFrame, profile: str) -> None:
        table = _of_profile(table, PER_IMAGE, "per_image.csv", profile)
        metrics = list(_METRIC.values())
        table = table.assign(**{metric: pd.to_numeric(table[metric], errors="coerce") for metric in metrics})
        keys = ["study", "setting", "seed", "task", "image"]
        problems = {
            "is scored twice": table.duplicated(keys),
            "has no finite score": ~np.isfinite(table[metrics]).all(axis=1),
        }
        for problem, rows in problems.items():
            if rows.any():
                where = "/".join(str(value) for value in table.loc[rows, keys].iloc[0])
                raise InputError(f"ablations/per_image.csv: {where} {problem}; `dvc repro --force ablations` renews it")
        self._cells = {names: cell for names, cell in table.groupby(["study", "setting"])}

    def settings(self, study: str) -> list[str]:
        """Names of the settings that a study has, sorted."""
        return sorted(setting for name, setting in self._cells if name == study)

    def seeds(self, terms: Iterable[Term]) -> tuple[list[int], list[int]]:
        """(seeds that all settings of the terms have, seeds that only some have), sorted."""
        found = [set(self._cells[t.study, name]["seed"]) for t in terms for name in (t.first, t.second)]
        common = set.intersection(*found)
        return sorted(common), sorted(set.union(*found) - common)

    def images(self, contrast: Contrast) -> set[tuple[str, str, str]]:
        """(first setting, task, image) of everything that a contrast compares."""
        cells = [(t.first, self._cells[t.study, t.first]) for t in contrast]
        return {(first, *key) for first, cell in cells for key in zip(cell["task"], cell["image"], strict=True)}

    def strata(self, term: Term, seeds: Sequence[int], metric: str) -> list[Stratum]:
        """The paired differences of a term, one stratum per task, tasks weighing equally.

        Raises:
            InputError: two settings, or two seeds of one, were not scored on the same images.
        """
        first, second = (self._grid(term.study, name, seeds, metric) for name in (term.first, term.second))
        if not first.index.equals(second.index):
            odd = "/".join(first.index.symmetric_difference(second.index)[0])
            raise _unpaired(term.study, f"{term.first} and {term.second}", odd)
        difference = first - second
        tasks = difference.index.unique("task")
        found = []
        for task in tasks:
            part = difference.loc[task]
            photographs = tuple(photograph_of(image) for image in part.index)
            found.append(Stratum(term.weight / len(tasks), part.to_numpy().T, photographs))
        return found

    def _grid(self, study: str, setting: str, seeds: Sequence[int], metric: str) -> pd.DataFrame:
        """Scores by (task, image) and seed."""
        cell = self._cells[study, setting]
        grid = cell[cell["seed"].isin(seeds)].pivot(index=["task", "image"], columns="seed", values=metric)
        if grid.isna().any(axis=None):
            raise _unpaired(study, f"the seeds of {setting}", "/".join(grid.index[grid.isna().any(axis=1)][0]))
        return grid


# ---- what is compared -----------------------------------------------------------------------------------------------


def _features_fail(scores: Scores) -> Plan:
    rivals = _rivals(scores, "five")
    return Plan(tuple((_advantage("five", rival),) for rival in rivals), tuple(rivals))


def _gap_matters(scores: Scores) -> Plan:
    similar = _rivals(scores, "noise")
    rivals = [rival for rival in _rivals(scores, "five") if rival in similar]
    if not rivals:
        raise _Missing("no size-matched feature adaptation stands on both task sets")
    grid = tuple(tuple(_advantage("five", far) + _advantage("noise", near, -1.0) for near in rivals) for far in rivals)
    return Plan(grid, tuple(f"{r} on five tasks" for r in rivals), tuple(f"{r} on noise levels" for r in rivals))


def _sensitive_beats_random(scores: Scores) -> Plan:
    _need(scores, "sensitivity", "selected")
    draws = [name for name in scores.settings("sensitivity") if name.startswith("random-")]
    if not draws:
        raise _Missing("study sensitivity has no setting random-<k>")
    contrast = tuple(Term("sensitivity", "selected", draw, 1 / len(draws)) for draw in draws)
    return Plan(((contrast,),), (", ".join(draws),), drawn=True)


def _pair(study: str, first: str, second: str) -> Callable[[Scores], Plan]:
    def plan(scores: Scores) -> Plan:
        _need(scores, study, first, second)
        return Plan((((Term(study, first, second),),),), (second,))

    return plan


def _rivals(scores: Scores, tasks: str) -> list[str]:
    """The size-matched feature adaptations that stand beside modulation on a task set."""
    _need(scores, "adaptation", f"{tasks}-constant")
    present = scores.settings("adaptation")
    rivals = [rival for rival in SIZE_MATCHED if f"{tasks}-{rival}" in present]
    if not rivals:
        wanted = ", ".join(f"{tasks}-{rival}" for rival in SIZE_MATCHED)
        raise _Missing(f"study adaptation has none of {wanted}")
    return rivals


def _advantage(tasks: str, rival: str, weight: float = 1.0) -> Contrast:
    return (Term("adaptation", f"{tasks}-constant", f"{tasks}-{rival}", weight),)


def _need(scores: Scores, study: str, *settings: str) -> None:
    missing = [name for name in settings if name not in scores.settings(study)]
    if missing:
        raise _Missing(f"study {study} has no {' and no '.join(missing)}")


# Claim -> (the sentence that is judged, what it compares), in the order of the table.
PAIRED: dict[str, tuple[str, Callable[[Scores], Plan]]] = {
    "features_fail": (
        "On five dissimilar tasks weight modulation beats the best feature adaptation of equal size",
        _features_fail,
    ),
    "gap_matters": (
        "The advantage of weight modulation over the best feature adaptation of equal size is larger on five "
        "dissimilar tasks than on three noise levels",
        _gap_matters,
    ),
    "sensitive_beats_random": (
        "Biases on the weights that the sensitivity search selects beat biases on as many randomly drawn weights",
        _sensitive_beats_random,
    ),
    "constant_beats_proportional": (
        "A constant rank beats a proportional rank of equal size",
        _pair("adaptation", _MODULATION, "five-proportional"),
    ),
    "synchronous_beats_frozen": (
        "Training backbone and biases together beats training biases on a frozen backbone",
        _pair("strategy", "synchronous", "frozen"),
    ),
    "synchronous_beats_two_stage": (
        "Training backbone and biases together beats training them in two stages",
        _pair("strategy", "synchronous", "two_stage"),
    ),
    "modulated_denoiser": (
        "A diffusion denoiser with weight modulation fills in better than one with feature adaptation of equal size",
        _pair("diffusion", "synchronous", "film"),
    ),
}
COST = "cost_is_humble"
_COST_STATEMENT = "Weight modulation adds at most {bar} per task"
_COST_UNIT = {"%": "% of the backbone's parameters", "parameters": "parameters"}


# ---- judging --------------------------------------------------------------------------------------------------------


def judge(per_image: pd.DataFrame, summary: pd.DataFrame, profile: str, rules: Any) -> pd.DataFrame:
    """The table of claims, columns :data:`COLUMNS`.

    Args:
        per_image: `ablations/per_image.csv`; the order of its rows does not matter.
        summary: `ablations/summary.csv`, with ``params_total`` if the cost is to be judged.
        profile: the profile whose rows count.
        rules: the `claims` section of the parameters.

    Raises:
        InputError: a table lacks a column, or holds what cannot be paired. Settings that were not run are no error:
            their claims are inconclusive, and the note says what is missing.
    """
    scores = Scores(per_image, profile)
    rows = _decided([_paired(claim, scores, rules) for claim in PAIRED], rules)
    rows.append(_cost(summary, profile, rules.cost_is_humble))
    return pd.DataFrame([astuple(row) for row in rows], columns=list(COLUMNS))


def _decided(rows: Sequence[Row], rules: Any) -> list[Row]:
    """The rows with adjusted p-values and verdicts; the family is what has a p-value."""
    tested = [row for row in rows if not np.isnan(row.p_value)]
    p_values = [row.p_value for row in tested]
    adjusted = dict(zip((row.claim for row in tested), _CORRECTION[rules.correction](p_values), strict=True))
    decided = []
    for row in rows:
        p = adjusted.get(row.claim, np.nan)
        said = verdict(row.effect, row.margin, p, 1 - rules.confidence)
        decided.append(replace(row, p_adjusted=p, verdict=said))
    return decided


def _paired(claim: str, scores: Scores, rules: Any) -> Row:
    """The row of a claim without a verdict; its p-value is NaN where the claim may not be tested."""
    statement, plan_of = PAIRED[claim]
    rule = getattr(rules, claim)
    empty = _empty(claim, statement, rule)
    try:
        plan = plan_of(scores)
        seeds, left_out = scores.seeds(plan.terms)
    except _Missing as reason:
        return replace(empty, note=str(reason))
    if not seeds:
        return replace(empty, note="no seed was run for all the settings that are compared")
    images = scores.images(plan.contrasts[0][0])
    fixed, sampled = _tasks(images)
    sources = _sources(plan, len(seeds), bool(sampled) and (rules.images == "sampled" or len(seeds) == 1))
    result = BestOf(
        tuple(
            tuple(_estimate([scores.strata(t, seeds, _METRIC[rule.unit]) for t in c], sources) for c in row)
            for row in plan.contrasts
        )
    )
    row = replace(
        empty,
        effect=result.effect,
        n_images=len(images),
        n_photographs=len({photograph_of(image) for _, _, image in images}),
        n_seeds=len(seeds),
    )
    notes = [_against(plan, result)]
    if left_out:
        notes.append(f"without seed {', '.join(map(str, left_out))}, which not all settings have")
    if fixed and (rules.images == "sampled" or len(seeds) == 1):
        notes.append(f"images of one photograph or sequence only, taken as they are: {', '.join(fixed)}")
    if sources:
        tail = (1 - rules.confidence) / 2
        interval = f"{' and '.join(sources)}, Student t" if len(seeds) > 1 else "images only, one seed"
        row = replace(row, ci_low=result.lower(tail), ci_high=result.upper(tail), interval=interval)
    if len(seeds) == 1:
        notes.append("one seed: how far another training would differ is unknown")
    elif plan.drawn and "draws" not in sources:
        notes.append("one random draw: how far another would differ is unknown")
    else:
        row = replace(row, p_value=two_sided(result, rule.margin))
    return replace(row, note="; ".join(notes))


def _tasks(images: Iterable[tuple[str, str, str]]) -> tuple[list[str], list[str]]:
    """(tasks whose images all come from one photograph, the other tasks), sorted, of (setting, task, image)."""
    photographs: dict[str, set[str]] = {}
    for _, task, image in images:
        photographs.setdefault(task, set()).add(photograph_of(image))
    found = sorted(photographs)
    return [t for t in found if len(photographs[t]) == 1], [t for t in found if len(photographs[t]) > 1]


def _sources(plan: Plan, seeds: int, images: bool) -> list[str]:
    """What the interval allows for; ``images``: whether the choice of images can be estimated and is wanted."""
    if seeds == 1:
        return ["images"] * images
    draws = plan.drawn and len(plan.contrasts[0][0]) > 1
    return ["seeds"] + ["images"] * images + ["draws"] * draws


def _estimate(parts: Sequence[list[Stratum]], sources: Sequence[str]) -> Estimate:
    """The estimate of one contrast from the strata of each of its terms."""
    strata = [stratum for part in parts for stratum in part]
    values = per_seed(strata)
    component: dict[str, Callable[[], Component]] = {
        "seeds": lambda: mean_component(values),
        "images": lambda: photograph_component(strata),
        "draws": lambda: mean_component(np.array([len(parts) * per_seed(part).mean() for part in parts])),
    }
    return Estimate(float(values.mean()), tuple(component[source]() for source in sources))


def _against(plan: Plan, result: BestOf) -> str:
    """Which rivals look best, and of how many."""
    effects = np.array([[estimate.effect for estimate in line] for line in result.estimates])
    # Every entry is a_j - b_k, so that one row and one column tell which is the best.
    names = [plan.rows[int(effects[:, 0].argmin())], plan.columns[int(effects[0].argmax())]]
    text = "against " + " and ".join(filter(None, names))
    return text if len(plan.rows) == 1 else f"{text}, the best of {len(plan.rows)}"


def _cost(summary: pd.DataFrame, profile: str, rule: Any) -> Row:
    """The row of the claim that is a count: exact, so that neither interval nor test is needed."""
    row = _empty(COST, _COST_STATEMENT.format(bar=f"{rule.margin:g} {_COST_UNIT[rule.unit]}"), rule)
    table = _of_profile(summary, SUMMARY, "summary.csv", profile)
    table = table[(table["study"] == "adaptation") & (table["setting"] == _MODULATION)]
    if table.empty:
        return replace(row, note=f"study adaptation has no {_MODULATION}")
    if "params_total" not in table or table["params_total"].isna().any():
        return replace(row, note="ablations/summary.csv has no params_total")
    counts = table[["params_added", "params_total"]].drop_duplicates()
    added, total = counts.iloc[0]
    if len(counts) > 1 or total <= added:
        raise InputError(
            f"ablations/summary.csv: {_MODULATION} needs one params_added and one larger params_total in all its rows; "
            "`dvc repro --force ablations` renews it"
        )
    per_task = float(added) / table["task"].nunique()
    effect = per_task if rule.unit == "parameters" else 100 * per_task / float(total - added)
    return replace(
        row,
        effect=effect,
        ci_low=effect,
        ci_high=effect,
        n_seeds=table["seed"].nunique(),
        verdict="supported" if effect <= rule.margin else "contradicted",
        interval="exact count",
    )


_CORRECTION: dict[str, Callable[[Sequence[float]], Sequence[float]]] = {"holm": holm, "none": list}


def _empty(claim: str, statement: str, rule: Any) -> Row:
    nan = float("nan")
    return Row(claim, statement, nan, rule.unit, nan, nan, 0, 0, "inconclusive", rule.margin, nan, nan, "", 0, "")


def _of_profile(table: pd.DataFrame, columns: Sequence[str], file: str, profile: str) -> pd.DataFrame:
    missing = [column for column in columns if column not in table]
    if missing:
        raise InputError(f"ablations/{file} has no column {missing[0]}; `dvc repro --force ablations` renews it")
    return table[table["profile"] == profile]


def _unpaired(study: str, what: str, image: str) -> InputError:
    return InputError(
        f"ablations/per_image.csv: study {study}: {what} were not scored on the same images (see {image}); "
        "`dvc repro --force ablations` renews it"
    )
