"""`dvc metrics` and `dvc plots`: what they name exists, and the templates show every row of the files."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from instruct_ipt.stage_table import maker_of
from tests import planted
from tests.helpers import put_params

ROOT = Path(__file__).resolve().parent.parent
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PLOTS = {name: plot for entry in DVC["plots"] for name, plot in entry.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A DVC repository with our views of a finished replication, and no stage; to be read only."""
    folder = tmp_path_factory.mktemp("views")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        put_params(folder)
        planted.replication()
        more_results()
        dvc("init", "--no-scm", "--quiet")
        shutil.copytree(ROOT / ".dvc" / "plots", ".dvc/plots", dirs_exist_ok=True)
        views = {"metrics": DVC["metrics"], "plots": DVC["plots"]}
        Path("dvc.yaml").write_text(yaml.safe_dump(views, sort_keys=False), encoding="utf-8")
    return folder


@pytest.fixture
def repository(made, monkeypatch) -> Path:
    """That repository, as the working directory."""
    monkeypatch.chdir(made)
    return made


def more_results() -> None:
    """Rows of two tables that plots show, and that a planted replication has none of."""
    rows = [["exact", task, "ffn.in", 0, 0.1, 10, 1] for task in planted.TASKS]
    planted.table(
        Path("results/sensitivity.csv"),
        ["estimator", "task", "group", "seed", "gain_db", "freed_params", "score"],
        rows,
    )
    planted.table(
        Path("ablations/summary.csv"),
        ["profile", "study", "setting", "seed", "task", "psnr", "params_added"],
        [["smoke", "rank", f"constant-{rank}", 0, task, 20 + rank, rank] for rank in (1, 2) for task in planted.TASKS],
    )


def dvc(*arguments: str) -> str:
    environment = os.environ | {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(Path.cwd() / ".site")}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def page(name: str) -> str:
    """What DVC shows of a plot of the one repository: starting it takes a second, and two tests look at each."""
    return dvc("plots", "show", "--show-vega", name)


def test_every_file_of_a_view_is_made_by_a_stage():
    files = [*DVC["metrics"], *(file for plot in PLOTS.values() for file in plot["y"])]
    assert files and all(maker_of(file) for file in files)


def test_metrics_are_one_row_per_network(repository):
    lines = dvc("metrics", "show", "--md").splitlines()
    assert [line.split("|")[1].strip() for line in lines if "models/" in line] == DVC["metrics"]
    assert "validation_psnr.derain" in lines[0] and "params_added" in lines[0]


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_holds_every_row_of_its_files(repository, name):
    spec = json.loads(page(name))
    expected = sum(len(Path(file).read_text(encoding="utf-8").splitlines()) - 1 for file in PLOTS[name]["y"])
    assert len(spec["data"]["values"]) == expected and spec["title"]["text"] == name
    assert "<DVC_METRIC" not in page(name)


@pytest.mark.parametrize("name", PLOTS)
def test_a_template_names_only_columns_that_are_there(repository, name):
    spec = json.loads(page(name))
    made = {step["as"] for step in spec["transform"] if "as" in step}
    made |= {part["as"] for step in spec["transform"] for part in step.get("aggregate", ())}
    assert fields(spec) <= set(spec["data"]["values"][0]) | made


def fields(node: object) -> set[str]:
    """Every `field` of a specification."""
    if isinstance(node, list):
        return set().union(*map(fields, node))
    if not isinstance(node, dict):
        return set()
    own = {node["field"]} if isinstance(node.get("field"), str) else set()
    return own | set().union(*(fields(value) for key, value in node.items() if key != "values"))
