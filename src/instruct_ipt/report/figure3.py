"""Figure 3: what a person says to the network, what it is given, and what it makes of it, one strip per task."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from instruct_ipt.report import read_result
from instruct_ipt.report.figure4 import ASPECT, cropped, read_picture
from instruct_ipt.report.style import GREY, PAGE_IN, TASK_COLOURS, bare, publish

# Inches: left of the pictures, between columns, above them, and below each.
_LEFT, _GAP, _TOP, _BELOW = 0.22, 0.05, 0.62, 0.19
_LETTERS = 24


@dataclass(frozen=True)
class Strip:
    """One photograph, and what was said about it.

    Attributes:
        task: what damaged it.
        text: what a person said.
        understood: what the reader made of it, in a few words.
        before, after: float32 (H, W, 3) in [0, 1], cropped to 4:3.
        psnr: (before, after) of the whole photograph in dB.
    """

    task: str
    text: str
    understood: str
    before: np.ndarray
    after: np.ndarray
    psnr: tuple[float, float]


def figure3(demo: pd.DataFrame | Path, results_dir: Path, out_dir: Path) -> None:
    """Write ``fig3_instruction.{png,svg,csv}``: per task a sentence, the photograph, and what came back.

    Args:
        demo: `results/demo.csv`.
        results_dir: folder that the files in ``demo`` are relative to.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column or picture is missing, or there are no rows.
    """
    columns = ("task", "text", "understood", "input", "output")
    table = read_result(demo, "results/demo.csv", columns, ("strength", "psnr_input", "psnr"))
    found = [_strip(row, results_dir) for row in table.to_dict("records")]
    publish("fig3_instruction", table, lambda _: _draw(found), out_dir)


def caption(understood: str, strength: float) -> str:
    """What was made of a sentence: ``derain``, ``dehaze, strength 0.5``, ``denoise + desnow`` or ``refused``.

    Args:
        understood: as in `results/demo.csv`: ``task=weight``, separated by blanks, or ``refused``.
        strength: of the reading; NaN for a refusal.
    """
    tasks = " + ".join(part.partition("=")[0] for part in understood.split())
    return tasks if strength == 1 or np.isnan(strength) else f"{tasks}, strength {strength:g}"


def _strip(row: dict[str, Any], results_dir: Path) -> Strip:
    before, after = (cropped(read_picture(results_dir / row[key])) for key in ("input", "output"))
    psnr = float(row["psnr_input"]), float(row["psnr"])
    return Strip(row["task"], row["text"], caption(row["understood"], row["strength"]), before, after, psnr)


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
                _say(axes, strip)
            if column == 0:
                axes.set_ylabel(label)
    return figure


def _say(axes: Axes, strip: Strip) -> None:
    """The sentence as a speech bubble over the strip, and below it what was understood."""
    lines = "\n".join(textwrap.wrap(strip.text, _LETTERS))
    box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": TASK_COLOURS.get(strip.task, GREY), "lw": 1.2}
    axes.annotate(
        f"“{lines}”", (0.5, 1), (0, 27), xycoords="axes fraction", textcoords="offset points", ha="center",
        va="center", fontsize=6.5, bbox=box, annotation_clip=False,
    )  # fmt: skip
    axes.set_title(f"read as {strip.understood}", fontsize=6.5, pad=4)


def _picture(axes: Axes, image: np.ndarray, psnr: float) -> None:
    axes.imshow(image, interpolation="antialiased", aspect="auto")
    bare(axes)
    axes.set_xlabel(f"{psnr:.2f} dB", fontsize=6.5, labelpad=2)
