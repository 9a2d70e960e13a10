"""`ipt evaluate`: PSNR and SSIM of every method on the held-out photographs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from instruct_ipt.data.prepared import names
from instruct_ipt.evaluation.benchmark import median_gain_image, score_images, summarise, write_samples
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.paths import MODELS, PREPARED, RESULTS
from instruct_ipt.progress import progress
from instruct_ipt.stages._methods import load_methods
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `benchmark.csv`, `per_image.csv`, `samples.csv` and the sample pictures."""
    params, folder = context.params, context.out / RESULTS
    torch.set_num_threads(params.training.threads)
    protocol = PROTOCOLS[params.evaluation.protocol]
    methods = load_methods(params)
    keys = {"protocol": protocol.name, "profile": params.profile, "seed": params.seed}
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    scored = score_images(methods, PREPARED, params.degradation, protocol)
    sets = len(TASKS) - 1 + len(params.degradation.denoise.sigma)
    with progress("evaluation", sets * len(names(PREPARED / "test" / "clean"))) as advance:
        for done, (pair, outputs, scores) in enumerate(scored, start=1):
            for method, (psnr, ssim) in scores.items():
                facts = {"method": method, "strategy": STRATEGY_OF[method], "task": pair.task, "dataset": pair.dataset}
                rows.append(facts | keys | {"image": pair.name, "psnr": psnr, "ssim": ssim})
            samples += write_samples(folder, pair, outputs, scores)
            advance(done, f"{pair.task} {pair.name}")
    images = pd.DataFrame(rows)
    _write(folder / "per_image.csv", images)
    _write(folder / "benchmark.csv", summarise(images, _costs()))
    _write(folder / "samples.csv", _keep_median(folder, pd.DataFrame(samples), images))


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


def _keep_median(folder: Path, samples: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Keep the pictures of the image with the median gain in each set; delete the others."""
    chosen = median_gain_image(images)[["task", "dataset", "image"]]
    kept = samples.merge(chosen, on=["task", "dataset", "image"])
    for file in sorted(set(samples.file) - set(kept.file)):
        (folder / file).unlink()
    for empty in [p for p in (folder / "samples").iterdir() if not any(p.iterdir())]:
        shutil.rmtree(empty)
    return kept


def _write(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
