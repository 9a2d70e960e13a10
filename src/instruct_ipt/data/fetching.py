"""Fetching whole sets: their files or archives, then unpacking; what must be placed by hand is named."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from instruct_ipt.data import download
from instruct_ipt.data.archives import unpack
from instruct_ipt.data.catalogue import DataSet, scenes
from instruct_ipt.data.listing import size
from instruct_ipt.errors import InputError
from instruct_ipt.provenance import sha256_file


def plan_sets(sets: Sequence[DataSet], raw: Path) -> download.Plan:
    """What is missing of the sets that download by themselves."""
    return download.plan(_downloads(sets), raw)


def describe(plan: download.Plan, sets: Sequence[DataSet], raw: Path) -> str:
    """One line: how much is to come, to where, and how much disk is free."""
    home = next(p for p in (raw, *raw.absolute().parents) if p.exists())
    unknown = f" and {plan.unknown} files of unknown size" if plan.unknown else ""
    if not plan.missing:
        return f"{len(sets)} sets: nothing is missing in {raw}"
    return (
        f"{len(sets)} sets: {len(plan.missing)} files to fetch, {size(plan.bytes)}{unknown}; "
        f"{size(shutil.disk_usage(home).free)} free in {raw}"
    )


def fetch_sets(
    sets: Sequence[DataSet],
    raw: Path,
    mirror: str | None = None,
    workers: int = 8,
    observe: download.Observe | None = None,
) -> None:
    """Bring every set to ``raw``, checked and unpacked. Arguments as of :func:`instruct_ipt.data.download.fetch`.

    Raises:
        InputError: as :func:`download.fetch` and :func:`archives.unpack`; or a set must be placed by hand and is not.
    """
    download.fetch(_downloads(sets), raw, mirror=mirror, workers=workers, observe=observe)
    for dataset in sets:
        for archive in dataset.archives:
            unpack(raw / archive.path, raw / dataset.name / archive.stem.removesuffix(".tar"))
    absent = [dataset for dataset in sets if dataset.by_hand and _absent(dataset, raw)]
    if absent:
        first = absent[0]
        names = ", ".join(dataset.name for dataset in absent)
        raise InputError(f"not there and not to be downloaded by a program: {names}. {first.name}: {_line(first)}")


def files_of(sets: Sequence[DataSet], raw: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file that the sets use; files read once are not read again while unchanged.

    Raises:
        InputError: a file is missing; the line says how to get it.
    """
    stamps, found = download.Stamps(raw), {}
    for dataset in sets:
        if dataset.entries and dataset.folder is None:
            found |= {entry.path: entry.sha256 or "" for entry in dataset.entries}
            continue
        for scene in scenes(dataset, raw):
            for path in (scene.input, scene.target):
                if path is not None:
                    found[path.as_posix()] = _measure(stamps, path, raw)
    stamps.save()
    return found


def _measure(stamps: download.Stamps, path: Path, raw: Path) -> str:
    known = stamps.measure(path.relative_to(raw).as_posix()) if path.is_relative_to(raw) else sha256_file(path)
    assert known is not None
    return known


def _downloads(sets: Sequence[DataSet]) -> list:
    return [entry for dataset in sets if dataset.folder is None for entry in (dataset.archives or dataset.entries)]


def _absent(dataset: DataSet, raw: Path) -> bool:
    try:
        return not scenes(dataset, raw)
    except InputError:
        return True


def _line(dataset: DataSet) -> str:
    return " ".join((dataset.by_hand or "").split())
