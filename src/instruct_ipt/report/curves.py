"""The training figures: validation PSNR of each task against the step, of the main trainings and of the grid's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.style import (
    GREY,
    METHOD_COLOURS,
    METHOD_DASHES,
    METHOD_LABELS,
    METHOD_MARKERS,
    METHODS,
    PAGE_IN,
    publish,
)
from instruct_ipt.tasks import TASKS

# Settings of the grid's study `adaptation` that are the methods of the main comparison, on a smaller scale.
_CELLS = {"five-shared": "shared", "five-film": "film", "five-constant": "modulation"}


def figure_training(histories: Mapping[str, pd.DataFrame | Path], out_dir: Path) -> None:
    """Write ``fig_training.{png,svg,csv}``: one panel per task and their mean, one line per method.

    Args:
        histories: method -> its `history.csv` (step, task, loss, psnr, lr).
        out_dir: folder to write to; it is made.

    Raises:
        InputError: no histories, or a column is missing.
    """
    if not histories:
        raise InputError("the training figure got no histories; run `dvc repro train_modulation`")
    curves = pd.concat(
        [_history(name, histories[name]) for name in in_order(list(histories), METHODS)], ignore_index=True
    )
    publish("fig_training", curves, lambda table: _draw(table.assign(seed=0)), out_dir)


def figure_training_seeds(history: pd.DataFrame | Path, out_dir: Path) -> None:
    """Write ``fig_training_seeds.{png,svg,csv}``: the same methods in the ablation grid, the seeds as a band.

    Args:
        history: `ablations/history.csv`.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column is missing, or the study `adaptation` has none of the methods.
    """
    text, numbers = ("study", "setting", "task"), ("seed", "step", "psnr")
    table = read_result(history, "ablations/history.csv", text, numbers)
    table = table[(table.study == "adaptation") & table.setting.isin(_CELLS)]
    if table.empty:
        wanted = ", ".join(_CELLS)
        raise InputError(f"ablations/history.csv has none of {wanted} in study adaptation; run `dvc repro ablations`")
    curves = table.assign(method=table.setting.map(_CELLS))[["method", "seed", "step", "task", "psnr"]]
    publish("fig_training_seeds", curves, _draw, out_dir)


def _history(method: str, source: pd.DataFrame | Path) -> pd.DataFrame:
    table = read_result(source, f"models/{method}/history.csv", ("task",), ("step", "psnr"))[["step", "task", "psnr"]]
    table.insert(0, "method", method)
    return table


def _draw(curves: pd.DataFrame) -> Figure:
    tasks = in_order(list(curves.task), TASKS)
    panels = [*tasks, "mean"]
    columns = 3
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(PAGE_IN, 1.75 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        part = curves if panel == "mean" else curves[curves.task == panel]
        _panel(axes, part, "mean of the tasks" if panel == "mean" else panel)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    for axes in grid[:, 0]:
        axes.set_ylabel("validation PSNR (dB)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    seeds = curves.seed.nunique()
    title = f"mean of {seeds} seeds, band: least to most" if seeds > 1 else None
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=3.0, title=title)
    return figure


def _panel(axes: Axes, part: pd.DataFrame, title: str) -> None:
    """One line per method: the mean over seeds; several seeds leave a band from the least to the most."""
    for method in in_order(list(part.method), METHODS):
        rows = part[part.method == method]
        curve = rows.groupby(["seed", "step"]).psnr.mean().groupby("step").agg(["mean", "min", "max"])
        colour = METHOD_COLOURS.get(method, GREY)
        style = {"ls": METHOD_DASHES.get(method, "solid"), "marker": METHOD_MARKERS.get(method, "o"), "ms": 2.5}
        axes.plot(curve.index, curve["mean"], color=colour, label=METHOD_LABELS.get(method, method), **style)
        if rows.seed.nunique() > 1:
            axes.fill_between(curve.index, curve["min"], curve["max"], color=colour, alpha=0.2, lw=0)
    axes.set_title(title)
