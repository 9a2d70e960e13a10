"""Table 11: the ways to make one diffusion denoiser serve several filling tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from instruct_ipt.analysis.claims import photograph_of
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.figure5 import LABELS, ROW_TASKS
from instruct_ipt.report.intervals import EXPLAINED, NOTHING, Interval, paired
from instruct_ipt.report.table import Column, Table, interval_cells

_FILE = "results/diffusion_per_image.csv"
_NUMBERS = (
    "seed", "images", "psnr", "psnr_carried", "ssim", "l1", "seam", "seam_real", "diversity", "swd", "fid", "kid",
    "lpips", "params_added", "params_total",
)  # fmt: skip
_ORDER = tuple(column for column in LABELS if column not in ("input", "truth"))
_LEARNED = {"fid": "FID", "kid": "KID", "lpips": "LPIPS"}


def table11(scores: pd.DataFrame | Path, images: pd.DataFrame | Path) -> Table:
    """Methods by task: fidelity of the filled part, its likeness to photographs, the seam, and how much draws differ.

    Args:
        scores: `results/diffusion.csv`.
        images: `results/diffusion_per_image.csv`, for the intervals of the gain over the shared network.

    Raises:
        InputError: a column is missing.
    """
    rows = read_result(scores, "results/diffusion.csv", ("method", "strategy", "task", "profile"), _NUMBERS)
    each = read_result(images, _FILE, ("method", "task", "image"), ("seed", "psnr")).assign(dataset="")
    rows = _sorted(rows)
    gains = [interval_cells("gain", _gain(each, row.task, row.method)) for row in rows.itertuples()]
    rows = rows.join(pd.DataFrame(gains, index=rows.index))
    rows["_shown"] = [LABELS.get(method, method) for method in rows.method]
    learned = {key: title for key, title in _LEARNED.items() if np.isfinite(rows[key]).any()}
    columns = (
        Column("task", "Task"),
        Column("_shown", "Method"),
        Column("params_added", "Parameters added", 0),
        Column("psnr", "PSNR (dB)", 2, "higher"),
        Column("gain", "Gain over shared (dB)", 2, interval=True),
        Column("ssim", "SSIM", 3, "higher"),
        Column("l1", "L1", 4, "lower"),
        Column("swd", "SWD", 1, "lower"),
        Column("seam", "Seam", 2),
        Column("diversity", "Diversity", 4),
        *(Column(key, title, 2, "lower") for key, title in learned.items()),
    )
    outside = tuple(np.flatnonzero(rows.method == "experts").tolist())
    return Table("table11", _caption(rows, learned), columns, rows, "task", outside)


def _sorted(rows: pd.DataFrame) -> pd.DataFrame:
    tasks, methods = in_order(list(rows.task), ROW_TASKS), in_order(list(rows.method), _ORDER)
    place = {(task, method): (i, j) for i, task in enumerate(tasks) for j, method in enumerate(methods)}
    keys = [place[key] for key in zip(rows.task, rows.method, strict=True)]
    return rows.assign(_place=keys).sort_values("_place", ignore_index=True).drop(columns="_place")


def _gain(images: pd.DataFrame, task: str, method: str) -> Interval:
    if method == "shared":
        return NOTHING
    return paired(images[images.task == task], method, "shared", _FILE, photograph_of)


def _per_task(rows: pd.DataFrame, column: str) -> str:
    """A number that is the same for all methods, task by task; tasks without one are left out."""
    values = rows.groupby("task", sort=False)[column].first()
    return ", ".join(f"{value:.2f} ({task})" for task, value in values.items() if np.isfinite(value))


def _caption(rows: pd.DataFrame, learned: dict[str, str]) -> str:
    seeds = int(rows.seed.nunique())
    real, carried = _per_task(rows, "seam_real"), _per_task(rows, "psnr_carried")
    absent = ", ".join(title for key, title in _LEARNED.items() if key not in learned)
    missing = f" {absent}: not computed, the files of their networks are absent (docs/diffusion.md)." if absent else ""
    return (
        "Diffusion extension: one denoiser, several filling tasks (table 11 by an assumed mapping). PSNR, SSIM and L1 "
        "of the missing pixels of test photographs; SWD: sliced Wasserstein distance of patches to the photographs "
        "(times 1000); seam: change across the border of the mask over change inside, of the photographs themselves "
        f"{real}; diversity: mean difference of two draws. Without a network, the known pixels carried smoothly into "
        f"the missing ones: PSNR {carried}. Profile {rows.profile.iloc[0]}, n = "
        f"{int(rows.images.iloc[0])} windows per task, {seeds} seed{'s' * (seeds > 1)}.{missing} {EXPLAINED}. Bold: "
        "best, underlined: second best; experts are a whole network per task and stand outside."
    )
