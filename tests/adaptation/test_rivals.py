"""The rivals that share the backbone with modulation."""

from __future__ import annotations

import pytest
import torch

from instruct_ipt.adaptation import Film, Shared, hidden_for_budget
from instruct_ipt.backbone import UNet, build_backbone
from instruct_ipt.modulation import TaskModel

TASKS = ("denoise", "derain", "desnow")


@pytest.fixture
def backbone() -> UNet:
    torch.manual_seed(0)
    return build_backbone("tiny")


def _film(backbone: UNet) -> Film:
    """A FiLM with nothing at zero."""
    model = Film(backbone, TASKS, 4)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def test_shared_is_the_backbone_for_every_task(backbone: UNet) -> None:
    model = Shared(backbone, TASKS)
    x = torch.rand(3, 3, 16, 16)
    for task in ("denoise", 2, torch.tensor([0, 1, 2]), torch.full((3, 3), 1 / 3)):
        assert torch.equal(model(x, task, 0.5), backbone(x))
    assert isinstance(model, TaskModel)
    assert model.bias_parameters() == [] and model.added_parameters() == 0 and model.parameters_per_task() == 0
    assert len(model.backbone_parameters()) == len(list(backbone.parameters()))


def test_a_fresh_film_equals_its_backbone(backbone: UNet) -> None:
    model = Film(backbone, TASKS, 4)
    x = torch.rand(3, 3, 16, 16)
    assert torch.equal(model(x, torch.tensor([0, 1, 2])), backbone(x))
    assert isinstance(model, TaskModel)


def _by_hand(model: Film, x: torch.Tensor, embedding: torch.Tensor, strength: float) -> torch.Tensor:
    """The tiny U-Net written out, with FiLM after every block."""
    net, sites = model.backbone, iter(model.sites.values())

    def block(module: torch.nn.Module, h: torch.Tensor) -> torch.Tensor:
        gamma, beta = (strength * next(sites)(embedding)).split(h.shape[-1])
        return (1 + gamma) * module(h) + beta

    h = net.head(torch.nn.functional.pixel_unshuffle(2 * x - 1, 2)).permute(0, 2, 3, 1).contiguous()
    skip = h = block(net.encoder[0].blocks[0], h)
    n, height, width, channels = h.shape
    h = (
        h.reshape(n, height // 2, 2, width // 2, 2, channels)
        .permute(0, 1, 3, 2, 4, 5)
        .reshape(n, height // 2, width // 2, -1)
    )
    h = net.encoder[0].down(h)
    for module in net.middle:
        h = block(module, h)
    h = net.decoder[0].up(h).reshape(n, height // 2, width // 2, 2, 2, channels)
    h = net.decoder[0].fuse(torch.cat([h.permute(0, 1, 3, 2, 4, 5).reshape(skip.shape), skip], -1))
    h = block(net.decoder[0].blocks[0], h)
    return x + torch.nn.functional.pixel_shuffle(net.tail(h.permute(0, 3, 1, 2)), 2)


@pytest.mark.parametrize("strength", [0.0, 1.0, 1.3])
def test_film_scales_and_shifts_after_every_block(backbone: UNet, strength: float) -> None:
    model = _film(backbone)
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(
        model(x, "derain", strength), _by_hand(model, x, model.embedding[1], strength), rtol=0, atol=1e-5
    )
    mix = torch.tensor([[0.2, 0.3, 0.5]])
    expected = _by_hand(model, x, (mix @ model.embedding)[0], strength)
    torch.testing.assert_close(model(x, mix, strength), expected, rtol=0, atol=1e-5)


def test_film_runs_mixed_tasks_in_one_pass_and_leaves_nothing_behind(backbone: UNet) -> None:
    model = _film(backbone)
    x = torch.rand(3, 3, 16, 16)
    plain = backbone(x)
    mixed = model(x, torch.tensor([2, 0, 2]))
    for sample, task in enumerate((2, 0, 2)):
        torch.testing.assert_close(mixed[sample], model(x, task)[sample], rtol=0, atol=1e-5)
    assert torch.equal(backbone(x), plain)
    with pytest.raises(KeyError, match="denoise, derain, desnow"):
        model(x, "dehaze")
    with pytest.raises(RuntimeError):
        model(x[:, :2], "derain")
    assert torch.equal(backbone(x), plain)


def test_every_parameter_gets_a_gradient(backbone: UNet) -> None:
    x = torch.rand(3, 3, 32, 32)
    for model in (_film(backbone), Shared(backbone, TASKS)):
        model.zero_grad()
        model(x, torch.arange(3)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_film_counts_and_freezes(backbone: UNet) -> None:
    model = Film(backbone, TASKS, 4)
    total = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in backbone.parameters())
    assert model.added_parameters() == total
    assert model.parameters_per_task() == total / 3
    model.set_trainable(backbone=False, biases=True)
    assert {n for n, p in model.named_parameters() if not p.requires_grad} == {
        n for n, _ in model.named_parameters() if n.startswith("backbone.")
    }
    with pytest.raises(ValueError, match="hidden is 0"):
        Film(backbone, TASKS, 0)


@pytest.mark.parametrize("budget", [1, 1000, 4321, 20_000])
def test_the_hidden_width_is_the_nearest_to_the_budget(backbone: UNet, budget: int) -> None:
    best = min(range(1, 200), key=lambda hidden: abs(Film(backbone, TASKS, hidden).added_parameters() - budget))
    hidden = hidden_for_budget(backbone, TASKS, budget)
    gap = {h: abs(Film(backbone, TASKS, h).added_parameters() - budget) for h in (hidden, best)}
    assert gap[hidden] == gap[best]
