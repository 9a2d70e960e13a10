"""The ablation grid: which cells stand in `params.yaml`, where they lie, and what each is made with.

Shared by `ipt cell` (which trains one), by the workflow (which decides what to run) and by the bridge stage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct_ipt import provenance
from instruct_ipt.errors import InputError
from instruct_ipt.params import Params, View, restrict
from instruct_ipt.paths import ABLATIONS

MODULE = "instruct_ipt.stages.cell"
SECTIONS = ("degradation", "backbone", "training")
# Leaves of the workflow: files that the replication makes and the cells stand on.
LEAVES = (Path("data/prepared/manifest.json"), Path("models/selection.json"))


@dataclass(frozen=True)
class Cell:
    """One point of an ablation grid.

    Attributes:
        study: ``rank`` or ``strategy``.
        setting: name of the setting, for example ``constant-4`` or ``two_stage``.
        seed: seed of weights and data stream.
    """

    study: str
    setting: str
    seed: int

    def folder(self, profile: str) -> Path:
        """`ablations/<profile>/<study>/<setting>/seed-<n>`."""
        return ABLATIONS / profile / self.study / self.setting / f"seed-{self.seed}"


def settings_of(params: Params | View) -> dict[str, list[str]]:
    """Study -> names of its settings, in the order of `params.yaml`."""
    grid = params.ablations
    ranks = [f"constant-{r}" for r in grid.rank.constant] + [f"proportional-{s:g}" for s in grid.rank.proportional]
    return {"rank": ranks, "strategy": list(grid.strategy.settings)}


def cells_of(params: Params | View, study: str | None = None) -> list[Cell]:
    """Every cell of the grid, or of one study."""
    return [
        Cell(name, setting, seed)
        for name, settings in settings_of(params).items()
        if study in (None, name)
        for setting in settings
        for seed in params.ablations.seeds
    ]


def find_cell(params: Params, study: str, setting: str, seed: int) -> Cell:
    """The cell of these names.

    Raises:
        InputError: it is not in the grid of `params.yaml`; the line names what is.
    """
    cell = Cell(study, setting, seed)
    if cell not in cells_of(params):
        grid = settings_of(params)
        known = (
            ", ".join(grid)
            if study not in grid
            else f"settings {', '.join(grid[study])}; seeds {params.ablations.seeds}"
        )
        raise InputError(
            f"params.yaml: {study}/{setting}/seed-{seed} is not in the grid of profile {params.profile}; "
            f"it has: {known}; add it under profiles.{params.profile}.ablations"
        )
    return cell


def rule_of(params: Params, setting: str) -> tuple[str, float]:
    """Rank rule of a setting: its own for the study `rank`, that of the replication otherwise."""
    kind, _, value = setting.partition("-")
    if kind in ("constant", "proportional"):
        return kind, float(value)
    return params.modulation.rule, params.modulation.value


def cell_record(params: Params, cell: Cell) -> dict[str, Any]:
    """Provenance of a cell: only what this cell reads, so that another cell's setting does not make it stale."""
    grid = params.ablations
    sections = restrict(params, SECTIONS) | {
        "cell": {"study": cell.study, "setting": cell.setting, "seed": cell.seed},
        "rule": list(rule_of(params, cell.setting)),
        "steps": grid.steps,
        "batch_per_task": grid.batch_per_task,
        "patch": grid.patch,
        "threads": grid.threads,
    }
    return provenance.record(sections, [MODULE], [path for path in LEAVES if path.exists()])
