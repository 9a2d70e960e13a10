"""Which parameters learn under each strategy: the exact names, and that nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from instruct_ipt.modulation import Modulated, RankRule, modulate
from instruct_ipt.training.phases import phases_of

TASKS = ("denoise", "derain")
BACKBONE = {"backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "backbone.2.weight"}
BIASES = {"biases./0/weight.down", "biases./0/weight.up", "biases./1/weight.full", "biases./2/weight.full"}

TRAINABLE: dict[str, list[set[str]]] = {
    "synchronous": [BACKBONE | BIASES],
    "shared": [BACKBONE],
    "frozen": [BACKBONE, BIASES],
    "two_stage": [BACKBONE, BACKBONE | BIASES],
}


def _model() -> Modulated:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Conv1d(3, 3, 1, groups=3, bias=False))
    return modulate(network, TASKS, ["0.weight", "1.weight", "2.weight"], RankRule("constant", 2))


@pytest.mark.parametrize("strategy", TRAINABLE)
def test_each_phase_trains_exactly_the_named_parameters(strategy: str) -> None:
    model = _model()
    assert {name for name, _ in model.named_parameters()} == BACKBONE | BIASES
    phases = phases_of(strategy, 20)
    assert len(phases) == len(TRAINABLE[strategy])
    for phase, wanted in zip(phases, TRAINABLE[strategy], strict=True):
        model.set_trainable(backbone=phase.backbone, biases=phase.biases)
        assert {name for name, p in model.named_parameters() if p.requires_grad} == wanted
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        # Given everything, an optimiser moves what has a gradient. Two steps: `down` has none while `up` is zero.
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
        for _ in range(2):
            optimiser.zero_grad()
            output = model(torch.randn(4, 3, 4), torch.tensor([0, 1, 1, 0]))
            (output - 1.0).square().mean().backward()
            assert {name for name, p in model.named_parameters() if p.grad is not None} == wanted
            optimiser.step()
        assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == wanted


def test_phases_of_a_strategy_spend_its_steps_on_all_tasks() -> None:
    for strategy in TRAINABLE:
        phases = phases_of(strategy, 21)
        assert sum(phase.steps for phase in phases) == 21
        assert all(phase.tasks == () for phase in phases)


def test_a_frozen_backbone_keeps_every_bit_while_biases_learn() -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    outputs = [model(torch.ones(2, 3, 4), task).detach() for task in TASKS]
    assert torch.equal(*outputs)
    model.set_trainable(backbone=False, biases=True)
    optimiser = torch.optim.SGD(model.bias_parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        (model(torch.randn(4, 3, 4), "derain") - 1.0).square().mean().backward()
        optimiser.step()
    assert all(torch.equal(before[name], value) for name, value in model.backbone.state_dict().items())
    x = torch.randn(2, 3, 4)
    assert torch.equal(model(x, "denoise"), model.backbone(x))
    assert not torch.equal(model(x, "derain"), model.backbone(x))
