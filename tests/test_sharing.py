"""Sharing through an S3 remote: the commands of docs/sharing.md on a small DVC repository, and the trial script."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed")
moto = pytest.importorskip("moto.server", reason="moto is not installed")

ROOT = Path(__file__).resolve().parent.parent
# Like the real one in what matters: `fetch` keeps its output out of the cache, `train` makes a folder and scores.
PIPELINE = r"""
metrics:
  - models/net/metrics.json
stages:
  fetch:
    cmd: mkdir -p data/raw && echo image > data/raw/image.txt
    outs:
      - data/raw:
          cache: false
          persist: true
  train:
    cmd: >-
      mkdir -p models/net && cp data/raw/image.txt models/net/weights.txt &&
      sed 's/rate: \(.*\)/{"score": \1}/' params.yaml > models/net/metrics.json
    deps: [data/raw/image.txt]
    params: [rate]
    outs: [models/net]
"""


@dataclass
class Place:
    """A folder in which commands run, without the configuration of the person who runs the tests."""

    folder: Path
    environment: dict[str, str]

    def run(self, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euc", script], cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done


def page_commands(who: str) -> str:
    """The shell block of docs/sharing.md that stands under the mark ``who``."""
    page = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {who}: [^\n]*-->\n```sh\n(.*?)```", page, re.DOTALL)
    assert found, f"docs/sharing.md has no block marked {who}"
    return found[1]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of an S3 server on 127.0.0.1 that holds one empty bucket."""
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    import boto3

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", **keys).create_bucket(Bucket="bucket")
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(scope="module")
def owner(tmp_path_factory) -> Place:
    """A repository whose small pipeline has run and whose lock is committed."""
    home = tmp_path_factory.mktemp("home")
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        **{f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    place = Place(tmp_path_factory.mktemp("owner"), environment)
    (place.folder / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
    (place.folder / "params.yaml").write_text("rate: 1\n", encoding="utf-8")
    (place.folder / ".gitignore").write_text("/data/raw/\n", encoding="utf-8")
    (place.folder / "workflow").mkdir()
    shutil.copy(ROOT / "workflow" / "try-remote", place.folder / "workflow")
    place.run("git init --quiet && dvc init --quiet && dvc repro --quiet && git add . && git commit --quiet -m first")
    return place


@pytest.fixture(scope="module")
def colleague(owner, server, tmp_path_factory) -> tuple[Place, str]:
    """Someone else's clone after the page's commands, and what those said."""
    commands = page_commands("owner").replace("s3://BUCKET", "s3://bucket").replace("https://ENDPOINT", server)
    owner.run(commands)
    elsewhere = Place(tmp_path_factory.mktemp("elsewhere"), owner.environment)
    said = elsewhere.run(page_commands("colleague").replace("REPOSITORY", str(owner.folder))).stdout
    return Place(elsewhere.folder / "instruct-ipt", owner.environment), said


def test_a_colleague_pulls_the_results_and_runs_nothing(owner, colleague):
    place, said = colleague
    for file in ("models/net/weights.txt", "models/net/metrics.json"):
        assert (place.folder / file).read_bytes() == (owner.folder / file).read_bytes()
    assert said.count("didn't change, skipping") == 2 and "Running stage" not in said
    assert not (place.folder / "data" / "raw").exists()


def test_source_images_are_fetched_and_nothing_else_runs(colleague):
    place, _ = colleague
    assert re.findall(r"Running stage '(\w+)'", place.run("dvc repro").stdout) == ["fetch"]
    assert place.run("dvc status").stdout == "Data and pipelines are up to date.\n"


def test_parameters_and_scores_can_be_compared_with_those_pulled(colleague):
    place, _ = colleague
    place.run("sed -i 's/rate: 1/rate: 3/' params.yaml; dvc repro --quiet train")
    change = json.loads(place.run("dvc params diff --json").stdout)
    assert change == {"params.yaml": {"rate": {"old": 1, "new": 3, "diff": 2}}}
    change = json.loads(place.run("dvc metrics diff --json").stdout)
    assert change == {"models/net/metrics.json": {"score": {"old": 1, "new": 3, "diff": 2}}}
    place.run("git tag v1; git commit --quiet --all -m changed; git tag v2")
    assert json.loads(place.run("dvc metrics diff --json v1 v2").stdout) == change


@pytest.fixture
def stand_in(owner, colleague, tmp_path) -> Place:
    """A copy of the owner's repository, with its remote, and an `ipt` that agrees to all: the pipeline is not ours."""
    shutil.copytree(owner.folder, tmp_path / "repository")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "ipt").write_text('#!/bin/sh\necho ipt "$@"\n', encoding="utf-8")
    (tmp_path / "bin" / "ipt").chmod(0o755)
    (tmp_path / "scratch").mkdir()
    environment = owner.environment | {"TMPDIR": str(tmp_path / "scratch")}
    environment["PATH"] = f"{tmp_path / 'bin'}{os.pathsep}{environment['PATH']}"
    return Place(tmp_path / "repository", environment)


def test_the_trial_shares_through_a_server_of_its_own(stand_in):
    """The repository's own remote holds the files already: were it used, none would be pushed."""
    before = (stand_in.folder / ".dvc" / "config").read_bytes()
    done = stand_in.run("workflow/try-remote")
    assert "3 files pushed" in done.stdout and "ipt mlflow-sync" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("try-remote: the clone has the results")
    assert (stand_in.folder / ".dvc" / "config").read_bytes() == before
    assert list(Path(stand_in.environment["TMPDIR"]).iterdir()) == []


def test_the_trial_fails_when_the_clone_must_compute(stand_in):
    """An output that DVC does not cache is missing in the clone, so that its stage runs again there."""
    with (stand_in.folder / "dvc.yaml").open("a", encoding="utf-8") as stream:
        stream.write("  report:\n    cmd: echo page > page.txt\n    outs: [{page.txt: {cache: false}}]\n")
    stand_in.run("dvc repro --quiet")
    done = stand_in.run("workflow/try-remote", check=False)
    assert (done.returncode, done.stderr) == (1, "try-remote: the clone ran more than fetch: fetch report\n")


def test_the_trial_wants_a_finished_replication(stand_in):
    stand_in.run("echo 'rate: 2' > params.yaml")
    done = stand_in.run("workflow/try-remote", check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "make repro PROFILE=smoke" in done.stderr and done.stderr.count("\n") == 1


def test_the_trial_says_in_one_line_what_is_missing(tmp_path):
    (tmp_path / "bash").symlink_to(shutil.which("bash"))
    done = subprocess.run(
        [ROOT / "workflow" / "try-remote"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith("try-remote: not found: ") and done.stderr.count("\n") == 1
