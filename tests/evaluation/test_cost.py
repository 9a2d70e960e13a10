"""Multiply-adds against counts worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instruct_ipt.adaptation import Shared
from instruct_ipt.evaluation.cost import counted, restoration_cost
from instruct_ipt.modulation import RankRule, modulate

SIDE = 16
CONVOLUTION = 3 * 3 * 9 * SIDE * SIDE


@pytest.fixture
def backbone() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1)


def test_a_matrix_product_counts_its_inner_side():
    assert counted(lambda: torch.ones(4, 5) @ torch.ones(5, 6)) == 4 * 5 * 6


def test_a_network_without_tasks_has_nothing_to_fold(backbone):
    found = restoration_cost(Shared(backbone, ("a", "b")), "b", SIDE)
    assert found == {"side": SIDE, "multiply_adds": CONVOLUTION, "multiply_adds_fold": 0}


def test_a_modulated_network_costs_its_backbone_and_once_the_product_of_the_factors(backbone):
    model = modulate(backbone, ("a", "b"), ["weight"], RankRule("constant", 2))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = restoration_cost(model, "a", SIDE)
    assert found == {"side": SIDE, "multiply_adds": CONVOLUTION, "multiply_adds_fold": 3 * 2 * 27}
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
