"""Two figures of the ablation grid: what added parameters buy, and how the distance of two tasks matters."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.style import (
    BLUE,
    COLUMN_IN,
    GREEN,
    GREY,
    METHOD_COLOURS,
    METHOD_LABELS,
    PAGE_IN,
    SKY,
    VERMILION,
    publish,
)

SETS = {"five": "five dissimilar tasks", "noise": "similar tasks: noise levels"}
# Methods of the grid -> (label, colour, marker). Filled: brought to one size; hollow: at its natural size.
_LOOK = {
    "shared": (METHOD_LABELS["shared"], METHOD_COLOURS["shared"], "o"),
    "experts": (METHOD_LABELS["experts"], GREEN, "s"),
    "film": (METHOD_LABELS["film"], METHOD_COLOURS["film"], "v"),
    "prompt": (METHOD_LABELS["prompt"], METHOD_COLOURS["film"], "P"),
    "gate": (METHOD_LABELS["gate"], METHOD_COLOURS["film"], "D"),
    "adapter": (METHOD_LABELS["adapter"], METHOD_COLOURS["film"], "^"),
    "task_norm": (METHOD_LABELS["task_norm"], GREY, "<"),
    "task_head": (METHOD_LABELS["task_head"], GREY, ">"),
    "full": ("Modulation, full biases", SKY, "h"),
    "constant": ("Modulation, constant r", BLUE, "*"),
    "proportional": ("Modulation, proportional ρ", VERMILION, "X"),
}
_SIZED = ("film", "prompt", "gate", "adapter", "constant", "proportional")


def figure_pareto(summary: pd.DataFrame | Path, out_dir: Path) -> None:
    """Mean validation PSNR against added parameters, one panel per set of tasks: `fig_pareto` and its CSV.

    Args:
        summary: `ablations/summary.csv`.
        out_dir: folder to write to.

    Raises:
        InputError: the table is missing a column, or the study `adaptation` has no rows.
    """
    points = pareto_points(read_result(summary, "ablations/summary.csv", _TEXT, _NUMBERS))
    publish("fig_pareto", points, _draw_pareto, out_dir)


_TEXT, _NUMBERS = ("study", "setting", "task"), ("seed", "psnr", "params_added", "params_total")


def pareto_points(cells: pd.DataFrame) -> pd.DataFrame:
    """Columns task_set, method, seeds, psnr (mean over tasks and seeds), psnr_low, psnr_high (over seeds), share.

    ``share`` is what all tasks together add, in percent of one backbone.
    """
    cells = cells[cells.study == "adaptation"]
    if cells.empty:
        raise InputError("ablations/summary.csv has no row of the study adaptation; `dvc repro ablations` makes them")
    rows = []
    for setting, part in cells.groupby("setting", sort=False):
        tasks, _, method = str(setting).partition("-")
        means = part.groupby("seed").psnr.mean()
        added, total = part.params_added.iloc[0], part.params_total.iloc[0]
        share = 100 * added / (total - added)
        rows.append([tasks, method, len(means), means.mean(), means.min(), means.max(), share])
    return pd.DataFrame(rows, columns=["task_set", "method", "seeds", "psnr", "psnr_low", "psnr_high", "share"])


def _draw_pareto(points: pd.DataFrame) -> Figure:
    sets = in_order(list(points.task_set), list(SETS))
    figure = Figure(figsize=(PAGE_IN, 2.8), layout="constrained")
    grid = figure.subplots(1, len(sets), squeeze=False)
    for axes, name in zip(grid.flat, sets, strict=True):
        part = points[points.task_set == name]
        _points(axes, part)
        seeds = int(part.seeds.max())
        axes.set_title(f"{SETS.get(name, name)}, {seeds} seed{'s' * (seeds > 1)}")
        axes.set_xlabel("added parameters, all tasks (% of the backbone)")
    grid[0, 0].set_ylabel("validation PSNR, mean of tasks (dB)")
    handles = {h.get_label(): h for axes in grid.flat for h in axes.get_legend_handles_labels()[0]}
    figure.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=4 if len(handles) > 6 else 6,
        handletextpad=0.4,
    )
    return figure


def _points(axes: Axes, part: pd.DataFrame) -> None:
    """One marker per method; the axis is linear up to 1 % so that nothing added stands at 0."""
    for method in in_order(list(part.method), list(_LOOK)):
        row = part[part.method == method].iloc[0]
        label, colour, marker = _LOOK[method]
        spread = [[row.psnr - row.psnr_low], [row.psnr_high - row.psnr]]
        axes.errorbar(
            row.share,
            row.psnr,
            yerr=spread if row.seeds > 1 else None,
            ls="none",
            marker=marker,
            ms=_size(marker),
            color=colour,
            # A white edge keeps markers apart that lie on each other.
            mfc=colour if method in _SIZED else "white",
            mec="white" if method in _SIZED else colour,
            mew=0.4 if method in _SIZED else 1.0,
            label=label,
        )
    axes.set_xscale("symlog", linthresh=1)
    most = max(100.0, 1.5 * part.share.max())
    axes.set_xlim(-0.3, most)
    ticks = [tick for tick in (0, 1, 10, 100, 1000) if tick <= most]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.margins(y=0.15)


def figure_task_gap(summary: pd.DataFrame | Path, conflict: pd.DataFrame | Path, out_dir: Path) -> None:
    """Gain over the shared network against the distance of two tasks: `fig_task_gap` and its CSV.

    Args:
        summary: `ablations/summary.csv`.
        conflict: `results/task_conflict.csv`.
        out_dir: folder to write to.

    Raises:
        InputError: a column is missing, or the study `task_gap` has no rows.
    """
    cells = read_result(summary, "ablations/summary.csv", _TEXT, _NUMBERS)
    cosines = read_result(conflict, "results/task_conflict.csv", ("task_a", "task_b", "group"), ("cosine",))
    points = gap_points(cells, cosines)
    publish("fig_task_gap", points, _draw_gap, out_dir)


def gap_points(cells: pd.DataFrame, cosines: pd.DataFrame) -> pd.DataFrame:
    """Columns pair, conflict (1 - cosine of the tasks' gradients), method, seeds, psnr, gain (over shared, dB)."""
    cells = cells[cells.study == "task_gap"]
    if cells.empty:
        raise InputError("ablations/summary.csv has no row of the study task_gap; `dvc repro ablations` makes them")
    whole = cosines[cosines.group == "all"]
    distance = {frozenset((r.task_a, r.task_b)): 1 - r.cosine for r in whole.itertuples()}
    parts = cells.setting.str.rpartition("-")
    table = cells.assign(pair=parts[0], method=parts[2]).groupby(["pair", "method", "seed"], sort=False).psnr.mean()
    points = table.groupby(["pair", "method"], sort=False).agg(psnr="mean", seeds="size").reset_index()
    shared = points[points.method == "shared"].set_index("pair").psnr
    if unknown := [pair for pair in points.pair if frozenset(pair.split("+")) not in distance]:
        raise InputError(f"results/task_conflict.csv has no pair {unknown[0]}; `dvc repro sensitivity` makes it")
    points["conflict"] = [distance[frozenset(pair.split("+"))] for pair in points.pair]
    points["gain"] = points.psnr - points.pair.map(shared)
    return points[["pair", "conflict", "method", "seeds", "psnr", "gain"]]


def _draw_gap(points: pd.DataFrame) -> Figure:
    """One line per pair of tasks, the strongest conflict at the top; one marker per method."""
    order = points.drop_duplicates("pair").sort_values("conflict", kind="stable")
    figure = Figure(figsize=(COLUMN_IN, 0.26 * len(order) + 1.2), layout="constrained")
    axes = figure.subplots()
    line = {pair: place for place, pair in enumerate(order.pair)}
    for method in in_order(list(points.method), list(_LOOK)):
        part = points[(points.method == method) & points.gain.notna()]
        if method != "shared" and len(part):
            label, colour, marker = _LOOK[method]
            style = {"ls": "none", "ms": _size(marker), "mec": "white", "mew": 0.4}
            axes.plot(part.gain, part.pair.map(line), marker=marker, color=colour, label=label, **style)
    names = [f"{row.pair.replace('+', ' + ')}  ({row.conflict:.2f})" for row in order.itertuples()]
    axes.set_yticks(range(len(order)), names)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.axvline(0, color=GREY, lw=0.8)
    seeds = int(points.seeds.max())
    axes.set_xlabel(f"gain over one shared network (dB), {seeds} seed{'s' * (seeds > 1)}")
    axes.set_ylabel("pair (1 − cosine)")
    axes.margins(x=0.1)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2)
    return figure


def _size(marker: str) -> float:
    """A star looks smaller than it is; a cross may lie on another marker, which is to be seen behind it."""
    return {"*": 9.0, "X": 4.5}.get(marker, 6.5)
