"""Figure 5: what each way of adapting one denoiser fills in, and the sheet of masks that it is asked to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import read_result
from instruct_ipt.report.figure4 import read_picture
from instruct_ipt.report.style import PAGE_IN, bare, publish

COLUMNS = ("input", "shared", "film", "frozen", "synchronous", "experts", "truth")
LABELS = {
    "input": "Given",
    "shared": "Shared",
    "film": "FiLM",
    "frozen": "Frozen + biases",
    "synchronous": "Weight modulation",
    "experts": "Experts",
    "truth": "Photograph",
}
ROW_TASKS = ("inpaint", "outpaint", "upscale")
_FILE = "results/diffusion_samples.csv"
# What a method is not: it has no score of its own.
_GIVEN = ("input", "truth")
# A whole network per task: shown, but not compared with one network for all.
_OUTSIDE = ("experts",)
_GREY = 0.5


@dataclass(frozen=True)
class Filled:
    """One row of the figure.

    Attributes:
        task, image: which photograph, asked for what.
        pictures: column -> float32 (H, W, 3) in [0, 1].
        psnr: column -> PSNR over the missing pixels, dB.
        files: column -> file.
    """

    task: str
    image: str
    pictures: dict[str, np.ndarray]
    psnr: dict[str, float]
    files: dict[str, str]


def figure5(samples: pd.DataFrame | Path, results_dir: Path, out_dir: Path) -> None:
    """Write ``fig5_diffusion.{png,svg,csv}``: rows of inpainting, outpainting and upscaling, a column per method.

    Args:
        samples: `results/diffusion_samples.csv`.
        results_dir: folder that its files are relative to.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column or picture is missing.
    """
    rows = filled_rows(samples, results_dir)
    table = [[row.task, row.image, column, row.psnr[column], row.files[column]] for row in rows for column in row.files]
    frame = pd.DataFrame(table, columns=["task", "image", "method", "psnr", "file"])
    publish("fig5_diffusion", frame, lambda _: _draw(rows), out_dir)


def filled_rows(samples: pd.DataFrame | Path, results_dir: Path) -> list[Filled]:
    """The photographs of `diffusion_samples.csv`, tasks in their order, with the pictures of the figure's columns."""
    table = read_result(samples, _FILE, ("task", "image", "method", "file"), ("psnr",))
    rows = []
    for task in ROW_TASKS:
        for image, part in table[table.task == task].groupby("image", sort=False):
            part = part.set_index("method")
            columns = [column for column in COLUMNS if column in part.index]
            rows.append(
                Filled(
                    task,
                    str(image),
                    {column: filled_picture(results_dir / part.file[column]) for column in columns},
                    {column: float(part.psnr[column]) for column in columns},
                    {column: part.file[column] for column in columns},
                )
            )
    if not rows:
        raise InputError(f"{_FILE} names no picture of {', '.join(ROW_TASKS)}; run `dvc repro diffusion`")
    return rows


def filled_picture(path: Path) -> np.ndarray:
    """A picture that `diffusion_samples.csv` names, as `figure4.read_picture` gives it."""
    return read_picture(path, "diffusion_samples.csv", "diffusion")


def mask_sheet(pictures: Sequence[tuple[str, np.ndarray]], masks: dict[str, list[np.ndarray]], out_dir: Path) -> None:
    """Write ``data_masks.{png,svg,csv}``: a row of photographs per kind of mask.

    Args:
        pictures: (name, float32 (H, W, 3) in [0, 1]), one per column.
        masks: what is drawn (task and kind) -> one mask per picture, bool (H, W), True where a pixel is missing.
        out_dir: folder to write to; it is made.
    """
    table = pd.DataFrame(
        [
            [kind, name, float(missing.mean())]
            for kind, row in masks.items()
            for (name, _), missing in zip(pictures, row, strict=True)
        ],
        columns=["mask", "image", "share"],
    )
    publish("data_masks", table, lambda frame: _draw_masks(pictures, masks), out_dir)


def _draw(rows: list[Filled]) -> Figure:
    columns = [column for column in COLUMNS if any(column in row.pictures for row in rows)]
    cell = (PAGE_IN - 0.2) / len(columns)
    figure = Figure(figsize=(PAGE_IN, (cell + 0.12) * len(rows) + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.02, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, row in zip(grid, rows, strict=True):
        best = _best(row)
        for axes, column in zip(line, columns, strict=True):
            _cell(axes, row, column, column in best)
        line[0].set_ylabel(row.task, fontsize=7)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(LABELS[column], fontsize=6.5, pad=3)
    figure.supxlabel(
        "Photographs: PSNR, averaged over the methods, nearest to the median. Below each: PSNR of the missing pixels; "
        "bold: best but for the experts.",
        fontsize=6,
    )
    return figure


def _best(row: Filled) -> set[str]:
    scores = {c: round(v, 2) for c, v in row.psnr.items() if c not in (*_GIVEN, *_OUTSIDE) and np.isfinite(v)}
    return {column for column, value in scores.items() if value == max(scores.values())}


def _cell(axes: Axes, row: Filled, column: str, best: bool) -> None:
    bare(axes)
    if column not in row.pictures:
        axes.set_xlabel("not available", fontsize=6)
        return
    axes.imshow(row.pictures[column], interpolation="nearest", vmin=0, vmax=1)
    label = f"{row.psnr[column]:.2f} dB" if column not in _GIVEN else ""
    axes.set_xlabel(label, fontsize=6.5, labelpad=2, fontweight="bold" if best else "normal")


def _draw_masks(pictures: Sequence[tuple[str, np.ndarray]], masks: dict[str, list[np.ndarray]]) -> Figure:
    cell = (PAGE_IN - 0.2) / len(pictures)
    figure = Figure(figsize=(PAGE_IN, (cell + 0.12) * len(masks) + 0.1), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.02, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(masks), len(pictures), squeeze=False)
    for line, (kind, row) in zip(grid, masks.items(), strict=True):
        for axes, (_, picture), missing in zip(line, pictures, row, strict=True):
            bare(axes)
            axes.imshow(np.where(missing[..., None], _GREY, picture), interpolation="nearest", vmin=0, vmax=1)
            axes.set_xlabel(f"{100 * missing.mean():.0f} %", fontsize=6.5, labelpad=2)
        line[0].set_ylabel(kind, fontsize=7)
    return figure
