"""MLflow as an observer: it shows runs, it never decides anything.

The truth is files. A tracking store that is absent, slow or dies in the middle costs one warning line and changes no
output byte. Nothing that MLflow hands out (run ids, times) enters an output.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

EXPERIMENT = "instruct-ipt"
DEFAULT_STORE = "sqlite:///mlflow.db"
# Small pictures and tables make runs comparable in the UI; weights stay with DVC.
ARTIFACT_SUFFIXES = (".png", ".csv", ".md", ".html")
ARTIFACT_BYTES = 3_000_000


class Tracker:
    """One run of one stage or cell. Every method is safe to call when tracking is off or has failed."""

    def __init__(self, client: Any = None, run_id: str | None = None) -> None:
        self._client, self._run_id = client, run_id

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self._attempt(lambda: self._client.set_terminated(self._run_id, "FINISHED" if kind is None else "FAILED"))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` (name -> number) at training step ``step``."""
        from_pairs = [(name, float(value), step) for name, value in values.items()]
        self._attempt(lambda: self._client.log_batch(self._run_id, metrics=_metrics(from_pairs)))

    def finish(self, outputs: Iterable[Path]) -> None:
        """Log the small pictures, tables and pages among ``outputs`` as artifacts."""
        for path in outputs:
            for file in _artifacts(path):
                folder = file.parent.as_posix()
                self._attempt(lambda f=file, d=folder: self._client.log_artifact(self._run_id, str(f), d))

    def history(self, path: Path) -> None:
        """Log every row of a ``history.csv`` (used when a store is rebuilt from files)."""
        rows = _history_metrics(path)
        for start in range(0, len(rows), 500):
            self._attempt(
                lambda part=rows[start : start + 500]: self._client.log_batch(self._run_id, metrics=_metrics(part))
            )

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._client is None:
            return
        try:
            with _quiet():
                action()
        except Exception as error:  # any failure of an observer is only worth a line
            self._client = None
            _warn(error)


def start(name: str, digest: str, params: Mapping[str, Any], **tags: str) -> Tracker:
    """Begin a run named ``name``; an earlier run of the same digest gives way, so that one digest has one run."""
    try:
        with _quiet(), _creation_lock():
            client, experiment = _open()
            for run in _runs(client, experiment, digest):
                client.delete_run(run.info.run_id)
            run = client.create_run(experiment, run_name=name, tags={"ipt.digest": digest, **tags})
            client.log_batch(run.info.run_id, params=_params(params))
        return Tracker(client, run.info.run_id)
    except Exception as error:  # see Tracker._attempt
        _warn(error)
        return Tracker()


def ensure_store() -> str | None:
    """Create store and experiment once, before anything parallel: several processes creating one SQLite file collide.

    Returns:
        The experiment's id, or None when the store cannot be reached.
    """
    try:
        with _quiet(), _creation_lock():
            return str(_open()[1])
    except Exception as error:  # see Tracker._attempt
        _warn(error)
        return None


def known_digests() -> set[str] | None:
    """Digests of the finished runs in the store, or None when it cannot be reached."""
    try:
        with _quiet(), _creation_lock():
            client, experiment = _open()
            return {run.data.tags.get("ipt.digest", "") for run in _runs(client, experiment, None)}
    except Exception as error:  # see Tracker._attempt
        _warn(error)
        return None


def store() -> str:
    """The tracking store in use: ``MLFLOW_TRACKING_URI`` or SQLite beside the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def _open() -> tuple[Any, str]:
    # A dead server must cost seconds, not minutes; MLflow's own defaults retry for a long time.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store())
    found = client.get_experiment_by_name(EXPERIMENT)
    return client, found.experiment_id if found else client.create_experiment(EXPERIMENT)


def _runs(client: Any, experiment: str, digest: str | None) -> list[Any]:
    condition = f"tags.`ipt.digest` = '{digest}'" if digest else "attributes.status = 'FINISHED'"
    return list(client.search_runs([experiment], filter_string=condition, max_results=5000))


def _params(params: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, str(value)[:500]) for key, value in _leaves(params)]


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield prefix[1:], value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{prefix}.{key}")


def _metrics(values: Iterable[tuple[str, float, int]]) -> list[Any]:
    import time

    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value, step in values]


def _history_metrics(path: Path) -> list[tuple[str, float, int]]:
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [
        (f"{row['task']}/{metric}", float(row[metric]), int(row["step"]))
        for row in rows
        for metric in ("loss", "psnr")
        if row.get(metric)
    ]


def _artifacts(path: Path) -> list[Path]:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    small = [f for f in files if f.suffix in ARTIFACT_SUFFIXES and f.stat().st_size <= ARTIFACT_BYTES]
    return [f for f in small if f.parts[0] != "data"]


@contextlib.contextmanager
def _creation_lock() -> Iterator[None]:
    import fcntl

    folder = Path(".ipt")
    folder.mkdir(exist_ok=True)
    with (folder / "mlflow.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's and Alembic's migration chatter off the terminal."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _warn(error: Exception) -> None:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
    print(
        f"tracking is off for this run ({reason}); results are not affected; `ipt mlflow-sync` fills it in later",
        file=sys.stderr,
    )
