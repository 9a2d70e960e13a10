"""The whole replication at smoke scale, through `dvc repro`, in a temporary copy; then what must and must not rerun.

The tests of this file share one replication and run in order; each leaves it as it found it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.evaluation.benchmark import BENCHMARK
from instruct_ipt.stage_table import STAGES
from instruct_ipt.tasks import TASKS
from tests import warm
from tests.replication import Copy
from tests.stored import shown

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def study(replication, tmp_path_factory) -> Copy:
    return replication.copied(tmp_path_factory.mktemp("study"))


def test_every_output_and_record_is_there(study):
    for stage in STAGES.values():
        for out in (*stage.outputs, stage.provenance.as_posix()):
            assert (study.folder / out).exists(), out
    assert study.run("ipt", "status").stdout.count("up to date") == len(STAGES)
    assert not list((study.folder / ".ipt").glob("checkpoints/*")), "finished runs leave no checkpoints"


def test_result_files_have_their_columns_and_rows(study):
    benchmark = study.rows("results/benchmark.csv")
    assert list(benchmark[0]) == BENCHMARK
    methods = {"input", "shared", "experts", "film", "modulation"}
    assert {(r["method"], r["task"]) for r in benchmark} == {(m, t) for m in methods for t in TASKS}
    assert {r["dataset"] for r in benchmark if r["task"] == "denoise"} == {f"bundled-sigma{s}" for s in (15, 25, 50)}
    assert all(r["images"] == "3" and r["profile"] == "smoke" for r in benchmark)
    protocols = [r["protocol"] for r in benchmark]
    assert protocols[0] == "rgb" and set(protocols) == {"rgb", "y-limited"}
    columns = {
        "results/per_image.csv": "method strategy task dataset protocol profile seed image psnr ssim",
        "results/sensitivity.csv": "estimator task group seed gain_db freed_params score",
        "results/sensitivity_agreement.csv": "estimator task spearman n_groups passes passes_exact times_cheaper",
        "results/task_conflict.csv": "task_a task_b group cosine",
        "results/rank_energy.csv": "source task group layer stage_depth rank cumulative_energy",
        "results/rank_strategy.csv": "source rule value params energy_mean energy_min task psnr",
        "results/cost.csv": "method params_total params_per_task side multiply_adds multiply_adds_fold",
        "results/samples.csv": "task dataset image method file psnr",
        "results/diffusion.csv": "method strategy task profile seed images psnr psnr_carried ssim l1 seam seam_real "
        "diversity swd fid kid lpips params_added params_total",
        "results/diffusion_per_image.csv": "method strategy task profile seed image psnr ssim l1 seam diversity",
        "results/diffusion_samples.csv": "task image method file psnr",
        "results/demo.csv": "task dataset image text understood strength psnr_input psnr ssim_input ssim input output",
        "ablations/summary.csv": "profile study setting seed task psnr ssim params_added steps params_total "
        "psnr_backbone",
        "ablations/per_image.csv": "profile study setting seed task image psnr ssim",
        "ablations/history.csv": "profile study setting seed step task loss psnr lr",
        "ablations/instruction.csv": "profile study setting seed split metric of value n ci_low ci_high changes",
    }
    for file, names in columns.items():
        rows = study.rows(file)
        assert rows and list(rows[0]) == names.split(), file
    readers = study.rows("ablations/instruction.csv")
    assert {(r["setting"], r["changes"]) for r in readers} == {
        ("usual", "nothing"),
        ("few_texts", "fills: 1, variants: 1"),
    }
    # Seed and section are the stage's, so it is the stage's reader, but for the last bits: a cell has fewer threads.
    usual = {(r["split"], r["metric"], r["of"]): float(r["value"]) for r in readers if r["setting"] == "usual"}
    stage = {(r["split"], r["metric"], r["of"]): float(r["value"]) for r in study.rows("results/instruction.csv")}
    assert usual == pytest.approx(stage, abs=1e-4)
    said = {row["task"]: row for row in study.rows("results/demo.csv")}
    assert list(said) == list(TASKS)
    assert (said["dehaze"]["understood"], said["dehaze"]["strength"]) == ("dehaze=1.00", "0.500000"), (
        "slightly less haze"
    )
    for row in said.values():
        given, found = (np.asarray(Image.open(study.folder / "results" / row[key])) for key in ("input", "output"))
        assert given.shape == found.shape and (given != found).any()
    filled = study.rows("results/diffusion.csv")
    assert [(r["method"], r["task"]) for r in filled] == [(m, t) for m in METHODS for t in FILL_TASKS]
    assert {(r["images"], r["profile"], r["fid"]) for r in filled} == {("2", "smoke", "")}, "no network of others here"
    curve = [r for r in study.rows("ablations/history.csv") if (r["setting"], r["task"]) == ("five-constant", "derain")]
    assert [row["step"] for row in curve] == ["2", "4", "6", "8", "10"], "a cell leaves a curve, not a point"
    claims = study.rows("results/claims.csv")
    contract = "claim statement effect unit ci_low ci_high n_images n_seeds verdict"
    assert list(claims[0])[:9] == contract.split()
    # One seed decides nothing but a count.
    assert {row["verdict"] for row in claims if row["claim"] != "cost_is_humble"} == {"inconclusive"}


def test_splits_share_no_photograph(study):
    def scenes(names) -> set[str]:
        return {re.sub(r"-\d+$", "", name) for name in names}

    train = scenes(row["name"] for row in study.rows("data/prepared/train/index.csv"))
    index = study.rows("data/prepared/index.csv")
    validation, test = (scenes(r["name"] for r in index if r["split"] == split) for split in ("validation", "test"))
    assert test == {"coffee", "flower", "rocket"} and validation == {"china", "validation-leaves"}
    assert {"motorcycle_left", "motorcycle_right", "leaves"} <= train
    assert not train & validation and not train & test and not validation & test


def test_full_rank_truncation_is_no_truncation(study):
    """The untruncated bias scores as the trained network does; energy ends at 1 in every layer."""
    energy = study.rows("results/rank_energy.csv")
    last = {(r["source"], r["task"], r["layer"]): float(r["cumulative_energy"]) for r in energy}
    assert all(value == pytest.approx(1.0, abs=1e-5) for value in last.values())
    trained = json.loads((study.folder / "models/full/metrics.json").read_text(encoding="utf-8"))["validation_psnr"]
    whole = [r for r in study.rows("results/rank_strategy.csv") if r["rule"] == "full" and r["source"] == "bias"]
    for row in whole:
        assert float(row["psnr"]) == pytest.approx(trained[row["task"]], abs=2e-3)


def test_rivals_have_the_parameters_of_modulation_within_a_tenth(study):
    added = {
        m: json.loads((study.folder / f"models/{m}/metrics.json").read_text())["params_added"]
        for m in ("film", "modulation")
    }
    assert added["film"] == pytest.approx(added["modulation"], rel=0.1)


def test_denoisers_are_compared_at_one_size(study):
    added = {
        m: json.loads((study.folder / f"models/diffusion/{m}/metrics.json").read_text(encoding="utf-8"))["params_added"]
        for m in METHODS
    }
    assert added["shared"] == 0 < added["synchronous"] == added["frozen"] < added["experts"]
    assert added["film"] == pytest.approx(added["synchronous"], rel=0.1)


def test_known_pixels_come_back_as_they_were_and_the_last_pass_is_the_answer(study):
    rows = study.rows("results/diffusion_samples.csv")
    for task in FILL_TASKS:
        part = {r["method"]: r for r in rows if r["task"] == task}
        pictures = {
            name: np.asarray(Image.open(study.folder / "results" / row["file"])).astype(int)
            for name, row in part.items()
        }
        passes = [name for name in pictures if name.startswith("steps-")]
        assert passes == [f"steps-{n:02d}" for n in range(1, 21)]
        # What was sampled in a batch may round otherwise when it is sampled alone.
        assert np.abs(pictures[passes[-1]] - pictures["synchronous"]).max() <= 2
        if task != "upscale":
            known = (pictures["input"] == pictures["truth"]).all(axis=2)
            assert 0.3 < known.mean() < 0.95
            for name in (*METHODS, *passes):
                assert (pictures[name][known] == pictures["truth"][known]).all(), (task, name)


def test_a_second_run_has_nothing_to_do_and_a_comment_changes_nothing_about_that(study):
    with study.edited("params.yaml", "# memory of", "# Memory of"):
        assert study.repro() == [] and study.jobs() == 0


def test_a_changed_rank_of_one_cell_runs_that_cell(study):
    with study.edited("params.yaml", "rank: {constant: [2]", "rank: {constant: [3]"):
        assert study.jobs() == 1
        assert study.repro("claims") == ["ablations", "claims"]
        # What only shows results is left to the first replication; that it has to run again is enough.
        assert study.stale() == {"figures", "tables", "report"}
        assert {r["setting"] for r in study.rows("ablations/summary.csv")} >= {"constant-3", "synchronous"}
        assert study.jobs() == 0
    # Back again: the old cell is still there, and DVC takes the old summary from its cache.
    assert study.jobs() == 0
    assert study.repro() == []
    assert "constant-2" in {r["setting"] for r in study.rows("ablations/summary.csv")}


def test_a_changed_rank_reruns_only_what_depends_on_it(study):
    with study.edited("params.yaml", "value: 4 ", "value: 2 "):
        # The report shows all parameters.
        assert study.stale() == {"train_modulation", "train_film", "evaluate", "ablations", "report"}
        assert study.jobs() == 4, "two cells of strategy and two of sensitivity use this rank, the others do not"


def test_one_cell_alone_from_snakemake(study):
    """Trained again it gives the same bytes, whoever was trained first; an equal cell takes its results over."""
    trained, equal = (
        study.folder / "ablations/smoke" / name
        for name in ("rank/constant-2/seed-0", "adaptation/five-constant/seed-0")
    )
    names = ("metrics.json", "per_image.csv", "history.csv")
    before = {folder: [(folder / name).read_bytes() for name in names] for folder in (trained, equal)}
    assert before[trained][1:] == before[equal][1:], "one recipe, one result"
    for folder in (trained, equal):
        shutil.rmtree(folder)
    study.run("snakemake", "-c1", (trained / "metrics.json").relative_to(study.folder).as_posix())
    assert [(trained / name).read_bytes() for name in names] == before[trained]
    (trained / "history.csv").write_bytes(before[trained][2] + b"mark\n")
    study.run("snakemake", "-c1", (equal / "metrics.json").relative_to(study.folder).as_posix())
    assert (equal / "history.csv").read_bytes().endswith(b"mark\n"), "taken over, not trained"
    for folder in (trained, equal):
        (folder / "history.csv").write_bytes(before[folder][2])
    assert [(equal / name).read_bytes() for name in names] == before[equal]


def test_a_killed_grid_repeats_only_what_was_not_finished(study):
    """SIGKILL to Snakemake and all its children while the second of four missing cells runs."""
    names = [f"smoke/adaptation/five-{method}/seed-0" for method in ("shared", "film", "constant", "proportional")]
    cells = [study.folder / "ablations" / name for name in names]
    logs = [study.folder / "logs/ablations" / f"{name}.log" for name in names]
    before = {cell: (cell / "metrics.json").read_bytes() for cell in cells}
    for cell, log in zip(cells, logs, strict=True):
        shutil.rmtree(cell)
        log.unlink()
    process = subprocess.Popen(
        ["snakemake", "-c1", "all"], cwd=study.folder, env=study.environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        # On one core the second begins when Snakemake has noted the end of the first, not when its files are there.
        deadline = time.monotonic() + 300
        while sum(log.exists() for log in logs) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = {cell: cell.stat().st_mtime_ns for cell in cells if (cell / "metrics.json").exists()}
    assert len(done) == 1, "killed in the middle"
    study.run("snakemake", "--unlock")
    assert study.jobs("--rerun-incomplete") == len(cells) - 1
    study.run("snakemake", "-c1", "--rerun-incomplete", "all")
    assert study.jobs() == 0
    assert {cell: cell.stat().st_mtime_ns for cell in done} == done, "a finished cell stays as it is"
    assert {cell: (cell / "metrics.json").read_bytes() for cell in cells} == before
    assert study.repro() == []


def test_an_edit_while_a_stage_runs_is_noticed(study):
    """DVC hashes parameters after the command ends and would take the edit for what was used."""
    path = study.folder / "params.yaml"
    text = path.read_text(encoding="utf-8")
    log = study.folder / ".ipt" / "work" / "train_film"
    process = subprocess.Popen(
        ["dvc", "repro", "--force", "--single-item", "train_film"],
        cwd=study.folder, env=warm.environment_of(study.environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        path.write_text(text.replace("clip: 1.0 ", "clip: 2.0 ", 1), encoding="utf-8")
        process.communicate(timeout=120)
        assert process.returncode == 0
        assert "train_film" not in study.run("dvc", "status", "train_film", "--json").stdout, "DVC does not notice"
        status = study.run("ipt", "status", check=False)
        line = next(line for line in status.stdout.splitlines() if line.startswith("train_film"))
        assert status.returncode == 1 and "training.clip was 1.0, is 2.0" in line
        stopped = study.run("ipt", "evaluate", check=False)
        assert stopped.returncode == 2 and "training.clip" in stopped.stderr and stopped.stderr.count("\n") == 1
    finally:
        path.write_text(text, encoding="utf-8")
        study.run("dvc", "repro", "--force", "--single-item", "train_film")
    assert study.repro() == []


def test_an_edited_source_file_is_noticed(study):
    with study.edited("src/instruct_ipt/training/losses.py", "def restoration_loss", "# edited\ndef restoration_loss"):
        lines = study.run("ipt", "status", check=False).stdout.splitlines()
    edited = {line.split()[0] for line in lines if "source code was edited" in line}
    assert {"train_shared", "train_modulation", "experts", "sensitivity"} <= edited
    assert not {"fetch", "prepare", "figures", "tables", "report"} & edited


def test_choices_are_made_without_the_test_images(study):
    """Rank analysis and cells run with the test split taken away, and give the same bytes.

    That the search and the networks are made so too is shown by the copy elsewhere, which makes them anew anyway.
    """
    files = ["results/rank_strategy.csv", "ablations/smoke/diffusion/synchronous/seed-0/per_image.csv"]
    before = [(study.folder / file).read_bytes() for file in files]
    test, aside = study.folder / "data/prepared/test", study.folder / "aside"
    shutil.move(test, aside)
    try:
        study.run("ipt", "rank")
        study.run("ipt", "cell", "rank", "constant-2", "0")
        study.run("ipt", "cell", "diffusion", "synchronous", "0")
    finally:
        shutil.move(aside, test)
    assert [(study.folder / file).read_bytes() for file in files] == before


def test_runs_are_in_mlflow_with_parameters_curves_and_pictures(study):
    found = shown(f"sqlite:///{study.folder / 'mlflow.db'}")
    runs = {name: run for (_, name), run in found.items()}
    assert {name.replace("_", " ") for name in STAGES} <= set(runs)
    assert ("instruct-ipt/smoke/rank", "constant-2 seed 0") in found and "modulation seed 0" in runs
    run = runs["train modulation"]
    assert run.params["modulation.value"] == "4.0" and run.tags["method"] == "modulation"
    for task in TASKS:
        assert [step for step, _ in run.metrics[f"validation/psnr/{task}"]] == [12, 24]
        assert any(path.startswith(f"images/{task}") for path in run.artifacts)
    assert "figures/fig2_rank.png" in runs["figures"].artifacts


def test_the_store_can_be_rebuilt_from_files(study):
    """The rebuilt view is the live one, but for what only the computing machine knew."""
    # DVC took results of earlier runs from its cache; the store has these runs and learns that they are current again.
    assert study.run("ipt", "mlflow-sync").stdout == "0 runs added\n"
    live = shown(f"sqlite:///{study.folder / 'mlflow.db'}")
    store = f"sqlite:///{study.folder / 'rebuilt.db'}"
    first = study.run("ipt", "mlflow-sync", MLFLOW_TRACKING_URI=store).stdout
    assert int(first.split()[0]) >= len(STAGES)
    rebuilt = shown(store)
    assert set(rebuilt) == set(live)
    for key, run in live.items():
        assert run.rebuilt() == rebuilt[key].rebuilt(), key
    assert study.run("ipt", "mlflow-sync", MLFLOW_TRACKING_URI=store).stdout == "0 runs added\n"
    assert shown(store) == rebuilt


def test_losing_the_tracking_store_changes_no_output(study):
    before = study.manifest("models/film")
    absent = study.run("ipt", "train-film", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert study.manifest("models/film") == before
    assert absent.stderr.count("tracking is off") == 1
    environment = warm.environment_of(study.environment)
    process = subprocess.Popen(["ipt", "train-film"], cwd=study.folder, env=environment, stderr=subprocess.PIPE)
    work = study.folder / ".ipt" / "work" / "train_film"
    while not work.exists() and process.poll() is None:
        time.sleep(0.02)
    (study.folder / "mlflow.db").write_bytes(b"no longer a database")
    process.communicate(timeout=120)
    assert process.returncode == 0 and study.manifest("models/film") == before
    (study.folder / "mlflow.db").unlink()


def test_a_copy_elsewhere_gives_the_same_bytes(study, tmp_path):
    """Weights and results do not depend on the folder, the time zone, the hash seed or the tracking store.

    Nor do networks and selected weights depend on the test images: these are away until the denoisers are scored.
    """
    other = Copy.fresh(tmp_path)
    # No server listens there.
    environment = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    environment |= {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    test, aside = other.folder / "data/prepared/test", other.folder / "aside"
    for stage in ("fetch", "prepare"):
        other.run("ipt", stage, **environment)
    shutil.move(test, aside)
    for stage in ("train-shared", "sensitivity", "train-modulation", "train-diffusion"):
        other.run("ipt", stage, **environment)
    shutil.move(aside, test)
    other.run("ipt", "diffusion", **environment)
    for folder in ("data/prepared", "models/shared", "models/modulation", "models/diffusion", "results/diffusion"):
        assert other.manifest(folder) == study.manifest(folder)
    for file in ("results/sensitivity.csv", "models/selection.json", "results/diffusion.csv"):
        assert (other.folder / file).read_bytes() == (study.folder / file).read_bytes(), file


def test_a_snapshot_keeps_tables_parameters_and_durations(study):
    """The README's block belongs to profile quick; another profile leaves the README alone."""
    (study.folder / "README.md").write_text("no block\n", encoding="utf-8")
    kept = study.folder / study.run("ipt", "snapshot").stdout.strip()
    assert (study.folder / "README.md").read_text(encoding="utf-8") == "no block\n"
    assert (kept / "params.yaml").read_bytes() == (study.folder / "params.yaml").read_bytes()
    assert (kept / "summary.csv").read_bytes() == (study.folder / "ablations/summary.csv").read_bytes()
    assert [row["stage"] for row in study.rows("docs/smoke/runtime.csv")][:-1] == list(STAGES)
    calls = [float(row["seconds"]) for row in study.rows("logs/runtime.csv") if row["stage"] == "ablations"]
    row = next(row for row in study.rows("docs/smoke/runtime.csv") if row["stage"] == "ablations")
    assert float(row["seconds"]) == pytest.approx(sum(calls), abs=0.1), "each call finds the cells of earlier ones done"
    cells = study.rows("docs/smoke/runtime.csv")[-1]
    assert cells["stage"].endswith(" cells") and float(cells["seconds"]) > 0
    for name in ("claims.csv", "benchmark.csv", "table09.md", "table11.md", "fig_pareto.jpg", "fig5_diffusion.jpg"):
        assert (kept / name).stat().st_size > 0
    whole = (kept / "table09.md").read_text(encoding="utf-8").splitlines()
    shutil.rmtree(kept)
    study.run("ipt", "snapshot", "--grid")
    assert (kept / "table09.md").read_text(encoding="utf-8").splitlines()[2:] == whole[2:], (
        "the caption counts no images"
    )
    assert (kept / "claims.csv").exists() and not (kept / "benchmark.csv").exists()
    shutil.rmtree(kept)


def test_the_notebooks_run_on_the_results(study):
    """Through real kernels; every cell is executed, every notebook shows pictures."""
    shutil.copytree(ROOT / "notebooks", study.folder / "notebooks", ignore=shutil.ignore_patterns("executed"))
    assert len(study.run("ipt", "notebooks").stdout.splitlines()) == 7
    for path in sorted((study.folder / "notebooks/executed").glob("*.ipynb")):
        cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        assert all(cell["execution_count"] for cell in cells), path.name
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"], path.name
        pictures = [o for o in outputs if "image/png" in o.get("data", {})]
        assert pictures and all(picture["metadata"]["image/png"]["alt"] for picture in pictures), path.name
    assert (study.folder / "notebooks/executed/restored.png").exists()
