"""Where the network comes from: a release folder, or the models of a finished replication."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from instruct_ipt.backbone import BackboneConfig, NafConfig, NafNet, UNet, UShape, UShapeConfig, build_backbone
from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import (
    BACKBONE_FILE,
    Modulated,
    RankRule,
    backbone_digest,
    load_pack,
    load_release,
    modulate,
    read_architecture,
    rounded,
    save_release,
)
from instruct_ipt.modulation.pack import fill
from instruct_ipt.paths import MODELS, WEIGHTS
from instruct_ipt.tasks import TASKS

from .choice import ESTIMATOR, INSTRUCTION
from .joined import join

CARD = "README.md"
SCORES_BEGIN, SCORES_END = "<!-- scores: written by `ipt scores --record` -->", "<!-- end of scores -->"
"""The lines of a release's card between which `ipt scores --record` writes."""

_KINDS: dict[str, tuple[type[UShape], type[UShapeConfig]]] = {"ipt": (UNet, BackboneConfig), "naf": (NafNet, NafConfig)}
_FORMAT_VERSION = 1
_MAX_WIDTH = 4096
_MODEL = "modulation"
_HINT = "run `make repro`, or name a folder that `ipt release` wrote"


def find_weights() -> Path:
    """The folder that is used when none is named: `weights/` or `models/modulation` here, else what is installed.

    Raises:
        InputError: there is none; says how to get one.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (WEIGHTS, MODELS / _MODEL, package.parents[1] / WEIGHTS, package / WEIGHTS):
        if (folder / BACKBONE_FILE).is_file() or (folder / "weights.safetensors").is_file():
            return folder
    raise InputError(f"there are no weights in {WEIGHTS} or {MODELS / _MODEL}: {_HINT} with --weights")


def load_model(folder: Path) -> Modulated:
    """The network of a release folder, of `models/modulation`, or of `models` above it, on the CPU.

    Raises:
        InputError: no such folder, not one of these, or damaged; one line that says what to do.
    """
    for place in (folder, folder / _MODEL):
        if (place / BACKBONE_FILE).is_file():
            return _from_release(place)
        if (place / "weights.safetensors").is_file():
            return _from_replication(place)
    raise InputError(f"{folder} holds neither {BACKBONE_FILE} nor {_MODEL}/weights.safetensors: {_HINT}")


def describe_architecture(backbone: UShape) -> dict[str, Any]:
    """What `build_from` needs to build a network of the shape of `backbone`; JSON.

    Raises:
        ValueError: a network of another kind.
    """
    for kind, (network, _) in _KINDS.items():
        if type(backbone) is network:
            return {"format_version": _FORMAT_VERSION, "kind": kind, "config": asdict(backbone.config)}
    raise ValueError(f"a {type(backbone).__name__} is none of {', '.join(_KINDS)}")


def build_from(architecture: Mapping[str, Any], parameters: int, folded: bool = False) -> UShape:
    """The network that `describe_architecture` described, with weights that mean nothing.

    Args:
        architecture: read from a file; nothing in it is taken on trust.
        parameters: how many numbers the weights have that belong to it. Memory is asked for only if that fits.
        folded: whether the network is in its form for inference.

    Raises:
        ValueError: another format version or kind, or a configuration that cannot be or does not fit `parameters`.
    """
    version, kind, config = (architecture.get(key) for key in ("format_version", "kind", "config"))
    if version != _FORMAT_VERSION:
        raise ValueError(f"it has architecture format {version!r:.20}, this version reads {_FORMAT_VERSION}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"its backbone is of kind {kind!r:.20}; known: {', '.join(_KINDS)}")
    if not isinstance(config, dict):
        raise ValueError("its architecture has no config")
    network, schema = _KINDS[kind]
    try:
        shape = schema(**{key: tuple(value) if isinstance(value, list) else value for key, value in config.items()})
        if not (shape.width <= _MAX_WIDTH and sum(shape.depths) <= parameters):
            raise ValueError("it is larger than its weights")
        with torch.device("meta"):
            empty = network(shape)
            empty = empty.fold() if folded else empty
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"its architecture cannot be built: {' '.join(str(error).split())[:200]}") from error
    if (needed := sum(parameter.numel() for parameter in empty.parameters())) != parameters:
        raise ValueError(f"its architecture has {needed} parameters, its weights have {parameters}")
    return empty.to_empty(device="cpu")


def _from_release(folder: Path) -> Modulated:
    path = folder / BACKBONE_FILE
    try:
        architecture = read_architecture(folder)
        if architecture is None:
            raise ValueError(f"{path} does not say how to build its network; write it again with `ipt release`")
        parameters = sum(value.numel() for value in load_file(path).values())
        try:
            backbone = build_from(architecture, parameters)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; get the file again") from error
        tasks = released_tasks(folder)
        return join([load_release(backbone, folder, alike) for alike in _alike(folder, tasks)], tasks).eval()
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(str(error)) from error


def released_tasks(folder: Path) -> list[str]:
    """Tasks that have a pack in `folder`: the known ones in their order, then the others by name.

    Raises:
        InputError: there is none.
    """
    names = {path.stem for path in folder.glob("*.safetensors") if path.name != BACKBONE_FILE}
    if not names:
        raise InputError(f"{folder} holds a backbone and no task pack; get the packs too")
    return [task for task in TASKS if task in names] + sorted(names - set(TASKS))


def _alike(folder: Path, tasks: list[str]) -> list[list[str]]:
    """The tasks in groups of equal ranks, in the order in which they come."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        ranks = load_pack(folder / f"{task}.safetensors").ranks
        groups.setdefault(json.dumps(ranks, sort_keys=True), []).append(task)
    return list(groups.values())


def _from_replication(folder: Path) -> Modulated:
    """`models/modulation`, or an arm of a release, as its training wrote it.

    The selection stands beside a stage's folder, and in an arm's.
    """
    params, path = _record(folder)["params"], folder / "weights.safetensors"
    own = folder / "selection.json"
    groups = _json(own if own.is_file() else folder.parent / own.name)
    try:
        choice, rule = params["backbone"], params["modulation"]
        value = int(rule["value"]) if rule["rule"] == "constant" else rule["value"]
        with torch.random.fork_rng(devices=[]):
            backbone = build_backbone(choice["preset"], choice["kind"])
        members = backbone.weight_groups()
        names = [name for group in groups["groups"] for name in members[group]]
        model = modulate(backbone, TASKS, names, RankRule(rule["rule"], value), torch.Generator())
        fill(model, load_file(path))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} does not fit its records or this version: {reason}; run `make repro`") from error
    return model.eval()


def _record(folder: Path) -> dict[str, Any]:
    """The record beside a trained model."""
    record = _json(folder / "provenance.json")
    if not isinstance(record.get("params"), dict):
        raise InputError(f"{folder / 'provenance.json'} is damaged: it has no params; run `make repro`")
    return record


def _json(path: Path) -> dict[str, Any]:
    """A JSON object that a replication wrote."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path} cannot be read; the network cannot be built without it: run `make repro`") from None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{path} is damaged: it is no JSON object; run `make repro`")
    return value


def write_release(models: Path, out: Path, force: bool = False, half: bool = False) -> Modulated:
    """Write the modulated network of a finished replication to `out` as a release, with a model card.

    Each pack says what its task was trained on and what it reached in validation. The reader of instructions and the
    estimator of damage go with it where they stand in `models`.

    Args:
        models: `models` of the replication.
        out: folder of the release.
        force: whether a release that is there may be replaced.
        half: whether the weights are stored in half precision, in files of half the size.

    Raises:
        InputError: no finished replication in `models`, or `out` holds a release.
    """
    source = models if (models / "weights.safetensors").is_file() else models / _MODEL
    if not (source / "weights.safetensors").is_file():
        raise InputError(f"{models} holds no {_MODEL}/weights.safetensors; run `make repro` first")
    if (out / BACKBONE_FILE).exists() and not force:
        raise InputError(f"{out} holds a release already; give --force to replace it")
    model, dtype = _from_replication(source), torch.float16 if half else None
    if dtype is not None:
        model = rounded(model, dtype)
    _spare_own_tasks(model, out)
    params, metrics = _record(source)["params"], _json(source / "metrics.json")
    with _staged(out) as stage:
        _fill(stage, model, source, params, metrics, dtype)
    return model


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A hidden folder in ``out``, whose files move to ``out`` once all are there; gone at the end, whatever happens."""
    stage = out / ".releasing"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        yield stage
        written = [path.relative_to(stage) for path in sorted(stage.rglob("*")) if path.is_file()]
        for path in written:
            (out / path).parent.mkdir(parents=True, exist_ok=True)
        # The backbone last: a folder without it is no release, and who was stopped here may simply try again.
        for path in sorted(written, key=lambda path: path.name == BACKBONE_FILE):
            os.replace(stage / path, out / path)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _fill(
    out: Path,
    model: Modulated,
    source: Path,
    params: Mapping[str, Any],
    metrics: Mapping[str, Any],
    dtype: torch.dtype | None,
) -> None:
    """Write the files of a release into an empty folder."""
    reached = {task: {"validation_psnr_db": psnr} for task, psnr in metrics["validation_psnr"].items()}
    save_release(
        model,
        out,
        degradation={task: params["degradation"][task] for task in model.tasks},
        metrics=reached,
        architecture=describe_architecture(model.backbone),
        dtype=dtype,
    )
    for name in (INSTRUCTION, ESTIMATOR):
        # Beside a stage's folder, or beside that of all arms.
        found = [parent / name for parent in source.absolute().parents[:2] if (parent / name).is_dir()]
        for path in sorted(found[0].glob("*")) if found else []:
            write_whole(out / name / path.name, path.read_bytes())
    write_whole(out / CARD, _card(model, params, metrics).encode())


def _spare_own_tasks(model: Modulated, out: Path) -> None:
    """InputError where replacing the release in `out` would leave tasks of a person's own without their backbone."""
    if not (out / BACKBONE_FILE).is_file():
        return
    own = sorted({path.stem for path in out.glob("*.safetensors")} - {Path(BACKBONE_FILE).stem, *model.tasks})
    digest = backbone_digest(model.backbone)
    try:
        orphans = any(load_pack(out / f"{task}.safetensors").backbone != digest for task in own)
    except ValueError as error:
        raise InputError(str(error)) from error
    if orphans:
        raise InputError(
            f"{out} holds tasks of your own ({', '.join(own)}), which need the backbone that is there; name another"
            f" folder with -o, or first `ipt task remove {own[0]}`"
        )


def _card(model: Modulated, params: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The model card: what it is, how it was made, what it reached, where it ends."""
    reached = metrics["validation_psnr"]
    rows = [f"| {task} | {reached[task]:.2f} |" for task in model.tasks]
    backbone, total = params["backbone"], metrics["params_total"]
    return "\n".join(
        [
            "# Model card",
            "",
            f"One restoration network for {', '.join(model.tasks)}, by low-rank weight modulation (Instruct-IPT, arXiv",
            "2407.00676). Written by `ipt release`; used by `ipt restore`.",
            "",
            f"- Backbone: kind `{backbone['kind']}`, preset `{backbone['preset']}`; {total:,} parameters with the"
            f" biases of all tasks, {metrics['params_per_task']:,.0f} of them per task.",
            f"- Training: profile `{params['profile']}`, seed {params['seed']}, {metrics['steps']:,} steps, backbone"
            " and biases together, on the damage that each pack's header describes.",
            "- Files: `backbone.safetensors` and one pack per task. Nothing in them is executed on loading.",
            "",
            "| task | PSNR on the validation images, dB |",
            "|---|---:|",
            *rows,
            "",
            "Scores on benchmark images:",
            "",
            SCORES_BEGIN,
            "not computed yet",
            SCORES_END,
            "",
            "Real photographs differ from damage that is made, and a small profile shows that the machinery works, not",
            "how good the method can be. Not for evidence or diagnosis: restored detail is an estimate.",
            "Code: Apache-2.0. The training images keep their own terms.",
            "",
        ]
    )
