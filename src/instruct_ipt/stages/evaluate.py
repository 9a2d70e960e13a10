"""`ipt evaluate`: PSNR and SSIM of every method on the held-out photographs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from instruct_ipt.data.prepared import count
from instruct_ipt.evaluation.benchmark import (
    KEYS,
    Restore,
    Score,
    median_gain_image,
    restoring,
    score_images,
    summarise,
    write_pictures,
    write_samples,
)
from instruct_ipt.evaluation.cost import restoration_cost
from instruct_ipt.evaluation.protocol import PROTOCOLS, Protocol
from instruct_ipt.paths import MODELS, PREPARED, RESULTS
from instruct_ipt.progress import progress
from instruct_ipt.stages._methods import load_methods
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context

# Pixels; the published cost of the backbone family is that of an image of this side.
_COST_SIDE = 128


def run(context: Context) -> None:
    """Write `benchmark.csv`, `per_image.csv`, `cost.csv`, `samples.csv` and the sample pictures."""
    params, folder = context.params, context.out / RESULTS
    torch.set_num_threads(params.training.threads)
    protocols = [PROTOCOLS[name] for name in params.evaluation.protocols]
    networks = load_methods(params)
    methods = restoring(networks)
    rows = []
    with progress("evaluation", _images(params)) as advance:
        for done, (pair, _, scores) in enumerate(
            score_images(methods, PREPARED, params.degradation, protocols), start=1
        ):
            rows += [_row(score, params) for score in scores]
            advance(done, f"{pair.task} {pair.name}")
    images = pd.DataFrame(rows)
    _write(folder / "per_image.csv", images)
    costs = _costs()
    _write(folder / "benchmark.csv", summarise(images, costs))
    _write(folder / "cost.csv", costs.merge(_multiply_adds(networks), on="method"))
    _write(folder / "samples.csv", pd.DataFrame(_samples(folder, images, methods, params, protocols[0])))


def _images(params: Any) -> int:
    """How many images are restored, for the progress bar: each noise level is a set of its own."""
    counts = count(PREPARED, "test")
    return sum(counts.values()) + (len(params.degradation.denoise.sigma) - 1) * counts["denoise"]


def _row(score: Score, params: Any) -> dict[str, Any]:
    facts = dataclasses.asdict(score)
    run_facts = {"strategy": STRATEGY_OF[score.method], "profile": params.profile, "seed": params.seed}
    values = facts | run_facts
    return {key: values[key] for key in (*KEYS, "image", "psnr", "ssim")}


def _samples(
    folder: Path, images: pd.DataFrame, methods: dict[str, Restore], params: Any, protocol: Protocol
) -> list[dict[str, Any]]:
    """Pictures of the image with the median gain in each set, and of every photograph without ground truth."""
    chosen = set(median_gain_image(images)[["task", "dataset", "image"]].itertuples(index=False, name=None))
    rows = []
    for pair, outputs, scores in score_images(methods, PREPARED, params.degradation, [protocol], only=chosen):
        rows += write_samples(folder, pair, outputs, scores)
    return rows + write_pictures(folder, PREPARED, methods)


STRATEGY_OF = {
    "input": "none",
    "shared": "shared",
    "experts": "experts",
    "film": "synchronous",
    "modulation": "synchronous",
}


def _costs() -> pd.DataFrame:
    """Parameter counts per method, from the metrics that each training stage wrote."""
    rows = [{"method": "input", "params_total": 0, "params_per_task": 0}]
    for method in ("shared", "experts", "film", "modulation"):
        facts = json.loads((MODELS / method / "metrics.json").read_text(encoding="utf-8"))
        rows.append({"method": method} | {key: facts[key] for key in ("params_total", "params_per_task")})
    return pd.DataFrame(rows)


def _multiply_adds(methods: dict[str, Any]) -> pd.DataFrame:
    """What one image costs with each method; every task costs the same."""
    trained = {name: models[TASKS[0]] for name, models in methods.items() if models}
    rows = [{"method": name} | restoration_cost(model, TASKS[0], _COST_SIDE) for name, model in trained.items()]
    return pd.DataFrame(rows)


def _write(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
