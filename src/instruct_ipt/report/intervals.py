"""The 95 % intervals that figures and tables show: of the difference of two methods on the same images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from instruct_ipt.analysis.statistics import (
    Component,
    Estimate,
    Stratum,
    mean_component,
    per_seed,
    photograph_component,
)
from instruct_ipt.errors import InputError

CONFIDENCE = 0.95
EXPLAINED = "[ ]: 95 % interval, Student t, over the photographs and, where there are several, the seeds"


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval.

    Attributes:
        effect: the estimate.
        low, high: the interval; NaN where nothing varies that could be measured (one photograph, one seed).
    """

    effect: float
    low: float
    high: float


NOTHING = Interval(float("nan"), float("nan"), float("nan"))


def frame_of(image: str) -> str:
    """The video sequence or photograph that a test image is: frames of a sequence end in six to eight digits."""
    return re.sub(r"[-_]\d{6,8}$", "", image)


def paired(
    images: pd.DataFrame, first: str, second: str, file: str, photograph: Callable[[str], str] = frame_of
) -> Interval:
    """Mean PSNR of ``first`` minus that of ``second``: tasks weigh equally, and so do the sets of a task.

    Args:
        images: one row per method, task, dataset, seed and image, with its ``psnr`` in dB.
        first, second: methods.
        file: what to call ``images`` in messages.
        photograph: image -> what is independent of the others.

    Returns:
        The difference over the seeds that both have; :data:`NOTHING` if there are none.

    Raises:
        InputError: the two were not scored on the same images, or an image was scored twice.
    """
    differences = _differences(images, first, second, file)
    if differences.shape[1] == 0:
        return NOTHING
    sets = differences.index.droplevel("image").unique()
    tasks = [task for task, _ in sets]
    strata = []
    for task, dataset in sets:
        part = differences.loc[task, dataset]
        weight = 1 / len(set(tasks)) / tasks.count(task)
        strata.append(Stratum(weight, part.to_numpy().T, tuple(photograph(image) for image in part.index)))
    return of_strata(strata)


def _differences(images: pd.DataFrame, first: str, second: str, file: str) -> pd.DataFrame:
    """Differences in dB by (task, dataset, image) and seed."""
    keys = ["task", "dataset", "image"]
    grids = []
    for method in (first, second):
        part = images[images.method == method]
        if part.duplicated([*keys, "seed"]).any():
            name = "/".join(part.loc[part.duplicated([*keys, "seed"]), keys].iloc[0])
            raise InputError(f"{file}: {method} is scored twice on {name}; run the stage that writes it again")
        grids.append(part.pivot(index=keys, columns="seed", values="psnr"))
    seeds = [seed for seed in grids[0].columns if seed in grids[1].columns]
    difference = (grids[0] - grids[1])[seeds].sort_index()
    if difference.isna().any(axis=None):
        name = "/".join(difference.index[difference.isna().any(axis=1)][0])
        raise InputError(f"{file}: {first} and {second} were not scored on the same images (see {name})")
    return difference


def of_strata(strata: Sequence[Stratum]) -> Interval:
    """The interval of the weighted mean difference, over photographs and, where there are several, seeds."""
    values = per_seed(strata)
    components = [mean_component(values)] if len(values) > 1 else []
    if any(len(set(stratum.photographs)) > 1 for stratum in strata):
        components.append(photograph_component(strata))
    return _interval(float(values.mean()), components)


def of_seeds(values: Sequence[float]) -> Interval:
    """Student's interval of a mean over seeds."""
    found = np.asarray(values, np.float64)
    return _interval(float(found.mean()), [mean_component(found)] if len(found) > 1 else [])


def _interval(effect: float, components: list[Component]) -> Interval:
    if not components:
        return Interval(effect, float("nan"), float("nan"))
    estimate, tail = Estimate(effect, tuple(components)), (1 - CONFIDENCE) / 2
    return Interval(effect, estimate.lower(tail), estimate.upper(tail))
