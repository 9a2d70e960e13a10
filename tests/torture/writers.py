"""Several processes that log to one store at once: ``writers WRITERS POINTS``, by the process that forks commands.

Run in the working directory of the store. One line of standard output per writer: its exit code.
"""

from __future__ import annotations

import os
import sys

from instruct_ipt import runs, tracking
from instruct_ipt.tasks import TASKS


def write(seed: int, points: int) -> None:
    """The live run of one cell; a store that is lost is a line on standard error, and no more."""
    recipe = {"method": "modulation", "strategy": "frozen", "tasks": list(TASKS)}
    cell = {"study": "strategy", "setting": "frozen", "seed": seed}
    values = {"profile": "smoke", "cell": cell, "recipe": recipe, "steps": points}
    card = runs.cell_card({"params": values, "code_digest": "none", "inputs": {}})
    with tracking.start(card) as tracker:
        for step in range(points):
            tracker.metrics(step, {"derain/psnr": float(step)})


def main() -> None:
    """Fork the writers from a process that has imported everything and opened nothing."""
    writers, points = map(int, sys.argv[2:])
    children = []
    for seed in range(writers):
        child = os.fork()
        if not child:
            write(seed, points)
            sys.stderr.flush()
            os._exit(0)
        children.append(child)
    for child in children:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
