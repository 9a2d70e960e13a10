"""What every rival promises, on three backbones: one interface, a start at the backbone, tasks that do not leak."""

from __future__ import annotations

import copy
import fnmatch

import pytest
import torch
from torch import nn

from instruct_ipt.adaptation import RIVALS, BottleneckAdapter, ChannelGate, Film, Prompt, Shared
from instruct_ipt.backbone import build_backbone
from instruct_ipt.modulation import TaskModel

from .cnn import SmallCnn, filled

TASKS = ("denoise", "derain", "desnow")
SIZED = {"film": Film, "prompt": Prompt, "gate": ChannelGate, "adapter": BottleneckAdapter}

# Parameters stacked over the tasks; all others serve every task.
STACKED = {"film": "embedding", "gate": "embedding", "prompt": "*.prompts", "adapter": "*", "task_norm": "*",
           "task_head": "*"}  # fmt: skip
CNN_NAMES = {
    "film": ("embedding", *(f"sites./{s}.{p}" for s in ("encoder", "middle/0", "middle/1", "decoder")
                            for p in ("weight", "bias"))),
    "gate": ("embedding", *(f"sites./{s}.{p}" for s in ("encoder", "middle/0", "middle/1", "decoder")
                            for p in ("weight", "bias"))),
    "prompt": tuple(f"sites./{s}.{p}" for s in ("middle/1", "decoder")
                    for p in ("prompts", "expand.weight", "depthwise.weight", "reduce.weight", "reduce.bias")),
    "adapter": tuple(f"sites./{s}.{p}" for s in ("encoder", "middle/0", "middle/1", "decoder")
                     for p in ("down", "down_bias", "up", "up_bias")),
    "task_norm": tuple(f"sites./{s}/norm.{p}" for s in ("encoder", "middle/0", "middle/1", "decoder")
                       for p in ("scale", "shift")),
    "task_head": tuple(f"sites./{s}.{p}" for s in ("head", "tail") for p in ("weight", "bias")),
}  # fmt: skip


def _backbone(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return SmallCnn() if kind == "cnn" else build_backbone("tiny", kind=kind)


@pytest.fixture(params=RIVALS)
def rival(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["cnn", "ipt", "naf"])
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    return _backbone(request.param)


def _stacked(rival: str, model: nn.Module) -> list[nn.Parameter]:
    """The task parameters whose first axis is the task."""
    names = dict(model.named_parameters())
    return [p for n, p in names.items() if not n.startswith("backbone.") and fnmatch.fnmatch(n, STACKED[rival])]


def test_a_fresh_rival_equals_its_backbone(rival: str, backbone: nn.Module) -> None:
    model = RIVALS[rival](backbone, TASKS, 2000)
    x = torch.rand(3, 3, 16, 16)
    for task in ("derain", torch.tensor([0, 1, 2]), torch.full((3, 3), 1 / 3)):
        assert torch.equal(model(x, task, 1.5), backbone(x))
    assert isinstance(model, TaskModel) and model.tasks == TASKS


def test_strength_zero_is_the_bare_backbone(rival: str, backbone: nn.Module) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    x = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(model(x, torch.arange(3), 0.0), backbone(x), rtol=0, atol=1e-6)
    assert (model(x, torch.arange(3)) - backbone(x)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="strength is 2"):
        model(x, "derain", 2.0)


def test_every_parameter_gets_a_gradient_from_each_task_and_no_other_task_does(rival: str, backbone: nn.Module) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    for index, task in enumerate(TASKS):
        model.zero_grad()
        model(torch.rand(2, 3, 32, 32), task).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
        others = [i for i in range(3) if i != index]
        assert not any(p.grad[others].any() for p in _stacked(rival, model))


def test_a_task_changes_no_other_task(rival: str, backbone: nn.Module) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    x = torch.rand(4, 3, 16, 16)
    tasks = torch.tensor([2, 0, 1, 0])
    before = model(x, tasks)
    with torch.no_grad():
        for parameter in _stacked(rival, model):
            parameter[0] += 0.5
    after = model(x, tasks)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert all((after[i] - before[i]).abs().max() > 1e-3 for i in (1, 3))


@pytest.mark.parametrize("strength", [1.0, 1.4])
def test_a_mixed_batch_is_one_task_at_a_time(rival: str, backbone: nn.Module, strength: float) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    x = torch.rand(4, 3, 17, 23)
    tasks = torch.tensor([2, 0, 2, 1])
    mixed = model(x, tasks, strength)
    for sample, task in enumerate(tasks.tolist()):
        alone = model(x[sample : sample + 1], TASKS[task], strength)[0]
        torch.testing.assert_close(mixed[sample], alone, rtol=0, atol=2e-5)


def test_a_mixed_batch_is_one_pass_of_the_backbone(rival: str, backbone: nn.Module) -> None:
    batches: list[int] = []
    model = RIVALS[rival](backbone, TASKS, 2000)
    backbone.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    model(torch.rand(3, 3, 16, 16), torch.tensor([2, 0, 1]))
    assert batches == [3]


def test_one_hot_weights_are_the_task_and_soft_ones_depend_on_both(rival: str, backbone: nn.Module) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(x, torch.eye(3)[[2, 0]]), model(x, torch.tensor([2, 0])))
    soft = model(x, torch.tensor([[0.5, 0.5, 0.0]] * 2))
    for task in TASKS:
        assert (soft - model(x, task)).abs().max() > 1e-4


@pytest.mark.parametrize("trainable", [(False, True), (True, False), (True, True), (False, False)])
def test_the_trainable_names_are_exactly_those_asked_for(rival: str, trainable: tuple[bool, bool]) -> None:
    backbone = _backbone("cnn")
    model = RIVALS[rival](backbone, TASKS, 2000)
    model.set_trainable(backbone=trainable[0], biases=trainable[1])
    expected = {f"backbone.{name}" for name, _ in backbone.named_parameters()} if trainable[0] else set()
    expected |= set(CNN_NAMES[rival]) if trainable[1] else set()
    assert {name for name, p in model.named_parameters() if p.requires_grad} == expected


def test_the_counts_are_those_of_the_parameters(rival: str, backbone: nn.Module) -> None:
    model = RIVALS[rival](backbone, TASKS, 2000)
    added = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert model.added_parameters() == added > 0
    assert model.parameters_per_task() == added / 3
    assert len(model.backbone_parameters()) == len(list(backbone.parameters()))


@pytest.mark.parametrize("rival", SIZED)
@pytest.mark.parametrize(
    ("preset", "budget"), [("tiny", 4_000), ("tiny", 20_000), ("quick", 31_360), ("quick", 200_000)]
)
def test_the_budget_is_met_within_a_tenth(rival: str, preset: str, budget: int) -> None:
    tasks = ("denoise", "deblur", "derain", "dehaze", "desnow")
    added = RIVALS[rival](build_backbone(preset), tasks, budget).added_parameters()
    assert abs(added - budget) <= 0.1 * budget


@pytest.mark.parametrize("rival", SIZED)
def test_no_other_size_is_nearer_to_the_budget(rival: str) -> None:
    backbone = _backbone("cnn")
    added = [SIZED[rival](backbone, TASKS, size).added_parameters() for size in range(1, 120)]
    for budget in (1, 777, 3210, 4567):
        chosen = RIVALS[rival](backbone, TASKS, budget).added_parameters()
        assert abs(chosen - budget) == min(abs(count - budget) for count in added)


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (33, 2)])
def test_any_size_and_grey_keep_their_shape(rival: str, backbone: nn.Module, size: tuple[int, int]) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    for channels in (1, 3):
        x = torch.rand(2, channels, *size)
        restored = model(x, torch.tensor([1, 0]))
        assert restored.shape == x.shape and bool(restored.isfinite().all())


@pytest.mark.parametrize("kind", ["ipt", "naf"])
def test_gradient_checkpointing_changes_no_gradient(rival: str, kind: str) -> None:
    model = filled(RIVALS[rival](_backbone(kind), TASKS, 2000))
    x, gradients = torch.rand(3, 3, 16, 16), []
    for checkpoint in (False, True):
        model.backbone.checkpoint = checkpoint
        model.zero_grad()
        model(x, torch.arange(3)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_state_dict_makes_the_same_model_again(rival: str, backbone: nn.Module) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    torch.manual_seed(7)
    other = RIVALS[rival](copy.deepcopy(backbone), TASKS, 2000)
    filled(other, seed=2, everything=True)
    other.load_state_dict(model.state_dict())
    x = torch.rand(2, 3, 16, 16)
    for twin in (other, copy.deepcopy(model)):
        assert torch.equal(twin(x, torch.tensor([0, 2])), model(x, torch.tensor([0, 2])))


def test_an_unknown_task_is_an_error_that_names_the_known_ones(rival: str, backbone: nn.Module) -> None:
    model = RIVALS[rival](backbone, TASKS, 2000)
    for task in ("dehaze", torch.tensor([3])):
        with pytest.raises(KeyError, match="denoise, derain, desnow"):
            model(torch.rand(1, 3, 16, 16), task)


def test_nothing_stays_attached_even_after_an_error(rival: str, backbone: nn.Module) -> None:
    model = filled(RIVALS[rival](backbone, TASKS, 2000))
    x = torch.rand(1, 3, 16, 16)
    plain = backbone(x)
    model(x, "derain")
    with pytest.raises(RuntimeError):
        model(x[:, :2], "derain")
    assert torch.equal(backbone(x), plain)


def test_bfloat16_autocast_stays_near_full_precision(rival: str) -> None:
    model = filled(RIVALS[rival](_backbone("cnn"), TASKS, 2000))
    x = torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(x, torch.tensor([0, 2])).float()
    torch.testing.assert_close(low, model(x, torch.tensor([0, 2])), rtol=0.05, atol=0.05)


def test_shared_is_the_backbone_for_every_task(backbone: nn.Module) -> None:
    model = Shared(backbone, TASKS)
    x = torch.rand(3, 3, 16, 16)
    for task in ("denoise", 2, torch.tensor([0, 1, 2]), torch.full((3, 3), 1 / 3)):
        assert torch.equal(model(x, task, 0.5), backbone(x))
    assert isinstance(model, TaskModel)
    assert model.bias_parameters() == [] and model.added_parameters() == 0 and model.parameters_per_task() == 0
    assert len(model.backbone_parameters()) == len(list(backbone.parameters()))
