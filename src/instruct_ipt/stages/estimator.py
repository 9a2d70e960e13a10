"""`ipt estimator`: task weights from the image itself, fitted on training windows, measured on validation images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from instruct_ipt.data.degradations import SYNTHETIC, degrade_named
from instruct_ipt.data.prepared import pairs, training_stream
from instruct_ipt.instruction.estimator import CLASSES, CLEAN, Estimator, features
from instruct_ipt.paths import ESTIMATOR, PREPARED, RESULTS
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/estimator` and `results/estimator.csv`."""
    params, settings = context.params, context.params.estimator
    windows, classes = _training(params)
    estimator = Estimator.fit(windows, classes, settings.freedom, settings.size)
    estimator.save(context.out / ESTIMATOR)
    found: dict[str, list[str]] = {name: [] for name in CLASSES}
    for name, image in _validation(params):
        found[name].append(CLASSES[int(np.argmax(estimator.probabilities(image)))])
    rows = [_row(name, guesses) for name, guesses in found.items() if guesses]
    (context.out / RESULTS).mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows)
    table.to_csv(context.out / RESULTS / "estimator.csv", index=False, float_format="%.6g", lineterminator="\n")


def _training(params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, F) and classes (N,) of windows of the training stream, damaged and clean."""
    stream = training_stream(PREPARED, params.degradation, params.seed, real_share=0.5)
    rows, classes = [], []
    for step in range(params.estimator.windows):
        batch = stream.batch(step, params.estimator.size, dict.fromkeys(TASKS, 1))
        rows += [features(image) for image in batch.input]
        rows.append(features(batch.target[step % len(TASKS)]))
        classes += [*batch.task.tolist(), CLASSES.index(CLEAN)]
    return np.array(rows), np.array(classes)


def _validation(params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """(class, float image (H, W, 3)): the validation pairs, their targets damaged again, and the clean images."""
    settings = params.degradation
    for task in TASKS:
        for pair in pairs(PREPARED, "validation", task, settings):
            yield task, pair.input
            sigma = float(pair.dataset.rpartition("sigma")[2]) if task == "denoise" else None
            if task in SYNTHETIC:
                for draw in range(1, params.estimator.draws + 1):
                    yield task, degrade_named(task, pair.target, pair.name, settings, sigma, seed=draw)
    for pair in pairs(PREPARED, "validation", "denoise", settings, sigmas=[settings.denoise.sigma[0]]):
        yield CLEAN, pair.target


def _row(name: str, guesses: list[str]) -> dict[str, Any]:
    """How often a class was recognised, with its Wilson interval, and what it was mostly taken for otherwise."""
    right = sum(guess == name for guess in guesses)
    low, high = binomtest(right, len(guesses)).proportion_ci(method="wilson")
    others = Counter(guess for guess in guesses if guess != name)
    mistaken = max(sorted(others), key=lambda guess: others[guess]) if others else ""
    return {
        "task": name, "right": right / len(guesses), "n": len(guesses), "ci_low": low, "ci_high": high,
        "mistaken_for": mistaken,
    }  # fmt: skip
