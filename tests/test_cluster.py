"""The Slurm profile and its trial: what a cell asks for, and that jobs go through Slurm where Slurm is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from instruct_ipt import params
from instruct_ipt.stages._cells import LEAVES, cells_of

ROOT = Path(__file__).resolve().parent.parent
PROFILE = ROOT / "workflow" / "profiles" / "slurm"
TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

plugin = pytest.importorskip("snakemake_executor_plugin_slurm", reason="the Slurm plugin is not installed")


def dry_run(folder: Path, profile: str, *arguments: str) -> str:
    """What `snakemake -n` says through the Slurm profile, in a workspace whose leaves are planted."""
    path = folder / "params.yaml"
    path.write_text(re.sub(r"(?m)^profile: \w+", f"profile: {profile}", path.read_text(encoding="utf-8")), "utf-8")
    for leaf in LEAVES:
        leaf.parent.mkdir(parents=True, exist_ok=True)
        leaf.write_text('{"groups": ["ffn.in"]}', encoding="utf-8")
    places = ["--profile", PROFILE, "--snakefile", ROOT / "Snakefile", "--directory", folder]
    command = [sys.executable, "-m", "snakemake", "-n", *places, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def requests(said: str) -> list[tuple[str, dict[str, str]]]:
    """Rule and resources of every job that `snakemake -n` lists; a rule that makes no file only names others."""
    blocks = re.findall(r"(?m)^rule (\w+):\n((?:    .*\n)+)", said)
    lines = [(rule, re.search(r"resources: (.*)", block)) for rule, block in blocks if "    output: " in block]
    assert lines, said
    return [(rule, dict(item.split("=", 1) for item in line[1].split(", ")) if line else {}) for rule, line in lines]


def one_cell(profile: str) -> str:
    grid = params.load(ROOT / "params.yaml", profile)
    return (cells_of(grid)[0].folder(profile) / "metrics.json").as_posix()


def test_every_key_of_the_profile_is_an_option_of_snakemake():
    keys = yaml.safe_load((PROFILE / "config.yaml").read_text(encoding="utf-8"))
    usage = subprocess.run([sys.executable, "-m", "snakemake", "--help"], capture_output=True, text=True, check=True)
    options = set(re.findall(r"--([a-z][a-z-]+)", usage.stdout))
    assert set(keys) - options == set()


def test_every_requested_resource_is_one_the_plugin_passes_on():
    keys = yaml.safe_load((PROFILE / "config.yaml").read_text(encoding="utf-8"))["set-resources"]
    source = "".join(p.read_text(encoding="utf-8") for p in Path(plugin.__file__).parent.glob("*.py"))
    known = set(re.findall(r"resources\.get\(\s*\"(\w+)\"", source))
    assert {name for rule in keys.values() for name in rule} <= known


def test_every_rule_that_becomes_a_job_has_its_requests(workspace):
    asked = requests(dry_run(workspace, "smoke", "all"))
    keys = yaml.safe_load((PROFILE / "config.yaml").read_text(encoding="utf-8"))["set-resources"]
    assert {rule for rule, _ in asked} == set(keys)
    assert all({"gpu", "mem_mb", "runtime"} <= set(request) for _, request in asked)


@pytest.mark.parametrize("profile", ["smoke", "quick", "study", "paper"])
def test_a_cell_asks_for_what_the_page_says(workspace, profile):
    table = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    row = re.search(rf"\| `{profile}` \| (\d) \| (\d+) MB \| (\d+) min \|", table)
    assert row, f"docs/cluster.md has no row for {profile}"
    _, request = requests(dry_run(workspace, profile, one_cell(profile)))[0]
    assert (request["gpu"], request["mem_mb"], request["runtime"]) == row.groups()


def test_account_and_partition_can_be_given_beside_the_requests(workspace):
    said = dry_run(workspace, "smoke", "--default-resources", "slurm_account=a", "slurm_partition=p", "--", "all")
    for _, request in requests(said):
        assert (request["slurm_account"], request["slurm_partition"]) == ("a", "p") and request["runtime"] == "60"


def folder_of(path: Path, *programs: str) -> Path:
    """A folder for PATH with bash and empty stand-ins for ``programs``."""
    path.mkdir()
    (path / "bash").symlink_to(shutil.which("bash"))
    for program in programs:
        (path / program).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (path / program).chmod(0o755)
    return path


@pytest.mark.parametrize(
    "programs, words",
    [
        ((), ["sbatch", "apt-get install slurm-wlm munge"]),
        (TOOLS, ["snakemake", "make setup"]),
        ((*TOOLS, "snakemake", "python3"), ["snakemake-executor-plugin-slurm", "make setup"]),
    ],
)
def test_the_trial_says_in_one_line_what_is_missing(tmp_path, programs, words):
    path = folder_of(tmp_path / "bin", *programs)
    done = subprocess.run(
        [PROFILE / "try-local"], env={"PATH": str(path)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("try-local: ") and done.stderr.count("\n") == 1
    assert all(word in done.stderr for word in words), done.stderr


TOY = """
rule cell:
    output: "ablations/{profile}/{name}.txt"
    log: "logs/{profile}/{name}.log"
    threads: 1
    shell: "echo $SLURM_JOB_PARTITION > {output}; test {wildcards.name} != bad 2> {log}"
"""


def processes_of(scratch: Path) -> list[str]:
    """Commands of the processes that run with ``scratch`` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile, or someone else's
            if str(scratch).encode() in (process / "environ").read_bytes():
                found.append((process / "comm").read_text(encoding="utf-8").strip())
    return found


@pytest.mark.skipif(
    any(shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None for tool in TOOLS),
    reason="Slurm is not installed (Debian: slurm-wlm and munge)",
)
def test_jobs_go_through_slurm_and_a_failed_one_is_reported(tmp_path):
    """A toy workflow in a copy: one good cell, one bad; then nothing is left to do, and nothing is left behind."""
    # Munge's socket lies in the scratch folder, and the path of a socket has 107 letters at most.
    with tempfile.TemporaryDirectory(prefix="ipt-") as scratch:
        go_through_slurm(tmp_path / "copy", Path(scratch))


def go_through_slurm(copy: Path, scratch: Path) -> None:
    shutil.copytree(PROFILE, copy / "workflow" / "profiles" / "slurm")
    (copy / "Snakefile").write_text(TOY, encoding="utf-8")
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": tools, "TMPDIR": str(scratch)}

    def trial(*targets: str) -> subprocess.CompletedProcess[str]:
        command = [copy / "workflow" / "profiles" / "slurm" / "try-local", *targets]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    good, bad = "ablations/smoke/good.txt", "ablations/smoke/bad.txt"
    done = trial(good, bad)
    assert done.returncode == 1
    assert (copy / good).read_text(encoding="utf-8") == "main\n", done.stderr
    assert "SLURM status is: 'FAILED'" in done.stderr and "logs/smoke/bad.log" in done.stderr
    assert not (copy / bad).exists(), "the half-made output of a failed cell is removed"
    again = trial(good)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr, again.stderr
    assert list(scratch.iterdir()) == []
    assert processes_of(scratch) == [], "daemons were left running"
