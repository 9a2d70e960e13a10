"""DVC's graph and Snakemake's graph: each says what the package says, and they own different files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from instruct_ipt import params, provenance
from instruct_ipt.cli import app
from instruct_ipt.stage_table import STAGES
from instruct_ipt.stages._cells import LEAVES, cells_of

ROOT = Path(__file__).resolve().parent.parent
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
SNAKEMAKE = ("Snakefile", "workflow/common.smk", "workflow/rules")
CODE = "src/instruct_ipt"


def outs_of(stage: dict) -> list[str]:
    """Paths of a stage's outputs; an output with options is a mapping of one key."""
    return [next(iter(out)) if isinstance(out, dict) else out for out in stage["outs"]]


def deps(name: str) -> list[str]:
    return [dep.replace("${code}", CODE) for dep in DVC[name]["deps"]]


def test_dvc_has_exactly_the_stages_of_the_table_in_order():
    assert list(DVC) == list(STAGES)


@pytest.mark.parametrize("name", STAGES)
def test_dvc_and_the_table_agree(name):
    stage, said = STAGES[name], DVC[name]
    files = [dep for dep in deps(name) if not dep.startswith(CODE) and dep not in SNAKEMAKE]
    assert set(files) == {*stage.inputs, *stage.sources}
    outs = set(outs_of(said))
    expected = set(stage.outputs) | (set() if stage.is_folder else {stage.provenance.as_posix()})
    assert outs == expected
    sections = {p.removeprefix("profiles.${profile}.") for p in said.get("params", [])}
    assert sections == set(stage.sections)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("profile", params.PROFILES)
def test_every_params_key_of_a_section_is_tracked(name, profile):
    """A section split between the two halves of params.yaml must be listed by both its keys."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    listed = {p.replace("${profile}", profile) for p in DVC[name].get("params", [])}
    for section in STAGES[name].sections:
        assert (section in raw) == (section in listed)
        assert (section in raw["profiles"][profile]) == (f"profiles.{profile}.{section}" in listed)


@pytest.mark.parametrize("name", STAGES)
def test_dvc_depends_on_every_source_file_that_the_stage_imports(name):
    listed = deps(name)
    for file in provenance.code_files(*STAGES[name].modules):
        path = f"{CODE}/{file}"
        assert any(path == dep or path.startswith(dep + "/") for dep in listed), f"{name}: {path} is not in deps"
    for dep in listed:
        assert (ROOT / dep).exists() or not dep.startswith(CODE), f"{name}: {dep} does not exist"


def test_fetched_data_is_neither_deleted_before_a_run_nor_stored_twice():
    """What makes an interrupted download resumable: DVC keeps the folder, and the stage writes in place."""
    (out,) = DVC["fetch"]["outs"]
    assert out == {"data/raw": {"cache": False, "persist": True}} and STAGES["fetch"].in_place
    assert [name for name, stage in STAGES.items() if stage.in_place] == ["fetch"]


def test_every_command_parses_and_names_an_existing_subcommand():
    for name, stage in DVC.items():
        words = stage["cmd"].split()
        assert words == ["ipt", name.replace("_", "-")]
        assert CliRunner().invoke(app, [words[1], "--help"]).exit_code == 0
    rules = (ROOT / "workflow/rules/cells.smk").read_text(encoding="utf-8")
    assert re.findall(r'"ipt (\S+)', rules) == ["cell"]


def test_the_two_graphs_own_different_files():
    outs = [Path(out) for stage in DVC.values() for out in outs_of(stage)]
    for profile in params.PROFILES:
        for cell in cells_of(params.load(ROOT / "params.yaml", profile)):
            folder = cell.folder(profile)
            assert not any(out == folder or out in folder.parents or folder in out.parents for out in outs)


def test_no_profile_overwrites_anothers_cells():
    folders = [
        cell.folder(profile)
        for profile in params.PROFILES
        for cell in cells_of(params.load(ROOT / "params.yaml", profile))
    ]
    assert len(folders) == len(set(folders))


def test_every_leaf_of_the_workflow_is_made_by_a_stage():
    for leaf in LEAVES:
        owners = [n for n, s in DVC.items() if any(leaf == Path(o) or Path(o) in leaf.parents for o in outs_of(s))]
        assert len(owners) == 1, leaf


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
        "-c1",
    ]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=folder)


def test_a_cell_from_a_fresh_clone_says_what_has_to_exist_first(workspace):
    done = snakemake(workspace, "ablations/smoke/rank/constant-2/seed-0/metrics.json")
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "must exist first" in line]
    assert len(lines) == 1 and "data/prepared/manifest.json" in lines[0] and "make repro" in lines[0]
    assert "Traceback" not in done.stderr


def test_a_cell_that_is_not_in_the_grid_says_what_is(workspace):
    done = snakemake(workspace, "ablations/smoke/rank/constant-3/seed-0/metrics.json")
    text = done.stdout + done.stderr
    assert done.returncode != 0 and "not in the grid" in text and "constant-2" in text and "Traceback" not in text


def plant_leaves() -> None:
    for leaf in LEAVES:
        leaf.parent.mkdir(parents=True, exist_ok=True)
        leaf.write_text(json.dumps({"groups": ["ffn.in"]}), encoding="utf-8")


def test_named_targets_ask_for_exactly_their_cells(workspace):
    plant_leaves()
    for study in ("rank", "strategy"):
        done = snakemake(workspace, "-n", study)
        assert done.returncode == 0, done.stderr
        wanted = {(c.folder("smoke") / "metrics.json").as_posix() for c in cells_of(params.load(), study)}
        assert set(re.findall(r"output: (\S+)", done.stdout)) == wanted


def test_without_a_target_the_whole_grid_is_meant(workspace):
    plant_leaves()
    done = snakemake(workspace, "-n")
    wanted = {(c.folder("smoke") / "metrics.json").as_posix() for c in cells_of(params.load())}
    assert set(re.findall(r"output: (\S+)", done.stdout)) == wanted
