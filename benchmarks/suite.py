"""One suite, measured in a process of its own."""

from __future__ import annotations

import importlib
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .timing import Row, keep_freed_memory

THREADS = 2


def machine(keeps_freed_memory: bool) -> dict[str, Any]:
    """What the numbers depend on, beside the code."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    packages = {name: version(name) for name in ("torch", "numpy", "peft")}
    where = {"cpu": cpu, "cores": os.cpu_count(), "threads": THREADS, "keeps_freed_memory": keeps_freed_memory}
    return where | {"python": platform.python_version(), **packages}


def measure(suite: str, pairs: int) -> dict[str, Any]:
    """Run one suite and print its lines; returns its rows, and the machine that they hold for."""
    torch.set_num_threads(THREADS)
    module = importlib.import_module(f"benchmarks.{suite}")
    where = machine(module.KEEPS_FREED_MEMORY and keep_freed_memory())
    rows = module.run(pairs)
    print(*map(show, rows), sep="\n", flush=True)
    return {"machine": where, "rows": [asdict(row) | {"holds": row.holds} for row in rows]}


def show(row: Row) -> str:
    """One line of the table."""
    bound = "" if row.bound is None else f"{row.sense} {row.bound:g}"
    verdict = {None: "", True: "ok", False: "MISSED"}[row.holds]
    spread = f"[{row.low:.3f}, {row.high:.3f}]" if row.pairs > 1 else ""
    return f"{row.what:<100} {row.median:8.3f} {spread:<18} {row.pairs:5d} {bound:<8} {verdict}".rstrip()
