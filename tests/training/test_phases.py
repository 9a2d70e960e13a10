"""Schedules and phases, against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from instruct_ipt.training.phases import counts_of, patch_at, phases_of, rate_at


@pytest.mark.parametrize("strategy", ["synchronous", "shared", "frozen", "two_stage"])
@pytest.mark.parametrize("steps", [10, 11])
def test_every_strategy_spends_the_same_steps(strategy, steps):
    assert sum(phase.steps for phase in phases_of(strategy, steps)) == steps


def test_what_learns_in_each_phase():
    table = {
        s: [(p.backbone, p.biases) for p in phases_of(s, 10)] for s in ("synchronous", "shared", "frozen", "two_stage")
    }
    assert table == {
        "synchronous": [(True, True)],
        "shared": [(True, False)],
        "frozen": [(True, False), (False, True)],
        "two_stage": [(True, False), (True, True)],
    }
    with pytest.raises(KeyError, match="synchronous, shared"):
        phases_of("experts", 10)


def test_the_rate_warms_up_linearly_and_falls_along_a_cosine():
    rates = [rate_at(step, 100, 0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0) and all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[55] == pytest.approx(0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert rate_at(100, 100, 0.1) == pytest.approx(0.02)


def test_patches_grow_by_their_shares():
    patches = [
        SimpleNamespace(share=0.5, size=64),
        SimpleNamespace(share=0.3, size=96),
        SimpleNamespace(share=0.2, size=128),
    ]
    sizes = [patch_at(step, 10, patches) for step in range(10)]
    assert sizes == [64] * 5 + [96] * 3 + [128] * 2


def test_task_weights_become_counts_of_at_least_one():
    assert counts_of({"denoise": 1.5, "deblur": 0.1}, 4, ["denoise", "deblur"]) == {"denoise": 6, "deblur": 1}
