"""Small trainings by name, run by a test itself or by ``torchrun -m tests.training.runs FOLDER NAME ...``."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instruct_ipt.data.stream import Batch
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule
from instruct_ipt.tasks import TASKS
from instruct_ipt.training import loop
from instruct_ipt.training.build import build_modulation, build_shared
from instruct_ipt.training.distributed import World, joined
from instruct_ipt.training.phases import Phase
from tests.helpers import smoke, stream

SYNCHRONOUS, SHARED = Phase(6, True, True), Phase(6, True, False)
EVEN = dict.fromkeys(TASKS, 1.0)


@dataclass(frozen=True)
class Stream:
    """The small stream of the tests, in another precision, with bad samples and a deadly step where asked for.

    Attributes:
        dtype: of the images.
        poisoned: steps in which the second sample of the batch is not a number; the second process has it.
        deadly: the step whose batch kills the second process.
    """

    dtype: type = np.float32
    poisoned: range = range(0)
    deadly: int | None = None

    def batch(self, step: int, patch: int, counts: Mapping[str, int]) -> Batch:
        if step == self.deadly and World.current().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        batch = stream().batch(step, patch, counts)
        given = batch.input.astype(self.dtype)
        if step in self.poisoned:
            given[1] = math.nan
        return Batch(given, batch.target.astype(self.dtype), batch.task, batch.names)


@dataclass(frozen=True)
class Training:
    """What is trained.

    Attributes:
        kind: `modulation` or `shared`.
        stream: where batches come from.
        settings: changes to the smoke profile's.
        phases: how.
    """

    kind: str = "modulation"
    stream: Stream = Stream()
    settings: dict[str, Any] = field(default_factory=dict)
    phases: tuple[Phase, ...] = (SYNCHRONOUS,)

    def model(self, seed: int) -> torch.nn.Module:
        if self.kind == "shared":
            network = build_shared("tiny", seed)
        else:
            network = build_modulation("tiny", seed, ["attention.qkv", "ffn.in", "norm"], RankRule("constant", 2))
        return network.to(torch.float64 if self.stream.dtype is np.float64 else torch.float32)


DOUBLE = Stream(np.float64)
STAGED = (Phase(5, True, False), Phase(5, True, True))
TRAININGS = {
    # Five samples: every task is in one process only.
    "synchronous": Training(stream=DOUBLE, settings={"batch_per_task": 1, "task_weights": EVEN, "clip": 0.01}),
    "seven": Training("shared", DOUBLE, {"batch_per_task": 1, "task_weights": EVEN | {"denoise": 3.0}}, (SHARED,)),
    "phases": Training(stream=DOUBLE, phases=(Phase(3, True, False), Phase(3, False, True))),
    "single": Training(),
    "bf16": Training(settings={"precision": "bf16"}),
    "poisoned": Training(stream=Stream(np.float64, range(2, 3))),
    "diverged": Training("shared", Stream(poisoned=range(2, 40)), {"checkpoint_every": 100}, (Phase(40, True, False),)),
    "crowded": Training(settings={"batch_per_task": 1}, phases=(Phase(2, True, True, ("dehaze",)),)),
    "staged": Training(phases=STAGED),
    "killed": Training(stream=Stream(deadly=9), phases=STAGED),
    "resumed": Training(phases=STAGED),
}


def train(name: str, checkpoints: Path | None = None) -> dict[str, Any]:
    """Run a training; what it ended with, as plain values and tensors.

    Every process starts from weights of its own: that they agree at the end is the trainer's doing.
    """
    training, rank = TRAININGS[name], World.current().rank
    observed: list[int] = []
    validated: list[int] = []

    def validate(network: torch.nn.Module) -> dict[str, float]:
        validated.append(1)
        return {task: float(sum(p.detach().double().square().sum() for p in network.parameters())) for task in TASKS}

    settings = smoke().training.model_copy(
        update={"validate_every": 2, "checkpoint_every": 2, "threads": 1} | training.settings
    )
    network = training.model(seed=rank)
    trainer = loop.Trainer(
        network, training.stream, settings, validate, checkpoints, lambda step, shown: observed.append(step)
    )
    result: dict[str, Any] = {"history": [], "error": ""}
    try:
        result["history"] = trainer.train(list(training.phases))
    except InputError as error:
        result["error"] = str(error)
    return result | {"weights": network.state_dict(), "observed": observed, "validated": len(validated)}


def gradients() -> dict[str, Any]:
    """Two processes with a quarter and three quarters of the samples average what some parameters have."""
    world = World.current()
    both, one, none = (torch.nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    both.grad = torch.full((2, 3), 4.0 * (world.rank + 1))
    if world.rank == 1:
        one.grad = torch.arange(6.0).view(2, 3)
    world.average_gradients([both, one, none], 0.25 + 0.5 * world.rank)
    return {"gradients": [both.grad, one.grad, none.grad]}


def main(folder: Path, names: list[str]) -> None:
    """Run trainings one after another in each process; ``FOLDER/NAME-RANK.pt`` holds what each ended with."""
    bars: list[str] = []

    @contextlib.contextmanager
    def progress(title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        bars.append(title)
        yield lambda done, note: None

    loop.progress = progress
    with joined() as world:
        for name in names:
            bars.clear()
            checkpoints = folder / f"checkpoints-{world.rank}"
            result = gradients() if name == "gradients" else train(name, checkpoints)
            shutil.rmtree(checkpoints, ignore_errors=True)
            torch.save(result | {"bars": len(bars)}, folder / f"{name}-{world.rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:])
