"""What the README says is what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from instruct_ipt.errors import InputError
from instruct_ipt.snapshot import MARKS, snapshot
from instruct_ipt.summary import gains

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_number_of_the_results_block_comes_from_the_kept_benchmark():
    block = README.partition(MARKS.begin)[2].partition(MARKS.end)[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("|")
    ]
    methods = rows[0][1:]
    shown = {row[0]: dict(zip(methods, map(float, row[1:]), strict=True)) for row in rows[2:]}
    kept = gains(ROOT / "docs/quick/benchmark.csv")
    assert shown.keys() == kept.keys()
    for name, row in kept.items():
        assert shown[name] == pytest.approx(row, abs=0.00501), name


def test_links_lead_somewhere():
    for file in ("README.md", "workflow/README.md", "data/README.md", "notebooks/README.md"):
        text = (ROOT / file).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if not target.startswith("http"):
                assert ((ROOT / file).parent / target).exists(), f"{file}: {target}"


def test_pictures_in_git_are_small():
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".jpg", ".png"):
            assert path.stat().st_size <= 300_000, path


def test_named_commands_exist():
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)", README):
        assert re.search(rf"^{target}:", make, re.MULTILINE), target


def test_a_snapshot_without_results_says_what_to_do(workspace):
    Path("README.md").write_text(f"{MARKS.begin}\n{MARKS.end}\n", encoding="utf-8")
    with pytest.raises(InputError, match="benchmark.csv does not exist; `make repro`"):
        snapshot()
    assert (
        Path("README.md").read_text(encoding="utf-8") == f"{MARKS.begin}\n{MARKS.end}\n" and not Path("docs").exists()
    )
