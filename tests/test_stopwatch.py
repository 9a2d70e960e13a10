"""Durations: killed processes count until their last checkpoint."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path

import pytest

from instruct_ipt import pipeline, runs
from instruct_ipt.paths import RUNTIME, SCRATCH
from instruct_ipt.stopwatch import Stopwatch
from instruct_ipt.tracking import Tracker


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / "cell"


def saved(checkpoints: Path, ago: float, name: str = "network/step-1.pt") -> None:
    """A checkpoint that was written so many seconds ago."""
    path = checkpoints / name
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
    assert 0.02 <= watch.seconds() < 1
    watch.forget()
    assert not list(checkpoints.parent.iterdir())


def test_killed_ones_count_until_their_last_checkpoint(checkpoints):
    begun(checkpoints, ago=1000, earlier=50)
    saved(checkpoints, ago=700)
    saved(checkpoints, ago=600, name="shared/step-1.pt")
    assert Stopwatch(checkpoints).seconds() == pytest.approx(450, abs=1)


def test_the_third_process_knows_of_the_first(checkpoints):
    begun(checkpoints, ago=1000)
    saved(checkpoints, ago=600)
    Stopwatch(checkpoints)
    saved(checkpoints, ago=-20)
    assert Stopwatch(checkpoints).seconds() == pytest.approx(420, abs=1)


@pytest.mark.parametrize(
    "note", ["", "{", "[]", '{"earlier": 1}', '{"earlier": "x", "begun": 0}', '{"earlier": NaN, "begun": 0}']
)
def test_a_damaged_note_counts_nothing(checkpoints, note):
    saved(checkpoints, ago=10)
    checkpoints.with_name("cell.begun").write_text(note, encoding="utf-8")
    assert Stopwatch(checkpoints).seconds() < 1


def test_a_checkpoint_that_was_never_whole_counts_nothing(checkpoints):
    begun(checkpoints, ago=1000)
    saved(checkpoints, ago=700)
    saved(checkpoints, ago=100, name="network/.step-2.pt.tmp")
    assert Stopwatch(checkpoints).seconds() == pytest.approx(300, abs=1)


def test_what_begins_anew_counts_anew(checkpoints):
    begun(checkpoints, ago=1000)
    assert Stopwatch(checkpoints).seconds() < 1


def test_a_checkpoint_from_before_the_process_counts_nothing_for_it(checkpoints):
    begun(checkpoints, ago=100, earlier=300)
    saved(checkpoints, ago=900)
    assert Stopwatch(checkpoints).seconds() == pytest.approx(300, abs=1)


def test_a_finished_folder_has_the_time_of_the_killed_process_in_its_row(workspace):
    place = SCRATCH / "checkpoints" / "cell"
    begun(place, ago=1000)
    saved(place, ago=400)
    pipeline.make_folder(Path("made"), {}, "cell", Tracker(), lambda *_: None, runs.Results, "a/cell")
    with RUNTIME.open(encoding="utf-8") as stream:
        row = next(csv.DictReader(stream))
    assert row["stage"] == "a/cell" and float(row["seconds"]) == pytest.approx(600, abs=2)
    assert not list(place.parent.iterdir())
