"""Figure 1: the framework, drawn by code around photographs of the run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.figure4 import ASPECT, cropped, read_picture, row_label, shown_samples
from instruct_ipt.report.heatmaps import selected_groups
from instruct_ipt.report.style import GREY, PAGE_IN, TASK_COLOURS, VERMILION, count, publish
from instruct_ipt.tasks import TASKS

_HIGH = 3.7
_BLOCK, _WEIGHT, _INK = "#E8E8E8", "#BDBDBD", "#222222"
# The task that the drawing follows, where it is there.
_CHOSEN = "derain"


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


@dataclass(frozen=True)
class Facts:
    """What the drawing says about the run.

    Attributes:
        stages: resolutions of the U-shaped backbone, from `results/rank_energy.csv`.
        groups: the modulated weight groups.
        per_task: parameters that one task adds.
        share: the same in percent of the backbone.
    """

    stages: int
    groups: tuple[str, ...]
    per_task: float
    share: float


def figure1(
    samples: pd.DataFrame | Path,
    results_dir: Path,
    energy: pd.DataFrame | Path,
    selection: Path,
    metrics: Path,
    out_dir: Path,
) -> None:
    """Write ``fig1_framework.{png,svg,csv}`` and ``fig1_framework_facts.csv``.

    Args:
        samples: `results/samples.csv`; one photograph per task is shown before and after.
        results_dir: folder that the files in ``samples`` are relative to.
        energy: `results/rank_energy.csv`, for the depth of the backbone.
        selection: `models/selection.json`.
        metrics: `models/modulation/metrics.json`.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a file, column or picture is missing.
    """
    found, facts = strips(samples, results_dir), read_facts(energy, selection, metrics)
    publish("fig1_framework", strip_table(found), lambda _: _draw(found, facts), out_dir)
    rows = {"stages": facts.stages, "modulated_groups": " ".join(facts.groups)}
    rows |= {"parameters_per_task": f"{facts.per_task:g}", "percent_of_backbone": f"{facts.share:.4f}"}
    table = pd.DataFrame(rows.items(), columns=["fact", "value"])
    table.to_csv(out_dir / "fig1_framework_facts.csv", index=False, lineterminator="\n")


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
    before, after = (cropped(read_picture(results_dir / file)) for file in files)
    facts = {key: rows[key].iloc[0] for key in ("task", "dataset", "image")}
    return Strip(**facts, before=before, after=after, psnr=(psnr[0], psnr[1]), files=(files[0], files[1]))


def read_facts(energy: pd.DataFrame | Path, selection: Path, metrics: Path) -> Facts:
    """The facts of the drawing, from the three files that ``figure1`` names.

    Raises:
        InputError: a file or a column is missing.
    """
    depths = read_result(energy, "results/rank_energy.csv", (), ("stage_depth",)).stage_depth
    if not metrics.is_file():
        raise InputError(f"{metrics.as_posix()} does not exist; `dvc repro train_modulation` makes it")
    counts = json.loads(metrics.read_text(encoding="utf-8"))
    backbone = counts["params_total"] - counts["params_added"]
    per_task = float(counts["params_per_task"])
    return Facts(int(depths.max()) + 1, tuple(selected_groups(selection)), per_task, 100 * per_task / backbone)


def _draw(found: list[Strip], facts: Facts) -> Figure:
    """One axes over the whole figure, in inches."""
    figure = Figure(figsize=(PAGE_IN, _HIGH), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE_IN), ylim=(0, _HIGH))
    axes.set_axis_off()
    chosen = next((strip for strip in found if strip.task == _CHOSEN), found[0])
    lines = _thumbnails(axes, found, chosen)
    _u_shape(axes, facts.stages)
    _biases(axes, [strip.task for strip in found], chosen.task, facts)
    _flow(axes, chosen, found.index(chosen), len(found), lines[chosen.task])
    return figure


# ---- photographs ----------------------------------------------------------------------------------------------------

_LEFT, _RIGHT = 0.58, 5.88


def _thumbnails(axes: Axes, found: list[Strip], chosen: Strip) -> dict[str, float]:
    """The photographs before (left) and after (right), one line per task; returns the height of each line."""
    pitch = (_HIGH - 0.3) / len(found)
    high = min(0.58, pitch - 0.06)
    wide = high * ASPECT
    heights = {}
    for number, strip in enumerate(found):
        bottom = _HIGH - 0.25 - (number + 1) * pitch + (pitch - high) / 2
        heights[strip.task] = bottom + high / 2
        colour = TASK_COLOURS.get(strip.task, GREY)
        for left, image in ((_LEFT, strip.before), (_RIGHT, strip.after)):
            # Below every other mark, so that the arrows' ends lie on the photographs' edges.
            axes.imshow(image, extent=(left, left + wide, bottom, bottom + high), aspect="auto", zorder=1)
            lw = 1.8 if strip is chosen else 0.8
            axes.add_patch(Rectangle((left, bottom), wide, high, fill=False, ec=colour, lw=lw, zorder=2))
        name = row_label(strip.task, strip.dataset).replace(", ", "\n")
        _say(axes, _LEFT - 0.06, heights[strip.task], name, ha="right", fontsize=6.5)
        text = f"{strip.psnr[0]:.1f} →\n{strip.psnr[1]:.1f} dB"
        _say(axes, _RIGHT + wide + 0.05, heights[strip.task], text, ha="left", fontsize=6)
    axes.set(xlim=(0, PAGE_IN), ylim=(0, _HIGH))
    _say(axes, _LEFT + wide / 2, _HIGH - 0.13, "degraded", fontsize=7)
    _say(axes, _RIGHT + wide / 2, _HIGH - 0.13, "restored", fontsize=7)
    return heights


# ---- the backbone ---------------------------------------------------------------------------------------------------

_U_LEFT, _U_RIGHT, _U_TOP, _U_BOTTOM = 1.78, 5.3, 3.32, 2.02


def _u_shape(axes: Axes, stages: int) -> None:
    """Encoder down the left, bottleneck, decoder up the right; skips across; chips of the tasks on every block."""
    places = np.linspace(0, 1, 2 * stages - 1)
    depths = [stages - 1 - abs(stages - 1 - i) for i in range(2 * stages - 1)]
    wide, step = 0.42, (_U_TOP - _U_BOTTOM) / max(1, stages - 1)
    centres = [
        (_U_LEFT + wide / 2 + place * (_U_RIGHT - _U_LEFT - wide), _U_TOP - depth * step)
        for place, depth in zip(places, depths, strict=True)
    ]
    for (x, y), depth in zip(centres, depths, strict=True):
        high = 0.44 - 0.1 * depth / max(1, stages - 1)
        axes.add_patch(_box(x - wide / 2, y - high / 2, wide, high, _BLOCK))
        _chips(axes, x, y)
    for (x0, y0), (x1, y1) in zip(centres[:-1], centres[1:], strict=True):
        _arrow(axes, (x0 + wide / 2, y0), (x1 - wide / 2, y1), lw=0.8)
    for depth in range(stages - 1):
        (x0, y), (x1, _) = centres[depth], centres[-1 - depth]
        _arrow(axes, (x0 + wide / 2 + 0.04, y + 0.08), (x1 - wide / 2 - 0.02, y + 0.08), lw=0.6, ls=(0, (1, 1.2)))
    middle = (_U_LEFT + _U_RIGHT) / 2
    _say(axes, middle, _U_TOP + 0.28, "one backbone for all tasks, weights W", fontsize=7.5)
    _chips(axes, middle, _U_TOP - 0.2)
    _say(axes, middle, _U_TOP - 0.33, "low-rank biases, one per task", fontsize=6, color=GREY)


def _chips(axes: Axes, x: float, y: float) -> None:
    """Five small squares: on this block sit biases of every task."""
    side = 0.055
    for number, colour in enumerate(TASK_COLOURS.values()):
        left = x + (number - 2) * (side + 0.015) - side / 2
        axes.add_patch(Rectangle((left, y - side / 2), side, side, fc=colour, ec="none", zorder=4))


# ---- the biases -----------------------------------------------------------------------------------------------------

_PANEL = (1.62, 0.1, 3.9, 1.42)


def _biases(axes: Axes, tasks: list[str], chosen: str, facts: Facts) -> None:
    """Below the backbone: shared weights plus the bias of the chosen task, a tall times a wide matrix of low rank."""
    left, bottom, wide, high = _PANEL
    axes.add_patch(_box(left, bottom, wide, high, "white", ec=GREY, lw=0.6))
    _say(axes, left + wide / 2, bottom + high - 0.12, "task-sensitive weights", fontsize=7.5)
    middle = bottom + 0.72
    axes.add_patch(Rectangle((left + 1.06, middle - 0.3), 0.6, 0.6, fc=_WEIGHT, ec=_INK, lw=0.6, zorder=3))
    _say(axes, left + 1.36, middle, "W", fontsize=9)
    _say(axes, left + 1.78, middle, "+", fontsize=10)
    for number, task in enumerate(tasks):
        _factors(axes, left + 1.94 + number * _pitch(len(tasks)), middle, task, task == chosen)
    groups = ", ".join(facts.groups)
    listed = f"on {groups}" if len(groups) < 90 else f"on {len(facts.groups)} weight groups"
    added = f"+{count(facts.per_task)} parameters per task ({facts.share:.1f} % of the backbone)"
    _say(axes, left + wide / 2, bottom + 0.235, listed, 6)
    _say(axes, left + wide / 2, bottom + 0.095, added, fontsize=6)


def _pitch(tasks: int) -> float:
    return min(0.38, (_PANEL[2] - 2.0) / tasks)


def _factors(axes: Axes, left: float, middle: float, task: str, chosen: bool) -> None:
    """up (tall) times down (wide); the others are pale."""
    colour, alpha = TASK_COLOURS.get(task, GREY), 1.0 if chosen else 0.35
    style = {"fc": colour, "ec": "none", "alpha": alpha, "zorder": 3}
    axes.add_patch(Rectangle((left, middle - 0.25), 0.06, 0.5, **style))
    axes.add_patch(Rectangle((left + 0.085, middle + 0.19), 0.25, 0.06, **style))
    _say(axes, left + 0.21, middle - 0.02, task, fontsize=6, rotation=90, color=_INK if chosen else GREY)


# ---- what flows -----------------------------------------------------------------------------------------------------


def _flow(axes: Axes, chosen: Strip, place: int, tasks: int, line: float) -> None:
    """The image's way through, the instruction that picks bias ``place`` of ``tasks``, the loss, both gradients."""
    wide = min(0.58, (_HIGH - 0.3) / 5 - 0.06) * ASPECT
    colour = TASK_COLOURS.get(chosen.task, GREY)
    _arrow(axes, (_LEFT + wide, line), (_U_LEFT, _U_TOP), color=colour, lw=1.4)
    _arrow(axes, (_U_RIGHT, _U_TOP), (_RIGHT, line + 0.15), color=colour, lw=1.4)
    left, bottom, width, high = _PANEL
    # The instruction, inside the panel at the left.
    axes.add_patch(_box(left + 0.08, bottom + 0.5, 0.78, 0.46, "white", ec=colour, lw=1.2))
    _say(axes, left + 0.47, bottom + 0.83, "instruction", fontsize=6, color=GREY)
    _say(axes, left + 0.47, bottom + 0.63, f"“{chosen.task}”", fontsize=7)
    picked = left + 1.94 + place * _pitch(tasks) + 0.15
    bow = {"connectionstyle": "arc3,rad=-0.12", "color": colour}
    _arrow(axes, (left + 0.47, bottom + 0.98), (picked, bottom + 1.0), lw=1.2, **bow)
    middle = (_U_LEFT + _U_RIGHT) / 2
    _arrow(axes, (middle, bottom + high), (middle, _U_BOTTOM - 0.18), lw=1.4, color=colour)
    _say(axes, middle - 0.07, bottom + high + 0.14, "W + up · down", fontsize=6.5, ha="right")
    loss = (5.38, line - 0.1)
    axes.add_patch(_box(loss[0] - 0.17, loss[1] - 0.1, 0.34, 0.2, "white", ec=VERMILION, lw=1.0))
    _say(axes, *loss, "loss", fontsize=6.5, color=VERMILION)
    _arrow(axes, (_RIGHT, loss[1]), (loss[0] + 0.17, loss[1]), color=VERMILION, lw=0.8)
    gradient = {"color": VERMILION, "lw": 1.1, "ls": (0, (3, 1.5))}
    _arrow(axes, (loss[0] - 0.17, loss[1] + 0.03), (middle + 0.27, _U_BOTTOM), **gradient)
    _say(axes, middle + 0.87, _U_BOTTOM + 0.03, "gradient to W", fontsize=6, color=VERMILION)
    _arrow(axes, (loss[0], loss[1] - 0.1), (loss[0] - 0.22, bottom + 1.02), **gradient)
    _say(axes, loss[0] - 0.18, bottom + high - 0.12, "and to the biases", fontsize=6, color=VERMILION, ha="right")


def _box(
    left: float, bottom: float, wide: float, high: float, face: str, ec: str = _INK, lw: float = 0.7
) -> FancyBboxPatch:
    style = "round,pad=0,rounding_size=0.05"
    return FancyBboxPatch((left, bottom), wide, high, boxstyle=style, fc=face, ec=ec, lw=lw, zorder=2)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], lw: float, **style: object) -> None:
    look = {"color": _INK, "ls": "solid"} | style
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=6, shrinkA=0, shrinkB=1, lw=lw, zorder=3, **look)
    )


def _say(axes: Axes, x: float, y: float, text: str, fontsize: float = 6.5, **style: object) -> None:
    look = {"ha": "center", "va": "center", "color": _INK} | style
    axes.text(x, y, text, fontsize=fontsize, zorder=5, **look)
