"""One picture in which a person sees at a glance whether the made-up damages look like the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS

_CELL_PX = 640
_DPI = 100


def contact_sheet(images: Sequence[tuple[str, np.ndarray]], settings: Any, out: Path) -> None:
    """Write a PNG with one row per photograph: the clean image, then its five damaged versions.

    Args:
        images: (name, image) pairs; image float32 (H, W, 3) in [0, 1]. The damage depends on the name, as in tests.
        settings: degradation parameters, as ``degrade`` takes them. Noise is drawn from its list of levels.
        out: file to write; its folder is made. The same inputs give the same bytes.

    Raises:
        InputError: there are no images.
    """
    if not images:
        raise InputError("the contact sheet got no images; give at least one photograph")
    rows = [[image, *(degrade_named(task, image, name, settings) for task in TASKS)] for name, image in images]
    figure = _figure(rows, [name for name, _ in images])
    out.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": None})


def _figure(rows: list[list[np.ndarray]], names: list[str]) -> Figure:
    """Lay out the cells, every column _CELL_PX wide and every row as high as its photograph asks."""
    heights = [row[0].shape[0] / row[0].shape[1] for row in rows]
    columns = ("clean", *TASKS)
    size = np.array([len(columns), sum(heights)]) * _CELL_PX / _DPI
    figure = Figure(figsize=(size[0], size[1] + 0.6), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for axes, image in zip(grid.flat, (image for row in rows for image in row), strict=True):
        axes.imshow(np.clip(image, 0, 1), interpolation="lanczos")
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, fontsize=26)
    for axes, name in zip(grid[:, 0], names, strict=True):
        axes.set_ylabel(name, fontsize=26)
    return figure
