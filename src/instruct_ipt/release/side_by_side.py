"""`ipt side-by-side`: the arms of one schedule and the classical methods, on the test images of level `benchmark`."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from instruct_ipt import params as params_module
from instruct_ipt.classical import available, choose
from instruct_ipt.data.prepared import Pair, read_index
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.benchmark import Restore, restore, score_images
from instruct_ipt.evaluation.protocol import PROTOCOLS, first_protocol
from instruct_ipt.evaluation.validation import validation_pairs
from instruct_ipt.marks import Marks
from instruct_ipt.params import Params
from instruct_ipt.paths import ARMS, PREPARED
from instruct_ipt.pipeline import check_inputs
from instruct_ipt.progress import progress
from instruct_ipt.release.arms import NAMES, START, load, steps_of
from instruct_ipt.release.sets import indexed_images
from instruct_ipt.tasks import TASKS

PROTOCOL = PROTOCOLS["rgb"]
INPUT, ARM, CLASSICAL = "input", "arm", "classical"
MARKS = Marks("<!-- side by side: written by `ipt side-by-side` -->", "<!-- end of side by side -->")
COLUMNS = ["task", "dataset", "method", "kind", "steps", "setting", "images", "psnr", "ssim", "time_ratio"]
# Images that the durations of two methods are compared on, and how often.
_TIMED, _REPEATS = 2, 3
# How far, in dB, means of the same images may lie apart: they are written with four decimals.
_SAME = 2e-4


@dataclass(frozen=True)
class Rival:
    """One method for one task.

    Attributes:
        name, kind: by which the table shows it; `input`, `arm` or `classical`.
        restore: what it does.
        steps: of training; 0 for what is not trained.
        setting: what validation chose for it.
    """

    name: str
    kind: str
    restore: Restore
    steps: int = 0
    setting: Mapping[str, Any] | None = None


def compute(methods: Sequence[str] = (), datasets: Sequence[str] = ()) -> pd.DataFrame:
    """Mean scores of every arm that is trained and every classical method, set by set, by the set's first protocol.

    Beside the sets of others stand the same damages made by us on clean test images (`CBSD68-derain` and so on).

    Settings of classical methods are chosen on the validation images of `data/prepared`. `time_ratio` is the time of a
    method over that of the network of the synchronous arm, by the clock, one after the other on the same images.

    Args:
        methods: those to score, and the input in any case; default: all.
        datasets: sets to score them on, as the table names them; default: all.

    Returns:
        Rows in the order of :data:`COLUMNS`.

    Raises:
        InputError: `data/prepared` is missing or stale, the benchmark images are not fetched, or there is no such
            method or set.
    """
    configuration = params_module.load()
    check_inputs([(PREPARED / "manifest.json").as_posix()], configuration)
    torch.set_num_threads(configuration.training.threads)
    _refuse_unknown("method", methods, {INPUT, *NAMES, *(method.name for method in available())})
    root = indexed_images(configuration.degradation, ours=True)
    images = _images_of(root, configuration)
    _refuse_unknown("dataset", datasets, images)
    only = {image for name in datasets or images for image in images[name]}
    trained = [Rival(INPUT, INPUT, lambda pair: pair.input), *_arms(configuration)]
    reference = next((rival for rival in trained if rival.name == START), None)
    tables, done = [], count(1)
    with progress("side by side", len(only)) as advance:
        tasks = {task for task, _, _ in only}
        for task in (task for task in TASKS if task in tasks):
            asked = [rival for rival in trained if rival.name in (INPUT, *methods) or not methods]
            rivals = [*asked, *_classical(configuration, task, methods)]
            if len(rivals) == 1:
                continue
            methods_of = {rival.name: rival.restore for rival in rivals}
            rows, timed = [], []
            found = score_images(methods_of, root, configuration.degradation, [PROTOCOL], only=only, tasks=[task])
            for pair, _, scores in found:
                rows += [
                    [task, score.dataset, score.method, score.psnr, score.ssim]
                    for score in scores
                    if score.protocol == first_protocol(score.dataset)
                ]
                timed += [pair] if len(timed) < _TIMED else []
                advance(next(done), f"{pair.dataset} {pair.name}")
            tables.append(_means(rows, rivals, _time_ratios(rivals, reference, timed)))
    if not tables:
        raise InputError(f"no set of these is for {', '.join(methods)}; `ipt side-by-side` without options scores all")
    return pd.concat(tables, ignore_index=True)


def _refuse_unknown(option: str, given: Sequence[str], known: Collection[str]) -> None:
    """InputError where a name is none of the known ones."""
    for name in given:
        if name not in known:
            raise InputError(f"--{option} {name!r:.40}: there is none; known: {', '.join(sorted(known))}")


def read(path: Path) -> pd.DataFrame:
    """A table that was written.

    Raises:
        InputError: it is damaged.
    """
    try:
        return pd.read_csv(path)[COLUMNS]
    except (KeyError, ValueError):
        raise InputError(f"{path} is damaged; get it again, or remove it and score all methods anew") from None


def merged(before: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """An earlier table with the rows of `compute` in the place of its own, and the others as they are.

    Raises:
        InputError: the input was another one then: the damage of `params.yaml`, or the images, have changed.
    """
    keys = COLUMNS[:3]
    inputs = before.merge(found[found.method == INPUT], on=keys, suffixes=("_then", ""))
    moved = inputs[(inputs.psnr_then - inputs.psnr).abs() > _SAME]
    if len(moved):
        row = moved.iloc[0]
        raise InputError(
            f"{row.dataset}: the input has {row.psnr:.4f} dB, in the table {row.psnr_then:.4f}: other damage or images"
            " than then; take the params.yaml of the table, or score all methods anew, without --method and --dataset"
        )
    kept = before[~before.set_index(keys).index.isin(found.set_index(keys).index)]
    table = pd.concat([kept, found], ignore_index=True)
    places = {name: place for place, name in enumerate((INPUT, *NAMES))}
    orders = {
        "task": TASKS.index,
        "dataset": list(table.dataset.unique()).index,
        "method": lambda name: places.get(name, len(places)),
    }
    return table.sort_values(keys, key=lambda column: column.map(orders[column.name]), kind="stable", ignore_index=True)


def _images_of(root: Path, configuration: Params) -> dict[str, set[tuple[str, str, str]]]:
    """Set -> its test images, as (task, set, name); noise of each level is a set of its own."""
    levels = {"denoise": [f"-sigma{sigma:g}" for sigma in configuration.degradation.denoise.sigma]}
    found: dict[str, set[tuple[str, str, str]]] = {}
    for row in read_index(root):
        if row.split == "test" and row.layout != "picture":
            for level in levels.get(row.task, [""]):
                found.setdefault(row.dataset + level, set()).add((row.task, row.dataset + level, row.name))
    return found


def _arms(configuration: Params) -> list[Rival]:
    found = []
    for name in NAMES:
        method = load(configuration, name)
        if method is None:
            print(f"{ARMS / name} is not there and is left out; `ipt arm {name}` trains it", file=sys.stderr)
            continue
        found.append(Rival(name, ARM, partial(restore, method), steps_of(configuration, name)))
    return found


def _classical(configuration: Params, task: str, methods: Sequence[str]) -> list[Rival]:
    """The classical methods for a task, of some names or of any, each with the setting that validation chose."""
    asked = [method for method in available() if method.task == task and (method.name in methods or not methods)]
    validation = list(validation_pairs(PREPARED, configuration.degradation, task)) if asked else []
    found = [choose(method, validation) for method in asked]
    return [Rival(f.method.name, CLASSICAL, _on_input(f), setting=f.setting) for f in found]


def _on_input(apply: Callable[[np.ndarray], np.ndarray]) -> Restore:
    return lambda pair: apply(pair.input)


def _time_ratios(rivals: Sequence[Rival], reference: Rival | None, shown: Sequence[Pair]) -> dict[str, float]:
    """Method -> median over images and repeats of its time over the reference's; empty without that."""
    if reference is None:
        return {}
    ratios: dict[str, list[float]] = {rival.name: [] for rival in rivals if rival.kind != INPUT}
    for pair in shown:
        for _ in range(_REPEATS):
            base = _seconds(reference, pair)
            for rival in rivals:
                if rival.name in ratios:
                    ratios[rival.name].append(1.0 if rival is reference else _seconds(rival, pair) / base)
    return {name: statistics.median(values) for name, values in ratios.items()}


def _seconds(rival: Rival, pair: Pair) -> float:
    begun = time.perf_counter()
    rival.restore(pair)
    return time.perf_counter() - begun


def _means(rows: list[list[Any]], rivals: Sequence[Rival], ratios: Mapping[str, float]) -> pd.DataFrame:
    images = pd.DataFrame(rows, columns=["task", "dataset", "method", "psnr", "ssim"])
    table = images.groupby(["task", "dataset", "method"], sort=False).agg(
        images=("psnr", "count"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    )
    facts = pd.DataFrame(
        [[r.name, r.kind, r.steps, json.dumps(r.setting or {}), ratios.get(r.name)] for r in rivals],
        columns=["method", "kind", "steps", "setting", "time_ratio"],
    )
    return table.reset_index().merge(facts, on="method")[COLUMNS].round({"psnr": 4, "ssim": 5, "time_ratio": 3})


def as_markdown(table: pd.DataFrame) -> str:
    """A table per task: a row per method, a column per set, with its number of images; PSNR in dB."""
    parts = []
    for task, rows in table.groupby("task", sort=False):
        sets = list(dict.fromkeys(rows.dataset))
        images = rows.drop_duplicates("dataset").images
        headings = [f"{name} ({count})" for name, count in zip(sets, images, strict=True)]
        parts.append(f"| {task} | steps | {' | '.join(headings)} | time over the network's |")
        parts.append(f"|---|---:|{'---:|' * len(sets)}---:|")
        wide = rows.pivot(index="method", columns="dataset", values="psnr")
        for method, facts in rows.drop_duplicates("method").set_index("method").iterrows():
            name = method if facts.kind != CLASSICAL else f"{method} ({_told(facts.setting)})"
            cells = ["" if pd.isna(psnr) else f"{psnr:.2f}" for psnr in wide.loc[method, sets]]
            ratio = "" if pd.isna(facts.time_ratio) else f"{facts.time_ratio:.2f}"
            parts.append(f"| {name} | {facts.steps or ''} | {' | '.join(cells)} | {ratio} |")
        parts.append("")
    return "\n".join(parts)


def _told(setting: str) -> str:
    return ", ".join(f"{key} {value}" for key, value in json.loads(setting).items()) or "nothing to choose"
