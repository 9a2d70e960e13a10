"""`ipt data verify`: everything that can be wrong with image sets on disk, said before training and not after."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from instruct_ipt.data import download
from instruct_ipt.data.catalogue import DataSet, Entry, Scene, scenes
from instruct_ipt.data.images import image_size, read_image
from instruct_ipt.data.listing import size
from instruct_ipt.data.overlap import Match, fingerprint_file, overlaps
from instruct_ipt.errors import InputError
from instruct_ipt.provenance import sha256_file

_SHOWN = 20  # findings of one set that are printed in full


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
        compared: numbers of clean images whose scenes were compared: (train, validation, test).
        shared_tests: scenes that two test sets share: known, harmless, and worth saying.
    """

    checked: dict[str, tuple[int, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    compared: tuple[int, int, int] = (0, 0, 0)
    shared_tests: int = 0

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
    report, found = Report(), []
    recorded = download.read_lock(lock)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        for dataset in sets:
            members = _members(dataset, raw, report)
            files = _files(dataset, raw, members)
            problems = pool.map(lambda item: _check_file(*item, recorded), files)
            bad = [Finding(dataset.name, p.as_posix(), x) for (p, _), x in zip(files, problems, strict=True) if x]
            report.findings += bad
            report.checked[dataset.name] = (len(files), sum(download.size_of(p) for p, _ in files))
            damaged = {finding.file for finding in bad}
            sound = [s for s in members if not {str(p) for p in (s.input, s.target) if p} & damaged]
            report.findings += [f for f in map(_check_pair, sound) if f]
            found += sound
        _check_overlap(found, pool, report)
    return report


def _members(dataset: DataSet, raw: Path, report: Report) -> list[Scene]:
    try:
        return scenes(dataset, raw)
    except InputError as error:
        expected = dataset.facts["bytes"].value
        known = f" (size: {size(int(expected))})" if expected else " (size unverified)"
        report.findings.append(Finding(dataset.name, "", f"{error}{known}"))
        return []


def _files(dataset: DataSet, raw: Path, members: Sequence[Scene]) -> list[tuple[Path, Entry | None]]:
    if dataset.entries:
        home = Path(dataset.folder) if dataset.folder else raw
        return [(home / entry.path, entry) for entry in dataset.entries]
    paths = {path: None for scene in members for path in (scene.input, scene.target) if path}
    return list(paths.items())


def _check_file(path: Path, entry: Entry | None, recorded: dict) -> str | None:
    if not path.is_file():
        return "is missing; `ipt data fetch` brings it"
    if entry is not None:
        expected = entry.sha256 or recorded.get(entry.path, {}).get("sha256")
        if entry.bytes is not None and path.stat().st_size != entry.bytes:
            return f"has {path.stat().st_size} bytes, expected {entry.bytes}; delete it and run `ipt data fetch`"
        if expected and (found := sha256_file(path)) != expected:
            return f"checksum differs: expected {expected}, found {found}; delete it and run `ipt data fetch`"
    try:
        read_image(path)
    except InputError as error:
        return f"{error}"
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


def _check_overlap(found: Sequence[Scene], pool: ThreadPoolExecutor, report: Report) -> None:
    """Compare the clean images of every split with those of every later one."""
    clean = [s for s in found if s.target is not None and s.layout in ("clean", "paired", "both")]
    # Several inputs may share one clean image: it is read once.
    files = {(s.split, s.target): s for s in clean}
    made = pool.map(lambda scene: fingerprint_file(scene.target, scene.layout == "both"), files.values())
    prints = dict(zip(files, made, strict=True))
    by_split = {
        split: {f"{files[k].dataset}/{files[k].name}": v for k, v in prints.items() if k[0] == split}
        for split in ("train", "validation", "test")
    }
    train, validation, test = by_split.values()
    report.compared = (len(train), len(validation), len(test))
    for first, second in _pairs_of(by_split):
        for match in overlaps(first[1], second[1]):
            report.findings.append(_overlap(match, first[0], second[0]))
    report.shared_tests = len({frozenset((m.first, m.second)) for m in _between_tests(test)})


def _pairs_of(groups: dict[str, dict[str, np.ndarray]]) -> Iterator[tuple[tuple, tuple]]:
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        yield (first, groups[first]), (second, groups[second])


def _between_tests(test: dict[str, np.ndarray]) -> list[Match]:
    return [m for m in overlaps(test, test) if m.first.split("/")[0] != m.second.split("/")[0]]


def _overlap(match: Match, first: str, second: str) -> Finding:
    dataset = match.first.split("/")[0]
    how = f"{'mirrored, ' if match.mirrored else ''}{f'turned {90 * match.turns}°, ' if match.turns else ''}"
    return Finding(
        dataset, match.first,
        f"({first}) shows the scene of {match.second} ({second}), {how}similarity {match.similarity:.3f}; "
        "leave it out of one of the two",
    )  # fmt: skip
