"""Working directories for trials: little work, and a sensitivity search that is only said to be done."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from instruct_ipt import params, pipeline
from instruct_ipt.paths import SELECTION
from instruct_ipt.provenance import write_json
from instruct_ipt.stage_table import STAGES

from .forked import ROOT, Ended, Ipt

LESS = {
    "procedural: 4, ": "procedural: 1, ",
    "validation_crops: 2}": "validation_crops: 1}",
    "steps: 24\n      batch_per_task: 2\n": "steps: 6\n      batch_per_task: 1\n",
    "validate_every: 12\n": "validate_every: 3\n",
    "steps: 10\n": "steps: 2\n",
}
"""What profile smoke says first, and what it says here: trials run a stage many times, of whatever length."""


def workspace(folder: Path) -> None:
    """The parameters, at profile smoke and still less work, and the catalogue."""
    folder.mkdir(parents=True)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("profile: quick", "profile: smoke", 1)
    for old, new in LESS.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    # One thread: several wait for each other where other tests run beside.
    (folder / "params.yaml").write_text(re.sub(r"threads: \d+", "threads: 1", text), encoding="utf-8")
    shutil.copytree(ROOT / "data/catalogue", folder / "data/catalogue")


def ran(ended: Ended) -> None:
    assert ended.code == 0, ended.err


def prepare(ipt: Ipt, folder: Path) -> None:
    """Make a working directory in which the images are prepared and the weights to modulate stand selected."""
    workspace(folder)
    for stage in ("fetch", "prepare"):
        ran(ipt(folder, stage))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        stage = STAGES["sensitivity"]
        for path in map(Path, stage.outputs):
            path.parent.mkdir(exist_ok=True)
            path.write_text("", encoding="utf-8")
        write_json(SELECTION, {"groups": ["attention.qkv", "norm"]})
        write_json(stage.provenance, pipeline.current_record(stage, params.load()))
    shutil.rmtree(folder / ".ipt")
