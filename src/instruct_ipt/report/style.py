"""The one look of all figures: font, colours, widths, and how a figure becomes a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

# Widths in print, inches: single and double column.
COLUMN_IN, PAGE_IN = 3.5, 7.2
# Points; what is smaller cannot be read in print.
SMALLEST_TEXT = 6.0
PNG_LIMIT = 4_000_000
# Okabe and Ito (2008), "Color Universal Design": eight colours that people with any colour vision tell apart.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#6E6E6E"

TASK_COLOURS = {"denoise": BLUE, "deblur": ORANGE, "derain": SKY, "dehaze": GREEN, "desnow": PURPLE}
METHOD_COLOURS = {
    "input": GREY,
    "shared": ORANGE,
    "film": PURPLE,
    "experts": GREEN,
    "modulation": BLUE,
    "clean": BLACK,
}
METHOD_LABELS = {
    "input": "Degraded",
    "shared": "Shared",
    "film": "FiLM",
    "prompt": "Prompt",
    "gate": "Channel gate",
    "adapter": "Adapter",
    "task_norm": "Task norm",
    "task_head": "Task head",
    "experts": "Experts",
    "modulation": "Weight modulation",
    "clean": "Clean",
}
METHODS = tuple(method for method in METHOD_LABELS if method != "clean")
# No colour stands alone: every method has its own dashes and marker too.
METHOD_DASHES = {"shared": (0, (4, 1.5)), "film": (0, (1, 1)), "experts": (0, (5, 1, 1, 1)), "modulation": "solid"}
METHOD_MARKERS = {"shared": "o", "experts": "s", "film": "v", "modulation": "D"}
RULE_COLOURS = {"constant": BLUE, "proportional": VERMILION}

_RC: dict[str, Any] = {
    # DejaVu Sans ships inside matplotlib: the same glyphs on every machine.
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 8.0,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.4,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Glyphs are outlines in SVG and embedded TrueType in PDF: a reader needs no font of ours.
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    # Ids inside an SVG are hashed with this instead of a random number.
    "svg.hashsalt": "instruct-ipt",
}


@contextmanager
def styled() -> Iterator[None]:
    """Context in which figures are drawn: matplotlib's defaults plus ours, whatever the user's own settings are."""
    with matplotlib.style.context(_RC, after_reset=True):
        yield


def bare(axes: Axes) -> None:
    """Nothing around a picture: no ticks, no grid, no frame."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def publish(name: str, table: pd.DataFrame, draw: Callable[[pd.DataFrame], Figure], out_dir: Path) -> None:
    """Write ``<name>.csv``, the numbers, and what ``draw`` makes of them as ``<name>.png`` and ``<name>.svg``.

    Args:
        name: file name without suffix, as in the registry `report/figures.py`.
        table: what is drawn.
        draw: called with ``table`` under our style.
        out_dir: folder to write to; it is made.
    """
    write_csv(table, out_dir / f"{name}.csv")
    with styled():
        save(draw(table), out_dir / name)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write ``table`` with six decimals; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")


def save(figure: Figure, stem: Path) -> None:
    """Write ``stem``.png and ``stem``.svg; the same figure gives the same bytes. The folder is made.

    The PNG has 300 dpi, or the largest resolution below it that stays under ``PNG_LIMIT`` bytes (photographs).

    Raises:
        ValueError: the figure is neither one nor two columns wide, or a text is smaller than ``SMALLEST_TEXT``.
    """
    _check(figure)
    stem.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)
    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    with styled():
        for dpi in (300, 260, 230, 200, 170, 140, 110):
            figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
            if png.stat().st_size <= PNG_LIMIT:
                break
        figure.savefig(svg, format="svg", dpi=dpi, metadata={"Date": None, "Creator": None})


def _check(figure: Figure) -> None:
    width = figure.get_figwidth()
    if width not in (COLUMN_IN, PAGE_IN):
        raise ValueError(f"the figure is {width} in wide; a column has {COLUMN_IN} in, two have {PAGE_IN} in")
    small = [t.get_text() for t in figure.findobj(Text) if t.get_text() and t.get_fontsize() < SMALLEST_TEXT]
    if small:
        raise ValueError(f"text below {SMALLEST_TEXT} pt: {', '.join(small)}")


def count(value: float) -> str:
    """A number of parameters for an axis or a label: ``850``, ``12.3 k``, ``1.20 M``."""
    if value < 1e3:
        return f"{value:.0f}"
    return f"{value / 1e3:.3g} k" if value < 999.5e3 else f"{value / 1e6:.3g} M"
