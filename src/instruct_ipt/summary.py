"""What `make repro` ends with: the gains of every method over the degraded input, and where to look next."""

from __future__ import annotations

import csv
from pathlib import Path

from instruct_ipt.errors import InputError
from instruct_ipt.paths import REPORT, RESULTS


def gains(path: Path) -> dict[str, dict[str, float]]:
    """Set ("denoise 25", "derain", ...) -> method -> mean gain in PSNR over the degraded input, in dB.

    Rows under the first protocol count. A set is named by its task, where the task has one, and else by both.

    Raises:
        InputError: `results/benchmark.csv` is missing.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; `dvc repro evaluate` makes it")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["method"] != "input"]
    rows = [row for row in rows if row["protocol"] == rows[0]["protocol"]]
    sets = {(row["task"], row["dataset"].partition("-sigma")[0]) for row in rows}
    table: dict[str, dict[str, float]] = {}
    for row in rows:
        dataset, _, level = row["dataset"].partition("-sigma")
        alone = sum(task == row["task"] for task, _ in sets) == 1
        name = " ".join(part for part in (row["task"], "" if alone else dataset, level) if part)
        table.setdefault(name, {})[row["method"]] = float(row["psnr"]) - float(row["psnr_input"])
    return table


def print_summary() -> None:
    """Print the gains as a table, then the next commands."""
    from rich.console import Console
    from rich.table import Table

    found = gains(RESULTS / "benchmark.csv")
    methods = list(next(iter(found.values())))
    table = Table("gain over the input, dB", *methods, title="Test images", title_justify="left")
    for name, row in found.items():
        table.add_row(name, *(f"{row[method]:+.2f}" for method in methods))
    Console().print(table)
    print(f"Report: {REPORT / 'index.html'}    Runs: make ui    One ablation: snakemake -c2 rank")
