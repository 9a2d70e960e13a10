"""The same seed gives the same bytes for any number of loader processes; other thread counts round otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from instruct_ipt.modulation import RankRule
from instruct_ipt.training.build import build_modulation
from instruct_ipt.training.loop import Trainer
from instruct_ipt.training.phases import Phase
from tests.helpers import smoke, stream

from .tally import Tally


def trained(steps: int, workers: int = 0, threads: int = 1) -> dict[str, torch.Tensor]:
    """Weights after ``steps`` steps of synchronous training of the tiny network."""
    update = {"steps": steps, "validate_every": steps, "workers": workers, "threads": threads}
    network = build_modulation("tiny", 0, ["attention.qkv", "ffn.in", "norm"], RankRule("constant", 2))
    try:
        Trainer(network, stream(), smoke().training.model_copy(update=update)).train([Phase(steps, True, True)])
    finally:
        torch.set_num_threads(1)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def apart(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference of two sets of weights."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_worker_counts(many: Callable[[int, int], int], tally: Tally) -> None:
    """Training gives the same bytes with any number of loader processes."""
    steps = many(6, 40)
    plain = trained(steps)
    for workers in (1, 2, many(2, 5)):
        assert apart(plain, trained(steps, workers=workers)) == 0.0, workers
        tally.add("trainings compared")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_count_repeats_its_bytes(threads: int, many: Callable[[int, int], int], tally: Tally) -> None:
    """Training gives the same bytes again on the same number of threads."""
    steps = many(4, 40)
    assert apart(trained(steps, threads=threads), trained(steps, threads=threads)) == 0.0
    tally.add("trainings compared", 2)


def test_other_thread_counts_stay_near(many: Callable[[int, int], int], tally: Tally) -> None:
    """Training on two threads stays near that on one; the bytes may differ, as docs/reliability.md says."""
    steps = many(4, 12)
    assert apart(trained(steps), trained(steps, threads=2)) < 1e-4
    tally.add("trainings compared", 2)
