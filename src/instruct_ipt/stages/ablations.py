"""`ipt ablations`: the bridge. Runs the grid through Snakemake and gathers `ablations/summary.csv`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pandas as pd

from instruct_ipt import tracking
from instruct_ipt.paths import ABLATIONS
from instruct_ipt.stages._cells import cells_of

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context

COLUMNS = ["profile", "study", "setting", "seed", "task", "psnr", "ssim", "params_added", "steps"]


def run(context: Context) -> None:
    """Run every cell that is not done, then write the summary of all cells of the profile."""
    tracking.ensure_store()
    _snakemake("--unlock")
    _snakemake("--rerun-incomplete", "all")
    params = context.params
    rows = []
    for cell in cells_of(params):
        facts = json.loads((cell.folder(params.profile) / "metrics.json").read_text(encoding="utf-8"))
        for task, score in facts["tasks"].items():
            row = [params.profile, cell.study, cell.setting, cell.seed, task, score["psnr"], score["ssim"]]
            rows.append([*row, facts["params_added"], facts["steps"]])
    (context.out / ABLATIONS).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=COLUMNS)
    table.to_csv(context.out / ABLATIONS / "summary.csv", index=False, lineterminator="\n")


def _snakemake(*arguments: str) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), "--quiet", "progress", *arguments]
    done = subprocess.run(command, check=False, capture_output="--unlock" in arguments)
    if done.returncode and "--unlock" not in arguments:
        raise SystemExit(
            "the ablation grid did not finish; Snakemake's message stands above, details under logs/ablations/"
        )
