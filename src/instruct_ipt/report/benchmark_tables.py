"""Tables of the test split: the main comparison (4), and noise, blur, rain and haze, snow in detail (5 to 8)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.intervals import EXPLAINED, NOTHING, paired
from instruct_ipt.report.style import METHOD_LABELS, METHODS
from instruct_ipt.report.table import Column, Table, interval_cells
from instruct_ipt.tasks import TASKS

# Table -> (what its caption begins with, its tasks).
DETAILS = {
    "table05": ("Noise", ("denoise",)),
    "table06": ("Blur", ("deblur",)),
    "table07": ("Rain and haze", ("derain", "dehaze")),
    "table08": ("Snow", ("desnow",)),
}
_METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "gain": "Gain (dB)"}
_FILE = "results/per_image.csv"
_MARKS = "Bold: best, underlined: second best."


def read_benchmark(benchmark: pd.DataFrame | Path) -> pd.DataFrame:
    """`results/benchmark.csv` under its first protocol, the one that figures and tables show; one profile.

    Raises:
        InputError: a column is missing, or the table mixes profiles.
    """
    text = ("method", "strategy", "task", "dataset", "protocol", "profile")
    numbers = ("seed", "images", "psnr", "ssim", "psnr_input", "ssim_input", "params_total", "params_per_task")
    scores = read_result(benchmark, "results/benchmark.csv", text, numbers)
    profiles = list(dict.fromkeys(scores.profile))
    if len(profiles) > 1:
        raise InputError(f"results/benchmark.csv mixes profiles {', '.join(profiles)}; keep the rows of one")
    return scores[scores.protocol == scores.protocol.iloc[0]].reset_index(drop=True)


def read_images(images: pd.DataFrame | Path, scores: pd.DataFrame) -> pd.DataFrame:
    """`results/per_image.csv` under the protocol of ``scores``, which ``read_benchmark`` returned.

    Raises:
        InputError: a column is missing.
    """
    table = read_result(images, _FILE, ("method", "task", "dataset", "protocol", "image"), ("seed", "psnr"))
    return table[table.protocol == scores.protocol.iloc[0]].reset_index(drop=True)


def table04(scores: pd.DataFrame, images: pd.DataFrame) -> Table:
    """Main comparison: methods by tasks, in three blocks (PSNR, SSIM, gain over the degraded image).

    Args:
        scores: as ``read_benchmark`` returns it.
        images: as ``read_images`` returns it.
    """
    scores = scores.assign(gain=scores.psnr - scores.psnr_input)
    sets = set_titles(scores)
    rows = pd.concat([_block(scores, sets, key, title) for key, title in _METRICS.items()], ignore_index=True)
    rows = rows[~((rows.metric == _METRICS["gain"]) & (rows.method == "input"))].reset_index(drop=True)
    rows["_shown"] = [METHOD_LABELS.get(method, method) for method in rows.method]
    whole = (rows.metric == _METRICS["gain"]) & rows["mean"].notna()
    gains = {method: paired(images, method, "input", _FILE) for method in rows.method[whole]}
    for end in ("low", "high"):
        rows[f"mean_{end}"] = rows.method.map({m: getattr(gain, end) for m, gain in gains.items()}).where(whole)
    digits = {_METRICS["psnr"]: 2, _METRICS["ssim"]: 4, _METRICS["gain"]: 2}
    columns = (
        Column("metric", "Metric"),
        Column("_shown", "Method"),
        *(Column(key, title, digits, "higher") for key, title in sets.items()),
        Column("mean", "Mean", digits, "higher", interval=True),
        Column("params_total", "Parameters, total", 0),
        Column("params_per_task", "Parameters per task", 0),
    )
    caption = (
        f"Main comparison (table 4 by an assumed mapping). {tested(scores)} "
        "The mean weighs the tasks equally, however many sets each has. Gain: PSNR minus that of the degraded image. "
        f"{EXPLAINED}. {_MARKS}{snow_note(scores)}"
    )
    outside = tuple(np.flatnonzero(rows.method == "input").tolist())
    return Table("table04", caption, columns, rows, "metric", outside)


def detail(name: str, scores: pd.DataFrame, images: pd.DataFrame) -> Table:
    """One of the tables of :data:`DETAILS`: PSNR, SSIM and gain on every test set of its tasks.

    Args:
        name: ``table05`` to ``table08``.
        scores: as ``read_benchmark`` returns it.
        images: as ``read_images`` returns it.
    """
    title, tasks = DETAILS[name]
    scores = scores[scores.task.isin(tasks)]
    sets = set_titles(scores)
    rows = []
    for method in in_order(list(scores.method), METHODS):
        row: dict[str, object] = {"method": method, "_shown": METHOD_LABELS.get(method, method)}
        for key in sets:
            task, dataset = key.split("/", 1)
            part = scores[(scores.method == method) & (scores.task == task) & (scores.dataset == dataset)]
            row |= {f"{key}/psnr": part.psnr.mean(), f"{key}/ssim": part.ssim.mean()}
            shown = images[(images.task == task) & (images.dataset == dataset)]
            gain = NOTHING if method == "input" else paired(shown, method, "input", _FILE)
            row |= interval_cells(f"{key}/gain", gain)
        rows.append(row)
    table = pd.DataFrame(rows)
    columns = [Column("_shown", "Method")]
    for key, heading in sets.items():
        columns += [
            Column(f"{key}/psnr", f"{heading}: PSNR (dB)", 2, "higher"),
            Column(f"{key}/ssim", f"{heading}: SSIM", 4, "higher"),
            Column(f"{key}/gain", f"{heading}: gain (dB)", 2, "higher", interval=True),
        ]
    caption = (
        f"{title} in detail (table {int(name[-2:])} by an assumed mapping). {tested(scores)} Gain: PSNR minus that of "
        f"the degraded image. {EXPLAINED}. {_MARKS}{snow_note(scores)}"
    )
    outside = tuple(np.flatnonzero(table.method == "input").tolist())
    return Table(name, caption, tuple(columns), table, None, outside)


def tested(scores: pd.DataFrame) -> str:
    """What stands behind scores of the test split, as a sentence: protocol, n, seeds, profile."""
    first, seeds = scores.iloc[0], int(scores.seed.nunique())
    return (
        f"Protocol {first.protocol}, test split, n = {images_per_set(scores)} images per set, {seeds} "
        f"seed{'s' * (seeds > 1)}; profile {first.profile}."
    )


def images_per_set(scores: pd.DataFrame) -> str:
    """Number of images behind the scores, as text: `3`, or `5 to 68` where sets differ."""
    low, high = int(scores.images.min()), int(scores.images.max())
    return f"{low}" if low == high else f"{low} to {high}"


def snow_note(scores: pd.DataFrame) -> str:
    """What must stand wherever desnowing is scored on synthetic snow over benchmark images; empty elsewhere."""
    if not scores.dataset.str.endswith("-snow").any():
        return ""
    return " Desnowing: synthetic snow with a real mask among the flakes, for no public pairs could be had."


def set_titles(scores: pd.DataFrame) -> dict[str, str]:
    """``task/dataset`` -> heading of every test set, tasks in order, noise levels rising.

    Args:
        scores: a table with the columns task and dataset.
    """
    found = {}
    for task in in_order(list(scores.task), TASKS):
        datasets = list(dict.fromkeys(scores.dataset[scores.task == task]))
        for dataset in sorted(datasets, key=lambda name: (_sigma(name), datasets.index(name))):
            level = f" σ={_sigma(dataset):g}" if _sigma(dataset) else ""
            plain = level or len(datasets) == 1
            found[f"{task}/{dataset}"] = f"{task}{level}" if plain else f"{task} {dataset}"
    return found


def _sigma(dataset: str) -> float:
    match = re.search(r"sigma(\d+(?:\.\d+)?)", dataset)
    return float(match[1]) if match else 0.0


def _block(scores: pd.DataFrame, sets: dict[str, str], key: str, title: str) -> pd.DataFrame:
    """One row per method: ``key`` averaged over seeds for each set, and over tasks."""
    rows = []
    for method in in_order(list(scores.method), METHODS):
        part = scores[scores.method == method]
        values = part.groupby(part.task + "/" + part.dataset)[key].mean()
        cells = {name: float(values.get(name, np.nan)) for name in sets}
        by_task = pd.Series(cells).groupby([name.split("/")[0] for name in cells], sort=False)
        tasks = by_task.agg(lambda values: values.mean(skipna=False))
        costs = {name: float(part[name].iloc[0]) for name in ("params_total", "params_per_task")}
        rows.append({"metric": title, "method": method} | cells | {"mean": tasks.mean(skipna=False)} | costs)
    return pd.DataFrame(rows)
