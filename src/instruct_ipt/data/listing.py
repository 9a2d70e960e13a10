"""`ipt data list`: the catalogue as a table, with what is on disk beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from instruct_ipt.data.catalogue import FACTS, DataSet, scenes
from instruct_ipt.errors import InputError


def print_sets(sets: Sequence[DataSet], raw: Path) -> None:
    """Print one line per set, then for each what is missing, how to get it and which facts are unverified."""
    from rich.console import Console
    from rich.table import Table

    table = Table("set", "level", "task", "layout", "files", "size", "here", box=None, pad_edge=False)
    for dataset in sets:
        table.add_row(
            dataset.name, dataset.level, dataset.task, dataset.layout, _shown(dataset, "files"),
            size(_bytes(dataset)), presence(dataset, raw),
        )  # fmt: skip
    # A pipe has no width; 120 columns hold the table.
    console = Console(soft_wrap=True, width=None if Console().is_terminal else 120)
    console.print(table)
    for dataset in sets:
        for line in details(dataset, raw):
            print(line)


def presence(dataset: DataSet, raw: Path) -> str:
    """`complete`, `missing`, or how many files of how many are there (by name; `ipt data verify` reads them)."""
    if dataset.entries:
        root = Path(dataset.folder) if dataset.folder else raw
        there = sum((root / entry.path).is_file() for entry in dataset.entries)
        total = len(dataset.entries)
        return "complete" if there == total else "missing" if not there else f"{there} of {total}"
    try:
        return f"{len(scenes(dataset, raw))} scenes"
    except InputError:
        return "missing"


def details(dataset: DataSet, raw: Path) -> list[str]:
    """Lines on one set: its note, how to get what is missing, which facts are unverified."""
    lines = [f"\n{dataset.name}: {dataset.title}", f"  {dataset.note}"]
    lines += [f"  {name}: {fact.value}" for name in ("publication", "terms") if (fact := dataset.facts[name]).verified]
    unknown = [name for name in FACTS if not dataset.facts[name].verified]
    if unknown:
        lines.append(f"  unverified: {', '.join(unknown)}")
    if presence(dataset, raw) != "complete":
        way = dataset.by_hand or f"ipt data fetch --set {dataset.name}"
        lines.append(f"  to get it: {' '.join(way.split())}")
    return lines


def size(count: int | None) -> str:
    """Bytes for a person: 150.9 MB; `unknown` for None."""
    if count is None:
        return "unknown"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


def _bytes(dataset: DataSet) -> int | None:
    known = [entry.bytes for entry in (dataset.entries or dataset.archives)]
    if known and None not in known:
        return sum(count for count in known if count is not None)
    value = dataset.facts["bytes"].value
    return int(value) if value is not None else None


def _shown(dataset: DataSet, fact: str) -> str:
    value = dataset.facts[fact].value
    if value is None and dataset.entries:
        value = len(dataset.entries)
    return "unverified" if value is None else str(value)
