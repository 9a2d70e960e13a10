"""The networks a release stands on.

The common arms share one schedule, that of the section `training`: the same steps, batches, data and seed. `synthetic`
is the synchronous one without the real pairs: what they are good for. `release` goes on from the synchronous arm on the
schedule of the section `release`, and `finish` from there, on that of the section `finish`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from instruct_ipt import params as params_module
from instruct_ipt import provenance, runs, tracking
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.benchmark import Method
from instruct_ipt.exclusive import alone
from instruct_ipt.params import STRATEGIES, Params, restrict
from instruct_ipt.paths import ARMS, SELECTION
from instruct_ipt.pipeline import check_inputs, make_folder, under_torchrun
from instruct_ipt.stages import _cells, cell
from instruct_ipt.stages._cells import LEAVES, Recipe
from instruct_ipt.stages._training import write_model, write_models
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared, read_selection
from instruct_ipt.training.checkpoint import load_weights

START, RELEASE, FINISH = "synchronous", "release", "finish"
# Arm -> the one it goes on from, on the schedule of the section of its own name.
GOES_ON: Mapping[str, str] = MappingProxyType({RELEASE: START, FINISH: RELEASE})
SYNTHETIC = "synthetic"
COMMON = ("shared", "experts", "film", "frozen", START, SYNTHETIC)
NAMES = (*COMMON, *GOES_ON)

_SECTIONS = ("seed", "degradation", "backbone", "modulation", "training")


def train(name: str) -> Path:
    """Train one arm on `data/prepared`; a killed run goes on from its last checkpoint.

    Args:
        name: one of :data:`NAMES`.

    Returns:
        Its folder, `models/release/<name>`: weights, history, metrics and provenance.

    Raises:
        InputError: no such arm, torchrun started it, what it stands on is missing or stale, or training diverged.
    """
    if name not in NAMES:
        raise InputError(f"there is no arm {name!r:.40}; allowed: {', '.join(NAMES)}")
    if under_torchrun():
        raise InputError("`ipt arm` runs in one process; start it without torchrun")
    configuration = params_module.load()
    inputs = _inputs(configuration, name)
    record = _record(configuration, name, inputs)
    place = f"arm-{provenance.digest(record)[:16]}"
    with alone(place, f"arm {name}"):
        folder = ARMS / name
        view = tracking.start(runs.arm_card(record), configuration.mlflow)

        def make(work: Path, checkpoints: Path, tracker: tracking.Tracker) -> None:
            _make(configuration, name, work, checkpoints, tracker)

        make_folder(folder, record, place, view, make, lambda: runs.arm_results(folder), f"arm/{name}")
    return folder


def recipe_of(configuration: Params, name: str) -> Recipe:
    """What an arm is; all that have a size are as large as the low-rank biases."""
    setting = name if name in STRATEGIES else START
    recipe = _cells.recipe_of(configuration, _cells.Cell("strategy", setting, configuration.seed))
    return replace(recipe, method=name) if name == "film" else recipe


def groups_of(configuration: Params) -> list[str]:
    """The weight groups that carry a bias: those that `params.yaml` names, else those that the search selected."""
    return list(configuration.sensitivity.groups) or read_selection(SELECTION)


def settings_of(configuration: Params, name: str) -> Any:
    """The section `training`, as an arm changes it."""
    if name == SYNTHETIC:
        return configuration.training.model_copy(update={"real_share": 0.0})
    if name not in GOES_ON:
        return configuration.training
    own = getattr(configuration, name)
    return configuration.training.model_copy(update={key: getattr(own, key) for key in type(own).model_fields})


def load(configuration: Params, name: str) -> Method | None:
    """Task -> the trained network of an arm; None where it was not trained yet.

    Raises:
        InputError: it was trained with other parameters or on other data than those that stand now.
    """
    folder = ARMS / name
    if not (folder / "metrics.json").is_file():
        return None
    _check_described(configuration, name)
    recipe, seed = asdict(recipe_of(configuration, name)), configuration.seed
    if name == "experts":
        networks = {task: build_shared(configuration.backbone, seed) for task in TASKS}
        for task, network in networks.items():
            load_weights(folder / f"{task}.safetensors", network)
        return {task: network.eval() for task, network in networks.items()}
    network = cell.build(recipe, configuration.backbone, seed, groups_of(configuration))
    load_weights(_weights(name), network)
    return dict.fromkeys(TASKS, network.eval())


def steps_of(configuration: Params, name: str) -> int:
    """Steps of training behind the weights of an arm; those of the arm that it goes on from count."""
    before = steps_of(configuration, GOES_ON[name]) if name in GOES_ON else 0
    return before + settings_of(configuration, name).steps


def _trained_before(name: str) -> int:
    return 1 + _trained_before(GOES_ON[name]) if name in GOES_ON else 0


def _inputs(configuration: Params, name: str) -> list[Path]:
    """The files an arm stands on; InputError where one is missing or stale."""
    made = [path for path in LEAVES if path != SELECTION or not configuration.sensitivity.groups]
    check_inputs([path.as_posix() for path in made], configuration)
    if name not in GOES_ON:
        return made
    start = _weights(GOES_ON[name])
    if not start.is_file():
        raise InputError(f"{start} does not exist, from which {name} goes on; `ipt arm {GOES_ON[name]}` makes it")
    _check_described(configuration, GOES_ON[name])
    return [*made, start]


def _check_described(configuration: Params, name: str) -> None:
    """InputError where an arm is none that `params.yaml` and the data of now describe; edited sources are let pass."""
    recorded = provenance.read_record(ARMS / name / "provenance.json")
    if recorded is None:
        raise InputError(f"{ARMS / name}/provenance.json is missing or damaged; `ipt arm {name}` trains it anew")
    # What it went on from may be gone by now.
    inputs = {path: digest for path, digest in recorded["inputs"].items() if Path(path).is_file()}
    now = _record(configuration, name, [Path(path) for path in inputs])
    found = provenance.differences(recorded | {"code_digest": now["code_digest"], "inputs": inputs}, now)
    if found:
        raise InputError(f"{ARMS / name} was trained otherwise: {found[0]}; `ipt arm {name}` trains it anew")


def _weights(name: str) -> Path:
    return ARMS / name / "weights.safetensors"


def _record(configuration: Params, name: str, inputs: list[Path]) -> dict[str, Any]:
    own = (name,) if name in GOES_ON else ()
    # As JSON has it, to be compared with what is read back.
    recipe = json.loads(json.dumps(asdict(recipe_of(configuration, name))))
    arm: Mapping[str, Any] = {"name": name, "recipe": recipe}
    # Of the search only what it selected changes a network; where it is not named, its file counts as an input.
    selected = {"groups": groups_of(configuration)}
    sections = restrict(configuration, _SECTIONS + own) | {"sensitivity": selected, "arm": arm}
    return provenance.record(sections, [__name__], inputs)


def job_of(configuration: Params, name: str, checkpoints: Path, tracker: Any) -> cell.Job:
    """What an arm is trained from."""
    return cell.Job(
        {"study": "arm", "setting": name, "seed": configuration.seed},
        asdict(recipe_of(configuration, name)),
        settings_of(configuration, name),
        configuration.degradation,
        configuration.backbone,
        groups_of(configuration),
        checkpoints,
        tracker,
        _weights(GOES_ON[name]) if name in GOES_ON else None,
        _trained_before(name),
    )


def _make(configuration: Params, name: str, out: Path, checkpoints: Path, tracker: tracking.Tracker) -> None:
    job = job_of(configuration, name, checkpoints, tracker)
    models, history = cell.train(job)
    facts = {"method": job.recipe["method"], "strategy": job.recipe["strategy"]}
    if name == "experts":
        write_models(out, models, history, facts, job.settings.steps)
    else:
        write_model(out, next(iter(models.values())), history, facts)
    # Beside the weights, as a replication has it: `ipt release` builds the network from it.
    chosen_by = "params.yaml: sensitivity.groups" if configuration.sensitivity.groups else SELECTION.as_posix()
    provenance.write_json(out / "selection.json", {"groups": job.groups, "chosen_by": chosen_by})
