"""`ipt`: a newcomer understands it, and a mistake is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from instruct_ipt import params
from instruct_ipt.backbone import WEIGHT_GROUPS
from instruct_ipt.errors import InputError
from instruct_ipt.stage_table import STAGES
from instruct_ipt.summary import gains


def ipt(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "instruct_ipt", *arguments], capture_output=True, text=True)


def test_help_names_every_stage_with_an_uncut_line(workspace):
    text = ipt("--help").stdout
    for name, stage in STAGES.items():
        assert name.replace("_", "-") in text and stage.help in text
    assert "..." not in text.replace("[ARGS]...", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("prepare",), ["data/raw/manifest.json", "does not exist yet", "dvc repro fetch"]),
        (("rank",), ["data/prepared/manifest.json", "dvc repro prepare"]),
        (("cell", "rank", "constant-99", "0"), ["rank/constant-99/seed-0", "constant-2"]),
        (("cell", "no-study", "x", "0"), ["no-study", "rank, strategy"]),
        (("profile", "large"), ["large", "smoke, quick, study, paper"]),
        (("summary",), ["results/benchmark.csv", "dvc repro evaluate"]),
        (("instruction-score", "none.yaml"), ["none.yaml", "does not exist"]),
        (("check-params", "none.yaml"), ["none.yaml", "does not exist"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(workspace, arguments, words):
    done = ipt(*arguments)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("ipt: ")
    for word in words:
        assert word in done.stderr


def test_a_broken_configuration_stops_before_any_work(workspace):
    path = Path("params.yaml")
    path.write_text(path.read_text(encoding="utf-8").replace("clip:", "clips:"), encoding="utf-8")
    done = ipt("fetch")
    assert done.returncode == 2 and "training.clips" in done.stderr and not Path("data").exists()


def test_status_on_a_fresh_clone_says_what_is_missing(workspace):
    done = ipt("status")
    assert done.returncode == 1 and done.stdout.count("is missing") == len(STAGES)


def test_gains_are_read_from_the_benchmark(tmp_path):
    path = tmp_path / "benchmark.csv"
    path.write_text(
        "method,task,dataset,protocol,psnr,psnr_input\ninput,denoise,bundled-sigma25,rgb,20,20\n"
        "modulation,denoise,bundled-sigma25,rgb,28.5,20\nmodulation,derain,bundled,rgb,23,21\n"
        "modulation,denoise,bundled-sigma25,y-limited,33,25\n",
        encoding="utf-8",
    )
    assert gains(path) == {"denoise 25": {"modulation": 8.5}, "derain": {"modulation": 2.0}}
    with pytest.raises(InputError, match="dvc repro evaluate"):
        gains(tmp_path / "none.csv")


def test_the_schema_and_the_backbone_name_the_same_weight_groups():
    assert set(params.GROUPS) == set(WEIGHT_GROUPS)


def test_a_task_with_several_sets_shows_each(tmp_path):
    path = tmp_path / "benchmark.csv"
    path.write_text(
        "method,task,dataset,protocol,psnr,psnr_input\nmodulation,deblur,GoPro_test,rgb,26,25\n"
        "modulation,deblur,Levin09,rgb,24,22\nmodulation,denoise,CBSD68-sigma25,rgb,28,20\n",
        encoding="utf-8",
    )
    assert list(gains(path)) == ["deblur GoPro_test", "deblur Levin09", "denoise 25"]
