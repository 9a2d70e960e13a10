"""Gain per image: every test image is a line across the methods."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.benchmark_tables import set_titles
from instruct_ipt.report.style import GREY, METHOD_COLOURS, METHOD_LABELS, METHOD_MARKERS, METHODS, PAGE_IN, publish

_COLUMNS = 4


def figure_gains(images: pd.DataFrame | Path, out_dir: Path) -> None:
    """Write ``fig_gains.{png,svg,csv}``: gain in PSNR over the degraded image, one panel per test set.

    Args:
        images: `results/per_image.csv`; its first protocol is shown, means over seeds.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column is missing, or an image has no score of the degraded picture.
    """
    publish("fig_gains", image_gains(images), _draw, out_dir)


def image_gains(images: pd.DataFrame | Path) -> pd.DataFrame:
    """Columns task, dataset, method, image, gain (PSNR minus that of the degraded image, dB; mean over seeds).

    Raises:
        InputError: a column is missing, or an image has no score of the degraded picture.
    """
    text = ("method", "task", "dataset", "protocol", "image")
    table = read_result(images, "results/per_image.csv", text, ("seed", "psnr"))
    table = table[table.protocol == table.protocol.iloc[0]]
    keys = ["task", "dataset", "image"]
    base = table[table.method == "input"].groupby(keys).psnr.mean().rename("base")
    gains = table[table.method != "input"].groupby([*keys, "method"], sort=False).psnr.mean().reset_index()
    gains = gains.join(base, on=keys)
    if gains.base.isna().any():
        name = "/".join(gains.loc[gains.base.isna(), keys].iloc[0])
        raise InputError(f"results/per_image.csv has no row of method input for {name}; run `dvc repro evaluate`")
    gains["gain"] = gains.psnr - gains.base
    return gains[["task", "dataset", "method", "image", "gain"]]


def _draw(gains: pd.DataFrame) -> Figure:
    sets = set_titles(gains)
    rows = -(-len(sets) // _COLUMNS)
    figure = Figure(figsize=(PAGE_IN, 1.55 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    methods = in_order(list(gains.method), METHODS)
    for axes, (key, title) in zip(grid.flat, sets.items(), strict=False):
        _panel(axes, gains[gains.task + "/" + gains.dataset == key], methods, title)
    for axes in list(grid.flat)[len(sets) :]:
        axes.set_visible(False)
    for axes in grid[:, 0]:
        axes.set_ylabel("gain in PSNR (dB)")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _panel(axes: Axes, part: pd.DataFrame, methods: list[str], title: str) -> None:
    """One dot per image and method, the dots of an image joined; a bar at each mean."""
    wide = part.pivot(index="image", columns="method", values="gain").reindex(columns=methods)
    places = range(len(methods))
    for row in wide.to_numpy():
        axes.plot(places, row, color=GREY, lw=0.5, alpha=min(1.0, 12 / len(wide)), zorder=1)
    for place, method in enumerate(methods):
        colour = METHOD_COLOURS.get(method, GREY)
        style = {"s": 11, "color": colour, "marker": METHOD_MARKERS.get(method, "o"), "lw": 0, "zorder": 2}
        axes.scatter([place] * len(wide), wide[method], label=METHOD_LABELS.get(method, method), **style)
        axes.hlines(wide[method].mean(), place - 0.3, place + 0.3, color=colour, lw=1.6, zorder=3)
    axes.axhline(0, color="black", lw=0.5)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(methods) - 0.4)
    axes.set_title(f"{title}, n = {len(wide)}")
