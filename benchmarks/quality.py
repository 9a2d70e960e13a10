"""What a network has learned after the same minutes: noise of sigma 25, `quick` of both families.

    python -m benchmarks quality

Each network trains alone on the same batches (8 patches of 64x64 of the bundled training photographs and of procedural
images, L1 and frequency loss, AdamW, the rate a cosine of the time spent, averaged weights), in turns of a few seconds
in one process, and only its own steps are on its clock: another process slows all of them alike. Scored on the bundled
test photographs, protocol `rgb`. Takes a little more than twice `MINUTES`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from torch import nn

from instruct_ipt import params
from instruct_ipt.adaptation import Shared
from instruct_ipt.backbone import build_backbone
from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.degradations import add_noise
from instruct_ipt.data.images import read_image, to_bytes, to_float
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.data.stream import PatchStream
from instruct_ipt.evaluation.protocol import psnr
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.loop import make_optimiser, swapped, to_tensor
from instruct_ipt.training.losses import restoration_loss
from instruct_ipt.training.phases import rate_at

from .timing import Row, exact

MINUTES, TURN = 3.0, 3.0
SIGMA, BATCH, PATCH, PROCEDURAL = 25, 8, 64, 40
KEEPS_FREED_MEMORY = False
"""As a user trains."""
PARAMS = Path(__file__).parents[1] / "params.yaml"


class Learner:
    """One network, its optimiser and its own clock.

    Args:
        network: (N, 3, H, W) -> the same, trained in place.
        stream: training batches.
        seconds: of training; the learning rate falls to its end by then.
    """

    def __init__(self, network: nn.Module, stream: PatchStream, seconds: float) -> None:
        self.model, self.stream, self.seconds = Shared(network, TASKS), stream, seconds
        self.training = params.load(PARAMS, "quick").training
        self.optimiser = make_optimiser(self.model, self.training)
        self.average = [p.detach().clone() for p in self.model.parameters()]
        self.spent, self.steps = 0.0, 0

    def train(self, seconds: float) -> None:
        """Go on until `seconds` more are on the clock, or all are spent."""
        end = min(self.spent + seconds, self.seconds)
        while self.spent < end:
            batch = self.stream.batch(self.steps, PATCH, {"denoise": BATCH})
            begun = time.perf_counter()
            self._step(to_tensor(batch.input, torch.device("cpu")), to_tensor(batch.target, torch.device("cpu")))
            self.spent += time.perf_counter() - begun
            self.steps += 1

    def _step(self, given: torch.Tensor, target: torch.Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * rate_at(int(1e6 * self.spent), int(1e6 * self.seconds), 0.03)
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.training.loss
        restoration_loss(self.model(given, "denoise"), target, loss.l1, loss.frequency).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self.optimiser.step()
        decay = min(self.training.ema, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.model.parameters()], 1.0 - decay)

    def score(self) -> float:
        """Mean PSNR in dB on the test photographs, with the averaged weights."""
        with swapped(self.model, self.average), torch.inference_mode():
            return mean(
                self._psnr(photo.name, to_float(read_image(locate(photo))))
                for photo in BUNDLED
                if photo.split == "test"
            )

    def _psnr(self, name: str, clean: np.ndarray) -> float:
        rng = np.random.default_rng(list(name.encode()))
        noisy = torch.from_numpy(add_noise(clean, rng, SIGMA)).permute(2, 0, 1)[None]
        return psnr(self.model(noisy, "denoise")[0].permute(1, 2, 0).numpy(), clean)


def contest(networks: Mapping[str, nn.Module], minutes: float = MINUTES) -> dict[str, dict[str, float]]:
    """Name -> `psnr` in dB and `steps` after `minutes` of training each."""
    settings = params.load(PARAMS, "quick").degradation
    noise = settings.denoise.model_copy(update={"sigma": [SIGMA]})
    images = [read_image(locate(photo)) for photo in BUNDLED if photo.split == "train"]
    images += [to_bytes(dead_leaves(np.random.default_rng([0, i]), 256)) for i in range(PROCEDURAL)]
    stream = PatchStream(images, settings.model_copy(update={"denoise": noise}), 0)
    learners = {name: Learner(network, stream, 60 * minutes) for name, network in networks.items()}
    while any(learner.spent < learner.seconds for learner in learners.values()):
        for learner in learners.values():
            learner.train(TURN)
    return {name: {"psnr": learner.score(), "steps": learner.steps} for name, learner in learners.items()}


def run(pairs: int = 50) -> list[Row]:
    """One contest; `pairs` changes nothing."""
    networks = {}
    for kind in ("ipt", "naf"):
        torch.manual_seed(0)
        networks[kind] = build_backbone("quick", kind=kind)
    found = contest(networks)
    gap = found["ipt"]["psnr"] - found["naf"]["psnr"]
    what = f"PSNR of quick minus that of naf after {MINUTES:g} minutes each, noise of sigma {SIGMA}"
    steps = found["ipt"]["steps"] / found["naf"]["steps"]
    return [Row(what, gap, gap, gap, -0.3, ">=", "dB"), exact("steps of quick / naf in these minutes", steps)]
