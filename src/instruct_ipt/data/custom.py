"""A user's own images in the same machinery: `ipt data add`."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from instruct_ipt.data.catalogue import (
    CATALOGUE,
    FACTS,
    DataSet,
    Entry,
    Fact,
    Part,
    Split,
    load_catalogue,
    write_custom,
)
from instruct_ipt.data.images import EXTENSIONS, image_size, read_image
from instruct_ipt.data.verify import verify
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
) -> DataSet:
    """Register a folder of pairs, or of clean images, as data set ``name``; the images stay where they are.

    Every file is decoded, hashed and measured now; its scenes are compared with those of the sets in the catalogue that
    are on disk. Of the training scenes a tenth, chosen by a hash of the scene's name, is held out for validation.

    Args:
        name: letters, digits, - and _; not taken.
        task: one of :data:`instruct_ipt.tasks.TASKS`.
        given: folder of degraded images; None for clean images, which get our own damage.
        target: folder of clean images; a pair has the same name, extensions may differ.
        split: ``train`` or ``test``.
        catalogue: folder of the catalogue.
        raw: where fetched sets lie.

    Raises:
        InputError: one line that names the file or option, what is wrong and what to do; nothing is registered.
    """
    _check_options(name, task, split, catalogue)
    inputs, targets = (_images(given) if given else {}), _images(target)
    if given:
        _check_partners(inputs, targets, given, target)
    home = Path(os.path.commonpath([p.absolute() for p in (given, target) if p]))
    parts: tuple[tuple[Part, dict[str, Path]], ...] = (("input", inputs), ("target", targets))
    splits = {stem: _split(stem, split, targets) for stem in targets}
    made = DataSet(
        name=name,
        level="custom",
        title=name,
        task=task,
        layout="paired" if given else "clean",
        note=f"registered with `ipt data add`, {len(targets)} scenes",
        facts={fact: Fact() for fact in FACTS},
        entries=tuple(_entry(p, home, splits[stem], part) for part, found in parts for stem, p in found.items()),
        folder=home.as_posix(),
    )
    _check_content(made, catalogue, raw)
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


def _images(folder: Path) -> dict[str, Path]:
    """Stem -> file of the images directly in ``folder``, sorted."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds the images")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            if path.stem in found:
                raise InputError(f"{path} and {found[path.stem].name} have one name; rename or remove one")
            found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))})")
    return found


def _check_partners(inputs: dict[str, Path], targets: dict[str, Path], given: Path, target: Path) -> None:
    for one, other, folder in ((inputs, targets, target), (targets, inputs, given)):
        lonely = sorted(set(one) - set(other))
        if lonely:
            more = f" (and {len(lonely) - 1} more)" if len(lonely) > 1 else ""
            raise InputError(f"{one[lonely[0]]} has no partner of that name in {folder}{more}; add or remove it")


def _split(stem: str, split: str, scenes_: dict[str, Path]) -> Split:
    if split == "test":
        return "test"
    keys = {name: int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in scenes_}
    held = {name for name, key in keys.items() if key % HELD_OUT == 0}
    if not held and len(scenes_) > 1:
        held = {min(keys, key=lambda name: keys[name])}
    return "validation" if stem in held and len(held) < len(scenes_) else "train"


def _entry(path: Path, home: Path, split: Split, part: Part) -> Entry:
    read_image(path)
    width, height = image_size(path)
    relative = path.absolute().relative_to(home).as_posix()
    return Entry(relative, None, sha256_file(path), path.stat().st_size, split, part, width, height)


def _check_content(made: DataSet, catalogue: Path, raw: Path) -> None:
    """Pairs of one size, and no scene that another split of a set on disk shows too."""
    there = [d for d in load_catalogue(catalogue).values() if d.entries and _complete(d, raw)]
    findings = [f for f in verify([made, *there], raw).findings if made.name in (f.dataset, *f.problem.split("/"))
                or f" {made.name}/" in f.problem]  # fmt: skip
    if findings:
        raise InputError(f"{findings[0].file}: {findings[0].problem}; nothing was registered")


def _complete(dataset: DataSet, raw: Path) -> bool:
    home = Path(dataset.folder) if dataset.folder else raw
    return all((home / entry.path).is_file() for entry in dataset.entries)
