"""Starting a command again and again, each time killed at another moment, until it has run to its end."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from tests.replication import Copy

# What belongs to one machine or one run, and so differs between two replications that are otherwise the same.
OWN = {".dvc", ".finished", ".ipt", ".site", ".snakemake", "logs", "mlruns"}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder`` that is a source or a result."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        passing = path.name.startswith("mlflow.db") or "__pycache__" in parts or OWN.intersection(parts)
        if path.is_file() and not passing:
            found["/".join(parts)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def start(copy: Copy, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command in a process group of its own; in the copy's environment where none is given."""
    return subprocess.Popen(
        command, cwd=copy.folder, env=environment or copy.environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the whole process group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def left_behind(copy: Copy) -> list[str]:
    """Commands of processes that still work in the copy's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(copy.folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def run_killed(
    copy: Copy, commands: Sequence[Sequence[str]], pauses: Iterator[float], after: Callable[[], None]
) -> None:
    """Run ``commands`` one after the other, killed after each of ``pauses``, in seconds, until they end by themselves.

    Args:
        copy: where.
        commands: the last one is killed; those before it prepare each start and are not.
        pauses: seconds from each start to its kill; when there is none left, the command may run to its end.
        after: called after each kill.
    """
    while True:
        for command in commands[:-1]:
            copy.run(*command)
        process = start(copy, *commands[-1])
        pause = next(pauses, None)
        try:
            said, _ = process.communicate(timeout=pause)
        except subprocess.TimeoutExpired:
            kill(process)
            deadline = time.monotonic() + 5
            while (still := left_behind(copy)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not still, "a child is in another process group and outlives the kill"
            after()
            continue
        assert process.returncode == 0, said
        return
