"""What tasks cost a diffusion denoiser: switching one, sampling with one, training several at once.

    python -m benchmarks.diffusion

Needs nothing but the package, for speed does not depend on what the weights have learned. Takes a few minutes on two
quiet cores. Writes `diffusion.json` beside this file and the block of figures in `docs/diffusion.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.fill import PLANES, Fill
from instruct_ipt.diffusion.sampling import sample
from instruct_ipt.diffusion.store import Card
from instruct_ipt.modulation import Modulated

from .pages import filled, write
from .restore import machine
from .suite import show
from .timing import Row, ratio

RESULTS = Path(__file__).parent / "diffusion.json"
PAGE = Path(__file__).parents[1] / "docs/diffusion.md"
THREADS, PAIRS, STEPS, SIZE, RANK = 2, 30, 20, 64, 4
PRESET = "quick"
BATCH = 4


def measure(pairs: int = PAIRS) -> dict[str, Any]:
    """The ratios, with the machine they were measured on."""
    model = _model()
    rows = [_switching(model, pairs), _sampling(model, pairs), _mixed(model, pairs), _training(pairs)]
    for row in rows:
        print(show(row), flush=True)
    return {"rows": [asdict(row) for row in rows], "machine": machine()}


def _model() -> Modulated:
    torch.manual_seed(0)
    card = Card("synchronous", PRESET, SIZE, FILL_TASKS, RANK, ("attention", "convolution"), "ddim", STEPS)
    model = card.build(0)
    assert isinstance(model, Modulated)
    return model.eval()


def _hole() -> Fill:
    picture = np.random.default_rng(0).random((SIZE, SIZE, 3)).astype(np.float32)
    missing = np.zeros((SIZE, SIZE), dtype=bool)
    missing[16:48, 16:48] = True
    return Fill(np.where(missing[..., None], np.float32(0.5), picture), missing)


def _switching(model: Modulated, pairs: int) -> Row:
    """Writing another task into the live weights, against one sample with it."""
    fill, names = _hole(), cycle(FILL_TASKS)
    network = model.fold(FILL_TASKS[0]).eval()
    row = ratio(
        f"switching the task of a live denoiser / one sample of {STEPS} steps, {SIZE} x {SIZE}",
        lambda: model.fold_(next(names)),
        lambda: sample(network, None, [fill], [0], STEPS),
        bound=0.03,
        pairs=pairs,
    )
    model.unfold_()
    return row


def _sampling(model: Modulated, pairs: int) -> Row:
    fill, folded, plain = _hole(), model.fold(FILL_TASKS[0]).eval(), model.backbone
    what = f"folded denoiser / plain one, one sample of {STEPS} steps"
    return ratio(what, _sample(folded, fill), _sample(plain, fill), bound=1.03, pairs=pairs)


def _sample(network: torch.nn.Module, fill: Fill) -> Callable[[], object]:
    return lambda: sample(network, None, [fill], [0], STEPS)


def _mixed(model: Modulated, pairs: int) -> Row:
    x = torch.rand(BATCH * len(FILL_TASKS), PLANES, SIZE, SIZE)
    task = torch.arange(len(FILL_TASKS)).repeat_interleave(BATCH)
    with torch.inference_mode():
        return ratio(
            f"mixed batch of {len(FILL_TASKS)} tasks / plain denoiser, forward {len(x)} x {SIZE} x {SIZE}",
            lambda: model(x, task),
            lambda: model.backbone(x),
            pairs=pairs,
        )


def _training(pairs: int) -> Row:
    """Forward and backward pass with biases of all tasks, against the bare network's."""
    modulated, plain = _model().train(), _model().backbone.train()
    x = torch.rand(BATCH * len(FILL_TASKS), PLANES, SIZE, SIZE)
    task = torch.arange(len(FILL_TASKS)).repeat_interleave(BATCH)

    def step(network: torch.nn.Module, run: Callable[[], torch.Tensor]) -> Callable[[], object]:
        def work() -> None:
            network.zero_grad(set_to_none=True)
            run().square().mean().backward()

        return work

    return ratio(
        f"synchronous step of {len(FILL_TASKS)} tasks / plain step, {PRESET}, batch {len(x)} x {SIZE} x {SIZE}",
        step(modulated, lambda: modulated(x, task)),
        step(plain, lambda: plain(x)),
        pairs=pairs,
    )


def block(kept: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| time | median | quartiles | bound |", "|---|---:|---|---|"]
    for row in kept["rows"]:
        quartiles = f"{row['low']:.3f} to {row['high']:.3f}, {row['pairs']} pairs"
        bound = "" if row["bound"] is None else f"≤ {row['bound']:g}"
        lines.append(f"| {row['what']} | {row['median']:.3f} | {quartiles} | {bound} |")
    where = kept["machine"]
    return "\n".join([*lines, "", f"{where['cpu']}, {where['threads']} threads; torch {where['torch']}."])


def page(text: str, kept: Mapping[str, Any]) -> str:
    """`text` with its block of figures replaced."""
    return filled(text, "python -m benchmarks.diffusion", block(kept))


def main() -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion", description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"interleaved pairs per ratio (default: {PAIRS})")
    torch.set_num_threads(THREADS)
    kept = measure(parser.parse_args().pairs)
    write(RESULTS, json.dumps(kept, indent=2) + "\n")
    write(PAGE, page(PAGE.read_text(encoding="utf-8"), kept))


if __name__ == "__main__":
    main()
