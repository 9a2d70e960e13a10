"""docs/mlflow.md: its queries give the tables, as the result files have them; its pictures and commands exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from instruct_ipt import sync, tracking
from instruct_ipt.tasks import TASKS
from tests import planted
from tests.helpers import put_params
from tests.test_tracking import empty_database  # noqa: F401

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "mlflow.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def computed(tmp_path_factory, empty_database) -> tuple[Path, dict[str, Any]]:  # noqa: F811
    """A finished replication with its store, and what the page's Python blocks define there; to be read only."""
    folder = tmp_path_factory.mktemp("page")
    put_params(folder, "quick")
    shutil.copy(empty_database, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        replicate()
        sync.sync()
        return folder, run_blocks()


@pytest.fixture
def tables(computed, monkeypatch) -> dict[str, Any]:
    """What the blocks define, with the files of the replication around."""
    monkeypatch.chdir(computed[0])
    return computed[1]


def replicate() -> None:
    """A finished replication, with the rows that the page's tables of the analyses are made of."""
    planted.replication()
    scores = [
        ["exact", task, group, 0, planted.score(task, group) - 25, 10, 1] for task in TASKS for group in ("a", "b")
    ]
    columns = ["estimator", "task", "group", "seed", "gain_db", "freed_params", "score"]
    planted.table(Path("results/sensitivity.csv"), columns, scores)
    columns = ["source", "rule", "value", "params", "energy_mean", "energy_min", "task", "psnr"]
    rows = [["bias", "constant", r, 10 * r, 0.9, 0.8, task, planted.score(r, task)] for r in (1, 2) for task in TASKS]
    planted.table(Path("results/rank_strategy.csv"), columns, rows)


def run_blocks() -> dict[str, Any]:
    """What the page's Python blocks define, run one after the other on the store in use."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking.store())
    defined: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(block, defined)
    finally:
        mlflow.set_tracking_uri(before)
    return defined


def means(study: str) -> pd.DataFrame:
    """Setting by task: mean PSNR over seeds, from the cells' own files."""
    rows = []
    for path in Path("ablations/quick", study).glob("*/seed-*/metrics.json"):
        facts = pd.read_json(path, typ="series")
        rows += [[facts["setting"], task, score["psnr"]] for task, score in facts["tasks"].items()]
    frame = pd.DataFrame(rows, columns=["setting", "task", "psnr"])
    return frame.pivot_table(index="setting", columns="task", values="psnr")


def test_the_strategy_and_adaptation_tables(tables):
    for name, study in (("table09", "strategy"), ("table01", "adaptation")):
        expected = means(study)
        found = tables[name]
        assert set(found.index) == set(expected.index)
        for task in expected.columns:
            assert found[task].to_dict() == pytest.approx(expected[task].to_dict(), nan_ok=True)


def test_the_main_comparison(tables):
    scores = pd.read_csv("results/benchmark.csv")
    scores = scores[scores.protocol == "rgb"]
    expected = scores.assign(set=scores.task + "/" + scores.dataset).pivot_table(
        index="method", columns="set", values="psnr"
    )
    found = tables["table04"]
    assert set(found.index) == set(expected.index) and set(expected.columns) <= set(found.columns)
    for column in expected.columns:
        assert found[column].to_dict() == pytest.approx(expected[column].to_dict())
    by_task = scores.groupby(["method", "task"]).psnr.mean().groupby("method").mean()
    assert found["mean"].to_dict() == pytest.approx(by_task.to_dict())
    noise = tables["table05"]
    assert list(noise.columns) == ["bundled-sigma15", "bundled-sigma25", "bundled-sigma50"]
    assert noise["bundled-sigma50"].to_dict() == pytest.approx(expected["denoise/bundled-sigma50"].to_dict())
    assert tables["table10"].loc["modulation", "params_per_task"] == 10


def test_tables_of_the_analyses_come_from_artifacts(tables):
    sensitivity = pd.read_csv("results/sensitivity.csv")
    assert (
        tables["table02"].loc["a", "derain"]
        == sensitivity[sensitivity.group.eq("a") & sensitivity.task.eq("derain")].gain_db.item()
    )
    ranks = tables["table03"]
    assert ranks.loc[("bias", "constant", 2), "psnr"] == pytest.approx(
        sum(planted.score(2, task) for task in TASKS) / 5
    )
    assert ranks.loc[("bias", "constant", 2), "trained"] == pytest.approx(means("rank").loc["constant-2"].mean())


def test_pictures_and_links_of_the_page_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert any(target.endswith((".png", ".jpg")) for target in targets)
    for target in targets:
        if not target.startswith("http"):
            assert (ROOT / "docs" / target).exists(), target


def test_commands_of_the_page_exist():
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\w+)", PAGE):
        assert re.search(rf"^{target}:", make, re.MULTILINE), target
    for command in set(re.findall(r"ipt ([a-z-]+)", PAGE)):
        done = subprocess.run(
            [sys.executable, "-m", "instruct_ipt", command, "--help"], capture_output=True, check=False
        )
        assert done.returncode == 0, command
