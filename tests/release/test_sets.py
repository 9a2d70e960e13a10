"""The indexed images of a scoring run lie in a folder of their own, which does not outlive it for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from instruct_ipt.release.sets import degradation_of, indexed_images

from . import places

KILLED = """
import os, signal, sys
from pathlib import Path
from instruct_ipt.release.sets import degradation_of, indexed_images
print(indexed_images(degradation_of(Path("weights"))), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_run_left_goes_and_what_another_uses_stays(tmp_path, monkeypatch):
    place = places.make(tmp_path)
    monkeypatch.chdir(place)
    used = indexed_images(degradation_of(Path("weights")))
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=place, env=os.environ, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    left = Path(killed.stdout.strip())
    assert left.is_dir() and used.is_dir() and left != used
    mine = indexed_images(degradation_of(Path("weights")))
    assert not left.exists()
    assert used.is_dir() and mine.is_dir()
    assert {path.name for path in Path(".ipt").glob("scored-*")} == {used.name, mine.name}
