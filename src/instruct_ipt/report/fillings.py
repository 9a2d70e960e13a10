"""What the page shows of the sampler at work: the guesses of one photograph per filling task, pass by pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from instruct_ipt.errors import InputError
from instruct_ipt.report import read_result
from instruct_ipt.report.embedded import Picture, exact
from instruct_ipt.report.figure5 import ROW_TASKS

MOST_PASSES = 24
"""Of one photograph; a slider with more stops shows nothing new."""
PASSES_BYTES = 900_000
"""Of the guesses of one photograph together, before they become text."""
_FILE = "results/diffusion_samples.csv"
_STEPS = "steps-"


def fillings(results: Path) -> list[dict[str, Any]]:
    """One photograph per filling task: what was given, the guess after each pass of the sampler, the photograph.

    Args:
        results: folder with `diffusion_samples.csv` and the pictures that it names.

    Returns:
        Per task, in the fixed order of tasks: ``task``, ``image``; ``given`` and ``truth`` (pictures); ``of`` (passes
        of the sampler); ``passes``: ``number`` (from 1 to ``of``), ``picture`` and ``psnr`` of the missing pixels in
        dB. The first and the last pass are always there; of the others as many as ``MOST_PASSES`` and ``PASSES_BYTES``
        allow.

    Raises:
        InputError: the file, a column, a picture or all passes of a photograph are missing.
    """
    table = read_result(results / "diffusion_samples.csv", _FILE, ("task", "image", "method", "file"), ("psnr",))
    parts = (table[table.task == task] for task in ROW_TASKS)
    return [_filling(part[part.image == part.image.iloc[0]], results) for part in parts if len(part)]


def _filling(rows: pd.DataFrame, results: Path) -> dict[str, Any]:
    rows = rows.drop_duplicates("method").set_index("method")
    task, image = rows.task.iloc[0], rows.image.iloc[0]
    numbers = sorted(_number(method) for method in rows.index if _number(method))
    if not numbers or not {"input", "truth"} <= set(rows.index):
        raise InputError(f"{_FILE} lacks input, truth or the passes of {task}/{image}; run `dvc repro diffusion`")
    by_number = {_number(method): row for method, row in zip(rows.index, rows.itertuples(), strict=True)}
    passes = [
        {"number": number, "picture": _picture(results, by_number[number].file), "psnr": float(by_number[number].psnr)}
        for number in numbers
    ]
    return {
        "task": task,
        "image": image,
        "given": _picture(results, rows.file["input"]),
        "truth": _picture(results, rows.file["truth"]),
        "of": numbers[-1],
        "passes": _as_many_as_fit(passes),
    }


def _number(method: str) -> int:
    """7 of ``steps-07``; 0 for what is no pass."""
    rest = method.removeprefix(_STEPS)
    return int(rest) if method.startswith(_STEPS) and rest.isdecimal() else 0


def _picture(results: Path, file: str) -> Picture:
    return exact(results / file, "diffusion_samples.csv", "diffusion")


def _as_many_as_fit(passes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``passes`` thinned evenly until they are few and small enough, first and last kept."""
    for count in range(min(len(passes), MOST_PASSES), 2, -1):
        kept = [passes[i] for i in np.rint(np.linspace(0, len(passes) - 1, count)).astype(int)]
        # Four characters of an address hold three bytes.
        if sum(3 * len(one["picture"].source) // 4 for one in kept) <= PASSES_BYTES:
            return kept
    return [passes[0], passes[-1]] if len(passes) > 1 else passes
