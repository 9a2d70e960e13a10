"""Scores of every method on the held-out photographs, and the restored pictures that the figures show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from instruct_ipt.data.images import to_bytes, write_image
from instruct_ipt.data.prepared import Pair, pairs
from instruct_ipt.evaluation.protocol import Protocol
from instruct_ipt.evaluation.validation import restore_stack
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel

KEYS = ["method", "strategy", "task", "dataset", "protocol", "profile", "seed"]
BENCHMARK = [*KEYS, "images", "psnr", "ssim", "psnr_input", "ssim_input", "params_total", "params_per_task"]

# A method restores an image for a task; `input` is the identity, `experts` picks the network of the task.
Method = Mapping[str, "TaskModel"]


def restore(method: Method | None, pair: Pair) -> np.ndarray:
    """The image of ``pair`` restored by a method (task -> network), or unchanged for None; float32 (H, W, 3)."""
    if method is None:
        return pair.input
    return restore_stack(method[pair.task], pair.input[None], pair.task)[0]


def score_images(
    methods: Mapping[str, Method | None], root: Path, settings: Any, protocol: Protocol, split: str = "test"
) -> Iterator[tuple[Pair, dict[str, np.ndarray], dict[str, tuple[float, float]]]]:
    """For every pair of ``split``: the pair, each method's output and each method's (PSNR, SSIM)."""
    for task in TASKS:
        for pair in pairs(root, split, task, settings):
            outputs = {name: restore(method, pair) for name, method in methods.items()}
            yield pair, outputs, {name: protocol.score(out, pair.target) for name, out in outputs.items()}


def summarise(images: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """`benchmark.csv` from `per_image.csv` and a table method -> params_total, params_per_task."""
    means = images.groupby(KEYS, sort=False).agg(
        images=("image", "count"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    )
    means = means.reset_index()
    base = means[means.method == "input"].set_index(["task", "dataset"])[["psnr", "ssim"]].add_suffix("_input")
    return means.join(base, on=["task", "dataset"]).merge(costs, on="method")[BENCHMARK]


def median_gain_image(images: pd.DataFrame, method: str = "modulation", against: str = "input") -> pd.DataFrame:
    """The image of each (task, dataset) whose gain in PSNR is the median (the lower one of an even number)."""
    wide = images.pivot_table(index=["task", "dataset", "image"], columns="method", values="psnr", sort=False)
    gain = (wide[method] - wide[against]).rename("gain").reset_index().sort_values(["task", "dataset", "gain", "image"])
    sets = gain.groupby(["task", "dataset"], sort=False)
    return gain[sets.cumcount() == (sets["gain"].transform("size") - 1) // 2]


def write_samples(
    folder: Path, pair: Pair, outputs: Mapping[str, np.ndarray], scores: Mapping[str, tuple[float, float]]
) -> list[dict[str, Any]]:
    """Write the pictures of one pair as PNG; rows of `samples.csv`."""
    rows = []
    for method, image in [*outputs.items(), ("clean", pair.target)]:
        file = f"samples/{pair.task}/{pair.dataset}-{pair.name}-{method}.png"
        write_image(folder / file, to_bytes(image))
        psnr = scores[method][0] if method in scores else float("nan")
        rows.append(
            {
                "task": pair.task,
                "dataset": pair.dataset,
                "image": pair.name,
                "method": method,
                "file": file,
                "psnr": psnr,
            }
        )
    return rows
