"""One picture in which a person sees at a glance whether the made-up damages look like the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.errors import InputError
from instruct_ipt.report.style import PAGE_IN, publish
from instruct_ipt.tasks import TASKS


def contact_sheet(images: Sequence[tuple[str, np.ndarray]], settings: Any, out_dir: Path) -> None:
    """Write ``data_degradations.{png,svg,csv}``: one row per photograph, the clean image and its five damaged versions.

    Args:
        images: (name, image) pairs; image float32 (H, W, 3) in [0, 1]. The damage depends on the name, as in tests.
        settings: degradation parameters, as ``degrade`` takes them. Noise is drawn from its list of levels.
        out_dir: folder to write to; it is made. The same inputs give the same bytes.

    Raises:
        InputError: there are no images.
    """
    if not images:
        raise InputError("the contact sheet got no images; give at least one photograph")
    names = [name for name, _ in images]
    rows = [[image, *(degrade_named(task, image, name, settings) for task in TASKS)] for name, image in images]
    table = pd.DataFrame(
        [
            [name, task, _psnr(damaged, row[0])]
            for name, row in zip(names, rows, strict=True)
            for task, damaged in zip(TASKS, row[1:], strict=True)
        ],
        columns=["image", "task", "psnr"],
    )
    publish("data_degradations", table, lambda _: _draw(rows, names), out_dir)


def _psnr(damaged: np.ndarray, clean: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((damaged.astype(np.float64) - clean) ** 2)))


def _draw(rows: list[list[np.ndarray]], names: list[str]) -> Figure:
    """Lay out the cells, columns of one width and every row as high as its photograph asks."""
    heights = [row[0].shape[0] / row[0].shape[1] for row in rows]
    columns = ("clean", *TASKS)
    cell = (PAGE_IN - 0.2) / len(columns)
    figure = Figure(figsize=(PAGE_IN, sum(heights) * cell + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for axes, image in zip(grid.flat, (image for row in rows for image in row), strict=True):
        axes.imshow(np.clip(image, 0, 1), interpolation="antialiased")
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
        axes.grid(visible=False)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name)
    return figure
