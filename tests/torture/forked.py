"""Many `ipt` commands without many starts of Python: a process that has imported everything forks one for each.

A forked command is a process of its own, with its own working directory, environment and limits, and dies alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.stored import Shown, shown
from tests.warm.server import end_with

ROOT = Path(__file__).resolve().parents[2]
# What every command needs; torch imports torch._dynamo with the first optimiser.
HEAVY = ("torch", "torch._dynamo", "mlflow.tracking", "instruct_ipt.cli", "instruct_ipt.stages._training")
# What some commands import beside; a store on SQLite needs more than one behind an address.
BESIDE = {
    "cell": ("scipy.stats", "skimage.metrics"),
    "task": ("scipy.stats", "skimage.metrics"),
    "snapshot": ("scipy.stats", "pandas", "matplotlib.figure"),
}
# In place of a command of `ipt`: what tests.torture.writers does, and what the store in use shows.
WRITERS, SHOWN = "writers", "shown"
ON_SQLITE = ("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "instruct_ipt.sync")


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative: the signal) and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines on standard error but for the one of tracking, which has a life of its own."""
        return [line for line in self.err.splitlines() if not line.startswith("tracking is off for this run")]


class Ipt:
    """The process that forks. ``ipt(folder, "train-film")`` runs a command there and waits for its end.

    Attributes:
        pid: of the process that forks; a command that runs is its only child.
    """

    def __init__(self, process: subprocess.Popen[str], scratch: Path) -> None:
        self._process, self._scratch = process, scratch
        self.pid = process.pid

    def __call__(self, folder: Path, *command: str, largest: int | None = None, **environment: str) -> Ended:
        """Run ``ipt command`` in ``folder``; with ``largest``, no file may have more bytes."""
        out, err = self._scratch / "out", self._scratch / "err"
        ask = [str(folder), command, environment, largest, str(out), str(err)]
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(ask) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return Ended(code, *(path.read_text(encoding="utf-8") for path in (out, err)))

    def shown(self, folder: Path, uri: str) -> dict[tuple[str, str], Shown]:
        """What the store ``uri`` of a working directory shows: to a new process, for MLflow keeps stores open."""
        ended = self(folder, SHOWN, MLFLOW_TRACKING_URI=uri)
        assert ended.code == 0, ended.err
        found: dict[tuple[str, str], Shown] = pickle.loads(bytes.fromhex(ended.out))
        return found


@contextmanager
def forking() -> Iterator[Ipt]:
    """The forking process; without a tracking store, and with one thread."""
    # No server listens there: a command that tracks says so in one line and goes on.
    own = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    own |= {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    command = [sys.executable, "-m", "tests.torture.forked"]
    with (
        tempfile.TemporaryDirectory() as scratch,
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | own, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process,
    ):
        yield Ipt(process, Path(scratch))
        assert process.stdin is not None
        process.stdin.close()


def _child(folder: str, command: list[str], environment: dict[str, str], largest: int | None, *files: str) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    from instruct_ipt import cli

    from . import writers

    sys.argv = ["ipt", *command]
    end_with({WRITERS: writers.main, SHOWN: _show}.get(command[0], cli.main))


def _show() -> None:
    print(pickle.dumps(shown()).hex())


def _serve() -> None:
    import torch

    # A process that has had several threads cannot be forked safely.
    torch.set_num_threads(1)
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        _, command, environment, *_ = asked
        on_sqlite = environment.get("MLFLOW_TRACKING_URI", "").startswith("sqlite:")
        for name in (*BESIDE.get(command[0], ()), *(ON_SQLITE if on_sqlite else ())):
            importlib.import_module(name)
        gc.freeze()  # what is there now stays: no child has to look through it, nor to copy its pages
        child = os.fork()
        if not child:
            _child(*asked)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    os._exit(0)  # taking so many modules down would take seconds


if __name__ == "__main__":
    _serve()
