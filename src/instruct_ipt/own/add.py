"""`ipt task add`: train a bias, judge it, and put its pack beside the others."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from instruct_ipt.disk import FULL, naming
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import BACKBONE_FILE, backbone_digest, save_pack
from instruct_ipt.paths import WEIGHTS
from instruct_ipt.provenance import write_json
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import find_weights, load_model, released_tasks, write_release
from instruct_ipt.tasks import NOISE, TASKS, split_level

from .damage import load_damage
from .fit import Say, Settings, fit
from .material import Material, from_bundled, from_images, from_pairs
from .packs import MADE_BY, is_own, read
from .scores import BARE, INPUT, PROTOCOL, Score, means, nearest, score, unchanged, write_scores

CHECKED = 3
"""Validation images on which the other tasks are compared before and after."""


@dataclass(frozen=True)
class Report:
    """What came of it. All scores are means over the validation pairs, by protocol `rgb`.

    Attributes:
        task: its name.
        pack: the file.
        pack_bytes, backbone_bytes: sizes of the files.
        images: number n of validation pairs.
        best_step: the step that is kept.
        scores: method -> (PSNR in dB, SSIM); `input`, `backbone` (strength 0), every older task, and the new one.
        nearest: the older task of the highest PSNR.
        unchanged: older task -> whether its folded weights and what it restores are the same bits as before.
        made_release: the release that was made of a replication; None where there was one.
        notes: what a person should know.
    """

    task: str
    pack: Path
    pack_bytes: int
    backbone_bytes: int
    images: int
    best_step: int
    scores: dict[str, tuple[float, float]]
    nearest: str
    unchanged: dict[str, bool]
    made_release: Path | None
    notes: list[str]


def add_task(
    task: str,
    given: Path | None = None,
    target: Path | None = None,
    degradation: str | None = None,
    weights: Path | None = None,
    settings: Settings | None = None,
    force: bool = False,
    say: Say = print,
) -> Report:
    """Train a bias for a new task on the frozen backbone of a release and write `<task>.safetensors` beside the others.

    A replication is made a release first, `weights/`: its own folder belongs to the pipeline. `<task>.csv` (each
    image's scores) and `<task>.json` stand beside the pack. Everything is written at the end, the pack last.

    Args:
        task: letters, digits, - and _; not taken.
        given: folder of degraded images; needs `target`.
        target: folder of clean images of the same names, or any clean images for `degradation`.
        degradation: `module:function` (see `Damage`), on the images of `target` or, without it, the bundled ones.
        weights: a release, or the models of a replication; None takes what `ipt restore` would take.
        settings: of the training; None: the defaults.
        force: whether a task of one's own of this name may be replaced.
        say: told how it goes, line by line.

    Raises:
        InputError: one line that says what is wrong; nothing is written.
    """
    settings = settings or Settings()
    _check_name(task)
    source, final = _places(weights)
    _check_free(task, final, force)
    material = _material(given, target, degradation, settings)
    for line in material.notes:
        say(f"note: {line}")
    with _staged(source, final, task) as stage:
        before = load_model(stage)
        ranks = read(stage / f"{before.tasks[0]}.safetensors").ranks
        model, step = fit(task, before, ranks, material, settings, say)
        pack = stage / f"{task}.safetensors"
        facts = {"made_by": MADE_BY, "step": step} | asdict(settings)
        save_pack(model, task, pack, facts, degradation=material.source)
        # From the files, as `ipt restore` will read them.
        restorer = Restorer(after := load_model(stage), "cpu")
        same = unchanged(before, after, [pair.input for pair in material.validation[:CHECKED]])
        if not all(same.values()):
            raise RuntimeError(f"adding {task} changed {[name for name, kept in same.items() if not kept]}")
        scores = score(material.validation, restorer, task, (INPUT, BARE, *before.tasks, task))
        found = means(scores)
        report = Report(
            task=task,
            pack=final / pack.name,
            pack_bytes=pack.stat().st_size,
            backbone_bytes=(stage / BACKBONE_FILE).stat().st_size,
            images=len(material.validation),
            best_step=step,
            scores=found,
            nearest=nearest(found, before.tasks),
            unchanged=same,
            made_release=None if source == final else final,
            notes=material.notes,
        )
        _write_records(stage, report, scores, settings, material)
        _publish(stage, source, final, task)
    return report


def _check_name(task: str) -> None:
    """InputError for a name that cannot be a task's."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}", task):
        raise InputError(f"task {task!r}: letters, digits, - and _ are allowed, 64 of them, and no - in front")
    if split_level(task)[0] == NOISE and task != NOISE:
        raise InputError(f"task {task!r} means noise of one level elsewhere; choose another name")
    if task.lower() in (*TASKS, Path(BACKBONE_FILE).stem):
        raise InputError(f"task {task!r} is taken; choose another name")


def _check_free(task: str, folder: Path, force: bool) -> None:
    """InputError where the release in `folder` has the task, unless it is a person's own and may be replaced."""
    # On some disks Fog and fog are one file.
    taken = [path for path in folder.glob("*.safetensors") if path.stem.lower() == task.lower()]
    if not taken:
        return
    if not is_own(read(taken[0])):
        raise InputError(f"{taken[0]} came with the network; choose another name")
    if not force or taken[0].stem != task:
        raise InputError(f"{taken[0]} exists; choose another name, or give --force to replace {taken[0].stem}")


def _places(weights: Path | None) -> tuple[Path, Path]:
    """Where the network is, and the release that the new pack belongs to; the two differ for a replication."""
    source = weights or find_weights()
    if (source / BACKBONE_FILE).is_file():
        return source, source
    model = load_model(source)
    if not (WEIGHTS / BACKBONE_FILE).is_file():
        if WEIGHTS.is_dir() and any(WEIGHTS.iterdir()):
            raise InputError(f"{WEIGHTS} is no release and not empty; move it away: the release is made there")
        return source, WEIGHTS
    if read(WEIGHTS / f"{released_tasks(WEIGHTS)[0]}.safetensors").backbone != backbone_digest(model.backbone):
        raise InputError(
            f"{WEIGHTS} is a release of another network than {source}; `ipt release --models {source} -o FOLDER` makes"
            " one of this network, to be named with --weights FOLDER"
        )
    return WEIGHTS, WEIGHTS


def _material(given: Path | None, target: Path | None, degradation: str | None, settings: Settings) -> Material:
    """What the options name."""
    if degradation is not None and given is not None:
        raise InputError("--input and --degradation are two ways to get degraded images; give one of them")
    if degradation is not None:
        damage = load_damage(degradation)
        return from_bundled(damage, settings.seed) if target is None else from_images(target, damage, settings.patch)
    if given is None or target is None:
        raise InputError("give --input DIR and --target DIR (pairs), or --degradation MODULE:FUNCTION")
    return from_pairs(given, target, settings.patch)


@contextmanager
def _staged(source: Path, final: Path, task: str) -> Iterator[Path]:
    """A hidden folder that holds the release as it is without `task`; gone at the end, whatever happens."""
    stage = final / f".adding-{task}" if source == final else final.with_name(f".{final.name}-adding-{task}")
    try:
        shutil.rmtree(stage, ignore_errors=True)
        if source == final:
            stage.mkdir()
            for path in source.glob("*.safetensors"):
                if path.stem != task:
                    _link(path, stage / path.name)
        else:
            write_release(source, stage)
        with naming(stage):
            yield stage
    except OSError as error:
        if error.errno in FULL:
            raise
        raise InputError(f"{final} cannot be written: {error}; copy it and name the copy with --weights") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _link(path: Path, to: Path) -> None:
    """The same file under a second name, or a copy where the disk has no such thing."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _write_records(stage: Path, report: Report, scores: list[Score], settings: Settings, material: Material) -> None:
    """`<task>.csv`, a row per image and method, and `<task>.json`, the rest."""
    write_scores(scores, stage / f"{report.task}.csv")
    record = {
        "task": report.task,
        "protocol": PROTOCOL,
        "images": report.images,
        "scores": {m: {"psnr": round(p, 4), "ssim": round(s, 5)} for m, (p, s) in report.scores.items()},
        "nearest": report.nearest,
        "best_step": report.best_step,
        "settings": asdict(settings),
        "trained_on": material.source,
        "unchanged_bit_for_bit": report.unchanged,
        "pack_bytes": report.pack_bytes,
        "backbone_bytes": report.backbone_bytes,
        "notes": report.notes,
    }
    write_json(stage / f"{report.task}.json", record)


def _publish(stage: Path, source: Path, final: Path, task: str) -> None:
    """Move what is finished to its place: the whole release where there was none, else the pack, as the last file."""
    if source != final:
        if final.is_dir():
            final.rmdir()
        os.replace(stage, final)
        return
    for suffix in (".csv", ".json", ".safetensors"):
        os.replace(stage / f"{task}{suffix}", final / f"{task}{suffix}")
