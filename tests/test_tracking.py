"""Tracking only observes: whatever the store does, the caller goes on; what it shows can be rebuilt from files."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.numpy import load_file

from instruct_ipt import params, provenance, runs, sync, tracking
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.errors import InputError
from instruct_ipt.stage_table import STAGES
from instruct_ipt.stages._cells import Cell
from instruct_ipt.tasks import TASKS
from tests import planted
from tests.helpers import put_params
from tests.stored import shown

ROOT = Path(__file__).resolve().parent.parent
VIEW = SimpleNamespace(log_weights=False, samples_every=400)
STRATEGY = "instruct-ipt/smoke/strategy"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A migrated SQLite store without experiments of ours: making one takes seconds, copying it none."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def new_store(workspace, empty_database, monkeypatch) -> Callable[[], None]:
    """Put an empty store into use, each time one of another name: within a process MLflow keeps files open."""
    numbers = itertools.count()

    def make() -> None:
        path = workspace / f"mlflow-{next(numbers)}.db"
        shutil.copy(empty_database, path)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")

    return make


@pytest.fixture
def store(workspace, new_store) -> Path:
    """A working directory with an empty store."""
    new_store()
    return workspace


@pytest.fixture
def client(store):
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=tracking.store())


def card(seed: int = 0, steps: int = 10, setting: str = "frozen", profile: str = "smoke") -> runs.Card:
    """The run of a cell."""
    recipe = {"method": "modulation", "strategy": setting, "tasks": list(TASKS)}
    cell = {"study": "strategy", "setting": setting, "seed": seed}
    values = {"profile": profile, "cell": cell, "recipe": recipe, "steps": steps}
    return runs.cell_card({"params": values, "code_digest": "none", "inputs": {}})


def all_runs(client) -> list:
    experiments = [e.experiment_id for e in client.search_experiments(filter_string="name LIKE 'instruct-ipt/%'")]
    return list(client.search_runs(experiments, max_results=5000))


# ---- a store that fails ---------------------------------------------------------------------------------------------


class Dying:
    """A client that works once and then fails."""

    def __init__(self) -> None:
        self.calls = 0

    def log_batch(self, *_, **__) -> None:
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError("the store went away\nwith details")

    def set_terminated(self, *_) -> None:
        raise AssertionError("a dead store is not called again")


def test_a_store_that_dies_in_the_middle_costs_one_line(capsys):
    client = Dying()
    with tracking.Tracker(client, "run") as tracker:
        for step in range(5):
            tracker.metrics(step, {"denoise/psnr": 1.0})
    assert client.calls == 2
    assert capsys.readouterr().err.count("\n") == 1


class Slow:
    """A client that answers when it is allowed to."""

    def __init__(self) -> None:
        self.allowed, self.calls = threading.Event(), 0

    def log_batch(self, *_, **__) -> None:
        self.allowed.wait(30)
        self.calls += 1

    def set_terminated(self, *_) -> None:
        self.calls += 1


def test_training_does_not_wait_for_a_slow_store_and_nothing_is_lost():
    client = Slow()
    begun = time.monotonic()
    with tracking.Tracker(client, "run") as tracker:
        for step in range(20):
            tracker.metrics(step, {"denoise/psnr": 1.0})
        assert client.calls == 0 and time.monotonic() - begun < 10
        client.allowed.set()
    assert client.calls == 21


def test_a_store_that_never_answers_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "PATIENCE", 0.05)
    client = Slow()
    with tracking.Tracker(client, "run") as tracker:
        tracker.metrics(0, {"denoise/psnr": 1.0})
        tracker.metrics(1, {"denoise/psnr": 1.0})
    assert "too slowly" in capsys.readouterr().err and not tracker.alive
    client.allowed.set()


def test_what_waits_is_bounded(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "BACKLOG", 3)
    client = Slow()
    with tracking.Tracker(client, "run") as tracker:
        for step in range(10):
            tracker.metrics(step, {"denoise/psnr": 1.0})
        assert not tracker.alive
        client.allowed.set()
    assert capsys.readouterr().err.count("too slowly") == 1


def test_an_unreachable_server_is_said_once_and_sync_says_what_to_do(workspace, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking.start(card()) as tracker:
        tracker.metrics(0, {"a": 1.0})
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="127.0.0.1:9 cannot be reached"):
        sync.sync()


def test_results_that_cannot_be_read_break_no_run(store, capsys):
    with tracking.start(card()) as tracker:
        tracker.finish(lambda: runs.cell_results(Path("nowhere")))
    assert capsys.readouterr().err.count("tracking is off") == 1


# ---- one run --------------------------------------------------------------------------------------------------------


def test_a_run_shows_its_parameters_tags_and_environment(store, client):
    shutil.copy(ROOT / "requirements.lock", "requirements.lock")
    with tracking.start(card(), VIEW) as tracker:
        tracker.metrics(2, {"derain/psnr": 20.0})
    found = shown(only="strategy")
    run = found[STRATEGY, "frozen seed 0"]
    assert run.params["steps"] == "10" and run.metrics["derain/psnr"] == [(2, 20.0)]
    assert run.parent == "" or run.parent == "frozen"
    wanted = {"study": "strategy", "setting": "frozen", "seed": "0", "method": "modulation", "strategy": "frozen"}
    wanted |= {"tasks": "five", "profile": "smoke", "kind": "seed", "protocol": "rgb", "split": "validation"}
    assert wanted.items() <= run.tags.items()
    assert run.tags["params_digest"] == provenance.digest(dict(card().params))
    assert {"params.yaml", "requirements.lock", "environment.json"} <= run.artifacts
    environment = json.loads(Path(client.download_artifacts(run.id, "environment.json")).read_text(encoding="utf-8"))
    assert environment["python"] == ".".join(map(str, sys.version_info[:3])) and environment["packages"]["numpy"]


def test_the_commit_is_that_of_the_code_that_made_a_run(store, client):
    stage = STAGES["claims"]
    record = {"params": {"profile": "smoke"}, "inputs": {}, "code_digest": provenance.code_digest(stage.modules)}
    for code, name in ((record["code_digest"], "present"), ("of other code", "other")):
        with tracking.start(runs.stage_card(stage, record | {"code_digest": code, "params": {"profile": name}})):
            pass
    by_profile = {run.data.tags["profile"]: run.data.tags for run in all_runs(client)}
    assert "git_commit" not in by_profile["other"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert by_profile["present"]["git_commit"].removesuffix("-edited") == head.stdout.strip()


def test_one_digest_has_one_run(store, client):
    for _ in range(2):
        with tracking.start(card(), VIEW) as tracker:
            tracker.metrics(2, {"derain/psnr": 20.0})
    assert [run.info.run_name for run in all_runs(client)].count("frozen seed 0") == 1


def test_a_failed_run_is_marked_and_goes_on_as_the_same_run(store, client):
    with pytest.raises(RuntimeError), tracking.start(card(), VIEW) as tracker:
        tracker.metrics(5, {"derain/psnr": 20.0})
        raise RuntimeError
    (failed,) = [run for run in all_runs(client) if run.data.tags["kind"] == "seed"]
    assert failed.info.status == "FAILED" and "current" not in failed.data.tags
    with tracking.start(card(), VIEW) as tracker:
        tracker.metrics(10, {"derain/psnr": 21.0})
    (run,) = [run for run in all_runs(client) if run.data.tags["kind"] == "seed"]
    assert run.info.run_id == failed.info.run_id and run.info.status == "FINISHED"
    assert [p.step for p in client.get_metric_history(run.info.run_id, "derain/psnr")] == [5, 10]


def test_the_run_that_stands_in_files_is_the_current_one(store, client):
    for steps in (10, 20):
        with tracking.start(card(steps=steps), VIEW):
            pass
    current = {
        r.data.params["steps"]: r.data.tags["current"] for r in all_runs(client) if r.data.tags["kind"] == "seed"
    }
    assert current == {"10": "no", "20": "yes"}
    with tracking.opened() as found:
        assert found.add_missing([(card(steps=10), runs.Results({"rgb/psnr/mean": 20.0}))]) == 0
    current = {
        r.data.params["steps"]: r.data.tags["current"] for r in all_runs(client) if r.data.tags["kind"] == "seed"
    }
    assert current == {"10": "yes", "20": "no"}


def test_live_pictures_come_every_so_many_steps(store, client):
    grey = {task: np.full((8, 8, 3), value, dtype=np.float32) for task, value in (("derain", 0.2), ("dehaze", 2.0))}
    samples = {task: (image, image / 2, image) for task, image in grey.items()}
    with tracking.start(card(), SimpleNamespace(log_weights=False, samples_every=20)) as tracker:
        observe = tracker.watch(samples)
        for step in (10, 20, 30, 40, 50):
            observe(step, {"derain/psnr": 20.0})
    run = shown(only="strategy")[STRATEGY, "frozen seed 0"]
    pictures = sorted(path for path in run.artifacts if path.startswith("images/") and path.endswith(".png"))
    assert [re.search(r"step\+(\d+)", path)[1] for path in pictures] == ["10", "30", "50"]
    assert all("derain" in path for path in pictures), "dehaze was not validated"
    with Image.open(client.download_artifacts(run.id, pictures[0])) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (8, 24, 3) and pixels[0, ::8, 0].tolist() == [51, 26, 51]
    assert run.metrics["validation/psnr/derain"] == [(step, 20.0) for step in (10, 20, 30, 40, 50)]


def test_a_run_without_live_pictures_has_none(store):
    image = np.zeros((8, 8, 3), dtype=np.float32)
    with tracking.start(card(), SimpleNamespace(log_weights=False, samples_every=0)) as tracker:
        tracker.watch({"derain": (image, image, image)})(10, {"derain/psnr": 20.0})
    assert not any(path.startswith("images/") for path in shown()[STRATEGY, "frozen seed 0"].artifacts)


def test_system_metrics_are_sampled_while_a_run_goes_on(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with tracking.start(card(), VIEW):
        deadline = time.monotonic() + 20
        while not (thread := [t for t in threading.enumerate() if t.name == "SystemMetricsMonitor"]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.0)
    assert not any(t.is_alive() for t in thread), "it ends with the run"
    metrics = shown()[STRATEGY, "frozen seed 0"].metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(metrics)


# ---- the whole, from files ------------------------------------------------------------------------------------------


@pytest.fixture
def replication(store) -> Path:
    """A working directory with a finished replication and an empty store."""
    planted.replication()
    return store


@pytest.fixture(scope="module")
def synced_once(tmp_path_factory, empty_database) -> Path:
    """A finished replication and a store that was rebuilt from its files."""
    folder = tmp_path_factory.mktemp("synced")
    put_params(folder)
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        planted.replication()
        sync.sync()
    return folder


@pytest.fixture
def synced(synced_once, monkeypatch):
    """A client of that store, with the files around; to be read only."""
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(synced_once)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{synced_once}/mlflow.db")
    return MlflowClient(tracking_uri=tracking.store())


@pytest.fixture
def synced_copy(synced_once, tmp_path, monkeypatch):
    """A client of a copy of that store, with the files around; to be changed."""
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "copy"
    shutil.copytree(synced_once, folder)
    database = sqlite3.connect(folder / "mlflow.db")
    # Absolute paths: what is logged here would go where the other tests read.
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        change = f"UPDATE {table} SET {column} = replace({column}, ?, ?)"
        assert database.execute(change, (str(synced_once), str(folder))).rowcount > 0
    database.commit()
    database.close()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    return MlflowClient(tracking_uri=tracking.store())


def test_an_empty_store_gets_runs_metrics_and_artifacts_and_twice_is_once(
    synced, empty_database, tmp_path, monkeypatch
):
    methods = ("input", "shared", "film", "modulation")
    found = shown()
    names = {("replication", stage.replace("_", " ")) for stage in STAGES}
    names |= {("benchmark", name) for method in methods for name in (method, f"{method} seed 0")}
    names |= {(c.study, name) for c in planted.CELLS for name in (c.setting, f"{c.setting} seed {c.seed}")}
    assert set(found) == {(f"instruct-ipt/smoke/{study}", name) for study, name in names}
    before = {key: run.id for key, run in found.items()}
    assert sync.sync() == 0
    again = shown()
    assert again == found and {key: run.id for key, run in again.items()} == before
    shutil.copy(empty_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    assert sync.sync() == len(STAGES) + len(methods) + len(planted.CELLS)
    assert shown() == found


def test_a_trained_network_has_curves_scores_and_weights_by_name(synced):
    run = shown(only="replication")["instruct-ipt/smoke/replication", "train modulation"]
    facts = json.loads(Path("models/modulation/metrics.json").read_text(encoding="utf-8"))
    for task in TASKS:
        rows = [row for row in read("models/modulation/history.csv") if row["task"] == task]
        points = [(int(row["step"]), float(row["psnr"])) for row in rows]
        assert run.metrics[f"validation/psnr/{task}"] == points
        assert run.metrics[f"training/loss/{task}"] == [(10, 0.2), (20, 0.2)]
    mean = statistics.fmean(facts["validation_psnr"].values())
    assert run.metrics["validation/psnr/mean"][0][1] == pytest.approx(mean)
    wanted = {"method": "modulation", "strategy": "synchronous", "tasks": "five", "stage": "train_modulation"}
    assert (wanted | {"seed": "0", "weights": "referenced"}).items() <= run.tags.items()
    assert run.tags["data_digest"] == provenance.sha256_file(Path("data/prepared/manifest.json"))
    assert run.params["modulation.value"] == "4.0"
    assert {"models/modulation/history.csv", "models/modulation/metrics.json", "weights.json"} <= run.artifacts
    assert not any(path.endswith(".safetensors") for path in run.artifacts)
    (weights,) = json.loads(Path(synced.download_artifacts(run.id, "weights.json")).read_text(encoding="utf-8"))[
        "files"
    ]
    path = Path("models/modulation/weights.safetensors")
    assert weights["path"] == path.as_posix() and weights["sha256"] == provenance.sha256_file(path)
    assert weights["tensors"] == {"head.weight": {"dtype": "F32", "shape": [4, 3]}}


def test_weights_are_uploaded_only_if_params_yaml_says_so(synced, empty_database, tmp_path, monkeypatch):
    shutil.copy(empty_database, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    record = provenance.read_record(STAGES["experts"].provenance)
    entries = [(runs.stage_card(STAGES["experts"], record), runs.stage_results(STAGES["experts"]))]
    files = {f"models/experts/{task}.safetensors" for task in TASKS}
    for wanted, added in ((False, 1), (True, 0), (True, 0)):
        with tracking.opened(SimpleNamespace(log_weights=wanted, samples_every=0)) as store:
            assert store.add_missing(entries) == added, "the run stays; its weights follow"
        run = shown()["instruct-ipt/smoke/replication", "experts"]
        assert run.tags["weights"] == ("uploaded" if wanted else "referenced")
        assert files & run.artifacts == (files if wanted else set())
    from mlflow.tracking import MlflowClient

    uploaded = MlflowClient(tracking_uri=tracking.store()).download_artifacts(
        run.id, "models/experts/derain.safetensors"
    )
    assert load_file(uploaded)["head.weight"].tolist() == [[7.0] * 3] * 4
    assert params.load().mlflow.log_weights is False, "what the repository stands at"


def test_figures_tables_and_report_are_artifacts(synced):
    found = shown(only="replication")
    for stage, file in (
        ("figures", "figures/fig2_rank.png"),
        ("figures", "figures/fig2_rank.csv"),
        ("tables", "tables/table04.csv"),
        ("report", "report/index.html"),
        ("claims", "results/claims.csv"),
        ("sensitivity", "results/sensitivity.csv"),
    ):
        assert file in found["instruct-ipt/smoke/replication", stage].artifacts


def test_a_protocol_of_one_set_alone_has_no_mean_over_tasks(synced_copy):
    """As the one that a set of its own brings with it: its mean would be that of one task."""
    path = Path("results/benchmark.csv")
    table = pd.read_csv(path)
    one = table[(table.protocol == "rgb") & (table.dataset == table.dataset[0])].assign(protocol="rgb-shift")
    pd.concat([table, one]).to_csv(path, index=False)
    found = {card.name: results.metrics for card, results in runs.finished() if card.study == runs.BENCHMARK}
    assert found
    for metrics in found.values():
        assert "rgb/psnr/mean" in metrics and "rgb-shift/psnr/mean" not in metrics
        assert f"rgb-shift/psnr/{one.task.iloc[0]}/{one.dataset.iloc[0]}" in metrics


def test_a_method_has_its_test_scores_and_its_pictures(synced):
    found = shown(only="benchmark")
    run = found["instruct-ipt/smoke/benchmark", "film seed 0"]
    rows = [row for row in read("results/benchmark.csv") if row["method"] == "film"]
    for row in rows:
        name = f"{row['task']}/{row['dataset']}"
        assert run.metrics[f"{row['protocol']}/psnr/{name}"] == [(0, float(row["psnr"]))]
        gain = float(row["psnr"]) - float(row["psnr_input"])
        assert run.metrics[f"{row['protocol']}/gain/{name}"][0][1] == pytest.approx(gain)
    by_task = [[float(r["psnr"]) for r in rows if r["protocol"] == "rgb" and r["task"] == task] for task in TASKS]
    assert run.metrics["rgb/psnr/mean"][0][1] == pytest.approx(statistics.fmean(map(statistics.fmean, by_task)))
    assert run.parent == "film" and run.tags["split"] == "test" and run.tags["strategy"] == "synchronous"
    pictures = {path for path in run.artifacts if path.startswith("results/samples/")}
    assert pictures == {f"results/samples/{task}/{name}-a-film.png" for task, name in planted.SETS}


def test_a_setting_stands_above_its_seeds_with_their_mean_and_deviation(synced):
    found = shown(only="strategy")
    values = [planted.score("strategy", "frozen", seed, "derain") for seed in planted.SEEDS]
    setting = found[STRATEGY, "frozen"]
    assert setting.metrics["rgb/psnr/derain"][0][1] == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert setting.metrics["rgb/psnr/derain/std"][0][1] == pytest.approx(statistics.stdev(values), abs=1e-6)
    assert setting.metrics["seeds"] == [(0, 2.0)] and setting.tags["kind"] == "setting" and "seed" not in setting.tags
    for seed, value in zip(planted.SEEDS, values, strict=True):
        run = found[STRATEGY, f"frozen seed {seed}"]
        assert run.parent == "frozen" and run.metrics["rgb/psnr/derain"][0][1] == pytest.approx(value, abs=1e-6)
        assert run.metrics["validation/psnr/derain"] == [(5, 20.5), (10, 21.0)]
        assert run.metrics["training/loss/derain"] == [(5, 0.1)], "a loss that is not a number is no point"
        assert run.metrics["backbone alone/psnr/mean"] == [(0, 15.0)]


def test_task_sets_are_tags(synced):
    tasks = {name: run.tags.get("tasks") for (_, name), run in shown().items()}
    assert tasks["noise-film"] == "denoise-15+denoise-25+denoise-50"
    assert tasks["denoise+dehaze-constant"] == "denoise+dehaze" and tasks["five-film seed 0"] == "five"


def test_a_denoiser_cell_says_that_its_scores_are_those_of_missing_pixels(synced):
    found = shown(only="smoke/diffusion")
    run = found["instruct-ipt/smoke/diffusion", "film seed 0"]
    wanted = {"protocol": "missing pixels", "method": "film", "strategy": "synchronous", "split": "validation"}
    assert (wanted | {"tasks": "+".join(FILL_TASKS)}).items() <= run.tags.items()
    value = planted.score("diffusion", "film", 0, "upscale")
    assert run.metrics["missing pixels/psnr/upscale"][0][1] == pytest.approx(value, abs=1e-6)
    assert not [name for name in run.metrics if name.startswith("rgb/")]
    assert run.metrics["validation/psnr/inpaint"] == [(5, 20.5), (10, 21.0)]
    assert found["instruct-ipt/smoke/diffusion", "film"].metrics["seeds"] == [(0, 2.0)]


def test_weights_of_every_denoiser_are_named(synced):
    run = shown(only="replication")["instruct-ipt/smoke/replication", "train diffusion"]
    weights = json.loads(Path(synced.download_artifacts(run.id, "weights.json")).read_text(encoding="utf-8"))["files"]
    folders = [method for method in METHODS if method != "experts"] + [f"experts/{task}" for task in FILL_TASKS]
    assert {entry["path"] for entry in weights} == {f"models/diffusion/{f}/weights.safetensors" for f in folders}
    assert {f"models/diffusion/{method}/metrics.json" for method in METHODS} <= run.artifacts


def test_a_changed_cell_is_a_new_run_and_the_old_one_is_past(synced_copy):
    planted.plant_cell(params.load(), Cell("strategy", "frozen", 1), shift=1.0)
    assert sync.sync() == 1
    # One seed was made again and the other not: they no longer are seeds of the same setting.
    experiment = synced_copy.get_experiment_by_name(STRATEGY)
    found = synced_copy.search_runs([experiment.experiment_id], "tags.`ipt.place` = 'frozen/seed-1'")
    assert sorted(run.data.tags["current"] for run in found) == ["no", "yes"]
    new = next(run for run in found if run.data.tags["current"] == "yes")
    value = planted.score("strategy", "frozen", 1, "derain") + 1
    assert new.data.metrics["rgb/psnr/derain"] == pytest.approx(value, abs=1e-6)


def test_a_live_cell_and_a_rebuilt_one_are_the_same(replication, synced_once):
    folder = Cell("strategy", "frozen", 0).folder("smoke")
    record = provenance.read_record(folder / "provenance.json")
    recipe = record["params"]["recipe"]
    recipe["tasks"] = tuple(recipe["tasks"])  # as before it was written
    with tracking.start(runs.cell_card(record), VIEW) as tracker:
        observe = tracker.watch({})
        for step in (5, 10):
            losses = {} if step == 10 else {f"{task}/loss": 0.1 for task in TASKS}
            observe(step, {f"{task}/psnr": 20 + step / 10 for task in TASKS} | losses)
        tracker.finish(lambda: runs.cell_results(folder))
    tracking.summarise(lambda: runs.seeds_of(runs.cell_card(record), folder.parent))
    live = shown(only="strategy")
    assert set(live) == {(STRATEGY, "frozen"), (STRATEGY, "frozen seed 0")}
    assert live[STRATEGY, "frozen"].metrics["seeds"] == [(0, 2.0)]
    # Planted files are the same wherever they stand, and that store was rebuilt from such.
    rebuilt = shown(f"sqlite:///{synced_once}/mlflow.db", only="strategy")
    for key, run in live.items():
        assert run.rebuilt() == rebuilt[key]


def test_two_machines_that_make_a_setting_at_once_end_with_one(store, client):
    entries = [(card(seed), runs.Results({"rgb/psnr/mean": 20.0 + seed})) for seed in (0, 1)]
    with tracking.opened() as first:
        first.add_missing(entries[:1])
    # The other machine did not see that run, and has made its own.
    seen = tracking.Store._find
    with tracking.opened() as second, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking.Store, "_find", lambda *_: [])
        second.run(entries[1][0], live=False).__exit__(None, None, None)
    assert tracking.Store._find is seen
    assert sum(run.data.tags["kind"] == "setting" for run in all_runs(client)) == 2
    tracking.summarise(lambda: entries)
    found = shown(only="strategy")
    assert {run.parent for key, run in found.items() if "seed" in key[1]} == {"frozen"}
    assert found[STRATEGY, "frozen"].metrics["rgb/psnr/mean"][-1] == (0, 20.5)
    assert sum(run.data.tags["kind"] == "setting" for run in all_runs(client)) == 1


def test_damaged_results_are_one_line(replication):
    path = Cell("strategy", "frozen", 0).folder("smoke") / "metrics.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="strategy/frozen/seed-0/provenance.json.*make them again") as caught:
        sync.sync()
    assert "\n" not in str(caught.value)


def test_a_deleted_experiment_comes_back(store, client):
    with tracking.start(card(), VIEW):
        pass
    client.delete_experiment(client.get_experiment_by_name(STRATEGY).experiment_id)
    with tracking.start(card(seed=1), VIEW) as tracker:
        pass
    assert tracker.alive and (STRATEGY, "frozen seed 1") in shown(only="strategy")


def test_pages_are_listed_by_study(synced):
    pages = tracking.pages(5001)
    studies = ("adaptation", "benchmark", "diffusion", "rank", "replication", "strategy", "task_gap")
    assert list(pages) == [f"instruct-ipt/smoke/{study}" for study in studies]
    for address in pages.values():
        assert re.fullmatch(r"http://127\.0\.0\.1:5001/#/experiments/\d+/runs\?workflowType=machine_learning", address)


def postgres() -> bool:
    """Whether PostgreSQL and its driver are installed."""
    programs = list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or shutil.which("initdb")
    return bool(programs) and importlib.util.find_spec("psycopg2") is not None


@pytest.mark.skipif(not postgres(), reason="PostgreSQL or psycopg2 is not installed")
def test_processes_that_log_to_postgresql_at_once_lose_nothing(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # PostgreSQL does not run as root, and the user that does must be able to reach its folder.
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == tmp_path.owner() and not folder.stat().st_mode & 0o001:
            folder.chmod(0o755)
    # A copy without a replication: what the script starts is tried, not this repository's results.
    (tmp_path / "workflow").mkdir()
    shutil.copy(ROOT / "workflow" / "try-postgres", tmp_path / "workflow")
    (tmp_path / "src").symlink_to(ROOT / "src")
    done = subprocess.run(
        [tmp_path / "workflow" / "try-postgres", "2"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 processes logged 800 points and 8 pictures; all are there" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"workflow", "src"}, "nothing of it stays"


def test_the_postgresql_trial_says_in_one_line_what_is_missing(tmp_path):
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    for arguments, word in (([], "not found: ipt"), (["many"], "1 to 99, got many")):
        done = subprocess.run(
            [ROOT / "workflow" / "try-postgres", *arguments],
            env={"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1


def test_cells_are_scored_by_the_protocol_that_their_runs_name():
    from instruct_ipt.stages import cell

    assert cell.PROTOCOL.name == runs.CELL_PROTOCOL


def read(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
