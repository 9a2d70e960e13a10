"""The ablation grid: which cells stand in `params.yaml`, where they lie, and what each is made with.

Shared by `ipt cell` (which trains one), by the workflow (which decides what to run) and by the bridge stage.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from instruct_ipt import provenance
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.errors import InputError
from instruct_ipt.params import InstructionParams, Params, View, restrict
from instruct_ipt.paths import ABLATIONS
from instruct_ipt.tasks import NOISE, TASKS

DIFFUSION, INSTRUCTION = "diffusion", "instruction"
NOISE_SET = "noise"
UNSIZED = ("shared", "experts")
# Leaves of the workflow: files that the replication makes and the cells stand on.
LEAVES = (Path("data/prepared/manifest.json"), Path("models/selection.json"))


@dataclass(frozen=True)
class Kind:
    """What the cells of a study have in common.

    Attributes:
        module: trains and scores a cell.
        sections: of the parameters that every cell reads.
        leaves: files that a cell stands on.
    """

    module: str
    sections: tuple[str, ...]
    leaves: tuple[Path, ...]


_RESTORING = Kind("instruct_ipt.stages.cell", ("degradation", "backbone", "training"), LEAVES)
_KINDS = {
    # A denoiser needs no selection of restoration weights,
    DIFFUSION: Kind("instruct_ipt.stages.diffusion_cell", ("diffusion", "training"), LEAVES[:1]),
    # and a reader of sentences no picture.
    INSTRUCTION: Kind("instruct_ipt.stages.reader_cell", (), ()),
}


def kind_of(study: str) -> Kind:
    """What the cells of a study have in common."""
    return _KINDS.get(study, _RESTORING)


@dataclass(frozen=True)
class Cell:
    """One point of an ablation grid.

    Attributes:
        study: ``rank``, ``strategy``, ``adaptation``, ``sensitivity``, ``task_gap``, ``diffusion`` or
            ``instruction``.
        setting: name of the setting, for example ``constant-4`` or ``two_stage``.
        seed: seed of weights and data stream.
    """

    study: str
    setting: str
    seed: int

    def folder(self, profile: str) -> Path:
        """`ablations/<profile>/<study>/<setting>/seed-<n>`."""
        return ABLATIONS / profile / self.study / self.setting / f"seed-{self.seed}"


@dataclass(frozen=True)
class Recipe:
    """What a setting means.

    Attributes:
        method: ``shared``, ``experts``, a rival of `adaptation.RIVALS`, or ``modulation``.
        strategy: how it is trained.
        tasks: names, in order; ``denoise-15`` is noise of one level.
        rule: rank rule (kind, value) of the biases; other methods are made as large as such biases. None for those that
            have no size to choose.
        match: "" for biases by ``rule``; ``proportional`` for a proportional rank of the same size; ``full`` for
            unfactored biases.
        weights: which weights carry a bias: ``selected``, ``all``, or ``random-<k>`` (as many parameters as selected).
    """

    method: str
    strategy: str
    tasks: tuple[str, ...]
    rule: tuple[str, float] | None = None
    weights: str = "selected"
    match: str = ""


def settings_of(params: Params | View) -> dict[str, list[str]]:
    """Study -> names of its settings, in the order of `params.yaml`."""
    grid = params.ablations
    ranks = [f"constant-{r}" for r in grid.rank.constant] + [f"proportional-{s:g}" for s in grid.rank.proportional]
    sets = {"five": grid.adaptation.five, NOISE_SET: grid.adaptation.noise}
    adaptation = [f"{tasks}-{method}" for tasks, methods in sets.items() for method in methods]
    randoms = [f"random-{k}" for k in range(grid.sensitivity.random)]
    gaps = [f"{pair}-{m}" for pair in grid.task_gap.pairs for m in grid.task_gap.methods]
    return {
        "rank": ["shared", *ranks],
        "strategy": list(grid.strategy.settings),
        "adaptation": adaptation,
        "sensitivity": [*grid.sensitivity.settings, *randoms],
        "task_gap": gaps,
        DIFFUSION: list(grid.diffusion.settings),
        INSTRUCTION: list(grid.instruction),
    }


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


def recipe_of(params: Params, cell: Cell) -> Recipe:
    """What the setting of a cell means; not for readers of instructions, see `reader_of`."""
    usual = (params.modulation.rule, float(params.modulation.value))
    if cell.study == DIFFUSION:
        return Recipe(cell.setting, METHODS[cell.setting], FILL_TASKS, ("constant", float(params.diffusion.rank)))
    if cell.setting in UNSIZED:
        return Recipe(cell.setting, cell.setting, TASKS)
    if cell.study == "strategy":
        return Recipe("modulation", cell.setting, TASKS, usual)
    if cell.study == "rank":
        kind, _, value = cell.setting.partition("-")
        return Recipe("modulation", "synchronous", TASKS, (kind, float(value)))
    if cell.study == "sensitivity":
        return Recipe("modulation", "synchronous", TASKS, usual, cell.setting)
    tasks, _, method = cell.setting.rpartition("-")
    return _compared(params, method, task_set(params, tasks))


def reader_of(params: Params, cell: Cell) -> InstructionParams:
    """The section `instruction` with what the setting of a cell changes in it."""
    changed = params.instruction.model_dump() | params.ablations.instruction[cell.setting]
    return InstructionParams.model_validate(changed)


def _compared(params: Params, method: str, tasks: tuple[str, ...]) -> Recipe:
    """A method of the studies that compare methods: all at the size of the constant rank of the parameters."""
    constant = ("constant", float(params.ablations.adaptation.rank))
    if method in UNSIZED:
        return Recipe(method, method, tasks)
    if method in ("constant", "proportional", "full"):
        match = "" if method == "constant" else method
        return Recipe("modulation", "synchronous", tasks, constant, match=match)
    return Recipe(method, "synchronous", tasks, constant)


def task_set(params: Params, name: str) -> tuple[str, ...]:
    """The tasks of a set: ``five`` dissimilar ones, ``noise`` of every level, or a pair such as ``denoise+dehaze``."""
    if name == "five":
        return TASKS
    if name == NOISE_SET:
        return tuple(f"{NOISE}-{sigma:g}" for sigma in params.degradation.denoise.sigma)
    return tuple(name.split("+"))


def cell_record(params: Params, cell: Cell) -> dict[str, Any]:
    """Provenance of a cell: only what this cell reads, so that another cell's setting does not make it stale."""
    kind = kind_of(cell.study)
    named = {"cell": {"study": cell.study, "setting": cell.setting, "seed": cell.seed}}
    sections = restrict(params, kind.sections) | named | meaning_of(params, cell)
    return provenance.record(sections, [kind.module], [path for path in kind.leaves if path.exists()])


def meaning_of(params: Params, cell: Cell) -> dict[str, Any]:
    """What sets a cell apart from others of its kind, by its setting and the grid's scale; without names and seed."""
    grid = params.ablations
    if cell.study == INSTRUCTION:
        return {"instruction": reader_of(params, cell).model_dump(mode="json")}
    trained = {"recipe": asdict(recipe_of(params, cell)), "threads": grid.threads}
    if cell.study == DIFFUSION:
        return trained | {"steps": grid.diffusion.steps}
    return trained | {
        "steps": grid.steps,
        "batch_per_task": grid.batch_per_task,
        "patch": grid.patch,
        # Four points of a training curve, at little cost.
        "validate_every": max(1, grid.steps // 4),
    }


def finished_equal(params: Params, cell: Cell) -> Cell | None:
    """Another cell of the grid that is finished, up to date, and of the same meaning and seed; None: there is none."""
    kind, meaning = kind_of(cell.study), meaning_of(params, cell)
    for other in cells_of(params):
        if other == cell or other.seed != cell.seed or kind_of(other.study) != kind:
            continue
        if meaning_of(params, other) != meaning:
            continue
        folder = other.folder(params.profile)
        recorded = provenance.read_record(folder / "provenance.json")
        if recorded is None or not (folder / "metrics.json").is_file():
            continue
        now = cell_record(params, other)
        # The digests, not the values: what was a tuple is a list once it stood in a file.
        if all(recorded.get(key) == now[key] for key in ("params_digest", "code_digest", "inputs")):
            return other
    return None


def take_over(source: Path, facts: dict[str, Any], out: Path) -> None:
    """Write into the empty folder ``out`` what training would write, from a finished cell of the same recipe and seed.

    Args:
        source: folder of that cell.
        facts: ``study``, ``setting``, ``seed`` of the cell that is written.
        out: folder to write into.
    """
    for name in ("history.csv", "per_image.csv"):
        shutil.copyfile(source / name, out / name)
    provenance.write_json(
        out / "metrics.json", json.loads((source / "metrics.json").read_text(encoding="utf-8")) | facts
    )
