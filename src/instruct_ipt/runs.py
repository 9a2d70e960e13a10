"""What the runs of the tracking store show, read from the records and results of a replication.

Runs that are logged live and a store that `ipt mlflow-sync` rebuilds both come from here, and therefore agree. Nothing
here touches MLflow.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instruct_ipt import provenance
from instruct_ipt.errors import InputError
from instruct_ipt.paths import ABLATIONS, ARMS, MODELS, RESULTS
from instruct_ipt.stage_table import STAGES, Stage
from instruct_ipt.stages._cells import DIFFUSION, INSTRUCTION, kind_of
from instruct_ipt.tasks import TASKS

PREFIX = "instruct-ipt"
REPLICATION, BENCHMARK, RELEASE = "replication", "benchmark", "release"
CELL_PROTOCOL = "rgb"
"""Protocol by which `ipt cell` scores; it stands beside every number of a cell."""

# Pictures, tables and pages make runs comparable; weights are named by what they are, and stay with DVC.
_SUFFIXES = (".png", ".svg", ".pdf", ".csv", ".md", ".tex", ".html", ".json")
_BYTES = 16_000_000
_DATA = "data/prepared/manifest.json"
# Column of a history -> what its curves are called, and the decimals that history.csv keeps.
_CURVES = {"psnr": ("validation/psnr", 4), "loss": ("training/loss", 6)}


@dataclass(frozen=True)
class Card:
    """Which run something is, known before it begins.

    Attributes:
        study: `replication` (a stage each), `benchmark` (a method each), `release` (a network each), or a study of the
            ablation grid.
        profile: scale of the study.
        name: what a person reads.
        place: what of the study it is; an older run of the same place is the past of this one.
        digest: of parameters, code and inputs; runs of one digest are the same run.
        params: parameters, nested.
        tags: what runs are filtered and grouped by; `code_digest` among them.
        modules: whose code made it.
        parent: the setting that this run is one seed of.
    """

    study: str
    profile: str
    name: str
    place: str
    digest: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    modules: tuple[str, ...]
    parent: Card | None = None

    @property
    def experiment(self) -> str:
        """Name of the experiment: runs of two profiles are never compared, so each has its own."""
        return f"{PREFIX}/{self.profile}/{self.study}"


@dataclass(frozen=True)
class Results:
    """What a finished run has to show.

    Attributes:
        metrics: final numbers.
        tags: what is known only now.
        histories: `history.csv` files, the curves.
        weights: safetensors files.
        files: small files to look at.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    histories: Sequence[Path] = ()
    weights: Sequence[Path] = ()
    files: Sequence[Path] = ()


# ---- stages of the replication --------------------------------------------------------------------------------------


def stage_card(stage: Stage, record: Mapping[str, Any]) -> Card:
    """The run of a stage whose ``provenance.json`` is ``record``."""
    params = record["params"]
    tags = _tags(record) | {"study": REPLICATION, "kind": "stage", "stage": stage.name}
    if "seed" in params:
        tags["seed"] = str(params["seed"])
    name, digest = stage.name.replace("_", " "), provenance.digest(record)
    return Card(REPLICATION, params["profile"], name, stage.name, digest, params, tags, stage.modules)


def stage_results(stage: Stage) -> Results:
    """What the outputs of a finished stage have to show; trained networks also have scores."""
    outputs = [Path(out) for out in stage.outputs if not out.startswith("data/")]
    files = [file for out in outputs for file in _files(out)]
    shown = [file for file in files if _is_shown(file)]
    weights = [file for file in files if file.suffix == ".safetensors"]
    facts = _json(Path(stage.outputs[0]) / "metrics.json") if Path(stage.outputs[0]).parent == MODELS else {}
    histories = [file for file in files if file.name == "history.csv" and MODELS in file.parents]
    if not facts:
        return Results(histories=histories, weights=weights, files=shown)
    return _trained(facts, histories, weights, shown)


def _trained(facts: Mapping[str, Any], histories: list[Path], weights: list[Path], shown: list[Path]) -> Results:
    """What a trained network has to show, ``facts`` being its `metrics.json`."""
    counts = {key: float(facts[key]) for key in ("params_total", "params_added", "params_per_task", "steps")}
    # The scores of the tasks are the ends of their curves.
    metrics = {"validation/psnr/mean": statistics.fmean(facts["validation_psnr"].values())} | counts
    tags = {"method": facts["method"], "strategy": facts["strategy"], "tasks": _task_set(facts["validation_psnr"])}
    return Results(metrics, tags, histories, weights, shown)


# ---- methods on the test images -------------------------------------------------------------------------------------


def benchmark(record: Mapping[str, Any]) -> list[tuple[Card, Results]]:
    """A run per method and seed of `results/benchmark.csv`.

    Args:
        record: provenance of the stage `evaluate`.
    """
    with (RESULTS / "benchmark.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    keys = dict.fromkeys((row["method"], row["seed"]) for row in rows)
    return [
        (
            _method_card(record, method, seed, part[0]["strategy"], _task_set(row["task"] for row in part)),
            Results(_benchmark_metrics(part), files=_samples(method)),
        )
        for method, seed in keys
        if (part := [row for row in rows if (row["method"], row["seed"]) == (method, seed)])
    ]


def _method_card(record: Mapping[str, Any], method: str, seed: str, strategy: str, tasks: str) -> Card:
    tags = {"study": BENCHMARK, "setting": method, "method": method, "strategy": strategy, "tasks": tasks}
    tags = _tags(record) | tags | {"split": "test"}
    modules = STAGES["evaluate"].modules
    # As parameters they are also axes of MLflow's comparison.
    params = {"method": method, "strategy": strategy} | record["params"]
    return _seed_card(BENCHMARK, method, seed, {**record, "params": params}, params, tags, modules)


def _benchmark_metrics(rows: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """`<protocol>/<psnr, ssim or gain>/<task>/<dataset>`, and the mean in which every task counts alike.

    A protocol that was computed for a set of its own alone has no mean: it would be that of one task.
    """
    found: dict[str, float] = {}
    tasks = {row["task"] for row in rows}
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        part = [row for row in rows if row["protocol"] == protocol]
        for measure in ("psnr", "ssim", "gain"):
            values, by_task = {}, {}
            for row in part:
                value = float(row["psnr"]) - float(row["psnr_input"]) if measure == "gain" else float(row[measure])
                values[f"{protocol}/{measure}/{row['task']}/{row['dataset']}"] = value
                by_task.setdefault(row["task"], []).append(value)
            if by_task.keys() == tasks:
                found[f"{protocol}/{measure}/mean"] = statistics.fmean(map(statistics.fmean, by_task.values()))
            found |= values
    return found | {key: float(rows[0][key]) for key in ("params_total", "params_per_task")}


def _samples(method: str) -> list[Path]:
    path = RESULTS / "samples.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        files = [RESULTS / row["file"] for row in csv.DictReader(stream) if row["method"] == method]
    return [file for file in files if file.is_file()]


# ---- cells of the ablation grid -------------------------------------------------------------------------------------


def cell_card(record: Mapping[str, Any]) -> Card:
    """The run of an ablation cell, one seed of its setting."""
    # A record that was not written yet holds tuples; from a file they come back as lists.
    record = json.loads(json.dumps(record))
    params = record["params"]
    cell = params["cell"]
    tags = _tags(record) | {"study": cell["study"], "setting": cell["setting"]} | _told(cell["study"], params)
    without = {key: value for key, value in params.items() if key != "cell"}
    shared = without | {"cell": {key: value for key, value in cell.items() if key != "seed"}}
    return _seed_card(
        cell["study"], cell["setting"], cell["seed"], record, shared, tags, (kind_of(cell["study"]).module,)
    )


def _told(study: str, params: Mapping[str, Any]) -> dict[str, str]:
    """What else the runs of a cell are filtered by."""
    if study == INSTRUCTION:
        return {"method": params["instruction"]["encoder"], "split": "test"}
    recipe = params["recipe"]
    tags = {"method": recipe["method"], "strategy": recipe["strategy"], "tasks": _task_set(recipe["tasks"])}
    return tags | {"protocol": _protocol(study), "split": "validation"}


def _protocol(study: str) -> str:
    """What the scores of a cell are of: whole pictures, or their missing pixels alone."""
    return "missing pixels" if study == DIFFUSION else CELL_PROTOCOL


def cell_results(folder: Path) -> Results:
    """What the folder of a finished cell has to show."""
    facts = _json(folder / "metrics.json")
    files = [file for file in _files(folder) if _is_shown(file)]
    if facts["study"] == INSTRUCTION:
        return Results({f"test/{name}": value for name, value in facts["test"].items()}, files=files)
    metrics: dict[str, float] = {}
    for measure in ("psnr", "ssim"):
        scores = {task: score[measure] for task, score in facts["tasks"].items()}
        metrics |= _with_mean(f"{_protocol(facts['study'])}/{measure}", scores)
    alone = {task: score["psnr"] for task, score in facts.get("backbone_alone", {}).items()}
    metrics |= _with_mean("backbone alone/psnr", alone)
    metrics |= {key: float(facts[key]) for key in ("params_added", "params_total", "steps")}
    return Results(metrics, histories=[folder / "history.csv"], files=files)


def seeds_of(card: Card, folder: Path) -> list[tuple[Card, Results]]:
    """The finished cells in a setting's folder that are seeds of the same setting as ``card``, itself among them."""
    found = []
    for path in sorted(folder.glob("seed-*/provenance.json")):
        record = provenance.read_record(path)
        other = cell_card(record) if record else None
        if other and other.parent and card.parent and other.parent.digest == card.parent.digest:
            found.append((other, cell_results(path.parent)))
    return found


def over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of every metric over seeds; for several seeds also the sample standard deviation, as `<metric>/std`."""
    found: dict[str, float] = {}
    for name in seeds[0]:
        values = [metrics[name] for metrics in seeds if name in metrics]
        found[name] = statistics.fmean(values)
        if len(values) > 1 and "/" in name:
            found[f"{name}/std"] = statistics.stdev(values)
    return found | {"seeds": float(len(seeds))}


# ---- the networks of a release --------------------------------------------------------------------------------------


def arm_card(record: Mapping[str, Any]) -> Card:
    """The run of a network that a release stands on or is compared with."""
    record = json.loads(json.dumps(record))
    params = record["params"]
    name, recipe = params["arm"]["name"], params["arm"]["recipe"]
    tags = _tags(record) | {"study": RELEASE, "setting": name, "seed": str(params["seed"]), "split": "validation"}
    tags |= {"method": recipe["method"], "strategy": recipe["strategy"], "tasks": _task_set(recipe["tasks"])}
    digest = provenance.digest(record)
    return Card(RELEASE, params["profile"], name, name, digest, params, tags, ("instruct_ipt.release.arms",))


def arm_results(folder: Path) -> Results:
    """What the folder of such a network has to show."""
    files = _files(folder)
    weights = [file for file in files if file.suffix == ".safetensors"]
    return _trained(_json(folder / "metrics.json"), [folder / "history.csv"], weights, list(filter(_is_shown, files)))


# ---- all of it ------------------------------------------------------------------------------------------------------


def finished() -> Iterator[tuple[Card, Results]]:
    """Every run that the files of the working directory tell of.

    Raises:
        InputError: a result file is damaged.
    """
    for stage in STAGES.values():
        record = provenance.read_record(stage.provenance)
        if record is not None and all(Path(out).exists() for out in stage.outputs):
            with _readable(stage.provenance):
                found = [(stage_card(stage, record), stage_results(stage)), *extra(stage, record)]
            yield from found
    for folder, pattern, card, results in (
        (ABLATIONS, "*/*/*/seed-*/provenance.json", cell_card, cell_results),
        (ARMS, "*/provenance.json", arm_card, arm_results),
    ):
        for path in sorted(folder.glob(pattern)):
            record = provenance.read_record(path)
            if record is not None and (path.parent / "metrics.json").is_file():
                with _readable(path):
                    found = [(card(record), results(path.parent))]
                yield from found


@contextlib.contextmanager
def _readable(record: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, ValueError, OSError) as error:
        raise InputError(
            f"{record}: the results that it stands for cannot be read ({error!r}); make them again"
        ) from None


def extra(stage: Stage, record: Mapping[str, Any]) -> list[tuple[Card, Results]]:
    """Runs that a finished stage gives beside its own: `evaluate` one per method."""
    return benchmark(record) if stage.name == "evaluate" else []


def curves(history: Path) -> list[tuple[str, float, int]]:
    """(name, value, step) of a `history.csv`, see :func:`curve_values`."""
    with history.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [
        (name, value, int(row["step"]))
        for row in rows
        for name, value in curve_values({f"{row['task']}/{key}": float(row[key]) for key in _CURVES}).items()
    ]


def curve_values(observed: Mapping[str, float]) -> dict[str, float]:
    """What a trainer observes (`<task>/psnr`, `<task>/loss`) by the names and with the digits that runs show.

    The measure comes first, so that the curves of all tasks stand side by side. A task that was not trained since the
    last validation has a loss that is not a number, and no point.
    """
    found = {}
    for name, value in observed.items():
        task, _, measure = name.rpartition("/")
        prefix, digits = _CURVES[measure]
        if not math.isnan(value):
            found[f"{prefix}/{task}"] = round(value, digits)
    return found


def weights_summary(path: Path) -> dict[str, Any]:
    """Path, size, sha256 and the tensors (type and shape) of a safetensors file, without reading the tensors."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as tensors:
        parts = {name: tensors.get_slice(name) for name in sorted(tensors.keys())}
        shapes = {name: {"dtype": part.get_dtype(), "shape": list(part.get_shape())} for name, part in parts.items()}
    size = path.stat().st_size
    return {"path": path.as_posix(), "bytes": size, "sha256": provenance.sha256_file(path), "tensors": shapes}


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of nested parameters."""
    if not isinstance(value, Mapping):
        yield prefix[1:], value
        return
    for key, item in value.items():
        yield from leaves(item, f"{prefix}.{key}")


def _seed_card(
    study: str,
    setting: str,
    seed: Any,
    record: Mapping[str, Any],
    shared: Mapping[str, Any],
    tags: Mapping[str, str],
    modules: tuple[str, ...],
) -> Card:
    """One seed of a setting, under the run that holds the means over seeds; ``shared`` are the parameters of both."""
    profile = record["params"]["profile"]
    same = [shared, record["code_digest"], record["inputs"], setting]
    # The digest of the parameters is that of each seed.
    of_setting = {key: value for key, value in tags.items() if key != "params_digest"} | {"kind": "setting"}
    parent = Card(study, profile, setting, setting, provenance.digest(same), shared, of_setting, modules)
    name, place = f"{setting} seed {seed}", f"{setting}/seed-{seed}"
    digest = provenance.digest([provenance.digest(record), setting, str(seed)])
    own = {**tags, "kind": "seed", "seed": str(seed)}
    return Card(study, profile, name, place, digest, record["params"], own, modules, parent)


def _tags(record: Mapping[str, Any]) -> dict[str, str]:
    tags = {"profile": record["params"]["profile"], "code_digest": record["code_digest"]}
    tags["params_digest"] = record.get("params_digest") or provenance.digest(record["params"])
    return tags | ({"data_digest": record["inputs"][_DATA]} if _DATA in record["inputs"] else {})


def _task_set(tasks: Iterable[str]) -> str:
    """``five`` for the five tasks, else their names with a + between."""
    names = list(dict.fromkeys(tasks))
    ordered = sorted(names, key=lambda name: TASKS.index(name) if name in TASKS else len(TASKS))
    return "five" if tuple(ordered) == TASKS else "+".join(ordered)


def _with_mean(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """`<prefix>/mean`, first for MLflow compares by what comes first, and `<prefix>/<task>`; nothing for no values."""
    found = {f"{prefix}/{task}": float(value) for task, value in values.items()}
    return {f"{prefix}/mean": statistics.fmean(found.values())} | found if found else {}


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _is_shown(file: Path) -> bool:
    """Whether a file is worth a look in the UI: small, and no sample, which its method shows."""
    return file.suffix in _SUFFIXES and file.stat().st_size <= _BYTES and RESULTS / "samples" not in file.parents


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
