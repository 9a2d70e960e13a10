"""The training figure: validation PSNR of each task against the step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.style import GREY, METHOD_COLOURS, METHOD_DASHES, METHOD_LABELS, METHODS, PAGE_IN, save, styled
from instruct_ipt.tasks import TASKS


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
    out_dir.mkdir(parents=True, exist_ok=True)
    curves.to_csv(out_dir / "fig_training.csv", index=False, float_format="%.6f", lineterminator="\n")
    with styled():
        save(_draw(curves), out_dir / "fig_training")


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
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=3.0)
    return figure


def _panel(axes: Axes, part: pd.DataFrame, title: str) -> None:
    for method, rows in part.groupby("method", sort=False):
        curve = rows.groupby("step").psnr.mean()
        style = {"color": METHOD_COLOURS.get(method, GREY), "ls": METHOD_DASHES.get(method, "solid")}
        axes.plot(curve.index, curve, label=METHOD_LABELS.get(method, method), **style)
    axes.set_title(title)
