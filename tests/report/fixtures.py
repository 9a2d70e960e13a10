"""Small synthetic result files, in the formats that the stages write, for the tests of the report."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from instruct_ipt.tasks import TASKS

METHODS = ("input", "shared", "experts", "film", "modulation")
DATASETS = [("denoise", f"bundled-sigma{sigma}") for sigma in (15, 25, 50)] + [(task, "bundled") for task in TASKS[1:]]
FILL_TASKS = ("inpaint", "outpaint", "upscale")
PASSES = 4
# PSNR of the missing pixels, the same for all tasks but for a shift.
FILLED = {"shared": 15.0, "film": 15.5, "frozen": 14.5, "synchronous": 16.0, "experts": 16.5}
# Full rank, depth and group of the layers of a small U-Net, in network order: two stages down, bottom, two up.
_SIDES = {0: 24, 1: 48, 2: 96}
_GROUPS = ("attention.qkv", "attention.proj", "ffn.in", "ffn.out")


def layers() -> list[tuple[str, str, int, int, int]]:
    """(layer, group, stage_depth, rows, columns) in network order."""
    found = []
    stages = (("encoder.0", 0), ("encoder.1", 1), ("middle", 2), ("decoder.0", 1), ("decoder.1", 0))
    for stage, depth in stages:
        side = _SIDES[depth]
        for block in range(2):
            for group, rows, columns in zip(_GROUPS, (3, 1, 2, 1), (1, 1, 1, 2), strict=True):
                found.append((f"{stage}.blocks.{block}.{group}", group, depth, rows * side, columns * side))
        if stage.startswith("encoder"):
            found.append((f"{stage}.down", "downsample", depth, 2 * side, 4 * side))
    return found


def rank_energy(seed: int = 0) -> pd.DataFrame:
    """`results/rank_energy.csv`: spectra that decay faster in the shallow layers."""
    rng = np.random.default_rng(seed)
    rows = []
    for source in ("bias", "expert"):
        for task in TASKS:
            for layer, group, depth, high, wide in layers():
                full = min(high, wide)
                values = np.arange(1, full + 1) ** -(1.2 - 0.2 * depth) * rng.uniform(0.5, 1.5, full)
                energy = np.cumsum(values) / values.sum()
                rows += [[source, task, group, layer, depth, i + 1, e] for i, e in enumerate(energy)]
    columns = ["source", "task", "group", "layer", "stage_depth", "rank", "cumulative_energy"]
    return pd.DataFrame(rows, columns=columns).round(6)


def rank_strategy(energy: pd.DataFrame, constants: tuple[int, ...] = (1, 2, 4, 8)) -> pd.DataFrame:
    """`results/rank_strategy.csv` that belongs to ``energy``: shares matched to the constant ranks in parameters."""
    sides = [(high, wide) for _, _, _, high, wide in layers()]
    rules = [("full", "", [min(side) for side in sides])]
    for rank in constants:
        goal = _cost(sides, [min(rank, *side) for side in sides])
        shares = [k / 96 for k in range(1, 97)]
        share = min(shares, key=lambda s: abs(_cost(sides, _proportional(sides, s)) - goal))
        rules += [
            ("constant", rank, [min(rank, *side) for side in sides]),
            ("proportional", share, _proportional(sides, share)),
        ]
    rows = [
        [source, rule, value if value == "" else round(value, 6), _cost(sides, ranks), *kept, task, psnr]
        for source in ("bias", "expert")
        for rule, value, ranks in rules
        for task, kept, psnr in _kept(energy, source, ranks)
    ]
    columns = ["source", "rule", "value", "params", "energy_mean", "energy_min", "task", "psnr"]
    return pd.DataFrame(rows, columns=columns)


def _proportional(sides: list[tuple[int, int]], share: float) -> list[int]:
    return [max(1, round(share * min(side))) for side in sides]


def _cost(sides: list[tuple[int, int]], ranks: list[int]) -> int:
    return sum(rank * (high + wide) for (high, wide), rank in zip(sides, ranks, strict=True))


def _kept(energy: pd.DataFrame, source: str, ranks: list[int]) -> Iterator[tuple[str, tuple[float, float], float]]:
    names = [layer for layer, *_ in layers()]
    for number, task in enumerate(TASKS):
        part = energy[(energy.source == source) & (energy.task == task)].set_index(["layer", "rank"]).cumulative_energy
        kept = [part[name, rank] for name, rank in zip(names, ranks, strict=True)]
        yield task, (float(np.mean(kept)), float(np.min(kept))), 26 + number + 3 * float(np.mean(kept))


def benchmark() -> pd.DataFrame:
    """`results/benchmark.csv` with known winners: experts first and modulation second everywhere but on desnow."""
    order = {"input": 0.0, "shared": 3.0, "film": 3.4, "modulation": 4.0, "experts": 4.2}
    params = {"input": (0, 0), "shared": (501234, 0), "experts": (2506170, 501234)}
    params |= {"film": (550000, 9753), "modulation": (549999, 9753)}
    rows = []
    for method in METHODS:
        for number, (task, dataset) in enumerate(DATASETS):
            gain = order[method] + (0.5 if (method, task) == ("modulation", "desnow") else 0.0)
            base, similarity = 20.0 + number, 0.6 + 0.02 * number
            score = [base + gain, similarity + 0.05 * gain, base, similarity]
            rows.append([method, "none", task, dataset, "rgb", "quick", 0, 3, *score, *params[method]])
    columns = ["method", "strategy", "task", "dataset", "protocol", "profile", "seed", "images"]
    columns += ["psnr", "ssim", "psnr_input", "ssim_input", "params_total", "params_per_task"]
    return pd.DataFrame(rows, columns=columns)


def ablations() -> pd.DataFrame:
    """`ablations/summary.csv`: two seeds 0.2 dB apart, and cells of another profile that no table may show."""
    levels = {"shared": 26.0, "constant-4": 27.0, "constant-8": 27.2, "proportional-0.0625": 26.9}
    strategies = {"synchronous": 27.5, "frozen": 26.5, "two_stage": 27.1, "shared": 26.0, "experts": 27.3}
    methods = {"shared": 26.0, "film": 26.8, "experts": 27.3, "constant": 27.5, "full": 27.6}
    adaptation = {f"{tasks}-{m}": psnr for tasks in ("five", "noise") for m, psnr in methods.items()}
    gaps = {f"{pair}-{m}": methods[m] for pair in GAPS for m in ("shared", "film", "constant")}
    added = {"constant-4": 9000, "constant-8": 18000, "proportional-0.0625": 9100, "shared": 0}
    added |= {f"{tasks}-shared": 0 for tasks in ("five", "noise", *GAPS)}
    rows = [
        [
            profile,
            study,
            setting,
            seed,
            task,
            psnr + 0.2 * seed + (10.0 if profile == "smoke" else 0.0),
            0.8,
            added.get(setting, 9000),
            200,
            60_000 + added.get(setting, 9000),
            24.0 if setting in ("synchronous", "frozen", "two_stage") else None,
        ]
        for profile in ("quick", "smoke")
        for study, settings in (
            ("rank", levels),
            ("strategy", strategies),
            ("adaptation", adaptation),
            ("task_gap", gaps),
            ("diffusion", FILLED),
        )
        for setting, psnr in settings.items()
        for seed in (0, 1)
        for task in (FILL_TASKS if study == "diffusion" else TASKS)
    ]
    columns = ["profile", "study", "setting", "seed", "task", "psnr", "ssim", "params_added", "steps"]
    columns += ["params_total", "psnr_backbone"]
    return pd.DataFrame(rows, columns=columns)


def per_image() -> pd.DataFrame:
    """`results/per_image.csv`: three images around every mean of `benchmark`, gains 0.3 dB apart."""
    rows = []
    for row in benchmark().itertuples():
        keys = [row.method, row.strategy, row.task, row.dataset, row.protocol, row.profile, row.seed]
        for place, image in enumerate(("coffee", "flower", "rocket"), start=-1):
            gain = 0.3 * place if row.method != "input" else 0.0
            rows.append([*keys, image, row.psnr + 2.0 * place + gain, row.ssim])
    columns = ["method", "strategy", "task", "dataset", "protocol", "profile", "seed", "image", "psnr", "ssim"]
    return pd.DataFrame(rows, columns=columns)


def cost() -> pd.DataFrame:
    """`results/cost.csv`: FiLM alone costs operations, weight modulation alone has something to fold."""
    rows = [
        ["shared", 501234, 0, 128, 10**9, 0],
        ["experts", 2506170, 501234, 128, 10**9, 0],
        ["film", 550000, 9753, 128, 1_100_000_000, 0],
        ["modulation", 549999, 9753, 128, 10**9, 5_000_000],
    ]
    columns = ["method", "params_total", "params_per_task", "side", "multiply_adds", "multiply_adds_fold"]
    return pd.DataFrame(rows, columns=columns)


def cell_images() -> pd.DataFrame:
    """`ablations/per_image.csv`: two crops of one photograph, one of another and one procedural image per score."""
    rows = []
    for row in ablations().itertuples():
        for place, image in enumerate(("china-0", "china-1", "hubble-0", "validation-leaves-000")):
            apart = (0.1, -0.1, 0.2, -0.2)[place] * (row.setting.rpartition("-")[2] != "shared")
            psnr = row.psnr + place - 1.5 + apart
            rows.append([row.profile, row.study, row.setting, row.seed, row.task, image, psnr, 0.8])
    columns = ["profile", "study", "setting", "seed", "task", "image", "psnr", "ssim"]
    return pd.DataFrame(rows, columns=columns)


def cell_histories() -> pd.DataFrame:
    """`ablations/history.csv`: four points of every training of the study `adaptation`."""
    cells = ablations()
    cells = cells[(cells.profile == "quick") & (cells.study == "adaptation")]
    parts = [cells.assign(step=step, psnr=cells.psnr - 200 / step, loss=0.1, lr=1e-3) for step in (50, 100, 150, 200)]
    return pd.concat(parts)[["profile", "study", "setting", "seed", "step", "task", "loss", "psnr", "lr"]]


SENSITIVE = {"ffn.out": 0.4, "norm": 0.1, "attention.qkv": 0.3}
"""Weight groups and the gain of freeing them, in dB, for the first task and seed."""


def sensitivity() -> pd.DataFrame:
    """`results/sensitivity.csv`: two seeds 0.1 dB apart, tasks 0.01 dB apart; a cheaper estimator without a gain."""
    rows = []
    for estimator in ("exact", "fisher"):
        for place, task in enumerate(TASKS):
            for group, gain in SENSITIVE.items():
                for seed in (0, 1):
                    found = gain + 0.01 * place + 0.1 * seed
                    shown = found if estimator == "exact" else None
                    rows.append([estimator, task, group, seed, shown, 50_000, 2 * found])
    return pd.DataFrame(rows, columns=["estimator", "task", "group", "seed", "gain_db", "freed_params", "score"])


GAPS = {"denoise+dehaze": 0.1, "derain+desnow": 0.6}
"""Pairs of tasks and the cosine of their gradients."""


def task_conflict() -> pd.DataFrame:
    """`results/task_conflict.csv` for the pairs of the study `task_gap`."""
    rows = [[*pair.split("+"), group, cosine] for pair, cosine in GAPS.items() for group in ("norm", "all")]
    return pd.DataFrame(rows, columns=["task_a", "task_b", "group", "cosine"])


def claims() -> pd.DataFrame:
    """`results/claims.csv`: one claim with an interval, one that is a count, one that could not be judged."""
    nan = float("nan")
    rows = [
        [
            "features_fail",
            "It beats <the> rest",
            0.5,
            "dB",
            -0.25,
            1.25,
            40,
            1,
            "inconclusive",
            "images only",
            "one seed",
            0.1,
        ],
        ["cost_is_humble", "It is cheap", 3.2, "%", 3.2, 3.2, 0, 1, "supported", "exact count", nan, 5],
        ["gap_matters", "It depends", nan, "dB", nan, nan, 0, 0, "inconclusive", nan, "study adaptation has none", 0.1],
    ]
    columns = ["claim", "statement", "effect", "unit", "ci_low", "ci_high", "n_images", "n_seeds", "verdict"]
    return pd.DataFrame(rows, columns=[*columns, "interval", "note", "margin"])


def histories() -> dict[str, pd.DataFrame]:
    """`models/*/history.csv` of three methods."""
    found = {}
    for number, method in enumerate(("shared", "film", "modulation")):
        rows = [
            [step, task, 0.05, 22 + place + number * 0.3 + 2 * (1 - np.exp(-step / 300)), 1e-3]
            for step in range(100, 1001, 100)
            for place, task in enumerate(TASKS)
        ]
        found[method] = pd.DataFrame(rows, columns=["step", "task", "loss", "psnr", "lr"])
    return found


def write_samples(folder: Path, size: tuple[int, int] = (96, 140), seed: int = 0) -> pd.DataFrame:
    """Pictures and `samples.csv` in ``folder``; the error of ``input`` is largest in the patch (60:76, 100:116)."""
    rng = np.random.default_rng(seed)
    rows = []
    for task, dataset in DATASETS:
        clean = 0.3 + 0.4 * rng.random((*size, 3))
        error = np.full((*size, 3), 0.05 if "sigma15" in dataset else 0.1)
        error[60:76, 100:116] = 0.25
        for method, share in (
            ("input", 1.0),
            ("shared", 0.6),
            ("film", 0.5),
            ("experts", 0.3),
            ("modulation", 0.4),
            ("clean", 0.0),
        ):
            file = f"samples/{task}/{dataset}-photo-{method}.png"
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            picture = np.clip(clean + share * error, 0, 1)
            Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(folder / file)
            psnr = float(-10 * np.log10(np.mean((picture - clean) ** 2))) if share else float("nan")
            rows.append([task, dataset, "photo", method, file, psnr])
    table = pd.DataFrame(rows, columns=["task", "dataset", "image", "method", "file", "psnr"])
    table.to_csv(folder / "samples.csv", index=False, float_format="%.6f", lineterminator="\n")
    return table


def demo() -> pd.DataFrame:
    """`results/demo.csv` over the pictures of `write_samples`: one sentence with half a strength, one refused."""
    rows = []
    for task, dataset in dict(DATASETS).items():
        stem = f"samples/{task}/{dataset}-photo"
        strength = {"dehaze": 0.5, "desnow": float("nan")}.get(task, 1.0)
        understood = "refused" if task == "desnow" else f"{task}=1.00"
        found = stem + ("-input.png" if task == "desnow" else "-modulation.png")
        scores = [20.0, 20.0 if task == "desnow" else 25.5, 0.5, 0.6]
        rows.append([task, dataset, "photo", f"do something, please, about the {task}", understood, strength, *scores,
                     f"{stem}-input.png", found])  # fmt: skip
    columns = ["task", "dataset", "image", "text", "understood", "strength", "psnr_input", "psnr", "ssim_input", "ssim"]
    columns += ["input", "output"]
    return pd.DataFrame(rows, columns=columns)


def instruction() -> pd.DataFrame:
    """`results/instruction.csv`: the validation split must not be shown."""
    rows = [
        ["validation", "right_task", "all", 0.99, 400, 0.98, 0.995],
        ["test", "right_task", "all", 0.85, 200, 0.794, 0.893],
        ["test", "combination", "all", 0.5, 2, 0.095, 0.905],
        ["test", "accepted", "out_of_scope", 0.0725, 165, 0.042, 0.123],
        ["test", "ece", "scope", 0.03, 700, 0.02, 0.05],
    ]
    return pd.DataFrame(rows, columns=["split", "metric", "of", "value", "n", "ci_low", "ci_high"])


def readers() -> pd.DataFrame:
    """`ablations/instruction.csv`: two seeds of three readers; other splits and profiles must not be shown."""
    known = [("usual", "nothing", 0.9), ("fewer", "fills: 1", 0.7), ("isotonic", "calibration: isotonic", 0.8)]
    rows = [
        [profile, "instruction", setting, seed, split, metric, of, share + 0.04 * seed, 200, 0.5, 0.99, changes]
        for profile in ("quick", "smoke")
        for setting, changes, share in known
        for seed in (0, 1)
        for split in ("validation", "test")
        for metric, of in (("right_task", "all"), ("right_task", "derain"), ("accepted", "all"))
    ]
    hidden = pd.DataFrame(rows, columns=["profile", "study", "setting", "seed", "split", "metric", "of", "value", "n",
                                         "ci_low", "ci_high", "changes"])  # fmt: skip
    shown = (hidden.profile == "quick") & (hidden.split == "test") & (hidden.of == "all")
    return hidden.assign(value=hidden.value.where(shown, 0.01))


def diffusion() -> pd.DataFrame:
    """`results/diffusion.csv` with known winners: experts first, then synchronous; no network of others was there."""
    nan = float("nan")
    strategies = {"film": "synchronous"} | {name: name for name in FILLED if name != "film"}
    rows = []
    for method, psnr in FILLED.items():
        for place, task in enumerate(FILL_TASKS):
            added = {"shared": 0, "film": 80_445, "experts": 364_664}.get(method, 80_640)
            seams = (nan, nan) if task == "upscale" else (1.5, 1.25)
            scores = [psnr + place, 20.25, psnr / 20, 2 / psnr, *seams, 0.05, 1000 / psnr, nan, nan, nan]
            rows.append([method, strategies[method], task, "quick", 0, 3, *scores, added, 182_332 + added])
    columns = ["method", "strategy", "task", "profile", "seed", "images", "psnr", "psnr_carried", "ssim", "l1"]
    columns += ["seam", "seam_real", "diversity", "swd", "fid", "kid", "lpips", "params_added", "params_total"]
    return pd.DataFrame(rows, columns=columns)


def diffusion_images() -> pd.DataFrame:
    """`results/diffusion_per_image.csv`: two windows of one photograph and one of another around every mean.

    Against `shared` the gains of the photographs are 0.2 dB apart.
    """
    rows = []
    for row in diffusion().itertuples():
        for image, off in (("coffee-0", -1.0), ("coffee-1", -1.0), ("flower-0", 2.0)):
            apart = 0.0 if row.method == "shared" else 0.1 * off
            keys = [row.method, row.strategy, row.task, row.profile, row.seed, image]
            rows.append([*keys, row.psnr + off + apart, row.ssim, row.l1, row.seam, row.diversity])
    columns = ["method", "strategy", "task", "profile", "seed", "image", "psnr", "ssim", "l1", "seam", "diversity"]
    return pd.DataFrame(rows, columns=columns)


def write_fillings(folder: Path, size: int = 16) -> pd.DataFrame:
    """Pictures and `diffusion_samples.csv` in ``folder``: two photographs per task, guesses that grow brighter."""
    rng = np.random.default_rng(5)
    rows = []
    for task in FILL_TASKS:
        for image in ("coffee-0", "flower-0"):
            shown = {"input": 0.5, "truth": 1.0} | {name: psnr / 20 for name, psnr in FILLED.items()}
            shown |= {f"steps-{n:02d}": n / PASSES for n in range(1, PASSES + 1)}
            photograph = rng.random((size, size, 3))
            for name, share in shown.items():
                file = f"diffusion/{task}/{image}/{name}.png"
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.rint(share * photograph * 255).astype(np.uint8)).save(folder / file)
                rows.append([task, image, name, file, FILLED.get(name, 100.0 if name == "truth" else 10 + share)])
    table = pd.DataFrame(rows, columns=["task", "image", "method", "file", "psnr"])
    table.to_csv(folder / "diffusion_samples.csv", index=False, float_format="%.6f", lineterminator="\n")
    return table


def write_all(root: Path) -> None:
    """Every result file below ``root`` as the stages lay them out."""
    shutil.copytree(_made(), root, dirs_exist_ok=True)


@functools.cache
def _made() -> Path:
    """The folder that is copied, for the files take more than a second; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="results-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write(folder)
    return folder


def _write(root: Path) -> None:
    for folder in ("results", "ablations", "models/modulation"):
        (root / folder).mkdir(parents=True)
    energy = rank_energy()
    write_samples(root / "results")
    write_fillings(root / "results")
    tables = {"results/rank_energy": energy, "results/rank_strategy": rank_strategy(energy)}
    tables |= {"results/benchmark": benchmark(), "ablations/summary": ablations()}
    tables |= {"results/claims": claims(), "results/task_conflict": task_conflict()}
    tables |= {"results/per_image": per_image(), "results/sensitivity": sensitivity(), "results/cost": cost()}
    tables |= {"results/demo": demo(), "results/instruction": instruction()}
    tables |= {"results/diffusion": diffusion(), "results/diffusion_per_image": diffusion_images()}
    tables |= {"ablations/per_image": cell_images(), "ablations/history": cell_histories()}
    tables |= {"ablations/instruction": readers()}
    for name, table in tables.items():
        table.to_csv(root / f"{name}.csv", index=False, float_format="%.6f", lineterminator="\n")
    (root / "models/selection.json").write_text(json.dumps({"groups": ["ffn.out", "attention.qkv"]}), encoding="utf-8")
    counts = {"params_total": 549_999, "params_added": 48_765, "params_per_task": 9753.0}
    (root / "models/modulation/metrics.json").write_text(json.dumps(counts), encoding="utf-8")
