"""The tracking store is an observer: whatever it does, the caller goes on."""

from __future__ import annotations

import pytest

from instruct_ipt import sync, tracking
from instruct_ipt.errors import InputError


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


def test_one_digest_has_one_run(workspace):
    from mlflow.tracking import MlflowClient

    for _ in range(2):
        with tracking.start("smoke/x", "digest", {"training": {"steps": 3}}, stage="x") as tracker:
            tracker.metrics(2, {"derain/psnr": 20.0})
    client = MlflowClient(tracking_uri=tracking.DEFAULT_STORE)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 and runs[0].info.status == "FINISHED"
    assert runs[0].data.params == {"training.steps": "3"} and runs[0].data.metrics == {"derain/psnr": 20.0}
    assert tracking.known_digests() == {"digest"}


def test_a_failed_stage_is_a_failed_run(workspace):
    from mlflow.tracking import MlflowClient

    with pytest.raises(RuntimeError), tracking.start("smoke/x", "digest", {}):
        raise RuntimeError
    client = MlflowClient(tracking_uri=tracking.DEFAULT_STORE)
    experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
    assert client.search_runs([experiment.experiment_id])[0].info.status == "FAILED"


def test_an_unreachable_server_is_said_once_and_sync_says_what_to_do(workspace, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking.start("smoke/x", "digest", {}) as tracker:
        tracker.metrics(0, {"a": 1.0})
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(InputError, match="127.0.0.1:9 cannot be reached"):
        sync.sync()
