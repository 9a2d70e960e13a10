"""Running one stage: check what it stands on, run it in a scratch folder, put the outputs in place, keep the record."""

from __future__ import annotations

import csv
import importlib
import os
import platform
import resource
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct_ipt import disk, provenance, runs, tracking
from instruct_ipt import params as params_module
from instruct_ipt.errors import InputError
from instruct_ipt.exclusive import alone
from instruct_ipt.paths import RUNTIME, SCRATCH, SELECTION
from instruct_ipt.stage_table import STAGES, Stage, maker_of
from instruct_ipt.stages._cells import (
    DIFFUSION,
    INSTRUCTION,
    Cell,
    cell_record,
    find_cell,
    finished_equal,
    kind_of,
    reader_of,
    take_over,
)
from instruct_ipt.stopwatch import Stopwatch


@dataclass
class Context:
    """What a stage gets to work with.

    Attributes:
        params: its window on the parameters (only its declared sections).
        out: scratch folder; a stage writes each output under the same relative path as its final place.
        checkpoints: folder for rolling checkpoints, named by the digest of parameters, code and inputs.
        tracker: live view for MLflow; losing it changes no output.
    """

    params: Any
    out: Path
    checkpoints: Path
    tracker: tracking.Tracker


def run_stage(name: str) -> None:
    """Run stage ``name`` of :data:`instruct_ipt.stage_table.STAGES` on the parameters of `params.yaml`.

    Where torchrun started several processes, the first does all of this and the others only train with it.

    Raises:
        InputError: an input is missing, or was made with other parameters or code than those that stand now; or a stage
            that does not train was started by torchrun.
    """
    stage = STAGES[name]
    if not under_torchrun():
        with alone(name, f"stage {name}"):
            _run(stage)
        return
    if not (name.startswith("train_") or name == "experts"):
        raise InputError(f"`ipt {name}` does not train and runs in one process; start it without torchrun")
    from instruct_ipt.training.distributed import joined

    with joined() as world:
        if world.first:
            with alone(name, f"stage {name}"):
                _run(stage)
        else:
            _train_along(stage, world.rank)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    # As torch.distributed.is_torchelastic_launched() has it, but most stages do not need torch.
    return "TORCHELASTIC_RUN_ID" in os.environ


def _train_along(stage: Stage, rank: int) -> None:
    """Train with the first process, which alone publishes and is tracked; what is written here is thrown away."""
    configuration = params_module.load()
    check_inputs(stage.inputs, configuration)
    work = SCRATCH / "work" / f"{stage.name}-rank-{rank}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    view = params_module.View(configuration, stage.sections)
    importlib.import_module(stage.modules[0]).run(Context(view, work, work / "checkpoints", tracking.Tracker()))
    shutil.rmtree(work)


def _run(stage: Stage) -> None:
    name = stage.name
    configuration = params_module.load()
    check_inputs(stage.inputs, configuration)
    started = current_record(stage, configuration)
    work = SCRATCH / "work" / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    digest = provenance.digest(started)
    context = Context(
        params=params_module.View(configuration, stage.sections),
        out=Path() if stage.in_place else work,
        checkpoints=SCRATCH / "checkpoints" / f"{name}-{digest[:16]}",
        tracker=tracking.start(runs.stage_card(stage, started), configuration.mlflow),
    )
    with context.tracker, disk.naming(work):
        watch = Stopwatch(context.checkpoints)
        importlib.import_module(stage.modules[0]).run(context)
        if stage.in_place:
            provenance.write_json(stage.provenance, started)
        else:
            _publish(stage, work, started)
        context.tracker.finish(lambda: runs.stage_results(stage))
    if context.tracker.alive:
        tracking.add_missing(lambda: runs.extra(stage, started), configuration.mlflow)
    note_runtime(name, watch.seconds())
    shutil.rmtree(context.checkpoints, ignore_errors=True)
    watch.forget()
    shutil.rmtree(work, ignore_errors=True)


def run_cell(study: str, setting: str, seed: int) -> Path:
    """Train and score one cell of the ablation grid; returns its folder.

    Two studies may ask for the very same network (the shared one, say). Where an equal cell is finished, its results
    are taken over instead of trained again: training is deterministic, so they are the same bytes.

    Raises:
        InputError: the cell is not in the grid, or what it stands on is missing or stale; or torchrun started it.
    """
    if under_torchrun():
        raise InputError("`ipt cell` runs in one process; start it without torchrun")
    configuration = params_module.load()
    cell = find_cell(configuration, study, setting, seed)
    check_inputs([path.as_posix() for path in kind_of(study).leaves], configuration)
    started = cell_record(configuration, cell)
    place = f"cell-{provenance.digest(started)[:16]}"
    name = f"{configuration.profile}/{study}/{setting}/seed-{seed}"
    with alone(place, f"cell {name}"):
        return _run_cell(configuration, cell, started, place, name)


def _run_cell(configuration: params_module.Params, cell: Cell, started: dict[str, Any], place: str, name: str) -> Path:
    """Make the cell in the scratch folders called ``place``, and give it its own."""
    study, folder = cell.study, cell.folder(configuration.profile)
    card = runs.cell_card(started)
    # A reader is made as fast as it is looked for.
    equal = None if study == INSTRUCTION else finished_equal(configuration, cell)

    def make(work: Path, checkpoints: Path, tracker: tracking.Tracker) -> None:
        if equal is not None:
            take_over(equal.folder(configuration.profile), started["params"]["cell"], work)
        else:
            make = {DIFFUSION: _train_denoiser, INSTRUCTION: _make_reader}.get(study, _train_cell)
            make(configuration, started["params"], checkpoints, tracker, work)

    view = tracking.start(card, configuration.mlflow)
    tracker = make_folder(
        folder, started, place, view, make, lambda: runs.cell_results(folder), name, told=equal is not None
    )
    if tracker.alive:
        tracking.summarise(lambda: runs.seeds_of(card, folder.parent))
    return folder


def make_folder(
    folder: Path,
    record: dict[str, Any],
    place: str,
    tracker: tracking.Tracker,
    make: Callable[[Path, Path, tracking.Tracker], None],
    results: Callable[[], runs.Results],
    name: str,
    told: bool = False,
) -> tracking.Tracker:
    """Make the contents of ``folder`` in a scratch folder, with the record beside them, then give it its name.

    Args:
        folder: replaced where it exists.
        record: its ``provenance.json``.
        place: name of the scratch folders; a killed run of the same name goes on from its checkpoints.
        tracker: of the run.
        make: called with the empty folder to write into, the folder for checkpoints, and the tracker.
        results: what the finished folder shows.
        name: in `logs/runtime.csv`.
        told: whether the curves have to be logged now, because nobody watched them grow.

    Returns:
        The tracker, closed.
    """
    work, checkpoints = SCRATCH / "work" / place, SCRATCH / "checkpoints" / place
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with tracker, disk.naming(work):
        watch = Stopwatch(checkpoints)
        make(work, checkpoints, tracker)
        provenance.write_json(work / "provenance.json", record)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _replace(work, folder)
        tracker.finish(results, histories=told)
    note_runtime(name, watch.seconds())
    shutil.rmtree(checkpoints, ignore_errors=True)
    watch.forget()
    return tracker


def _make_reader(configuration: params_module.Params, spec: Any, checkpoints: Path, tracker: Any, out: Path) -> None:
    from instruct_ipt.stages import reader_cell

    reader_cell.run(reader_of(configuration, Cell(**spec["cell"])), spec["cell"], out)


def _train_cell(configuration: params_module.Params, spec: Any, checkpoints: Path, tracker: Any, out: Path) -> None:
    from instruct_ipt.stages import cell
    from instruct_ipt.training.build import read_selection

    grid = configuration.ablations
    patches = [params_module.PatchPhase(share=1.0, size=grid.patch)]
    scale = {"steps": grid.steps, "batch_per_task": grid.batch_per_task, "patches": patches, "threads": grid.threads}
    settings = configuration.training.model_copy(update=scale | {"validate_every": spec["validate_every"]})
    degradation, backbone, groups = configuration.degradation, configuration.backbone, read_selection(SELECTION)
    cell.run(cell.Job(spec["cell"], spec["recipe"], settings, degradation, backbone, groups, checkpoints, tracker), out)


def _train_denoiser(configuration: params_module.Params, spec: Any, checkpoints: Path, tracker: Any, out: Path) -> None:
    from instruct_ipt.stages import diffusion_cell
    from instruct_ipt.stages._denoising import Training

    facts, threads = spec["cell"], spec["threads"]
    training = configuration.training.model_copy(update={"threads": threads})
    how = Training(
        configuration.diffusion, training, facts["seed"], checkpoints, tracker, "denoiser cell", spec["steps"]
    )
    diffusion_cell.run(how, facts["setting"], facts, threads, out)


def check_inputs(inputs: Sequence[str], configuration: params_module.Params) -> None:
    """Refuse inputs that are missing or that were made with other parameters or code than those that stand now."""
    for path in inputs:
        maker = maker_of(path)
        assert maker is not None, f"no stage makes {path}"
        if not Path(path).exists():
            raise InputError(
                f"{path} does not exist yet; `dvc repro {maker.name}` makes it (`make repro` makes everything)"
            )
        stale = staleness(maker, configuration)
        if stale:
            raise InputError(
                f"{path} does not match what stands now: {stale[0]}; it was edited while `{maker.name}` ran or since: "
                f"`dvc repro --force --single-item {maker.name}`, then `dvc repro`"
            )


def staleness(stage: Stage, configuration: params_module.Params) -> list[str]:
    """Why the outputs of ``stage`` do not match the parameters, code and inputs of now; empty when they do."""
    missing = [out for out in stage.outputs if not Path(out).exists()]
    if missing:
        return [f"{missing[0]} is missing"]
    recorded = read_record(stage)
    if recorded is None:
        return [f"{stage.provenance} is missing or unreadable"]
    return provenance.differences(recorded, current_record(stage, configuration))


def current_record(stage: Stage, configuration: params_module.Params) -> dict[str, Any]:
    """The provenance that a run of ``stage`` started now would have."""
    sources = [path for folder in stage.sources for path in sorted(Path(folder).rglob("*")) if path.is_file()]
    inputs = [Path(path) for path in stage.inputs if Path(path).exists()] + sources
    return provenance.record(params_module.restrict(configuration, stage.sections), stage.modules, inputs)


def read_record(stage: Stage) -> dict[str, Any] | None:
    """The provenance that stands beside the outputs of ``stage``, or None."""
    return provenance.read_record(stage.provenance)


def _publish(stage: Stage, work: Path, record: dict[str, Any]) -> None:
    """Move the finished outputs from the scratch folder to their places, records beside them."""
    for out in stage.outputs:
        source, target = work / out, Path(out)
        if not source.exists():
            raise RuntimeError(f"stage {stage.name} did not write {out}")
        if source.is_dir():
            provenance.write_json(source / "manifest.json", provenance.manifest_of(source))
        if stage.is_folder:
            provenance.write_json(source / "provenance.json", record)
        target.parent.mkdir(parents=True, exist_ok=True)
    if not stage.is_folder:
        provenance.write_json(work / stage.provenance, record)
    # All is written before the first name is given: from here on nothing needs room on the disk.
    for out in (*stage.outputs, *(() if stage.is_folder else (stage.provenance,))):
        _replace(work / out, Path(out))


def _replace(source: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    # Who was killed in the middle of this has left it; DVC may have taken the target away since.
    shutil.rmtree(old, ignore_errors=True)
    if target.is_dir():
        # A folder cannot be replaced in one step; the old one goes aside first and is deleted last.
        os.replace(target, old)
        try:
            os.replace(source, target)
        except OSError:
            os.replace(old, target)
            raise
        shutil.rmtree(old)
    else:
        os.replace(source, target)


def note_runtime(name: str, seconds: float) -> None:
    """Append one row to `logs/runtime.csv`: the only place where durations, memory and hardware are written down."""
    import importlib.metadata

    RUNTIME.parent.mkdir(parents=True, exist_ok=True)
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    versions = " ".join(f"{p}={importlib.metadata.version(p)}" for p in ("torch", "numpy", "scikit-image"))
    hardware = f"{platform.machine()} {os.cpu_count()} cores"
    row = [name, f"{seconds:.1f}", f"{usage / 1024:.0f}", hardware, f"python={platform.python_version()} {versions}"]
    before = RUNTIME.stat().st_size if RUNTIME.exists() else 0
    try:
        with disk.naming(RUNTIME), RUNTIME.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if not before:
                writer.writerow(["stage", "seconds", "peak_mib", "hardware", "versions"])
            writer.writerow(row)
    except OSError:
        # Half a row would spoil the next one.
        if RUNTIME.exists():
            os.truncate(RUNTIME, before)
        raise
