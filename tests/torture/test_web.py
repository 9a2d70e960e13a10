"""`ipt serve` as a process of its own, and a crowd at its door."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from instruct_ipt.restoration import Restorer

from ..restoration import nets
from ..web.servers import until
from . import visitors
from .tally import Tally
from .visitors import Town

CLIENTS = 50
WAITING = 4
MEGABYTES = 1.0
MEGAPIXELS = 0.25
UPLOAD = 4.0
"""What the server is told: small bounds, of which a crowd soon finds the ends."""
SLACK = 32 * 2**20
"""Bytes that allocators and interpreters may keep beside."""
SIZES = [(24, 32), (96, 128), (300, 200), (500, 500)]


@dataclass
class Server:
    """A server's process, seen from outside.

    Attributes:
        url: without a slash at the end.
        process: of it.
        folder: in which it works, with `tmp`, its folder for scratch files.
        errors: where its standard error goes.
    """

    url: str
    process: subprocess.Popen[str]
    folder: Path
    errors: Path

    @property
    def port(self) -> int:
        """On which it listens."""
        return int(self.url.rpartition(":")[2])

    def health(self) -> dict[str, Any]:
        """What it says of itself."""
        return requests.get(f"{self.url}/health", timeout=30).json()

    def status(self, key: str) -> int:
        """A number that the system keeps of the process; memory in bytes."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * (1024 if value.endswith("kB") else 1)
        raise KeyError(key)

    def files(self) -> int:
        """How many it has open, connections among them."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def on_disk(self) -> set[Path]:
        """Every file below its folder."""
        return {path for path in self.folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    """A server with a tiny network and small bounds; at the end it has to leave in good order."""
    work, errors = folder / "work", folder / "errors"
    nets.write_release(work / "weights")
    (work / "tmp").mkdir()
    options = ["--max-megabytes", MEGABYTES, "--max-megapixels", MEGAPIXELS, "--queue", WAITING]
    options += ["--max-upload-seconds", UPLOAD]
    command = [sys.executable, "-m", "instruct_ipt", "serve", "--port", "0", "--weights", "weights", *map(str, options)]
    # One thread per operation: the crowd needs the other core, and the same rounding is expected here and there.
    environment = os.environ | {"TMPDIR": str(work / "tmp"), "OMP_NUM_THREADS": "1"}
    with errors.open("w") as stream:
        process = subprocess.Popen(command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=stream, text=True)
    with process:
        try:
            assert process.stdout is not None
            yield Server(process.stdout.readline().split()[0].rstrip("/"), process, work, errors)
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@dataclass
class Watch:
    """What was seen of a server while there was a crowd."""

    server: Server
    polls: int = 0
    taken: int = 0
    slowest: float = 0.0
    scratch: set[str] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Looks ten times a second."""
        over = threading.Event()
        thread = threading.Thread(target=self._look, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _look(self, over: threading.Event) -> None:
        while not over.wait(0.1):
            begun = time.monotonic()
            try:
                self.taken = max(self.taken, self.server.health()["taken"])
            except Exception as error:  # it is said where the others' findings are
                self.wrong.append(f"/health: {error!r}")
            self.slowest = max(self.slowest, time.monotonic() - begun)
            self.scratch |= set(os.listdir(self.server.folder / "tmp"))
            self.polls += 1


def memory(server: Server) -> int:
    """The bound of docs/serve.md: what one restoration takes at its largest, one file in two copies and one result for
    each place, and what each connection may hold. Called when one restoration has been done, and nothing else."""
    place = 2 * MEGABYTES * 1e6 + 4 * MEGAPIXELS * 1e6
    return round(server.status("VmHWM") + (WAITING + 1) * place + CLIENTS * 2 * 2**19 + SLACK)


def warm(server: Server, town: Town) -> int:
    """Have every thread come that comes with use; the bound of memory."""
    largest, expected = town.photos[-1]
    assert expected.shape[0] * expected.shape[1] == MEGAPIXELS * 1e6
    assert requests.post(server.url + visitors.RESTORE, data=largest).status_code == 200
    bound = memory(server)
    with ThreadPoolExecutor(32) as pool:
        for _ in range(64):
            pool.submit(requests.get, f"{server.url}/api/about")
            pool.submit(requests.post, f"{server.url}/api/read", json={"instruction": "the rain"})
    return bound


def visit(town: Town, seed: int, rounds: int) -> Counter[str]:
    """One client: rude things, and between them, and at last, a photo that it wants back."""
    chance, counts = random.Random(seed), Counter[str]()
    kinds = [kind for _ in range(rounds) for kind in (chance.choice(list(visitors.RUDE)), "honest")]
    for kind in kinds:
        try:
            if kind == "honest":
                counts.update(visitors.honest(town, chance))
            else:
                visitors.RUDE[kind](town, chance)
                counts[kind] += 1
        except Exception as error:
            counts[f"WRONG: {kind}, client {seed}: {error!r}"] += 1
    return counts


def test_a_crowd(tmp_path: Path, many: Callable[[int, int], int], tally: Tally) -> None:
    """Fifty clients at once at the web page: honest, slow, oversized, malformed, hostile, and gone in the middle."""
    restorer = Restorer(nets.tiny(), "cpu")
    with served(tmp_path) as server:
        town = Town(server.port, round(MEGABYTES * 1e6), UPLOAD, visitors.photos(restorer, SIZES))
        bound, disk, watch = warm(server, town), server.on_disk(), Watch(server)
        until(lambda: server.health()["taken"] == 0)
        threads, files = server.status("Threads"), server.files()
        with watch.looking(), ThreadPoolExecutor(CLIENTS) as pool:
            rounds = many(1, 4)
            for counts in pool.map(lambda seed: visit(town, seed, rounds), range(many(CLIENTS, 4 * CLIENTS))):
                for what, number in counts.items():
                    tally.add(what, number)
        assert [what for what in tally.counts if what.startswith("WRONG")] == []
        assert watch.wrong == [] and watch.slowest < 10 and watch.polls > 10, watch
        assert watch.taken <= WAITING + 1
        assert server.status("VmHWM") <= bound, f"{server.status('VmHWM') / 2**20:.0f} of {bound / 2**20:.0f} MiB"
        recovers(server, town, threads, files)
        assert watch.scratch == set() and server.on_disk() == disk
        tally.add("looks at the line", watch.polls)
        tally.add("s the longest wait for a photo", round(max(town.waits)))
    said = server.errors.read_text(encoding="utf-8")
    assert "Traceback" not in said and "Exception" not in said, said


def recovers(server: Server, town: Town, threads: int, files: int) -> None:
    """Nothing may be left of the crowd, though those who said nothing are still at the door."""
    assert town.kept
    until(lambda: server.health()["taken"] == 0)
    until(lambda: server.files() <= files)
    # Idle threads go after ten seconds, when the next request is in need of one.
    until(lambda: requests.get(f"{server.url}/api/about").ok and server.status("Threads") <= threads)
    assert visitors.honest(town, random.Random(0))["refused and come again"] == 0
    for kept in town.kept:
        kept.close()
