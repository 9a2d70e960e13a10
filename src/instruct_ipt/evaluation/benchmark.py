"""Scores of every method on the held-out photographs, and the restored pictures that the figures show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from instruct_ipt.data.images import to_bytes, write_image
from instruct_ipt.data.prepared import Pair, pairs, pictures
from instruct_ipt.evaluation.protocol import OF_SET, PROTOCOLS, Protocol
from instruct_ipt.evaluation.validation import restore_stack
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel

KEYS = ["method", "strategy", "task", "dataset", "protocol", "profile", "seed"]
BENCHMARK = [*KEYS, "images", "psnr", "ssim", "psnr_input", "ssim_input", "params_total", "params_per_task"]

# A method restores an image for a task; `input` is the identity, `experts` picks the network of the task.
Method = Mapping[str, "TaskModel"]
# What gives a restored image, float32 (H, W, 3), for a pair whose target it does not look at.
Restore = Callable[[Pair], np.ndarray]
Sample = dict[str, Any]


def restore(method: Method | None, pair: Pair) -> np.ndarray:
    """The image of ``pair`` restored by a method (task -> network), or unchanged for None; float32 (H, W, 3)."""
    if method is None:
        return pair.input
    return restore_stack(method[pair.task], pair.input[None], pair.task)[0]


def restoring(methods: Mapping[str, Method | None]) -> dict[str, Restore]:
    """Each method as a function."""
    return {name: partial(restore, method) for name, method in methods.items()}


@dataclass(frozen=True)
class Score:
    """The scores of one method on one image under one protocol: a row of `per_image.csv` without the run's facts."""

    method: str
    task: str
    dataset: str
    image: str
    protocol: str
    psnr: float
    ssim: float


def score_images(
    methods: Mapping[str, Restore],
    root: Path,
    settings: Any,
    protocols: Sequence[Protocol],
    only: set[tuple[str, str, str]] | None = None,
    tasks: Sequence[str] = TASKS,
) -> Iterator[tuple[Pair, dict[str, np.ndarray], list[Score]]]:
    """For every test pair: the pair, each method's output, and the scores.

    Protocols that give the networks the same input share one restoration. A set that has a protocol of its own
    (``OF_SET``) is scored by it too.

    Args:
        methods: method -> what restores with it.
        root: `data/prepared`, or another folder with an index.
        settings: the `degradation` section of the parameters.
        protocols: rules of scoring.
        only: (task, dataset, image name) of the pairs to restore; None for all.
        tasks: whose pairs are restored.
    """
    for group in _sharing_inputs(protocols):
        rule = group[0]
        for task in tasks:
            for pair in pairs(root, "test", task, settings, noise=rule.noisy, only=only):
                pair = replace(
                    pair, **dict(zip(("input", "target"), rule.prepare(pair.input, pair.target), strict=True))
                )
                outputs = {name: method(pair) for name, method in methods.items()}
                yield (
                    pair,
                    outputs,
                    [
                        Score(name, task, pair.dataset, pair.name, protocol.name, *protocol.score(output, pair.target))
                        for protocol in _with_that_of_the_set(group, pair.dataset)
                        for name, output in outputs.items()
                    ],
                )


def _with_that_of_the_set(group: Sequence[Protocol], dataset: str) -> list[Protocol]:
    """The protocols, and the one of the set where it has one, they do not have it, and it shares their input."""
    own = PROTOCOLS.get(OF_SET.get(dataset, ""))
    return [*group, *([own] if own and own not in group and own.input_rule == group[0].input_rule else [])]


def _sharing_inputs(protocols: Sequence[Protocol]) -> list[list[Protocol]]:
    """Protocols grouped by what they do to an image before it is restored, in the order of their first member."""
    groups: dict[tuple[Any, ...], list[Protocol]] = {}
    for protocol in protocols:
        groups.setdefault(protocol.input_rule, []).append(protocol)
    return list(groups.values())


def summarise(images: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """`benchmark.csv` from `per_image.csv` and a table method -> params_total, params_per_task."""
    means = images.groupby(KEYS, sort=False).agg(
        images=("image", "count"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    )
    means = means.reset_index()
    keys = ["task", "dataset", "protocol"]
    base = means[means.method == "input"].set_index(keys)[["psnr", "ssim"]].add_suffix("_input")
    return means.join(base, on=keys).merge(costs, on="method")[BENCHMARK]


def median_gain_image(images: pd.DataFrame, method: str = "modulation", against: str = "input") -> pd.DataFrame:
    """The image of each (task, dataset) whose gain in PSNR is the median (the lower one of an even number).

    The gain is that under the first protocol of the table.
    """
    images = images[images.protocol == images.protocol.iloc[0]]
    wide = images.pivot_table(index=["task", "dataset", "image"], columns="method", values="psnr", sort=False)
    gain = (wide[method] - wide[against]).rename("gain").reset_index().sort_values(["task", "dataset", "gain", "image"])
    sets = gain.groupby(["task", "dataset"], sort=False)
    return gain[sets.cumcount() == (sets["gain"].transform("size") - 1) // 2]


def write_samples(folder: Path, pair: Pair, outputs: Mapping[str, np.ndarray], scores: Sequence[Score]) -> list[Sample]:
    """Write the pictures of one pair as PNG; rows of `samples.csv`, scored under the first protocol."""
    psnr = {score.method: score.psnr for score in reversed(scores)}
    shown = {**outputs, "clean": pair.target}
    return [_write_sample(folder, pair.task, pair.dataset, pair.name, m, im, psnr.get(m)) for m, im in shown.items()]


def write_pictures(folder: Path, root: Path, methods: Mapping[str, Restore]) -> list[Sample]:
    """Restore the photographs that have no ground truth; rows of `samples.csv` without a score."""
    rows = []
    for row, image in pictures(root):
        pair = Pair(row.task, row.dataset, row.name, image, image)
        rows += [
            _write_sample(folder, row.task, row.dataset, row.name, name, method(pair), None)
            for name, method in methods.items()
        ]
    return rows


def _write_sample(
    folder: Path, task: str, dataset: str, name: str, method: str, image: np.ndarray, psnr: float | None
) -> Sample:
    file = f"samples/{task}/{dataset}-{name}-{method}.png"
    write_image(folder / file, to_bytes(image))
    score = float("nan") if psnr is None else psnr
    return {"task": task, "dataset": dataset, "image": name, "method": method, "file": file, "psnr": score}
