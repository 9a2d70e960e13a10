"""Tracking stores that are absent, dead, slow, locked or mad: the same bytes, one line, and a sync that mends it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stored import Shown

from .disks import Disk
from .forked import WRITERS, Ended, Ipt
from .stores import bad_server, free_port, kill, mlflow_server
from .tally import Tally
from .workplaces import ran

Many = Callable[[int, int], int]
EXTRA = 90.0
"""Seconds that the worst store may cost on a machine that is busy with other things: two time limits, and the end."""


@dataclass(frozen=True)
class Stage:
    """`ipt train-film` in copies of one folder.

    Attributes:
        base: the folder.
        usual: the files of `models/film` without tracking.
        seconds: how long it takes without tracking.
        store: an empty SQLite store.
    """

    ipt: Ipt
    base: Path
    usual: dict[str, bytes]
    seconds: float
    store: Path

    def under(self, work: Path, uri: str, **environment: str) -> Ended:
        """Run it with a store; the same bytes, at most one line, and in time."""
        shutil.copytree(self.base, work)
        begun = time.monotonic()
        environment |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
        ended = self.ipt(work, "train-film", **environment)
        seconds = time.monotonic() - begun
        assert ended.code == 0 and not ended.said and ended.err.count("\n") <= 1, ended.err
        assert film(work) == self.usual
        assert seconds < 3 * self.seconds + EXTRA, seconds
        return ended

    def synced(self, work: Path, database: Path) -> dict[tuple[str, str], Shown]:
        """What a store on SQLite shows after `ipt mlflow-sync`."""
        uri = f"sqlite:///{database}"
        ran(self.ipt(work, "mlflow-sync", MLFLOW_TRACKING_URI=uri))
        return {key: run.rebuilt() for key, run in self.ipt.shown(work, uri).items()}


def film(work: Path) -> dict[str, bytes]:
    return {path: content for path, content in Disk(work).contents().items() if path.startswith("models/film")}


@pytest.fixture(scope="module")
def stage(ipt: Ipt, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    shutil.copytree(prepared, folder / "usual")
    begun = time.monotonic()
    ran(ipt(folder / "usual", "train-film"))
    seconds = time.monotonic() - begun
    ran(ipt(folder, "mlflow-pages", MLFLOW_TRACKING_URI=f"sqlite:///{folder}/empty.db"))
    return Stage(ipt, prepared, film(folder / "usual"), seconds, folder / "empty.db")


@pytest.fixture(scope="module")
def live(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Shown]:
    """What a store that is well shows of a stage that was tracked while it ran, and of the rest after a sync."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copy(stage.store, folder / "live.db")
    assert stage.under(folder / "work", f"sqlite:///{folder}/live.db").err == ""
    return stage.synced(folder / "work", folder / "live.db")


def test_stores_that_are_absent_or_mad_cost_one_line(stage: Stage, live, tmp_path: Path, tally: Tally, many: Many):
    """Train with a tracking server that is absent, never answers, or answers with errors or garbage."""
    # In the short form a store that says nothing is waited for one second at a time, in full as long as a user waits.
    patience = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"} if many(1, 0) else {}
    with contextlib.ExitStack() as opened:
        addresses = {"absent": f"http://127.0.0.1:{free_port()}"}
        for kind in ("silent", "garbage", "errors"):
            addresses[kind] = opened.enter_context(bad_server(kind))[0]
        for kind, address in list(addresses.items())[: many(2, 4)]:
            ended = stage.under(tmp_path / kind, address, **(patience if kind == "silent" else {}))
            assert ended.err.count("tracking is off for this run") == 1, kind
            tally.add("stages trained")
    for kind in list(addresses)[: many(1, 4)]:
        shutil.copy(stage.store, database := tmp_path / f"{kind}.db")
        assert stage.synced(tmp_path / kind, database) == live, "as if it had been live"
        tally.add("stores completed")


def test_a_server_that_is_killed_in_the_middle(stage: Stage, live, tmp_path: Path, tally: Tally, many: Many):
    """SIGKILL a real MLflow server in the middle of training, then complete its store."""
    for number in range(many(1, 4)):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(stage.store, database := folder / "mlflow.db")
        with mlflow_server(database) as (process, address), bad_server("slow", address) as (proxy, seen):
            requests, over = 12 + 3 * number, threading.Event()
            killer = threading.Thread(target=_kill_after, args=(process, seen, requests, over))
            killer.start()
            stage.under(folder / "work", proxy)
            over.set()
            killer.join()
            assert len(seen) >= requests, "it was killed in the middle"
            tally.add("servers killed")
        assert stage.synced(folder / "work", database) == live, "as if it had been live"
        tally.add("stores completed")


def _kill_after(process: subprocess.Popen[bytes], seen: list[str], requests: int, over: threading.Event) -> None:
    while len(seen) < requests and not over.wait(0.01):
        pass
    kill(process)


def test_a_server_that_answers_slowly(stage: Stage, live, tmp_path: Path, tally: Tally, many: Many):
    """Train with a real MLflow server behind a proxy that delays every answer."""
    if many(1, 2) == 1:
        pytest.skip("waits a long time: in full only")
    for delay in (0.2, 1.0):
        folder = tmp_path / str(delay)
        folder.mkdir()
        shutil.copy(stage.store, database := folder / "mlflow.db")
        with mlflow_server(database) as (_, address), bad_server("slow", address, delay) as (proxy, seen):
            stage.under(folder / "work", proxy)
            tally.add("answers delayed", len(seen))
        assert stage.synced(folder / "work", database) == live, "as if it had been live"


def test_many_writers_and_one_that_locks_the_store(stage: Stage, tmp_path: Path, tally: Tally, many: Many):
    """Log from several processes to one SQLite store, while another one locks it for seconds at a time."""
    shutil.copy(stage.store, database := tmp_path / "mlflow.db")
    writers, points = many(3, 8), many(10, 150)
    with ThreadPoolExecutor(max_workers=1) as pool:
        writing = pool.submit(
            stage.ipt, tmp_path, WRITERS, str(writers), str(points), MLFLOW_TRACKING_URI=f"sqlite:///{database}"
        )
        locks = 0
        while not writing.done():
            locks += _lock(database, seconds=2.0)
            time.sleep(1.5)
        ended = writing.result()
    codes, err = ended.out.split(), ended.err
    assert codes == ["0"] * writers, err
    lost = err.count("tracking is off for this run")
    assert err.count("\n") == lost <= writers, "one line for each that lost its store, at most"
    tally.add("writers", writers)
    tally.add("locks", locks)
    counts = points_of(tmp_path, database)
    assert sum(count == points for count in counts) >= writers - lost, "what was not given up arrived whole"
    tally.add("points that arrived", sum(counts))


def _lock(database: Path, seconds: float) -> bool:
    """Hold the store alone for some seconds, if it can be had."""
    with contextlib.closing(sqlite3.connect(database, timeout=1, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return False
        time.sleep(seconds)
        connection.execute("ROLLBACK")
    return True


def points_of(folder: Path, database: Path) -> list[int]:
    """How many points of the curve each seed's run has."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid "
            "WHERE key = 'derain/psnr' AND lifecycle_stage = 'active' GROUP BY metrics.run_uuid"
        )
        return [row[0] for row in rows]
