"""Durations: killed processes count until their last checkpoint."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from instruct_ipt.stopwatch import Stopwatch


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "cell"


def saved(checkpoints: Path, ago: float, part: str = "network") -> None:
    """A checkpoint that was written so many seconds ago."""
    path = checkpoints / part / "step-1.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - ago,) * 2)


def begun(checkpoints: Path, ago: float, earlier: float = 0.0) -> None:
    """A process that was killed had begun so many seconds ago."""
    note = checkpoints.with_name("cell.begun")
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"earlier": earlier, "begun": time.time() - ago}), encoding="utf-8")


def test_one_process_counts_from_its_beginning_and_leaves_nothing(checkpoints):
    watch = Stopwatch(checkpoints)
    assert [path.name for path in checkpoints.parent.iterdir()] == ["cell.begun"]
    time.sleep(0.02)
    assert 0.02 <= watch.stop() < 1
    assert not list(checkpoints.parent.iterdir())


def test_killed_ones_count_until_their_last_checkpoint(checkpoints):
    begun(checkpoints, ago=1000, earlier=50)
    saved(checkpoints, ago=700)
    saved(checkpoints, ago=600, part="shared")
    assert Stopwatch(checkpoints).stop() == pytest.approx(450, abs=1)


def test_the_third_process_knows_of_the_first(checkpoints):
    begun(checkpoints, ago=1000)
    saved(checkpoints, ago=600)
    Stopwatch(checkpoints)
    saved(checkpoints, ago=-20)
    assert Stopwatch(checkpoints).stop() == pytest.approx(420, abs=1)


@pytest.mark.parametrize("note", ["", "{", "[]", '{"earlier": 1}', '{"earlier": "x", "begun": 0}'])
def test_a_damaged_note_counts_nothing(checkpoints, note):
    saved(checkpoints, ago=10)
    checkpoints.with_name("cell.begun").write_text(note, encoding="utf-8")
    assert Stopwatch(checkpoints).stop() < 1


def test_what_begins_anew_counts_anew(checkpoints):
    begun(checkpoints, ago=1000)
    assert Stopwatch(checkpoints).stop() < 1


def test_a_checkpoint_from_before_the_process_counts_nothing_for_it(checkpoints):
    begun(checkpoints, ago=100, earlier=300)
    saved(checkpoints, ago=900)
    assert Stopwatch(checkpoints).stop() == pytest.approx(300, abs=1)
