"""A user's own images in the same machinery: `ipt data add`."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from instruct_ipt.data.catalogue import (
    CATALOGUE,
    FACTS,
    DataSet,
    Entry,
    Fact,
    Part,
    Split,
    load_catalogue,
    scenes,
    write_custom,
)
from instruct_ipt.data.folders import check_partners, image_files
from instruct_ipt.data.images import image_size
from instruct_ipt.data.overlap import fingerprint_file, overlaps
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.data.verify import clean_files, describe, verify
from instruct_ipt.errors import InputError
from instruct_ipt.paths import RAW
from instruct_ipt.provenance import sha256_file
from instruct_ipt.tasks import TASKS

HELD_OUT = 10  # one training scene in so many is held out for validation


def add(
    name: str,
    task: str,
    given: Path | None,
    target: Path,
    split: str = "train",
    catalogue: Path = CATALOGUE,
    raw: Path = RAW,
    side_by_side: bool = False,
) -> DataSet:
    """Register a folder of pairs, or of clean images, as data set ``name``; the images stay where they are.

    Every file is decoded, hashed and measured now. Training scenes are compared with the bundled test photographs and
    with every test set of the catalogue that is on disk. A tenth of them, chosen by a hash of the scene's name, is held
    out for validation; scenes that look alike (frames of a video) stay on one side.

    Args:
        name: letters, digits, - and _; not taken.
        task: one of :data:`instruct_ipt.tasks.TASKS`.
        given: folder of degraded images; None for clean images, which get our own damage.
        target: folder of clean images; a pair has the same name, extensions may differ.
        split: ``train`` or ``test``.
        catalogue: folder of the catalogue.
        raw: where fetched sets lie.
        side_by_side: every image of ``target`` is a pair, the clean image left and the degraded one right.

    Raises:
        InputError: one line that names the file or option, what is wrong and what to do; nothing is registered.
    """
    _check_options(name, task, split, catalogue)
    if given is not None and (side_by_side or given.resolve() == target.resolve()):
        raise InputError(f"--input {given}: pairs come from two folders, or side by side from --target alone")
    inputs, targets = (image_files(given) if given else {}), image_files(target)
    if given:
        check_partners(inputs, targets, given, target)
    home = Path(os.path.commonpath([p.absolute() for p in (given, target) if p]))
    clean: Part = "both" if side_by_side else "target"
    parts: tuple[tuple[Part, dict[str, Path]], ...] = (("input", inputs), (clean, targets))
    made = DataSet(
        name=name,
        level="custom",
        title=name,
        task=task,
        layout="both" if side_by_side else "paired" if given else "clean",
        note=f"registered with `ipt data add`, {len(targets)} scenes",
        facts={fact: Fact() for fact in FACTS},
        entries=tuple(_entry(p, home, split, part) for part, found in parts for p in found.values()),
        folder=home.as_posix(),
    )
    prints = _checked(made, raw)
    if split == "train":
        _check_overlap(prints, catalogue, raw)
        held = _held_out(prints)
        entries = (replace(e, split="validation") if e.stem in held else e for e in made.entries)
        made = replace(made, entries=tuple(entries))
    write_custom(made, catalogue)
    return made


def remove(name: str, catalogue: Path = CATALOGUE) -> None:
    """Forget a registered set; its images stay.

    Raises:
        InputError: no set of that name is registered.
    """
    description = catalogue / "custom" / f"{name}.yaml"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not description.is_file():
        raise InputError(f"{name!r} is not registered; `ipt data list --level custom` shows what is")
    description.unlink()
    description.with_suffix(".csv").unlink(missing_ok=True)


def _check_options(name: str, task: str, split: str, catalogue: Path) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise InputError(f"name {name!r}: only letters, digits, - and _ are allowed")
    if name in load_catalogue(catalogue):
        raise InputError(f"name {name!r} is taken; choose another, or `ipt data remove {name}` if it is yours")
    if task not in TASKS:
        raise InputError(f"--task {task!r} does not exist; allowed: {', '.join(TASKS)}")
    if split not in ("train", "test"):
        raise InputError(f"--split {split!r} does not exist; allowed: train, test")


def _entry(path: Path, home: Path, split: Split, part: Part) -> Entry:
    width, height = image_size(path)
    relative = path.absolute().relative_to(home).as_posix()
    return Entry(relative, None, sha256_file(path), path.stat().st_size, split, part, width, height)


def _checked(made: DataSet, raw: Path) -> dict[str, np.ndarray]:
    """Scene -> fingerprint of its clean image, once `ipt data verify` finds nothing wrong."""
    report = verify([made], raw)
    if report.findings:
        first = report.findings[0]
        raise InputError(f"{first.file}: {first.problem.rsplit('; ', 1)[0]}; mend or remove it; nothing was registered")
    return {key.split("/", 1)[1]: value for prints in report.prints.values() for key, value in prints.items()}


def _check_overlap(prints: Mapping[str, np.ndarray], catalogue: Path, raw: Path) -> None:
    matches = overlaps(prints, _test_prints(catalogue, raw))
    if matches:
        first, more = matches[0], f" (and {len(matches) - 1} more)" if len(matches) > 1 else ""
        raise InputError(
            f"{first.first} shows the scene of {first.second} (test), {describe(first)}{more}; remove it from the "
            "folder or register the folder with --split test; nothing was registered"
        )


def _test_prints(catalogue: Path, raw: Path) -> dict[str, np.ndarray]:
    """``<set>/<scene>`` -> fingerprint, of the bundled test photographs and of every test image on disk."""
    found = {f"bundled/{photo.name}": fingerprint_file(locate(photo)) for photo in BUNDLED if photo.split == "test"}
    for dataset in load_catalogue(catalogue).values():
        try:
            members = [scene for scene in scenes(dataset, raw) if scene.split == "test"]
        except InputError:  # not there, or incomplete: `ipt data verify` says so
            continue
        for path, (scene, half) in clean_files(members).items():
            if path.is_file():
                found[f"{dataset.name}/{scene.name}"] = fingerprint_file(path, half)
    return found


def _held_out(prints: Mapping[str, np.ndarray]) -> set[str]:
    """Names of the scenes for validation: those whose group has a hash divisible by HELD_OUT; one group at least.

    A group is a scene with those that look like it; its hash is the smallest of its members'.
    """
    groups: dict[str, set[str]] = {name: {name} for name in prints}
    for match in overlaps(prints, prints):
        if groups[match.first] is not groups[match.second]:
            joined = groups[match.first] | groups[match.second]
            groups |= dict.fromkeys(joined, joined)
    keys = {frozenset(group): min(map(_hash, group)) for group in groups.values()}
    if len(keys) < 2:
        return set()
    held = [group for group, key in keys.items() if key % HELD_OUT == 0]
    if len(held) in (0, len(keys)):
        held = [min(keys, key=lambda group: keys[group])]
    return set().union(*held)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
