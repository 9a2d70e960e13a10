"""Figure 3: what the network is told, what it is given, and what it makes of it, one strip per task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order
from instruct_ipt.report.figure4 import crop_box, read_picture, row_label, shown_samples
from instruct_ipt.report.style import GREY, PAGE_IN, TASK_COLOURS, publish
from instruct_ipt.tasks import TASKS

ASPECT = 4 / 3
# Inches: left of the pictures, between columns, above them, and below each.
_LEFT, _GAP, _TOP, _BELOW = 0.22, 0.05, 0.32, 0.19


@dataclass(frozen=True)
class Strip:
    """One photograph before and after.

    Attributes:
        task, dataset, image: which photograph.
        before, after: degraded and restored by weight modulation, float32 (H, W, 3) in [0, 1], cropped to 4:3.
        psnr: (before, after) of the whole photograph in dB.
        files: (before, after), as `results/samples.csv` names them.
    """

    task: str
    dataset: str
    image: str
    before: np.ndarray
    after: np.ndarray
    psnr: tuple[float, float]
    files: tuple[str, str]


def figure3(samples: pd.DataFrame | Path, results_dir: Path, out_dir: Path) -> None:
    """Write ``fig3_instruction.{png,svg,csv}``: one strip per task under what the network is told, the task's name.

    Args:
        samples: `results/samples.csv`; of several noise levels the highest is shown.
        results_dir: folder that the files in ``samples`` are relative to.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column or picture is missing, or no task has a picture restored by weight modulation.
    """
    found = strips(samples, results_dir)
    publish("fig3_instruction", strip_table(found), lambda _: _draw(found), out_dir)


def strips(samples: pd.DataFrame | Path, results_dir: Path) -> list[Strip]:
    """One strip per task, in the order of the tasks; the photographs of figure 4.

    Raises:
        InputError: a picture is missing, or no task has a picture restored by weight modulation.
    """
    parts = {part.task.iloc[0]: part.drop_duplicates("method").set_index("method") for part in shown_samples(samples)}
    found = [
        _strip(parts[task], results_dir) for task in in_order(list(parts), TASKS) if "modulation" in parts[task].index
    ]
    if not found:
        raise InputError("results/samples.csv has no picture restored by modulation; run `dvc repro evaluate`")
    return found


def strip_table(found: list[Strip]) -> pd.DataFrame:
    """What the strips show: columns task, dataset, image, method, psnr, file."""
    rows = [
        [strip.task, strip.dataset, strip.image, method, psnr, file]
        for strip in found
        for method, psnr, file in zip(("input", "modulation"), strip.psnr, strip.files, strict=True)
    ]
    return pd.DataFrame(rows, columns=["task", "dataset", "image", "method", "psnr", "file"])


def _strip(rows: pd.DataFrame, results_dir: Path) -> Strip:
    names = ["input", "modulation"]
    files, psnr = [rows.file[name] for name in names], [float(rows.psnr[name]) for name in names]
    before, after = (_cropped(read_picture(results_dir / file)) for file in files)
    facts = {key: rows[key].iloc[0] for key in ("task", "dataset", "image")}
    return Strip(**facts, before=before, after=after, psnr=(psnr[0], psnr[1]), files=(files[0], files[1]))


def _cropped(picture: np.ndarray) -> np.ndarray:
    top, left, height, width = crop_box(*picture.shape[:2], ASPECT)
    return picture[top : top + height, left : left + width]


def _draw(found: list[Strip]) -> Figure:
    """Columns of equal width, laid out by hand: boxes around titles are not seen by a layout engine."""
    wide = (PAGE_IN - _LEFT) / len(found)
    high = (wide - _GAP) / ASPECT
    figure = Figure(figsize=(PAGE_IN, _TOP + 2 * (high + _BELOW)), layout="none")
    scale = np.array([*figure.get_size_inches()] * 2)
    for row, label in enumerate(("given", "restored")):
        bottom = (1 - row) * (high + _BELOW) + _BELOW
        for column, strip in enumerate(found):
            axes = figure.add_axes(np.array([_LEFT + column * wide, bottom, wide - _GAP, high]) / scale)
            _picture(axes, (strip.before, strip.after)[row], strip.psnr[row])
            if row == 0:
                box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": TASK_COLOURS.get(strip.task, GREY), "lw": 1.2}
                axes.set_title(row_label(strip.task, strip.dataset), fontsize=7.5, pad=7, bbox=box)
            if column == 0:
                axes.set_ylabel(label)
    return figure


def _picture(axes: Axes, image: np.ndarray, psnr: float) -> None:
    axes.imshow(image, interpolation="antialiased", aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"{psnr:.2f} dB", fontsize=6.5, labelpad=2)
