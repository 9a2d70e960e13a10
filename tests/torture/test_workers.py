"""Memory that runs out: the system kills a process that makes batches."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .disks import Disk
from .forked import Ended, Ipt
from .tally import Tally
from .workplaces import ran


def test_a_killed_loader_costs_the_steps_since_the_last_checkpoint(
    ipt: Ipt,
    prepared: Path,
    tmp_path: Path,
    tally: Tally,
    many: Callable[[int, int], int],
):
    """Kill the process that makes batches, as a system without memory does, in the middle of `ipt train-shared`."""
    shutil.copytree(prepared, base := tmp_path / "base")
    longer(base / "params.yaml")
    shutil.copytree(base, usual := tmp_path / "usual")
    ran(ipt(usual, "train-shared"))
    shutil.copytree(base, work := tmp_path / "work")
    before: list[str] = []
    for _ in range(many(1, 4)):
        ended = killed(ipt, work, before)
        assert ended.code == 2 and "Traceback" not in ended.err, ended.err
        assert len(ended.said) == 1 and "ran out; lower training.workers in params.yaml" in ended.said[0], ended.err
        after = checkpoints(work)
        assert after and after >= before and not (work / "models/shared").exists(), "checkpoints stay"
        before = after
        tally.add("loaders killed")
    ran(ipt(work, "train-shared"))
    assert models(work) == models(usual), "the same bytes, however often it was stopped"
    assert not checkpoints(work)


def longer(path: Path) -> None:
    """Many short steps, checkpoints all the time, few validations, and one process that makes batches."""
    text = path.read_text(encoding="utf-8")
    text, found = re.subn(r"(\n  smoke:.*?\n      steps: )\d+", r"\g<1>40", text, count=1, flags=re.DOTALL)
    assert found == 1
    for key, value in (("checkpoint_every", 4), ("workers", 1), ("validate_every", 30)):
        text, found = re.subn(rf"(\n {{2,6}}{key}: )\d+", rf"\g<1>{value}", text)
        assert found, key
    path.write_text(text, encoding="utf-8")


def checkpoints(work: Path) -> list[str]:
    """Names of the checkpoints, oldest first."""
    return sorted(path.name for path in work.glob(".ipt/checkpoints/*/step-*.pt"))


def models(work: Path) -> dict[str, bytes]:
    return {path: content for path, content in Disk(work).contents().items() if path.startswith("models/shared")}


def killed(ipt: Ipt, work: Path, before: list[str]) -> Ended:
    """Start the stage, and kill its only child once there is a newer checkpoint than those of ``before``."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        stage = pool.submit(ipt, work, "train-shared")
        end = time.monotonic() + 300
        while checkpoints(work) <= before and not stage.done() and time.monotonic() < end:
            time.sleep(0.005)
        for process in children(ipt.pid):
            for loader in children(process):
                os.kill(loader, signal.SIGKILL)
        return stage.result()


def children(process: int) -> list[int]:
    """Of a process, by number."""
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(number) for path in found for number in path.read_text(encoding="ascii").split()]
