"""Two heat maps: which weights a task is sensitive to, and which tasks pull the shared weights apart."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import rgb_to_hsv
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.style import PAGE_IN, publish
from instruct_ipt.tasks import TASKS

# Orange to purple through white: told apart with any colour vision, and the middle is nothing.
_MAP = "PuOr"
_TEXT_PT = 6.0


def figure_sensitivity(sensitivity: pd.DataFrame | Path, selection: Path, out_dir: Path) -> None:
    """Write ``fig_sensitivity.{png,svg,csv}``: gain of every weight group for every task, and per freed parameter.

    Args:
        sensitivity: `results/sensitivity.csv`; its rows of the exact search are shown, means over seeds.
        selection: `models/selection.json`.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column or file is missing, or there is no exact search.
    """
    publish("fig_sensitivity", sensitivity_means(sensitivity, selected_groups(selection)), _draw_sensitivity, out_dir)


def selected_groups(selection: Path) -> list[str]:
    """The modulated weight groups of `models/selection.json`.

    Raises:
        InputError: the file is missing.
    """
    if not selection.is_file():
        raise InputError(f"{selection.as_posix()} does not exist; `dvc repro sensitivity` makes it")
    return list(json.loads(selection.read_text(encoding="utf-8"))["groups"])


def sensitivity_means(sensitivity: pd.DataFrame | Path, selected: list[str]) -> pd.DataFrame:
    """The exact search by group and task, means over seeds, the most sensitive group (mean over tasks) first.

    Returns:
        Columns group, selected (bool), freed_params, task, seeds (count), gain_db, score (dB per 100 000 freed
        parameters).

    Raises:
        InputError: a column is missing, or there is no exact search.
    """
    text, numbers = ("estimator", "task", "group"), ("seed", "gain_db", "freed_params", "score")
    table = read_result(sensitivity, "results/sensitivity.csv", text, numbers)
    table = table[table.estimator == "exact"]
    if table.empty:
        raise InputError("results/sensitivity.csv has no rows of estimator `exact`; run `dvc repro sensitivity`")
    columns = {"freed_params": ("freed_params", "first"), "seeds": ("seed", "nunique")}
    columns |= {key: (key, "mean") for key in ("gain_db", "score")}
    means = table.groupby(["group", "task"], sort=False).agg(**columns).reset_index()
    gain = means.groupby("group", sort=False).gain_db.mean().sort_values(ascending=False, kind="stable")
    order = {name: place for place, name in enumerate(gain.index)}
    place = in_order(list(means.task), TASKS)
    means["selected"] = means.group.isin(selected)
    means = means.sort_values(
        ["group", "task"], key=lambda c: c.map(order if c.name == "group" else place.index), ignore_index=True
    )
    return means[["group", "selected", "freed_params", "task", "seeds", "gain_db", "score"]]


def _draw_sensitivity(means: pd.DataFrame) -> Figure:
    groups, tasks = list(dict.fromkeys(means.group)), list(dict.fromkeys(means.task))
    figure = Figure(figsize=(PAGE_IN, 0.21 * len(groups) + 0.75), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    titles = {"gain_db": "gain (dB)", "score": "gain per 100 000 freed parameters (dB)"}
    for axes, (column, title) in zip(grid, titles.items(), strict=True):
        values = means.pivot(index="group", columns="task", values=column).loc[groups, tasks]
        _heat(axes, values, float(np.nanmax(np.abs(values.to_numpy()))), digits=2, slanted=False)
        axes.set_title(title)
    marks = dict(zip(means.group, means.selected, strict=True))
    grid[0].set_yticklabels([f"{group}  {'●' if marks[group] else '○'}" for group in groups])
    seeds = int(means.seeds.max())
    figure.supxlabel(
        f"●: modulated weight group. Validation split, {seeds} seed{'s' * (seeds > 1)}; one group of the shared "
        "network freed for one task at a time.",
        fontsize=6,
    )
    return figure


def figure_conflict(conflict: pd.DataFrame | Path, out_dir: Path) -> None:
    """Write ``fig_conflict.{png,svg,csv}``: cosine of two tasks' gradients, over all weights and by weight group.

    Args:
        conflict: `results/task_conflict.csv`; group ``all`` is every weight together.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column is missing, or group ``all`` is.
    """
    text = ("task_a", "task_b", "group")
    table = read_result(conflict, "results/task_conflict.csv", text, ("cosine",))[[*text, "cosine"]]
    if "all" not in set(table.group):
        raise InputError("results/task_conflict.csv has no rows of group `all`; run `dvc repro sensitivity`")
    publish("fig_conflict", table, _draw_conflict, out_dir)


def _draw_conflict(table: pd.DataFrame) -> Figure:
    tasks = in_order([*table.task_a, *table.task_b], TASKS)
    cosine = table.set_index(["task_a", "task_b", "group"]).cosine
    groups = [group for group in dict.fromkeys(table.group) if group != "all"]
    figure = Figure(figsize=(PAGE_IN, 2.75), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 0.2 * len(groups)))
    whole = pd.DataFrame(
        [[_cosine(cosine, a, b, "all") for b in tasks] for a in tasks], index=pd.Index(tasks), columns=pd.Index(tasks)
    )
    _heat(left, whole, 1.0, digits=2, slanted=True)
    left.set_title("all weights")
    pairs = list(combinations(tasks, 2))
    parts = pd.DataFrame(
        [[_cosine(cosine, a, b, group) for group in groups] for a, b in pairs],
        index=pd.Index([f"{a} + {b}" for a, b in pairs]),
        columns=pd.Index(groups),
    )
    picture = _heat(right, parts, 1.0, digits=2, slanted=True)
    right.set_title("by weight group")
    figure.colorbar(picture, ax=right, label="cosine of the gradients", fraction=0.03, pad=0.01)
    return figure


def _cosine(cosine: pd.Series, a: str, b: str, group: str) -> float:
    if a == b:
        return 1.0
    return float(cosine.get((a, b, group), cosine.get((b, a, group), np.nan)))


def _heat(axes: Axes, values: pd.DataFrame, limit: float, digits: int, slanted: bool) -> Any:
    """A heat map with the number in every cell; colours run from -limit to limit, column names slanted or level."""
    picture = axes.imshow(values, cmap=_MAP, vmin=-limit or -1, vmax=limit or 1, aspect="auto")
    for (row, column), value in np.ndenumerate(values.to_numpy()):
        if np.isfinite(value):
            dark = rgb_to_hsv(picture.to_rgba(value)[:3])[2] < 0.72
            style = {"ha": "center", "va": "center", "fontsize": _TEXT_PT, "color": "white" if dark else "black"}
            # Adding 0 makes a negative zero positive.
            axes.text(column, row, f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−"), **style)
    axes.set_xticks(range(values.shape[1]), values.columns)
    if slanted:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation=30, rotation_mode="anchor")
    axes.set_yticks(range(values.shape[0]), values.index)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return picture
