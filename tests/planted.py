"""A finished replication in a moment: every file that the runs of the tracking store are read from, nobody trained."""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from instruct_ipt import params as params_module
from instruct_ipt import provenance
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.provenance import write_json
from instruct_ipt.stage_table import STAGES
from instruct_ipt.stages._cells import Cell, kind_of, recipe_of
from instruct_ipt.tasks import TASKS

ARMS = {
    "shared": "shared", "experts": "experts", "full": "synchronous", "film": "synchronous", "modulation": "synchronous",
}  # fmt: skip
SEEDS = (0, 1)
CELLS = [
    Cell(study, setting, seed)
    for study, setting in (
        *(("strategy", name) for name in ("synchronous", "frozen", "shared")),
        ("rank", "constant-2"),
        ("adaptation", "five-film"),
        ("adaptation", "noise-film"),
        ("task_gap", "denoise+dehaze-constant"),
        ("diffusion", "film"),
    )
    for seed in SEEDS
]
SETS = [*(("denoise", f"bundled-sigma{s}") for s in (15, 25, 50)), *((task, "bundled") for task in TASKS[1:])]


def score(*names: Any) -> float:
    """A PSNR that depends on all names and on nothing else."""
    return 20 + int(provenance.digest([str(name) for name in names])[:6], 16) / 0xFFFFFF * 10


def replication() -> None:
    """All stages and some cells of the profile of `params.yaml`, in the working directory."""
    configuration = params_module.load()
    for stage in STAGES.values():
        for out in map(Path, stage.outputs):
            out.parent.mkdir(parents=True, exist_ok=True)
            if out.suffix:
                out.write_text("a,b\n1,2\n" if out.suffix == ".csv" else "{}\n", encoding="utf-8")
            else:
                out.mkdir(exist_ok=True)
                write_json(out / "manifest.json", {})
    for arm, strategy in ARMS.items():
        _arm(Path("models") / arm, arm, strategy)
    Path("figures/fig2_rank.csv").write_text("a\n1\n", encoding="utf-8")
    picture(Path("figures/fig2_rank.png"), 0)
    Path("tables/table04.csv").write_text("a\n1\n", encoding="utf-8")
    Path("report/index.html").write_text("<p>report</p>", encoding="utf-8")
    for method in METHODS:
        _denoiser(Path("models/diffusion") / method, method)
    _benchmark(configuration.profile)
    for stage in STAGES.values():
        inputs = [Path(path) for path in stage.inputs]
        write_json(stage.provenance, _record(params_module.restrict(configuration, stage.sections), inputs))
    for cell in CELLS:
        plant_cell(configuration, cell)


def picture(path: Path, grey: int) -> None:
    """A small grey PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), grey, dtype=np.uint8)).save(path)


def plant_cell(configuration: params_module.Params, cell: Cell, shift: float = 0.0) -> Path:
    """The folder of one finished cell, its scores ``shift`` dB higher than usual."""
    folder, recipe = cell.folder(configuration.profile), asdict(recipe_of(configuration, cell))
    folder.mkdir(parents=True, exist_ok=True)
    values = {"cell": asdict(cell), "recipe": recipe, "steps": 10, "shift": shift}
    record = _record({"profile": configuration.profile} | values, list(kind_of(cell.study).leaves))
    write_json(folder / "provenance.json", record)
    names = (cell.study, cell.setting, cell.seed)
    tasks = {
        task: {"psnr": round(score(*names, task) + shift, 6), "ssim": round(score(*names, task) / 40, 6)}
        for task in recipe["tasks"]
    }
    facts: dict[str, Any] = {"params_added": 100, "params_total": 1100, "steps": 10, "tasks": tasks}
    if recipe["method"] == "modulation":
        facts["backbone_alone"] = {task: {"psnr": 15.0, "ssim": 0.5} for task in tasks}
    write_json(folder / "metrics.json", asdict(cell) | facts)
    rows = [[step, task, "nan" if step == 10 else 0.1, 20 + step / 10, 0.001] for step in (5, 10) for task in tasks]
    table(folder / "history.csv", ["step", "task", "loss", "psnr", "lr"], rows)
    table(folder / "per_image.csv", ["task", "image", "psnr", "ssim"], [["denoise", "a", 20, 0.5]])
    return folder


def table(path: Path, columns: list[str], rows: list[list[Any]]) -> None:
    """Write a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])


def _record(sections: dict[str, Any], inputs: list[Path]) -> dict[str, Any]:
    hashes = {path.as_posix(): provenance.sha256_file(path) for path in inputs}
    digest = provenance.digest(sections)
    return {"params": sections, "params_digest": digest, "code_digest": "of other code", "inputs": hashes}


def _arm(folder: Path, arm: str, strategy: str) -> None:
    psnr = {task: round(score(arm, task), 4) for task in TASKS}
    counts = {"params_total": 1000, "params_added": 50, "params_per_task": 10.0, "steps": 20}
    write_json(folder / "metrics.json", {"method": arm, "strategy": strategy, "validation_psnr": psnr} | counts)
    rows = [[step, task, 0.2, round(score(arm, task, step), 4), 0.001] for step in (10, 20) for task in TASKS]
    table(folder / "history.csv", ["step", "task", "loss", "psnr", "lr"], rows)
    for name in TASKS if arm == "experts" else ("weights",):
        save_file({"head.weight": np.full((4, 3), len(arm), dtype=np.float32)}, folder / f"{name}.safetensors")


def _denoiser(folder: Path, method: str) -> None:
    counts = {"params_total": 1000, "params_added": 50, "params_per_task": 10.0, "steps": 20}
    write_json(folder / "metrics.json", {"method": method, "strategy": METHODS[method]} | counts)
    rows = [[step, task, 0.2, round(score(method, task, step), 4), 0.001] for step in (10, 20) for task in FILL_TASKS]
    table(folder / "history.csv", ["step", "task", "loss", "psnr", "lr"], rows)
    for part in FILL_TASKS if method == "experts" else ("",):
        write_json(folder / part / "denoiser.json", {"method": method})
        save_file({"conv_in.weight": np.full((4, 3), 1, dtype=np.float32)}, folder / part / "weights.safetensors")


def _benchmark(profile: str) -> None:
    columns = (
        "method,strategy,task,dataset,protocol,profile,seed,images,psnr,ssim,psnr_input,ssim_input,"
        "params_total,params_per_task"
    )
    rows, samples = [], []
    for method, strategy in {
        "input": "none",
        "shared": "shared",
        "film": "synchronous",
        "modulation": "synchronous",
    }.items():
        for task, dataset in SETS:
            given = score("input", task, dataset)
            for protocol in ("rgb", "y-limited"):
                psnr = given if method == "input" else score(method, task, dataset, protocol)
                ssim = psnr / 40
                row = [
                    method,
                    strategy,
                    task,
                    dataset,
                    protocol,
                    profile,
                    0,
                    3,
                    psnr,
                    ssim,
                    given,
                    given / 40,
                    1000,
                    10,
                ]
                rows.append(row)
            file = f"samples/{task}/{dataset}-a-{method}.png"
            picture(Path("results") / file, 50)
            samples.append([task, dataset, "a", method, file, given])
    table(Path("results/benchmark.csv"), columns.split(","), rows)
    table(Path("results/samples.csv"), ["task", "dataset", "image", "method", "file", "psnr"], samples)
