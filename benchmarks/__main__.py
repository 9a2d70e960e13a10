"""All comparisons of speed, memory, size and learning, as one table.

    make bench                                   everything, about half an hour on two quiet cores
    python -m benchmarks backbone modulation     some of it

Each ratio is the median of interleaved pairs in one process on two threads, with its quartiles. `results.json` beside
this file keeps the last run of each suite, with the versions and the processor that it ran on; `README.md` shows it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from .pages import write
from .suite import measure

SUITES = ("backbone", "modulation", "quality")
RESULTS = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parent / "README.md"


def page(kept: dict[str, Any]) -> str:
    """The kept results as Markdown."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` from [results.json](results.json). Ratios are medians of interleaved pairs; a",
        "bound is what we hold ourselves to. What each row compares stands in the source of its suite. Beside these,",
        "`python -m benchmarks.loader`, `python -m benchmarks.instruction` and `python benchmarks/protocols.py` print",
        "tables of their own, and",
        "`python -m benchmarks.restore`, `python -m benchmarks.own_task`, `python -m benchmarks.export` and",
        "`python -m benchmarks.diffusion` fill those in [docs/restore.md](../docs/restore.md),",
        "[docs/own-task.md](../docs/own-task.md), [docs/export.md](../docs/export.md) and",
        "[docs/diffusion.md](../docs/diffusion.md).",
    ]
    for suite, found in kept.items():
        where = found["machine"]
        lines += ["", f"## {suite}", "", "| what | median | quartiles | bound | |", "|---|---:|---|---|---|"]
        for row in found["rows"]:
            unit = " dB" if row["unit"] == "dB" else ""
            spread = f"{row['low']:.3f} to {row['high']:.3f}, {row['pairs']} pairs" if row["pairs"] > 1 else ""
            bound = (
                "" if row["bound"] is None else f"{row['sense']} {row['bound']:g}".replace("<=", "≤").replace(">=", "≥")
            )
            verdict = {None: "", True: "kept", False: "**missed**"}[row["holds"]]
            lines.append(f"| {row['what']} | {row['median']:.3f}{unit} | {spread} | {bound} | {verdict} |")
        versions = ", ".join(f"{name} {where[name]}" for name in ("python", "torch", "numpy", "peft"))
        memory = "freed memory kept" if where["keeps_freed_memory"] else "freed memory given back"
        lines += ["", f"{where['cpu']}, {where['threads']} threads, {memory}; {versions}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the suites named on the command line (all without a name), print the table and keep it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"any of {', '.join(SUITES)}; all without a name")
    parser.add_argument("--pairs", type=int, default=50, help="interleaved pairs per ratio (default: 50)")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"unknown suite {', '.join(sorted(unknown))}; known: {', '.join(SUITES)}")
    if arguments.pairs < 2:
        parser.error(f"--pairs is {arguments.pairs}; at least 2 are needed for quartiles")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    print(f"{'':<100} {'median':>8} {'quartiles':<18} {'pairs':>5} bound")
    for suite in arguments.suites or SUITES:
        # In a process of its own: what one suite leaves in memory would weigh on the next.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            kept[suite] = process.submit(measure, suite, arguments.pairs).result()
        write(RESULTS, json.dumps(kept, indent=2) + "\n")
        write(PAGE, page(kept))


if __name__ == "__main__":
    main()
