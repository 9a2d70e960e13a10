"""Figure 4: the same photographs restored by each method, with a zoomed inset and the PSNR."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from instruct_ipt.errors import InputError
from instruct_ipt.report import named_picture, read_result
from instruct_ipt.report.style import METHOD_LABELS, PAGE_IN, YELLOW, bare, publish

ROW_ORDER = ("denoise", "derain", "dehaze", "deblur", "desnow")
COLUMNS = ("input", "shared", "film", "modulation", "clean")
ASPECT = 4 / 3
"""Width over height of the photographs in the figures."""
_MOST_ROWS = 3
# The window is 0.16 of the height and the inset 0.42: an inset in the corner across never covers the window.
_WINDOW, _INSET = 0.16, 0.42


@dataclass(frozen=True)
class Row:
    """One row of the figure.

    Attributes:
        task, dataset, image: which photograph.
        images: method -> float32 (H, W, 3) in [0, 1], cropped to 4:3.
        psnr: method -> PSNR of the whole photograph in dB; NaN where there is none.
        files: method -> file.
        crop: (top, left, height, width) of the crop in the photograph, pixels.
        zoom: (top, left, side) of the zoomed window in the crop, pixels.
    """

    task: str
    dataset: str
    image: str
    images: dict[str, np.ndarray]
    psnr: dict[str, float]
    files: dict[str, str]
    crop: tuple[int, int, int, int]
    zoom: tuple[int, int, int]


def figure4(samples: pd.DataFrame | Path, results_dir: Path, out_dir: Path) -> None:
    """Write ``fig4_comparison.{png,svg,csv}``: at most three tasks by degraded, shared, FiLM, modulation, clean.

    Args:
        samples: `results/samples.csv`; of several noise levels the highest is shown.
        results_dir: folder that the files in ``samples`` are relative to.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column or picture is missing, or no task has both a degraded and a clean picture.
    """
    rows = comparison_rows(samples, results_dir)
    publish("fig4_comparison", _table(rows), lambda _: _draw(rows), out_dir)


def comparison_rows(samples: pd.DataFrame | Path, results_dir: Path) -> list[Row]:
    """The rows of the figure, loaded and cropped; tasks in the order denoise, derain, dehaze, deblur, desnow."""
    rows = [_load(part, results_dir) for part in shown_samples(samples)[:_MOST_ROWS]]
    if not rows:
        raise InputError(
            "results/samples.csv has no task with a degraded and a clean picture; run `dvc repro evaluate`"
        )
    return rows


def shown_samples(samples: pd.DataFrame | Path) -> list[pd.DataFrame]:
    """One photograph per task, in the order of ``ROW_ORDER``: the rows of `samples.csv` of its methods.

    Of a task's datasets the hardest is taken: the one whose degraded picture has the lowest PSNR (noise: sigma 50).
    Of a dataset's photographs, the first.
    """
    table = read_result(samples, "results/samples.csv", ("task", "dataset", "image", "method", "file"), ("psnr",))
    found = []
    for task in ROW_ORDER:
        rows = table[table.task == task]
        parts = [part for _, part in rows.groupby(["dataset", "image"], sort=False)]
        whole = [part for part in parts if {"input", "clean"} <= set(part.method)]
        if whole:
            found.append(min(whole, key=lambda part: float(part.psnr[part.method == "input"].iloc[0])))
    return found


def read_picture(path: Path, table: str = "samples.csv", stage: str = "evaluate") -> np.ndarray:
    """A picture as float32 (H, W, 3) in [0, 1].

    Args:
        path: of its file.
        table, stage: which result file names it and which stage makes both, for the message.

    Raises:
        InputError: the file is missing.
    """
    return np.asarray(named_picture(path, table, stage), dtype=np.float32) / 255.0


def crop_box(height: int, width: int, aspect: float = ASPECT) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest centred crop with width / height = ``aspect``, in pixels."""
    high, wide = min(height, round(width / aspect)), min(width, round(height * aspect))
    return (height - high) // 2, (width - wide) // 2, high, wide


def cropped(picture: np.ndarray) -> np.ndarray:
    """The centre of a picture (H, W, 3), of the figures' aspect."""
    top, left, height, width = crop_box(*picture.shape[:2])
    return picture[top : top + height, left : left + width]


def hardest_window(degraded: np.ndarray, clean: np.ndarray, side: int) -> tuple[int, int]:
    """(top, left) of the ``side`` x ``side`` window with the largest sum of |degraded - clean|; of equals the first.

    The rule sees no restored picture, so that it favours no method.

    Args:
        degraded, clean: float (H, W, 3), of one shape.
        side: pixels, at most H and W.
    """
    error = np.abs(degraded.astype(np.float64) - clean).sum(axis=2)
    total = np.pad(error.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    windows = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    # Rounded, so that the last bits of the running sums do not decide between equal windows.
    top, left = np.unravel_index(int(np.round(windows, 6).argmax()), windows.shape)
    return int(top), int(left)


def _load(part: pd.DataFrame, results_dir: Path) -> Row:
    part = part.drop_duplicates("method").set_index("method")
    methods = [method for method in COLUMNS if method in part.index]
    whole = {method: read_picture(results_dir / part.file[method]) for method in methods}
    shapes = {picture.shape for picture in whole.values()}
    if len(shapes) > 1:
        raise InputError(
            f"pictures of {part.task.iloc[0]}/{part.image.iloc[0]} differ in size; run `dvc repro evaluate`"
        )
    top, left, height, width = crop = crop_box(*whole["clean"].shape[:2])
    images = {method: picture[top : top + height, left : left + width] for method, picture in whole.items()}
    side = max(1, round(_WINDOW * height))
    return Row(
        task=part.task.iloc[0],
        dataset=part.dataset.iloc[0],
        image=part.image.iloc[0],
        images=images,
        psnr={method: float(part.psnr[method]) for method in methods},
        files={method: part.file[method] for method in methods},
        crop=crop,
        zoom=(*hardest_window(images["input"], images["clean"], side), side),
    )


def _table(rows: list[Row]) -> pd.DataFrame:
    columns = ["task", "dataset", "image", "method", "psnr", "file"]
    columns += ["crop_top", "crop_left", "crop_height", "crop_width", "zoom_top", "zoom_left", "zoom_side"]
    return pd.DataFrame(
        [
            [row.task, row.dataset, row.image, method, row.psnr[method], row.files[method], *row.crop, *row.zoom]
            for row in rows
            for method in row.images
        ],
        columns=columns,
    )


def _draw(rows: list[Row]) -> Figure:
    methods = [method for method in COLUMNS if any(method in row.images for row in rows)]
    cell = PAGE_IN / len(methods)
    figure = Figure(figsize=(PAGE_IN, ((cell - 0.04) / ASPECT + 0.135) * len(rows) + 0.33), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.02, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(rows), len(methods), squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        best = _best(row)
        for axes, method in zip(line, methods, strict=True):
            _cell(axes, row, method, method in best)
        line[0].set_ylabel(row_label(row.task, row.dataset), fontsize=7)
    for axes, method in zip(grid[0], methods, strict=True):
        axes.set_title(METHOD_LABELS[method], fontsize=7.5, pad=3)
    figure.supxlabel(
        "Of each set the photograph whose gain is the median. Below it: PSNR of the whole photograph (bold: best "
        "shown). Zoom: where |degraded − clean| is largest.",
        fontsize=6,
    )
    return figure


def _best(row: Row) -> set[str]:
    """The restored pictures with the highest PSNR as it is printed."""
    scores = {m: round(v, 2) for m, v in row.psnr.items() if m not in ("input", "clean") and np.isfinite(v)}
    return {method for method, value in scores.items() if value == max(scores.values())}


def row_label(task: str, dataset: str) -> str:
    """What a photograph is an example of: ``derain``, or with the noise level ``denoise, σ = 50``."""
    sigma = dataset.partition("sigma")[2]
    return f"{task}, σ = {sigma}" if sigma else task


def _cell(axes: Axes, row: Row, method: str, best: bool) -> None:
    bare(axes)
    if method not in row.images:
        axes.set_xlabel("not available", fontsize=6.5)
        return
    image = row.images[method]
    axes.imshow(image, interpolation="antialiased")
    top, left, side = row.zoom
    axes.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, ec=YELLOW, lw=0.8))
    _inset(axes, image[top : top + side, left : left + side], row)
    value = row.psnr[method]
    label = f"{value:.2f} dB" if np.isfinite(value) else "reference"
    axes.set_xlabel(label, fontsize=6.5, labelpad=2, fontweight="bold" if best else "normal")


def _inset(axes: Axes, zoomed: np.ndarray, row: Row) -> None:
    """The window, enlarged, in the corner that is farthest from it."""
    _, _, height, width = row.crop
    top, left, side = row.zoom
    wide = _INSET * height / width
    x = 0.0 if left + side / 2 > width / 2 else 1.0 - wide
    y = 1.0 - _INSET if top + side / 2 > height / 2 else 0.0
    inset = axes.inset_axes((x, y, wide, _INSET))
    inset.imshow(zoomed, interpolation="nearest")
    inset.set(xticks=[], yticks=[])
    inset.grid(visible=False)
    inset.spines[:].set(visible=True, color=YELLOW, linewidth=0.8)
