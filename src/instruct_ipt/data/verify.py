"""`ipt data verify`: everything that can be wrong with image sets on disk, said before training and not after."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from instruct_ipt.data import download
from instruct_ipt.data.catalogue import DataSet, Entry, Scene, scenes
from instruct_ipt.data.images import EXTENSIONS, image_size, read_image
from instruct_ipt.data.listing import size
from instruct_ipt.data.overlap import Match, fingerprint, overlaps
from instruct_ipt.errors import InputError
from instruct_ipt.provenance import sha256_file

SPLITS = ("train", "validation", "test")
_SHOWN = 20  # findings of one set that are printed in full
_Prints = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    Attributes:
        dataset: which set.
        file: which file, or an empty text for the set as a whole.
        problem: what is wrong, and what to do.
    """

    dataset: str
    file: str
    problem: str


@dataclass
class Report:
    """What :func:`verify` found.

    Attributes:
        checked: set -> (files read, bytes).
        findings: what is wrong.
        prints: split -> ``<set>/<scene>`` -> fingerprint of the clean image; a file that several scenes share once.
        shared_tests: scenes that two test sets share: known, harmless, and worth saying.
    """

    checked: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    prints: _Prints = field(default_factory=lambda: {split: {} for split in SPLITS}, repr=False)
    shared_tests: int = 0

    @property
    def compared(self) -> tuple[int, ...]:
        """Numbers of clean images whose scenes were compared: (train, validation, test)."""
        return tuple(len(self.prints[split]) for split in SPLITS)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def lines(self) -> list[str]:
        """The report for a person."""
        wrong = {name: [f for f in self.findings if f.dataset == name] for name in self.checked}
        found = []
        for name, (files, count) in self.checked.items():
            state = "ok" if not wrong[name] else f"{len(wrong[name])} problems"
            found.append(f"{name:22} {files:6} files  {size(count):>9}  {state}")
            found += [f"  {f.file + ': ' if f.file else ''}{f.problem}" for f in wrong[name][:_SHOWN]]
            if len(wrong[name]) > _SHOWN:
                found.append(f"  and {len(wrong[name]) - _SHOWN} more")
        train, validation, test = self.compared
        overlapping = sum("shows the scene of" in f.problem for f in self.findings)
        found.append(
            f"scenes compared: {train} train, {validation} validation, {test} test; overlaps between splits: "
            f"{overlapping}; scenes shared by two test sets: {self.shared_tests}"
        )
        return found


def verify(sets: Sequence[DataSet], raw: Path, lock: Path = download.LOCK) -> Report:
    """Re-read every file of ``sets``: presence, size, SHA-256, decodability, sizes of pairs, scenes shared by splits.

    Args:
        sets: data sets of the catalogue.
        raw: `data/raw`.
        lock: checksums of first downloads.
    """
    report, recorded = Report(), download.read_lock(lock)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for dataset in sets:
            _check_set(dataset, raw, recorded, pool, report)
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        matches = overlaps(report.prints[first], report.prints[second])
        report.findings += [_overlap(match, first, second) for match in matches]
    report.shared_tests = _shared(report.prints["test"])
    return report


def clean_files(members: Sequence[Scene]) -> dict[Path, tuple[Scene, bool]]:
    """Clean file -> (the first scene that shows it, whether only its left half is the clean image)."""
    found: dict[Path, tuple[Scene, bool]] = {}
    for scene in members:
        if scene.target is not None and scene.layout in ("clean", "paired", "both"):
            found.setdefault(scene.target, (scene, scene.layout == "both"))
    return found


def describe(match: Match) -> str:
    """`similarity 0.973, mirrored, cut`."""
    return ", ".join(part for part in (f"similarity {match.similarity:.3f}", match.how) if part)


def _check_set(dataset: DataSet, raw: Path, recorded: dict[str, Any], pool: ThreadPoolExecutor, report: Report) -> None:
    listed = _files(dataset, raw, ())
    if dataset.entries and not any(path.is_file() for path in listed):
        # One line says more than a line for each file.
        count = size(sum(entry.bytes or 0 for entry in dataset.entries))
        problem = f"nothing is there, {len(listed)} files ({count}) are missing; {_remedy(dataset)}"
        report.checked[dataset.name] = (0, 0)
        report.findings.append(Finding(dataset.name, "", problem))
        return
    members = _members(dataset, raw, report)
    files, clean = _files(dataset, raw, members), clean_files(members)
    report.checked[dataset.name] = (len(files), sum(download.size_of(path) for path in files))
    half = {path: only for path, (_, only) in clean.items()}
    examined = pool.map(lambda item: _examine(*item, half.get(item[0]), recorded), files.items())
    prints: dict[Path, np.ndarray | None] = {}
    for path, (problem, printed) in zip(files, examined, strict=True):
        if problem:
            report.findings.append(Finding(dataset.name, path.as_posix(), f"{problem}; {_remedy(dataset)}"))
        else:
            prints[path] = printed
    sound = [s for s in members if all(path in prints for path in (s.input, s.target) if path)]
    report.findings += [finding for finding in map(_check_pair, sound) if finding]
    for path, (scene, _) in clean.items():
        if path in prints:
            report.prints[scene.split][f"{dataset.name}/{scene.name}"] = prints[path]


def _members(dataset: DataSet, raw: Path, report: Report) -> list[Scene]:
    """Its scenes; a set of patterns must hold as many images as its catalogue entry says."""
    expected = dataset.facts["bytes"].value
    known = f" (size: {size(int(expected))})" if expected else " (size unverified)"
    try:
        found = scenes(dataset, raw)
    except InputError as error:
        report.findings.append(Finding(dataset.name, "", f"{error}{known}"))
        return []
    said = re.fullmatch(r"(\d+)( pairs)?", str(dataset.facts["files"].value))
    if said and not dataset.entries:
        there = len(found) if said[2] else len({path for s in found for path in (s.input, s.target) if path})
        if there < int(said[1]):
            problem = f"holds {there} of {said[0]}{known}; {_remedy(dataset)}"
            report.findings.append(Finding(dataset.name, "", problem))
    return found


def _files(dataset: DataSet, raw: Path, members: Sequence[Scene]) -> dict[Path, Entry | None]:
    """Every file to read; archives count as long as they are kept."""
    if dataset.entries:
        home = Path(dataset.folder) if dataset.folder else raw
        return {home / entry.path: entry for entry in dataset.entries}
    files: dict[Path, Entry | None] = {raw / a.path: a for a in dataset.archives if (raw / a.path).is_file()}
    return files | {path: None for scene in members for path in (scene.input, scene.target) if path}


def _remedy(dataset: DataSet) -> str:
    if dataset.level == "custom":
        return f"restore it, or `ipt data remove {dataset.name}` and add the folder again"
    if dataset.by_hand:
        return f"place it again: {' '.join(dataset.by_hand.split())}"
    return f"delete what is wrong and run `ipt data fetch --set {dataset.name}`"


def _examine(
    path: Path, entry: Entry | None, half: bool | None, recorded: dict[str, Any]
) -> tuple[str | None, np.ndarray | None]:
    """(what is wrong, fingerprint): one decoding serves both. ``half`` None: not a clean image."""
    problem = _check_bytes(path, entry, recorded)
    if problem or path.suffix.lower() not in EXTENSIONS:
        return problem, None
    try:
        image = read_image(path)
    except InputError as error:
        return str(error), None
    if half is None:
        return None, None
    return None, fingerprint(image[:, : image.shape[1] // 2] if half else image)


def _check_bytes(path: Path, entry: Entry | None, recorded: dict[str, Any]) -> str | None:
    if not path.is_file():
        return "is missing"
    if entry is None:
        return None
    noted = recorded.get(entry.path, {})
    count, expected = entry.bytes or noted.get("bytes"), entry.sha256 or noted.get("sha256")
    if count is not None and path.stat().st_size != count:
        return f"has {path.stat().st_size} bytes, expected {count}"
    if expected and (found := sha256_file(path)) != expected:
        return f"checksum differs: expected {expected}, found {found}"
    return None


def _check_pair(scene: Scene) -> Finding | None:
    if scene.input is None or scene.target is None:
        return None
    if scene.layout == "both":
        width, _ = image_size(scene.target)
        problem = f"is {width} pixels wide; a side-by-side image needs an even width" if width % 2 else None
    else:
        given, target = image_size(scene.input), image_size(scene.target)
        differ = f"is {given[0]}x{given[1]}, its target {scene.target.name} is {target[0]}x{target[1]} pixels"
        problem = differ if given != target else None
    return Finding(scene.dataset, scene.input.as_posix(), f"{problem}; remove the pair") if problem else None


def _shared(test: dict[str, np.ndarray]) -> int:
    """Number of pairs of test images from two sets that show one scene."""
    found = (m for m in overlaps(test, test) if m.first.split("/")[0] != m.second.split("/")[0])
    return len({frozenset((match.first, match.second)) for match in found})


def _overlap(match: Match, first: str, second: str) -> Finding:
    return Finding(
        match.first.split("/")[0],
        match.first,
        f"({first}) shows the scene of {match.second} ({second}), {describe(match)}; leave it out of one of the two",
    )
