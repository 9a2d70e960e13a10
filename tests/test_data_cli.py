"""`ipt data` and the first two stages at level benchmark, as a person calls them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.data.prepared import count, pairs, pictures, read_index
from instruct_ipt.data.shards import Shards
from instruct_ipt.params import load
from instruct_ipt.tasks import TASKS
from tests import warm
from tests.data.server import serving
from tests.data.sets import small_catalogue
from tests.test_tracking import empty_database  # noqa: F401


@pytest.fixture
def home(workspace, empty_database):  # noqa: F811
    """A working directory with a small generated benchmark level, its mirror beside, and an empty store."""
    shutil.copy(empty_database, workspace / "mlflow.db")
    catalogue, mirror = small_catalogue(workspace / "made")
    shutil.move(catalogue, workspace / "data/catalogue")
    shutil.move(mirror, workspace / "mirror")
    text = (workspace / "params.yaml").read_text(encoding="utf-8")
    (workspace / "params.yaml").write_text(text.replace("level: bundled", "level: benchmark", 1), encoding="utf-8")
    return workspace


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def test_fetch_over_http_then_verify_then_nothing_to_do(home):
    with serving(home / "mirror") as server:
        done = warm.ipt("data", "fetch", "--level", "benchmark", "--mirror", server.address)
        assert done.returncode == 0 and "files to fetch" in said(done) and "free in data/raw" in said(done)
        again = warm.ipt("data", "fetch", "--mirror", server.address)
    assert again.returncode == 0 and "nothing is missing" in said(again)
    checked = warm.ipt("data", "verify")
    assert checked.returncode == 0, said(checked)
    assert "0" in said(checked) and "Rain100L" in said(checked)


def test_one_set_can_be_asked_for(home):
    done = warm.ipt("data", "fetch", "--set", "CBSD68", "--mirror", str(home / "mirror"))
    assert done.returncode == 0 and [p.name for p in sorted((home / "data/raw").glob("[A-Z]*"))] == ["CBSD68"]


def test_verify_fails_and_says_what_is_missing(home):
    done = warm.ipt("data", "verify")
    assert done.returncode == 1 and "ipt data fetch" in said(done)


def test_list_shows_what_is_there_what_is_unverified_and_how_to_get_the_rest(home):
    warm.ipt("data", "fetch", "--set", "CBSD68", "--mirror", str(home / "mirror"))
    text = said(warm.ipt("data", "list"))
    assert "unverified:" in text and "data/raw/GoPro/train" in text and "ipt data fetch --set Rain100L" in text
    (line,) = [line for line in text.splitlines() if line.startswith("CBSD68 ")]
    assert "complete" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fetch", "--set", "CBSD86"), "is not in the catalogue"),
        (("fetch", "--level", "all"), "level 'all' does not exist"),
        (("verify", "--level", "bundled"), "nothing to verify"),
        (("add", "x", "--task", "derain", "--target", "nowhere"), "is not a folder"),
        (("remove", "x"), "is not registered"),
        (("fetch", "--set", "GoPro"), "not to be downloaded by a program: GoPro"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(home, words, message):
    done = warm.ipt("data", *words)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_the_bundled_level_needs_no_download(home):
    done = warm.ipt("data", "fetch", "--level", "bundled")
    assert done.returncode == 0 and "needs no download" in said(done)


def test_the_pipeline_prepares_the_benchmark_level_and_nothing_crosses_splits(home):
    assert warm.ipt("fetch", IPT_MIRROR=str(home / "mirror")).returncode == 0
    manifest = json.loads((home / "data/raw/manifest.json").read_text())
    assert "CBSD68" in {path.split("/")[0] for path in manifest}
    done = warm.ipt("prepare")
    assert done.returncode == 0, said(done)
    root, settings = home / "data/prepared", load().degradation
    shards = Shards(root / "train")
    assert [len(shards.pairs(task)) for task in TASKS] == [0, 3, 3, 3 + 2 + 2, 0] and len(shards.masks()) == 2
    tests = count(root, "test")
    assert all(tests.values()) and tests["desnow"] == tests["denoise"] == 2
    sets = {(row.task, row.dataset) for row in read_index(root) if row.split == "test"}
    assert {("desnow", "CBSD68-snow"), ("desnow", "Snow_real_nogt"), ("derain", "Rain100L")} <= sets
    for task in TASKS:
        for split in ("validation", "test"):
            for pair in pairs(root, split, task, settings):
                assert pair.input.shape == pair.target.shape and not np.array_equal(pair.input, pair.target)
    assert len(list(pictures(root))) == 2
    assert all("validation" in row.input or not row.input for row in read_index(root) if row.split == "validation")


def test_an_interrupted_fetch_stage_keeps_what_it_has(home):
    """The stage writes in place: what came before a failure is not deleted by the next run."""
    with serving(home / "mirror") as server:
        server.fault = lambda path, number: "404" if path.startswith("Rain100L") else None
        failed = warm.ipt("fetch", IPT_MIRROR=server.address)
        assert failed.returncode == 2 and "Rain100L" in failed.stderr
        server.fault = lambda path, number: None
        server.requests.clear()
        assert warm.ipt("fetch", IPT_MIRROR=server.address).returncode == 0
        assert {path.split("/")[0] for path in server.requests} == {"Rain100L"}


def test_a_set_of_ones_own_joins_the_level(home):
    for i in range(3):
        for part, value in (("clean", 40), ("rainy", 140)):
            (home / part).mkdir(exist_ok=True)
            image = np.random.default_rng(i).integers(0, 100, (80, 80, 3), np.uint8) + np.uint8(value)
            Image.fromarray(image).resize((80, 80)).save(home / part / f"{i}.png")
    added = warm.ipt("data", "add", "mine", "--task", "derain", "--input", "rainy", "--target", "clean")
    assert added.returncode == 0 and "data.custom: [mine]" in said(added)
    params = home / "params.yaml"
    text = (
        params.read_text(encoding="utf-8")
        .replace("level: benchmark", "level: bundled")
        .replace("custom: []", "custom: [mine]")
    )
    params.write_text(text, encoding="utf-8")
    for stage in ("fetch", "prepare"):
        done = warm.ipt(stage)
        assert done.returncode == 0, said(done)
    assert len(Shards(Path("data/prepared/train")).pairs("derain")) == 2
    sets = {row.dataset for row in read_index(Path("data/prepared")) if row.split == "validation"}
    assert sets == {"bundled", "mine"}
