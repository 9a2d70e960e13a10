"""Does training ever wait for data? Samples per second that the stream makes, against what training consumes.

    python -m benchmarks.loader

Data as the pipeline has it: shards on disk with clean images, real pairs of three tasks and a snow mask; two patches of
128 px of each of the five tasks per batch. Training is the synchronous step of profile quick (modulated backbone, 2
threads) at the same patch size, on a batch that is always there. All are measured in turn, several times over. Of
training the fastest step counts, of the loader the median with the start of its processes: other work on the machine
slows the two threads of a step most, and must not flatter the ratio. Takes about a minute on two idle cores.
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from instruct_ipt import params
from instruct_ipt.data.degradations import degrade_named, snow_flakes
from instruct_ipt.data.images import read_image, to_bytes, to_float
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.data.shards import Shards, ShardWriter
from instruct_ipt.data.stream import Batch, PatchStream, prefetch
from instruct_ipt.modulation import RankRule
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation
from instruct_ipt.training.loop import Trainer
from instruct_ipt.training.phases import Phase

PATCH, PER_TASK, WORKERS = 128, 2, (0, 1, 2)
BATCHES, STEPS, ROUNDS = 40, 4, 3
PAIRED = ("deblur", "derain", "dehaze")
GROUPS = ["attention.qkv", "attention.proj", "ffn.in", "ffn.out"]
NEEDED = 2.0  # below this ratio a faster step, or a busy neighbour, would make training wait

PARAMS = Path(__file__).parents[1] / "params.yaml"
COUNTS = dict.fromkeys(TASKS, PER_TASK)


class Ready(PatchStream):
    """A stream whose batch costs nothing: it is always the same one."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def batch(self, *_: object) -> Batch:
        return self._batch


def run() -> dict[str, Any]:
    """Measure.

    Returns:
        ``training`` (samples per second that training consumes), ``needed`` (the least ratio that is good), and for
        each number of workers under ``workers``: ``loader`` (samples per second) and ``ratio`` (loader / training).
    """
    with TemporaryDirectory() as folder:
        stream = _stream(Path(folder))
        ready = Ready(stream.batch(0, PATCH, COUNTS))
        training, loader = [], {workers: [] for workers in WORKERS}
        for _ in range(ROUNDS):
            training.append(_training(ready))
            for workers in WORKERS:
                loader[workers].append(_loader(stream, workers))
    consumed, made = max(training), {workers: median(speeds) for workers, speeds in loader.items()}
    rows = {workers: {"loader": speed, "ratio": speed / consumed} for workers, speed in made.items()}
    return {"training": consumed, "needed": NEEDED, "workers": rows}


def _stream(folder: Path) -> PatchStream:
    """The training stream over shards made of the bundled training photographs."""
    settings = params.load(PARAMS, "quick").degradation
    photographs = {photo.name: read_image(locate(photo)) for photo in BUNDLED if photo.split == "train"}
    with ShardWriter(folder) as shards:
        for name, image in photographs.items():
            shards.add_clean(name, "bundled", image)
            for task in PAIRED:
                given = to_bytes(degrade_named(task, to_float(image), name, settings))
                shards.add_pair(name, "bundled", task, given, image)
        flakes = snow_flakes(np.random.default_rng(0), (480, 640), settings.desnow)
        shards.add_mask("flakes", "bundled", to_bytes(np.dstack([flakes] * 3)))
    found = Shards(folder)
    return PatchStream(found.clean(), settings, 0, {task: found.pairs(task) for task in PAIRED}, found.masks())


def _loader(stream: PatchStream, workers: int) -> float:
    """Samples per second of the stream when nothing else is done."""
    begun = time.perf_counter()
    samples = sum(len(batch.task) for batch in prefetch(stream, [(s, PATCH, COUNTS) for s in range(BATCHES)], workers))
    return samples / (time.perf_counter() - begun)


def _training(stream: PatchStream) -> float:
    """Samples per second at the fastest synchronous training step of profile quick; the first one only warms up."""
    quick = params.load(PARAMS, "quick")
    patches = [quick.training.patches[0].model_copy(update={"share": 1.0, "size": PATCH})]
    settings = quick.training.model_copy(
        update={
            "patches": patches,
            "batch_per_task": PER_TASK,
            "task_weights": dict.fromkeys(TASKS, 1.0),
            "workers": 0,
            "validate_every": 1,
            "threads": 2,
        }
    )
    model = build_modulation("quick", 0, GROUPS, RankRule("constant", 4))
    ends: list[float] = []
    trainer = Trainer(model, stream, settings, validate=lambda _: ends.append(time.perf_counter()) or {})
    trainer.train([Phase(STEPS, backbone=True, biases=True)])
    return sum(COUNTS.values()) / min(end - begun for begun, end in pairwise(ends))


def main() -> None:
    """Print the table."""
    found = run()
    print(f"training consumes {found['training']:.1f} samples/s at patch {PATCH}\n")
    print("workers  loader samples/s   ratio")
    for workers, row in found["workers"].items():
        verdict = "" if row["ratio"] >= NEEDED else f"  below {NEEDED:g}"
        print(f"{workers:7d}  {row['loader']:16.0f}  {row['ratio']:6.1f}{verdict}")


if __name__ == "__main__":
    main()
