"""The arrows of the design run one way, and training needs torch alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from instruct_ipt import provenance

PACKAGE = Path(provenance.source_root())
BASE = {"disk", "errors", "tasks", "paths", "progress", "__init__"}

# room -> rooms and modules it may import besides itself and the base
ALLOWED: dict[str, set[str]] = {
    "backbone": set(),
    "modulation": set(),
    "adaptation": {"modulation"},
    "data": {"provenance"},
    "training": {"backbone", "modulation", "adaptation", "data"},
    "analysis": {"backbone", "modulation", "adaptation", "data", "training", "evaluation"},
    "evaluation": {"backbone", "modulation", "adaptation", "data", "training", "provenance"},
    # The contact sheet shows the degradations themselves; every other view reads result files, and intervals come from
    # analysis.statistics.
    "report": {"data", "analysis"},
    "instruction": set(),
    # A denoiser is trained by the loop of restoration, on the same photographs.
    "diffusion": {"modulation", "adaptation", "data", "training", "provenance"},
    # Of data only the bounds on what is decoded: one rule for every file that enters.
    "restoration": {"backbone", "modulation", "instruction", "diffusion", "data"},
    "web": {"restoration"},
    # A task of one's own is trained, judged, and read as `ipt restore` will read it.
    "own": {"modulation", "data", "training", "evaluation", "restoration", "provenance"},
    "classical": {"data", "evaluation"},
    # Above the stages: it trains and scores by them.
    "release": {"modulation", "data", "training", "evaluation", "restoration", "classical", "report", "stages",
                "pipeline", "params", "provenance", "runs", "tracking", "exclusive", "marks"},
    "stages": {"backbone", "modulation", "adaptation", "data", "training", "analysis", "evaluation", "report",
               "instruction", "restoration", "diffusion", "provenance", "params", "tracking"},
}  # fmt: skip
NOTHING_BUT_TASKS = {
    "backbone": set(),
    "modulation": {"disk", "tasks"},
    "adaptation": {"tasks"},
    "instruction": {"disk", "errors", "tasks"},
}


def imports(path: Path) -> set[str]:
    """Rooms and top-level modules of the package that a file imports at run time."""
    module = ".".join(("instruct_ipt", *path.relative_to(PACKAGE).with_suffix("").parts))
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(module.split(".")[: -node.level]) if node.level else ""
            base = ".".join(part for part in (above, node.module or "") if part)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("instruct_ipt.")}
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_run_one_way(room):
    files = sorted((PACKAGE / room).rglob("*.py"))
    assert files
    base = NOTHING_BUT_TASKS.get(room, BASE)
    for path in files:
        extra = imports(path) - ALLOWED[room] - base - {room}
        assert not extra, f"{path.relative_to(PACKAGE)} imports {sorted(extra)}"


def test_training_runs_without_pipeline_tools():
    code = (
        "import sys\n"
        "for name in ('dvc', 'mlflow', 'snakemake', 'pydantic', 'typer', 'pandas', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "import instruct_ipt.training.loop, instruct_ipt.training.build, instruct_ipt.evaluation.validation\n"
        "import instruct_ipt.own\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_needs_no_heavy_import():
    code = (
        "import sys, instruct_ipt.cli\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'matplotlib', 'skimage', 'diffusers', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_torchvision_stays_out_and_mlflow_imports():
    """Its mere presence breaks MLflow's torch flavour on a CPU build, while `pip check` stays silent."""
    import importlib.util

    assert importlib.util.find_spec("torchvision") is None
    import mlflow.pytorch  # noqa: F401
