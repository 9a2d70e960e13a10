"""`logs/runtime.html`: on which hardware, with which versions and for how long each stage ran.

It stands outside the report, so that the report's bytes do not depend on the machine, and is no stage's output.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from instruct_ipt.errors import InputError
from instruct_ipt.report.html import write_html

ARM = "arm/"
"""How the rows of networks begin that a release stands on."""
COLUMNS = ("stage", "seconds", "peak_mib", "hardware", "versions")
PACKAGES = ("torch", "numpy", "scipy", "scikit-image", "pandas", "matplotlib", "pillow", "dvc", "mlflow", "snakemake")


def write_runtime(log: Path, out: Path) -> None:
    """Write the page from ``log``; where nothing ran on this machine (results from a cache), it says so.

    Args:
        log: `logs/runtime.csv`, one row per run of a stage or cell; the last one of each counts.
        out: file to write, for example `logs/runtime.html`.

    Raises:
        InputError: ``log`` is not as the stages write it.
    """
    runs = last_runs(log)
    stages = [run for run in runs if "/" not in run["stage"]]
    write_html(
        "runtime.html.j2",
        out,
        stages=stages,
        cells=[run for run in runs if "/" in run["stage"] and not run["stage"].startswith(ARM)],
        arms=[run for run in runs if run["stage"].startswith(ARM)],
        total=duration(sum(run["seconds"] for run in stages)),
        longest=max((run["seconds"] for run in stages), default=0.0),
        peak=max((run["peak_mib"] for run in runs), default=0.0),
        machines=list(dict.fromkeys((run["hardware"], run["versions"]) for run in runs)),
        here=this_machine(),
    )


def last_runs(log: Path) -> list[dict[str, Any]]:
    """The last run of each stage and cell, oldest first; empty where ``log`` is missing.

    Returns:
        Per run: ``stage``, ``seconds``, ``peak_mib`` (numbers), ``hardware``, ``versions``, ``duration`` (text).

    Raises:
        InputError: a column is missing, or a line is damaged.
    """
    if not log.is_file():
        return []
    found: dict[str, dict[str, Any]] = {}
    with log.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                run = {column: row[column].strip() for column in COLUMNS}
                run |= {"seconds": float(run["seconds"]), "peak_mib": float(run["peak_mib"])}
            except (KeyError, AttributeError, ValueError):
                columns = ", ".join(COLUMNS)
                raise InputError(f"{log.as_posix()}: line {number} is not {columns}; delete that line") from None
            found.pop(run["stage"], None)
            found[run["stage"]] = run | {"duration": duration(run["seconds"])}
    return list(found.values())


def duration(seconds: float) -> str:
    """``seconds`` for a reader: ``0.4 s``, ``2 min 30 s``, ``3 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def this_machine() -> dict[str, str]:
    """Processor, memory, system and versions of where this runs; no name of the machine or its user."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "Processor": f"{_processor()}, {os.cpu_count()} cores",
        "Memory": f"{memory:.1f} GiB",
        "System": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
    } | {name: importlib.metadata.version(name) for name in PACKAGES}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
