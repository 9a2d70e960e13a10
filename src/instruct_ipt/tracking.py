"""MLflow as an observer: it shows runs, it never decides anything.

The truth is files. A tracking store that is absent, slow or dies in the middle costs one warning line and changes no
output byte; what is shown while a run goes on is sent by a thread of its own, so that training does not wait for it.
Nothing that MLflow hands out (run ids, times) enters an output.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruct_ipt.errors import InputError
from instruct_ipt.provenance import code_digest, source_root
from instruct_ipt.runs import PREFIX, Card, Results, curve_values, curves, leaves, over_seeds, weights_summary

if TYPE_CHECKING:
    from instruct_ipt.params import MlflowParams

DEFAULT_STORE = "sqlite:///mlflow.db"
LOCK = Path("requirements.lock")
# How long the end of a run waits for what is still to be sent, and how much may wait; beyond it tracking is given up.
PATIENCE = 60.0
PATIENCE_WITH_WEIGHTS = 3600.0
BACKLOG = 500
_RETRY = "`ipt mlflow-sync` fills it in later"

# task -> (input, output, target), each float32 (H, W, 3)
Samples = Mapping[str, tuple[Any, Any, Any]]


class Tracker:
    """One run. Every method returns at once and is safe to call when tracking is off or has failed.

    Args:
        client: an ``MlflowClient``, or None for no tracking.
        run_id: of the run in the store.
        view: the `mlflow` section of the parameters.
        completed: called when the run has ended well.
        live: whether a failure is told in one line; else the caller tells it.

    Attributes:
        failure: what ended tracking; None where nothing did.
    """

    def __init__(
        self,
        client: Any = None,
        run_id: str | None = None,
        view: MlflowParams | None = None,
        completed: Callable[[], None] | None = None,
        live: bool = True,
    ) -> None:
        self.failure: Exception | None = None
        self._live = live
        self._client, self._run_id, self._view, self._completed = client, run_id, view, completed
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tracking") if client else None
        self._waiting: list[Future[None]] = []
        self._monitor: Any = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        if self._thread is None:
            return
        self._waiting.append(self._thread.submit(self._stop_monitor))
        if kind is None and self._completed is not None:
            self._send(self._completed)
        self._send(lambda: self._client.set_terminated(self._run_id, "FINISHED" if kind is None else "FAILED"))
        uploads = self._view is not None and self._view.log_weights
        if wait(self._waiting, timeout=PATIENCE_WITH_WEIGHTS if uploads else PATIENCE).not_done:
            self._give_up(TimeoutError("the store answers too slowly"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def alive(self) -> bool:
        """Whether there is a store, and nothing has failed so far."""
        return self._client is not None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Show ``values`` (name -> number) at training step ``step``."""
        points = _metrics([(name, float(value), step) for name, value in values.items()]) if self.alive else []
        self._send(lambda: self._client.log_batch(self._run_id, metrics=points))

    def watch(self, samples: Samples) -> Callable[[int, dict[str, float]], None]:
        """An observer for a trainer: shows metrics, and every ``mlflow.samples_every`` steps the restored ``samples``.

        Args:
            samples: task -> (input, output, target), float32 (H, W, 3), of the last validation when the observer is
                called; tasks without a metric `<task>/psnr` are not shown.
        """
        every = self._view.samples_every if self._view else 0
        shown: list[int] = []

        def observe(step: int, values: dict[str, float]) -> None:
            self.metrics(step, curve_values(values))
            if every and (not shown or step - shown[-1] >= every):
                shown.append(step)
                self._pictures(step, {task: sample for task, sample in samples.items() if f"{task}/psnr" in values})

        return observe

    def describe(self, card: Card) -> None:
        """Attach parameters and environment."""
        self._send(lambda: self._client.log_dict(self._run_id, dict(card.params), "params.yaml"))
        if LOCK.is_file():
            self._send(lambda: self._client.log_artifact(self._run_id, str(LOCK)))

    def go_live(self) -> None:
        """Attach what only the computing machine knows: its versions and hardware, and system metrics to the end."""
        self._send(lambda: self._client.log_dict(self._run_id, _environment(), "environment.json"))
        self._send(self._start_monitor)

    def finish(self, results: Callable[[], Results], histories: bool = False) -> None:
        """Show the results of a finished run: final metrics, tags, small files, and what its weights are.

        Args:
            results: reads them; called by the thread that sends them, so that a bad file cannot break the run.
            histories: whether curves are shown too; a live run has shown them already.
        """
        self._send(lambda: self._show(results(), histories))

    def upload_weights(self, weights: Iterable[Path]) -> None:
        """Upload weights, which by default are only named."""
        self._send(lambda: self._upload_weights(weights))

    def _show(self, results: Results, histories: bool) -> None:
        points = [point for history in results.histories if histories for point in curves(history)]
        self._log(points + [(name, value, 0) for name, value in results.metrics.items()])
        for key, value in results.tags.items():
            self._client.set_tag(self._run_id, key, value)
        for file in results.files:
            self._upload(file)
        if results.weights:
            found = {"files": [weights_summary(path) for path in results.weights]}
            self._client.log_dict(self._run_id, found, "weights.json")
            self._client.set_tag(self._run_id, "weights", "referenced")
            if self._view is not None and self._view.log_weights:
                self._upload_weights(results.weights)

    def _upload_weights(self, weights: Iterable[Path]) -> None:
        for file in weights:
            self._upload(file)
        self._client.set_tag(self._run_id, "weights", "uploaded")

    def _upload(self, file: Path) -> None:
        self._client.log_artifact(self._run_id, str(file), file.parent.as_posix())

    def _log(self, points: Sequence[tuple[str, float, int]]) -> None:
        for start in range(0, len(points), 500):
            self._client.log_batch(self._run_id, metrics=_metrics(points[start : start + 500]))

    def _pictures(self, step: int, samples: Samples) -> None:
        for task, sample in samples.items():
            self._send(lambda t=task, s=sample: self._client.log_image(self._run_id, _strip(*s), key=t, step=step))

    def _start_monitor(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(self._run_id, resume_logging=True, tracking_uri=store())
        self._monitor.start()

    def _stop_monitor(self) -> None:
        if self._monitor is not None:
            self._monitor.finish()

    def _send(self, action: Callable[[], Any]) -> None:
        """Queue ``action`` for the thread that talks to the store."""
        if self._thread is None or self._client is None:
            return
        self._waiting = [future for future in self._waiting if not future.done()]
        if len(self._waiting) >= BACKLOG:
            self._give_up(TimeoutError("the store answers too slowly"))
            return
        self._waiting.append(self._thread.submit(self._attempt, action))

    def _attempt(self, action: Callable[[], Any]) -> None:
        if self._client is None:
            return
        try:
            action()
        except Exception as error:  # any failure of an observer is only worth a line
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if self._client is not None:
            self._client, self.failure = None, error
            if self._live:
                _warn(error)


class Store:
    """The tracking store, open.

    Args:
        client: an ``MlflowClient``.
        view: the `mlflow` section of the parameters.
    """

    def __init__(self, client: Any, view: MlflowParams | None = None) -> None:
        self._client, self._view = client, view
        self._experiments: dict[str, str] = {}

    def run(self, card: Card, live: bool = True) -> Tracker:
        """The run of ``card``: one that stopped half-way goes on if ``live``, one that ended gives way to a new one."""
        experiment = self._experiment(card.experiment)
        with _lock():
            same = self._find(experiment, card)
            going_on = next((run for run in same if live and run.info.status != "FINISHED"), None)
            for run in same:
                if run is not going_on:
                    self._client.delete_run(run.info.run_id)
            run_id = self._begin(experiment, card, going_on)
        tracker = Tracker(self._client, run_id, self._view, lambda: self._make_current(experiment, card, run_id), live)
        tracker.describe(card)
        if live:
            tracker.go_live()
        return tracker

    def add_missing(self, entries: Sequence[tuple[Card, Results]]) -> int:
        """Add the runs of ``entries`` that the store lacks, and bring those of their settings up to date.

        Returns:
            How many were added, settings not counted.

        Raises:
            Exception: the store failed in the middle, in whatever way.
        """
        added = 0
        for card, results in entries:
            if self._confirm(card, results):
                continue
            with self.run(card, live=False) as tracker:
                tracker.finish(lambda r=results: r, histories=True)
            if tracker.failure is not None:
                raise tracker.failure
            added += 1
        self.summarise(entries)
        return added

    def summarise(self, entries: Iterable[tuple[Card, Results]]) -> None:
        """Show the means over seeds, for each setting that some of ``entries`` are seeds of."""
        settings: dict[tuple[str, str], tuple[Card, list[Mapping[str, float]]]] = {}
        for card, results in entries:
            if card.parent is not None:
                key = (card.parent.experiment, card.parent.digest)
                settings.setdefault(key, (card.parent, []))[1].append(results.metrics)
        for setting, seeds in settings.values():
            self._summarise(setting, over_seeds(seeds))

    def _summarise(self, card: Card, metrics: Mapping[str, float]) -> None:
        experiment = self._experiment(card.experiment)
        with _lock():
            run_id = self._unite(experiment, card)
        run = self._client.get_run(run_id)
        # A float that went through the store is the same float.
        shown = [(name, value, 0) for name, value in metrics.items() if run.data.metrics.get(name) != value]
        if shown:
            self._client.log_batch(run_id, metrics=_metrics(shown))
        if run.info.status != "FINISHED":
            self._client.set_terminated(run_id)
        self._make_current(experiment, card, run_id)

    def _confirm(self, card: Card, results: Results) -> bool:
        """Whether the store has the finished run of ``card``; if so, it is marked as the one that stands in files."""
        experiment = self._experiment(card.experiment)
        finished = [run for run in self._find(experiment, card) if run.info.status == "FINISHED"]
        if not finished:
            return False
        run = finished[0]
        self._make_current(experiment, card, run.info.run_id)
        wanted = bool(self._view and self._view.log_weights)
        if wanted and results.weights and run.data.tags.get("weights") != "uploaded":
            tracker = Tracker(self._client, run.info.run_id, self._view)
            with tracker:
                tracker.upload_weights(results.weights)
        return True

    def experiments(self) -> dict[str, str]:
        """Name -> id of our experiments, in order of their names."""
        found = self._client.search_experiments(filter_string=f"name LIKE '{PREFIX}/%'", order_by=["name ASC"])
        return {experiment.name: str(experiment.experiment_id) for experiment in found}

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            with _lock():
                self._experiments[name] = _experiment_id(self._client, name)
        return self._experiments[name]

    def _begin(self, experiment: str, card: Card, going_on: Any) -> str:
        tags = {**card.tags, "ipt.digest": card.digest, "ipt.place": card.place, **_commit(card)}
        if card.parent is not None:
            tags |= {"ipt.setting": card.parent.digest, "mlflow.parentRunId": self._parent(experiment, card.parent)}
        if going_on is None:
            run_id = self._client.create_run(experiment, run_name=card.name, tags=tags).info.run_id
        else:
            run_id = going_on.info.run_id
            self._client.update_run(run_id, status="RUNNING")
        params = _params(card.params)
        for start in range(0, len(params), 100):
            self._client.log_batch(run_id, params=params[start : start + 100])
        return str(run_id)

    def _parent(self, experiment: str, card: Card) -> str:
        """The run of a setting, made if need be; where two machines made it in the same moment, the older one."""
        return self._oldest(self._find(experiment, card)) or self._begin(experiment, card, None)

    def _unite(self, experiment: str, card: Card) -> str:
        """The one run of a setting that stays, with every seed under it."""
        found = self._find(experiment, card)
        parent = self._oldest(found) or self._begin(experiment, card, None)
        for run in self._client.search_runs([experiment], filter_string=f"tags.`ipt.setting` = '{card.digest}'"):
            if run.data.tags.get("mlflow.parentRunId") != parent:
                self._client.set_tag(run.info.run_id, "mlflow.parentRunId", parent)
        for run in found:
            if run.info.run_id != parent:
                # Another process may be at it as well.
                with contextlib.suppress(Exception):
                    self._client.delete_run(run.info.run_id)
        return parent

    @staticmethod
    def _oldest(found: Sequence[Any]) -> str:
        return str(min(found, key=lambda run: (run.info.start_time, run.info.run_id)).info.run_id) if found else ""

    def _find(self, experiment: str, card: Card) -> list[Any]:
        condition = f"tags.`ipt.digest` = '{card.digest}' and tags.`ipt.place` = '{card.place}'"
        return list(self._client.search_runs([experiment], filter_string=condition))

    def _make_current(self, experiment: str, card: Card, run_id: str) -> None:
        """Of the runs of one place, mark ``run_id`` as the one whose results stand in files."""
        condition = f"tags.`ipt.place` = '{card.place}'"
        for run in self._client.search_runs([experiment], filter_string=condition, max_results=1000):
            current = "yes" if run.info.run_id == run_id else "no"
            if run.data.tags.get("current") != current:
                self._client.set_tag(run.info.run_id, "current", current)


def start(card: Card, view: MlflowParams | None = None) -> Tracker:
    """Begin or go on with the live run of ``card``; without a store the tracker does nothing."""
    try:
        with opened(view) as found:
            return found.run(card)
    except Exception as error:  # see Tracker._attempt
        _warn(error)
        return Tracker()


def add_missing(entries: Callable[[], Sequence[tuple[Card, Results]]], view: MlflowParams | None = None) -> None:
    """See :meth:`Store.add_missing`; a failure costs one line."""
    _attempt(lambda found: found.add_missing(entries()), view)


def summarise(entries: Callable[[], Sequence[tuple[Card, Results]]]) -> None:
    """See :meth:`Store.summarise`; a failure costs one line."""
    _attempt(lambda found: found.summarise(entries()))


def ensure_store() -> None:
    """Create the store once, before anything parallel: several processes creating one SQLite file collide."""
    _attempt(lambda found: found.experiments())


def _attempt(action: Callable[[Store], Any], view: MlflowParams | None = None) -> None:
    try:
        with opened(view) as found:
            action(found)
    except Exception as error:  # see Tracker._attempt
        _warn(error)


def pages(port: int) -> dict[str, str]:
    """Experiment -> address of its list of runs: on the server that is in use, else in a UI on 127.0.0.1.

    Raises:
        InputError: the store cannot be reached.
    """
    try:
        with opened() as found:
            experiments = found.experiments()
    except Exception as error:
        raise InputError(unreachable(error)) from None
    # Without the last part MLflow opens a page for language models.
    server = store().rstrip("/") if store().startswith("http") else f"http://127.0.0.1:{port}"
    home = f"{server}/#/experiments"
    return {name: f"{home}/{number}/runs?workflowType=machine_learning" for name, number in experiments.items()}


@contextlib.contextmanager
def opened(view: MlflowParams | None = None) -> Iterator[Store]:
    """The store, made if need be; errors are the caller's."""
    with _quiet():
        # A dead server must cost seconds, not minutes; MLflow's own defaults retry for a long time.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        from mlflow.tracking import MlflowClient

        # They would report each retry and their own troubles; ours is the only line.
        for name in ("mlflow", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with _lock():
            client = MlflowClient(tracking_uri=store())
            client.search_experiments(max_results=1)
        yield Store(client, view)


def store() -> str:
    """The tracking store in use: ``MLFLOW_TRACKING_URI`` or SQLite beside the repository."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def _experiment_id(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            # Another machine may have made it in the same moment.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _commit(card: Card) -> dict[str, str]:
    """The commit of the sources in use, marked where they are edited, if they are what ``card`` was made with."""
    if code_digest(card.modules) != card.tags["code_digest"] or not (commit := _sources()):
        return {}
    return {"git_commit": commit, "mlflow.source.git.commit": commit}


@functools.cache
def _sources() -> str:
    """Commit of the package's sources, with `-edited` behind it where they differ; empty outside a git repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source_root()), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-edited" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _environment() -> dict[str, Any]:
    import importlib.metadata
    import platform
    import shutil

    packages = {found.name: found.version for found in importlib.metadata.distributions()}
    machine = {"python": platform.python_version(), "platform": platform.platform(), "cpus": os.cpu_count()}
    if shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False)
        machine["gpus"] = [line.partition(" (UUID")[0] for line in listed.stdout.splitlines()]
    return machine | {"packages": dict(sorted(packages.items(), key=lambda item: item[0].lower()))}


def _strip(*images: Any) -> Any:
    """Images float32 (H, W, 3) side by side, as uint8."""
    import numpy as np

    return np.rint(np.clip(np.concatenate(images, axis=1), 0.0, 1.0) * 255.0).astype(np.uint8)


def _params(params: Mapping[str, Any]) -> list[Any]:
    from mlflow.entities import Param

    return [Param(key, str(value)[:500]) for key, value in leaves(params)]


def _metrics(values: Iterable[tuple[str, float, int]]) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value, step in values]


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    """For one process of this machine at a time: making a store, an experiment or the run of a setting."""
    import fcntl

    folder = Path(".ipt")
    folder.mkdir(exist_ok=True)
    with (folder / "mlflow.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's and Alembic's migration chatter off the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def unreachable(error: Exception) -> str:
    """One line for a person whose store answered with ``error``."""
    if "disk is full" in str(error):  # SQLite's words
        return f"the tracking store {store()} cannot be written: the disk is full; make room and run the command again"
    return f"the tracking store {store()} cannot be reached ({_reason(error)}); start it or unset MLFLOW_TRACKING_URI"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _warn(error: Exception) -> None:
    print(f"tracking is off for this run ({_reason(error)}); results are not affected; {_RETRY}", file=sys.stderr)
