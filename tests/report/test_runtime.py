"""`logs/runtime.html`: the last run of each stage, with hardware and versions, outside the report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from instruct_ipt.cli import app
from instruct_ipt.errors import InputError
from instruct_ipt.report.runtime import COLUMNS, duration, last_runs, write_runtime

ROWS = (
    "train_shared,100.0,500,x86_64 2 cores,python=3.11 torch=1",
    "quick/rank/constant-4/seed-0,30.0,900,x86_64 2 cores,python=3.11 torch=1",
    "ablations,65.5,300,x86_64 <b>8</b> cores,python=3.11 torch=2",
    "train_shared,90.0,700,x86_64 2 cores,python=3.11 torch=1",
)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "runtime.csv"
    path.write_text("\n".join([",".join(COLUMNS), *ROWS, ""]), encoding="utf-8")
    return path


def words(page: Path) -> str:
    return " ".join(re.sub(r"<.*?>", " ", page.read_text(encoding="utf-8").partition("<main")[2]).split())


def test_the_last_run_of_each_counts(log: Path) -> None:
    found = last_runs(log)
    assert [run["stage"] for run in found] == ["quick/rank/constant-4/seed-0", "ablations", "train_shared"]
    assert found[-1]["seconds"] == 90.0 and found[-1]["peak_mib"] == 700.0


def test_the_page_adds_up_stages_and_names_each_machine_once(log: Path) -> None:
    write_runtime(log, log.with_name("runtime.html"))
    text = words(log.with_name("runtime.html"))
    # 65.5 + 90 s: the cell's time is part of the stage `ablations`.
    assert "2 min 36 s together; at most 900 MiB" in text
    assert "quick/rank/constant-4/seed-0 30.0 s" in text
    assert text.count("x86_64 2 cores: python=3.11 torch=1") == 1 and "torch=2" in text
    assert "&lt;b&gt;8" in text
    assert f"numpy {np.__version__}" in text


def test_networks_of_a_release_stand_apart(log: Path) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write("arm/film,70.0,400,x86_64 2 cores,python=3.11 torch=1\n")
    write_runtime(log, log.with_name("runtime.html"))
    text = words(log.with_name("runtime.html"))
    before, _, after = text.partition("Networks of a release")
    assert "arm/film 1 min 10 s" in after and "arm/film" not in before and "2 min 36 s together" in before


def test_results_from_elsewhere_leave_a_page_that_says_so(tmp_path: Path) -> None:
    write_runtime(tmp_path / "none.csv", tmp_path / "logs/runtime.html")
    assert "No stage has run in this copy" in words(tmp_path / "logs/runtime.html")


def test_the_command_writes_it_where_the_report_links_to(workspace: Path) -> None:
    done = CliRunner().invoke(app, ["runtime"])
    assert done.exit_code == 0 and done.stdout == "logs/runtime.html\n"
    assert (workspace / "logs/runtime.html").is_file()


@pytest.mark.parametrize("line", ["report,soon,1,a,b", "report,1"])
def test_a_damaged_line_is_named(log: Path, line: str) -> None:
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(InputError, match="line 6 is not stage, seconds"):
        last_runs(log)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4 s"), (59.94, "59.9 s"), (150, "2 min 30 s"), (3600, "1 h 00 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
