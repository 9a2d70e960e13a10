"""The worked example of docs/own-task.md, from nothing: a sixth task is trained, then scored on the test photographs.

    python -m benchmarks.own_task

Needs a finished replication or a release, which is copied and stays as it is. Takes a few minutes on two cores. Writes
`docs/own-task/` and the block of figures in `docs/own-task.md`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from instruct_ipt.data.images import read_image, to_bytes, to_float
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.own import Report, Settings, add_task
from instruct_ipt.own.damage import load_damage
from instruct_ipt.own.material import Judged
from instruct_ipt.own.scores import BARE, INPUT, Score, means, nearest, score, write_scores
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import write_release

from .pages import filled, write
from .restore import machine

TASK, DAMAGE = "low-light", "instruct_ipt.own.low_light:low_light"
DOCS = Path(__file__).parents[1] / "docs"
PAGE, SCORES, FACTS, PICTURE = (
    DOCS / "own-task.md",
    DOCS / "own-task/scores.csv",
    DOCS / "own-task/facts.json",
    DOCS / "own-task/photographs.jpg",
)
SHOWN = 240
"""Height in pixels of a photograph in the picture."""


def test_pairs() -> list[Judged]:
    """The bundled test photographs, whole, damaged by their names and stored in 8 bits."""
    damage = load_damage(DAMAGE)
    found = []
    for photo in (photo for photo in BUNDLED if photo.split == "test"):
        target = to_float(read_image(locate(photo)))
        found.append(Judged(photo.name, to_float(to_bytes(damage.named(target, photo.name))), target))
    return found


def measure(weights: Path, settings: Settings) -> tuple[dict[str, Any], list[Score], np.ndarray]:
    """Facts, the scores of each test photograph, and the picture."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch, "weights")
        if (weights / "backbone.safetensors").is_file():
            shutil.copytree(weights, folder)
        else:
            write_release(weights, folder)
        begun = time.perf_counter()
        report = add_task(TASK, degradation=DAMAGE, weights=folder, settings=settings)
        seconds = time.perf_counter() - begun
        restorer = Restorer.load(folder, "cpu")
    pairs = test_pairs()
    methods = list(dict.fromkeys((INPUT, BARE, *(task for task in restorer.tasks if task != TASK), TASK)))
    scores = score(pairs, restorer, TASK, methods)
    facts = facts_of(report, means(scores), len(pairs)) | {"minutes": round(seconds / 60, 1), "machine": machine()}
    return facts, scores, picture(pairs, restorer, facts["nearest"])


def facts_of(report: Report, test: Mapping[str, tuple[float, float]], photographs: int) -> dict[str, Any]:
    """What the page says, JSON."""
    rounded = {
        name: {method: [round(psnr, 2), round(ssim, 3)] for method, (psnr, ssim) in found.items()}
        for name, found in (("validation", report.scores), ("test", test))
    }
    older = [method for method in test if method not in (INPUT, BARE, TASK)]
    return {
        "pack_kb": round(report.pack_bytes / 1000),
        "backbone_kb": round(report.backbone_bytes / 1000),
        "windows": report.images,
        "photographs": photographs,
        "best_step": report.best_step,
        "nearest": nearest(test, older),
        "unchanged": report.unchanged,
        "scores": rounded,
    }


def picture(pairs: Sequence[Judged], restorer: Restorer, other: str) -> np.ndarray:
    """A row per photograph: as it came, the nearest older task, the new task, the truth; uint8 (H, W, 3)."""
    rows = []
    for pair in pairs:
        shown = [pair.input, restorer.restore(pair.input, other), restorer.restore(pair.input, TASK), pair.target]
        width = 4 * SHOWN // 3
        middle = [_middle(to_bytes(image), SHOWN, width) for image in shown]
        rows.append(np.concatenate(middle, axis=1))
    return np.concatenate(rows)


def _middle(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle (height, width, 3) of an image that is at least as large."""
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def block(facts: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    titles = {
        INPUT: "as it came in",
        BARE: "bare backbone (strength 0)",
        facts["nearest"]: f"`{facts['nearest']}`, the best of the older tasks",
        TASK: f"`{TASK}`",
    }
    test, validation = facts["scores"]["test"], facts["scores"]["validation"]
    lines = [
        f"| | test: {facts['photographs']} photographs, PSNR, dB | gain | SSIM "
        f"| validation: {facts['windows']} windows, PSNR, dB | gain | SSIM |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method, title in titles.items():
        cells = []
        for found in (test, validation):
            psnr, ssim = found[method]
            cells += [f"{psnr:.2f}", f"{psnr - found[INPUT][0]:+.2f}", f"{ssim:.3f}"]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    older = ", ".join(f"`{task}`" for task, same in facts["unchanged"].items() if same)
    where = facts["machine"]
    names = " and ".join(f"`{task}`" for task in (facts["nearest"], TASK))
    lines += [
        "",
        "![Dark, restored in two ways, ground truth](own-task/photographs.jpg)",
        "",
        f"Test photographs, middle parts: as they came in, {names}, ground truth. *flower* is CC BY 2.0 "
        "(vultilion),\n*coffee* is CC0, *rocket* is in the public domain.",
        "",
        f"Pack: {facts['pack_kb']} kB beside a backbone of {facts['backbone_kb']} kB. "
        f"Kept: step {facts['best_step']}.\nEqual bit for bit before and after: "
        f"{older}.\nThe command took {facts['minutes']} minutes; {where['cpu']}, "
        f"{where['threads']} threads; python {where['python']}, torch {where['torch']}.",
    ]
    return "\n".join(lines)


def page(text: str, facts: Mapping[str, Any]) -> str:
    """`text` with its block of figures replaced."""
    return filled(text, "python -m benchmarks.own_task", block(facts))


def main() -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_task", description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="a release or a replication's")
    parser.add_argument("--steps", type=int, default=Settings().steps, help="of training")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    facts, scores, shown = measure(arguments.weights, Settings(steps=arguments.steps))
    SCORES.parent.mkdir(exist_ok=True)
    write_scores(scores, SCORES)
    Image.fromarray(shown).save(PICTURE, quality=80, optimize=True)
    write(FACTS, json.dumps(facts, indent=2) + "\n")
    write(PAGE, page(PAGE.read_text(encoding="utf-8"), facts))
    print(block(facts))


if __name__ == "__main__":
    main()
