"""Two processes under torchrun give what one process gives, and only the first of them writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instruct_ipt import pipeline
from instruct_ipt.errors import InputError
from instruct_ipt.params import load
from instruct_ipt.stage_table import STAGES
from instruct_ipt.tasks import TASKS
from instruct_ipt.training import distributed
from instruct_ipt.training.checkpoint import Checkpoints
from tests.helpers import stream
from tests.torture import workplaces
from tests.training import runs

ROOT = Path(__file__).resolve().parent.parent.parent
TOGETHER = ["synchronous", "seven", "phases", "single", "poisoned", "diverged", "crowded", "staged"]


def torchrun(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Two processes that speak over the loopback interface."""
    # torchrun leaves an empty folder of logs behind.
    with tempfile.TemporaryDirectory() as scratch:
        return subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", *arguments],
            cwd=cwd, capture_output=True, text=True, timeout=300,
            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "TMPDIR": scratch} | environment,
        )  # fmt: skip


def outcome(folder: Path, name: str) -> list[dict[str, Any]]:
    """What each of the two processes ended with."""
    return [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)]


@dataclass(frozen=True)
class Killed:
    """What two processes left of which one was killed.

    Attributes:
        done: how they ended.
        folder: where they worked.
        left: names in it.
        resumable: whether a checkpoint is among that.
    """

    done: subprocess.CompletedProcess[str]
    folder: Path
    left: list[str]
    resumable: bool


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Killed:
    """As it was before anybody went on from there."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun("tests.training.runs", str(folder), "killed")
    left = [path.name for path in folder.iterdir()]
    return Killed(done, folder, left, Checkpoints(folder / "checkpoints-0").latest() is not None)


@pytest.fixture(scope="module")
def together(killed) -> Path:
    """The folder of one start of two processes that went on after a kill, and then through all of `TOGETHER`."""
    # Whoever is first finds the checkpoints of the killed ones; each training removes its own.
    done = torchrun("tests.training.runs", str(killed.folder), "resumed", *TOGETHER, "gradients")
    assert done.returncode == 0, done.stderr
    return killed.folder


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], atol: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def strayed_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], atol: float) -> int:
    """How many single numbers of all weights lie further apart."""
    return sum(int(((a[name] - b[name]).abs() > atol).sum()) for name in a)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("synchronous", 1e-12), ("seven", 1e-12), ("phases", 1e-12), ("poisoned", 1e-12), ("single", 1e-5)],
)
def test_two_processes_train_as_one(together, name, tolerance):
    """Weights move by 1e-2 in these runs; double precision leaves them 1e-14 apart.

    Single precision leaves them a few 1e-7 apart, but for one in thousands: a step of Adam has the same size however
    small the gradient is, and so one that is nothing but rounding may move a weight by 1e-4.
    """
    alone, (first, second) = runs.train(name), outcome(together, name)
    strayed = strayed_weights(alone["weights"], first["weights"], tolerance) if name == "single" else 0
    assert_close(alone["weights"], first["weights"], 1e-4 if strayed else tolerance)
    assert strayed <= 1
    moved = runs.TRAININGS[name].model(0).state_dict()
    assert max(float((moved[n] - tensor).abs().max()) for n, tensor in alone["weights"].items()) > 1e-3
    assert [row[:2] for row in first["history"]] == [row[:2] for row in alone["history"]] and first["history"]
    for row, expected in zip(first["history"], alone["history"], strict=True):
        assert row[2:] == pytest.approx(expected[2:], rel=tolerance)
    assert first["history"] == second["history"]


@pytest.mark.parametrize("name", [n for n in TOGETHER if n != "crowded"])
def test_the_processes_hold_the_same_bits_although_they_started_from_other_weights(together, name):
    first, second = outcome(together, name)
    assert_close(first["weights"], second["weights"], 0.0)


def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_both(together):
    first, _ = outcome(together, "poisoned")
    assert all(torch.isfinite(tensor).all() for tensor in first["weights"].values())
    assert np.isfinite([row[2] for row in first["history"]]).all(), "nor does the history count it"


def test_both_give_up_together(together):
    alone, ended = runs.train("diverged")["error"], [result["error"] for result in outcome(together, "diverged")]
    assert "(denoise: image " in alone and ended[1] == alone
    assert ended[0] == re.sub(r"denoise: image \d+", "images of another process", alone)


def test_a_batch_smaller_than_the_number_of_processes_is_refused(together):
    for result in outcome(together, "crowded"):
        assert result["error"].startswith("a batch of 1 samples cannot be shared by 2 processes")


def test_gradients_are_weighted_and_one_that_is_missing_counts_as_zero(together):
    for result in outcome(together, "gradients"):
        both, one, none = result["gradients"]
        assert torch.equal(both, torch.full((2, 3), 0.25 * 4 + 0.75 * 8))
        assert torch.equal(one, 0.75 * torch.arange(6.0).view(2, 3))
        assert none is None, "a zero would let AdamW decay a weight that it leaves alone in one process"


def test_only_the_first_process_validates_observes_shows_and_writes(together):
    for name in ("synchronous", "staged"):
        first, second = outcome(together, name)
        assert first["observed"] and first["validated"] == len(first["observed"]) and first["bars"] == 1
        assert not second["observed"] and not second["validated"] and not second["bars"]
    assert not list(together.glob("checkpoints-*")), "finished runs leave no checkpoints"


def test_a_killed_run_ends_with_the_same_bits_as_one_never_killed(together, killed):
    assert killed.done.returncode != 0 and "SIGKILL" in killed.done.stderr
    assert killed.left == ["checkpoints-0"] and killed.resumable
    for whole, again in zip(outcome(together, "staged"), outcome(together, "resumed"), strict=True):
        assert_close(whole["weights"], again["weights"], 0.0)
        assert whole["history"] == again["history"]
        assert again["validated"] < whole["validated"] or not whole["validated"], "it did not start over"


@pytest.mark.parametrize("size", [2, 3, 11])
def test_the_shares_of_a_batch_are_the_batch(size):
    counts = dict.fromkeys(TASKS, 2) | {"denoise": 3}
    whole = stream().batch(5, 16, counts)
    shares = [distributed.Share(stream(), rank, size).batch(5, 16, counts) for rank in range(size)]
    order = np.argsort(np.concatenate([np.arange(rank, 11, size) for rank in range(size)]))
    for part in ("input", "target", "task"):
        np.testing.assert_array_equal(np.concatenate([getattr(s, part) for s in shares])[order], getattr(whole, part))
    for task in range(len(TASKS)):
        held = [int((share.task == task).sum()) for share in shares]
        assert max(held) - min(held) <= 1


def test_processes_that_were_not_joined_do_not_train(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="joined"):
        runs.train("single")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="nproc_per_node=2"), distributed.joined():
        pass


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_stage_under_torchrun(tmp_path, monkeypatch):
    """`torchrun -m instruct_ipt train-shared` leaves what `ipt train-shared` leaves; what does not train is refused."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    workspace = tmp_path / "work"
    workplaces.workspace(workspace)
    monkeypatch.chdir(workspace)
    for name in ("fetch", "prepare", "train_shared"):
        pipeline.run_stage(name)
    from safetensors.torch import load_file

    folder = workspace / "models/shared"
    alone, expected, history = files(workspace), load_file(folder / "weights.safetensors"), runs_history(folder)
    shutil.rmtree(workspace / "models")
    done = torchrun("instruct_ipt", "train-shared", cwd=workspace, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("tracking is off") == 1, "one process is tracked"
    assert files(workspace) == alone and not list((workspace / ".ipt/work").iterdir())
    assert pipeline.staleness(STAGES["train_shared"], load()) == []
    assert_close(load_file(folder / "weights.safetensors"), expected, 1e-3)
    np.testing.assert_allclose(runs_history(folder), history, rtol=1e-3)
    refused = torchrun("instruct_ipt", "sensitivity", cwd=workspace)
    assert refused.returncode and "ipt: `ipt sensitivity` does not train and runs in one process" in refused.stderr
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    with pytest.raises(InputError, match="ipt cell"):
        pipeline.run_cell("strategy", "synchronous", 0)


def runs_history(folder: Path) -> np.ndarray:
    """Step, loss, psnr and rate of a history.csv."""
    return np.genfromtxt(folder / "history.csv", delimiter=",", skip_header=1, usecols=(0, 2, 3, 4))
