"""`ipt demo`: one photograph per task, restored as a person asks for it, by a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from instruct_ipt.data.images import to_bytes, to_float
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.instruction import Refusal
from instruct_ipt.paths import MODELS, RESULTS
from instruct_ipt.report.figure4 import read_picture, shown_samples
from instruct_ipt.restoration import Choice, Restorer

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context

PROTOCOL = PROTOCOLS["rgb"]
COLUMNS = (
    "task", "dataset", "image", "text", "understood", "strength", "psnr_input", "psnr", "ssim_input", "ssim", "input",
    "output",
)  # fmt: skip


def run(context: Context) -> None:
    """Write `results/demo.csv` and the restored pictures below `results/demo`.

    The photographs are those of figure 4; network and reader are loaded as `ipt restore` loads them. ``understood`` is
    ``task=weight`` for each task, or ``refused``, which leaves the photograph as it is.
    """
    torch.set_num_threads(context.params.training.threads)
    restorer, folder = Restorer.load(MODELS), context.out / RESULTS
    parts = {part.task.iloc[0]: part.drop_duplicates("method") for part in shown_samples(RESULTS / "samples.csv")}
    rows = [
        _restore(restorer, parts[task].set_index("method"), text, folder)
        for task, text in context.params.demo.items()
        if task in parts
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.to_csv(folder / "demo.csv", index=False, float_format="%.6f", lineterminator="\n")


def _restore(restorer: Restorer, rows: pd.DataFrame, text: str, folder: Path) -> dict[str, Any]:
    """One photograph and its row of `demo.csv`."""
    facts = {key: rows[key].iloc[0] for key in ("task", "dataset", "image")}
    given, clean = (read_picture(RESULTS / rows.file[name]) for name in ("input", "clean"))
    choice = _understood(restorer, text)
    found = given if choice is None else restorer.restore(given, choice.weights, choice.strength)
    file = f"demo/{facts['task']}.png"
    shown = _save(found, folder / file)
    (psnr_input, ssim_input), (psnr, ssim) = PROTOCOL.score(given, clean), PROTOCOL.score(shown, clean)
    scores = {"psnr_input": psnr_input, "psnr": psnr, "ssim_input": ssim_input, "ssim": ssim}
    understood, strength = ("refused", float("nan")) if choice is None else (_weights(choice), choice.strength)
    said = {"text": text, "understood": understood, "strength": strength}
    return facts | said | scores | {"input": rows.file["input"], "output": file}


def _weights(choice: Choice) -> str:
    return " ".join(f"{task}={share:.2f}" for task, share in choice.weights.items() if share > 0)


def _understood(restorer: Restorer, text: str) -> Choice | None:
    try:
        return restorer.read(text)
    except Refusal:
        return None


def _save(image: np.ndarray, path: Path) -> np.ndarray:
    """Write float (H, W, 3) in [0, 1] as an 8-bit PNG; returns the rounded values, which are what is seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = to_bytes(image)
    Image.fromarray(values).save(path)
    return to_float(values)
