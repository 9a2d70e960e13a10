"""`ipt cell diffusion ...`: one way to make a denoiser serve several tasks, trained and scored with one seed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from instruct_ipt.diffusion.learning import fill_in
from instruct_ipt.diffusion.metrics import hole_psnr, hole_ssim
from instruct_ipt.provenance import write_json
from instruct_ipt.stages._denoising import Training, asked_of
from instruct_ipt.stages.train_diffusion import counts
from instruct_ipt.training.loop import write_history

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel


def run(training: Training, method: str, facts: dict[str, Any], threads: int, out: Path) -> None:
    """Train one cell; write ``metrics.json``, ``per_image.csv`` and ``history.csv`` into the empty folder ``out``.

    Args:
        training: how; its seed is the cell's.
        method: of `diffusion.methods.METHODS`.
        facts: ``study``, ``setting``, ``seed``.
        threads: of torch.
        out: folder.
    """
    torch.set_num_threads(threads)
    models, history = training.run(method)
    images = _score(models, training.diffusion)
    write_history(out / "history.csv", history)
    images.to_csv(out / "per_image.csv", index=False, lineterminator="\n")
    means = images.groupby("task", sort=False)[["psnr", "ssim"]].mean().round(6).to_dict("index")
    numbers = {key: value for key, value in counts(method, models).items() if key != "params_per_task"}
    write_json(out / "metrics.json", facts | numbers | {"steps": training.steps, "tasks": means})


def _score(models: dict[str, TaskModel], diffusion: Any) -> pd.DataFrame:
    """PSNR and SSIM of the missing pixels of each validation window: an ablation may not see the test images."""
    rows = []
    for task, model in models.items():
        part = [a for a in asked_of("validation", diffusion) if a.task == task]
        found = fill_in(model, task, part, diffusion.sampler_steps, diffusion.sampler)
        for question, answer in zip(part, found, strict=True):
            pair = answer, question.truth, question.fill.missing
            rows.append([task, question.name, round(hole_psnr(*pair), 6), round(hole_ssim(*pair), 6)])
    return pd.DataFrame(rows, columns=["task", "image", "psnr", "ssim"])
