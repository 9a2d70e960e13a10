"""`ipt ablations`: the bridge. Runs the grid through Snakemake and gathers what its cells found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from instruct_ipt import tracking
from instruct_ipt.errors import InputError
from instruct_ipt.instruction.scoring import COLUMNS as FIGURES
from instruct_ipt.paths import ABLATIONS
from instruct_ipt.stages._cells import INSTRUCTION, Cell, cells_of

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context

KEYS = ["profile", "study", "setting", "seed"]
COLUMNS = [*KEYS, "task", "psnr", "ssim", "params_added", "steps", "params_total", "psnr_backbone"]


def run(context: Context) -> None:
    """Run every cell that is not done, then gather what all cells of the profile found."""
    tracking.ensure_store()
    _refuse_company()
    _snakemake("--unlock")
    _snakemake("--rerun-incomplete", "all")
    profile, grid = context.params.profile, cells_of(context.params)
    cells = [cell for cell in grid if cell.study != INSTRUCTION]
    out = context.out / ABLATIONS
    out.mkdir(parents=True, exist_ok=True)
    summary = pd.DataFrame([row for cell in cells for row in _summary(profile, cell)], columns=COLUMNS)
    summary.to_csv(out / "summary.csv", index=False, lineterminator="\n")
    images = pd.concat([_read(profile, cell, "per_image.csv") for cell in cells])
    images.to_csv(out / "per_image.csv", index=False, lineterminator="\n")
    history = pd.concat([_read(profile, cell, "history.csv") for cell in cells])
    history.to_csv(out / "history.csv", index=False, lineterminator="\n")
    _readers(context.params, [cell for cell in grid if cell.study == INSTRUCTION]).to_csv(
        out / "instruction.csv", index=False, lineterminator="\n"
    )


def _readers(params: Any, cells: list[Cell]) -> pd.DataFrame:
    """What the readers of instructions were measured to do, and in what they differ from the section `instruction`."""
    changes = params.ablations.instruction
    tables = [
        _read(params.profile, cell, "figures.csv").assign(
            changes=", ".join(f"{key}: {value}" for key, value in changes[cell.setting].items()) or "nothing"
        )
        for cell in cells
    ]
    return pd.concat([pd.DataFrame(columns=[*KEYS, "split", *FIGURES, "changes"]), *tables])


def _summary(profile: str, cell: Cell) -> Iterator[list[Any]]:
    """One row per task. `psnr_backbone` is the PSNR at bias strength 0, for cells that have biases."""
    facts = json.loads((cell.folder(profile) / "metrics.json").read_text(encoding="utf-8"))
    alone = facts.get("backbone_alone", {})
    for task, score in facts["tasks"].items():
        counted = [facts["params_added"], facts["steps"], facts["params_total"]]
        scores = [score["psnr"], score["ssim"], *counted, alone.get(task, {}).get("psnr")]
        yield [profile, cell.study, cell.setting, cell.seed, task, *scores]


def _read(profile: str, cell: Cell, file: str) -> pd.DataFrame:
    """A table of a cell with the cell's name in front of every row; numbers stay as they are written."""
    table = pd.read_csv(cell.folder(profile) / file, dtype=str, keep_default_na=False)
    for place, (key, value) in enumerate(zip(KEYS, (profile, cell.study, cell.setting, cell.seed), strict=True)):
        table.insert(place, key, value)
    return table


def _refuse_company() -> None:
    """Stop where Snakemake is at work here already: unlocking is for what a killed one left behind.

    Raises:
        InputError: it names the process.
    """
    import psutil

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(Path(part).name == "snakemake" for part in process.cmdline()) and process.cwd() == os.getcwd():
                raise InputError(
                    f"Snakemake (process {process.pid}) is working on the grid here; wait until it is done, or stop it"
                )


def _snakemake(*arguments: str) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", str(os.cpu_count()), "--quiet", "progress", *arguments]
    done = subprocess.run(command, check=False, capture_output="--unlock" in arguments)
    if done.returncode and "--unlock" not in arguments:
        raise SystemExit(
            "the ablation grid did not finish; Snakemake's message stands above, details under logs/ablations/"
        )
