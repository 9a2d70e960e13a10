"""What the new task gains, against what stands beside it; and whether the old tasks are what they were."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.modulation import Modulated
from instruct_ipt.restoration import Restorer

from .material import Judged

PROTOCOL = "rgb"
COLUMNS = ("image", "method", "protocol", "psnr", "ssim")
INPUT, BARE = "input", "backbone"


@dataclass(frozen=True)
class Score:
    """One image, restored in one way.

    Attributes:
        image: its name.
        method: `input` (not restored), `backbone` (strength 0), or a task.
        psnr: in dB.
        ssim: in [-1, 1].
    """

    image: str
    method: str
    psnr: float
    ssim: float


def score(pairs: Sequence[Judged], restorer: Restorer, task: str, methods: Sequence[str]) -> list[Score]:
    """The pairs restored by each of `methods` (names of `Score.method`), as `ipt restore` does it, by protocol `rgb`.

    Args:
        pairs: input and target, float32 (H, W, 3) in [0, 1].
        restorer: the network.
        task: any that it knows; at strength 0 all are the bare backbone.
        methods: what to score.
    """
    found = []
    for method in methods:  # one after another: the restorer keeps the last network that it folded
        for pair in pairs:
            output = pair.input
            if method == BARE:
                output = restorer.restore(pair.input, task, strength=0.0)
            elif method != INPUT:
                output = restorer.restore(pair.input, method)
            found.append(Score(pair.name, method, *PROTOCOLS[PROTOCOL].score(output, pair.target)))
    return found


def write_scores(scores: Sequence[Score], path: Path) -> None:
    """A row per image and method, columns :data:`COLUMNS`."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([s.image, s.method, PROTOCOL, f"{s.psnr:.4f}", f"{s.ssim:.5f}"] for s in scores)


def means(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    """Method -> mean PSNR in dB and mean SSIM."""
    methods = dict.fromkeys(score.method for score in scores)
    return {
        method: (
            float(np.mean([s.psnr for s in scores if s.method == method])),
            float(np.mean([s.ssim for s in scores if s.method == method])),
        )
        for method in methods
    }


def nearest(found: Mapping[str, tuple[float, float]], tasks: Sequence[str]) -> str:
    """The task of the highest PSNR."""
    return max(tasks, key=lambda task: found[task][0])


@torch.no_grad()
def unchanged(before: Modulated, after: Modulated, inputs: Sequence[np.ndarray]) -> dict[str, bool]:
    """Task of `before` -> whether both networks have the very same folded weights for it and restore to the same bits.

    Args:
        before, after: the second knows every task of the first.
        inputs: images to restore, float32 (H, W, 3) in [0, 1].
    """
    one, other = Restorer(before, "cpu"), Restorer(after, "cpu")
    found = {}
    for task in before.tasks:
        weights = zip(before.fold(task).parameters(), after.fold(task).parameters(), strict=True)
        results = ((one.restore(image, task), other.restore(image, task)) for image in inputs)
        found[task] = all(_same(a.numpy(), b.numpy()) for a, b in weights) and all(_same(a, b) for a, b in results)
    return found


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()
