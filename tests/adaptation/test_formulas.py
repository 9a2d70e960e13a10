"""Each rival's formula, written out by hand around the modules of a small CNN or into a copy of its weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.adaptation import BottleneckAdapter, ChannelGate, Film, Prompt, TaskHead, TaskNorm

from .cnn import Around, SmallCnn, filled

TASKS = ("denoise", "derain", "desnow")
MIXES = [torch.tensor([0.0, 1.0, 0.0]), torch.tensor([0.2, 0.3, 0.5])]

pytestmark = [
    pytest.mark.parametrize("strength", [1.0, 1.3]),
    pytest.mark.parametrize("mix", MIXES, ids=["one", "soft"]),
]


@pytest.fixture
def net() -> SmallCnn:
    torch.manual_seed(0)
    return SmallCnn()


def _assert_equal(model: nn.Module, mix: Tensor, strength: float, net: SmallCnn, around: Around | None = None) -> None:
    x = torch.rand(1, 3, 12, 10)
    expected = net(x, around) if around else net(x)
    torch.testing.assert_close(model(x, mix[None], strength), expected, rtol=0, atol=1e-5)


def _part(model: nn.Module, name: str) -> nn.Module | None:
    """What the model holds for the backbone's module `name`."""
    return dict(model.sites.items()).get("/" + name.replace(".", "/"))


def test_film_scales_and_shifts_after_every_block(net: SmallCnn, mix: Tensor, strength: float) -> None:
    model = filled(Film(net, TASKS, 4))

    def around(name: str, module: nn.Module, h: Tensor) -> Tensor:
        if (part := _part(model, name)) is None:
            return module(h)
        gamma, beta = (strength * part(mix @ model.embedding)).split(h.shape[-1])
        return (1 + gamma) * module(h) + beta

    _assert_equal(model, mix, strength, net, around)


def test_the_gate_weighs_the_channels_that_a_block_sees(net: SmallCnn, mix: Tensor, strength: float) -> None:
    model = filled(ChannelGate(net, TASKS, 4))

    def around(name: str, module: nn.Module, h: Tensor) -> Tensor:
        if (part := _part(model, name)) is None:
            return module(h)
        gated = h * (1 + strength * (2 * part(mix @ model.embedding).sigmoid() - 1))
        return h + (module(gated) - gated)

    _assert_equal(model, mix, strength, net, around)


def test_the_adapter_is_a_residual_bottleneck_after_every_block(net: SmallCnn, mix: Tensor, strength: float) -> None:
    model = filled(BottleneckAdapter(net, TASKS, 4))

    def around(name: str, module: nn.Module, h: Tensor) -> Tensor:
        if (part := _part(model, name)) is None:
            return module(h)
        down, down_bias, up, up_bias = (
            sum(share * p[task] for task, share in enumerate(mix))
            for p in (part.down, part.down_bias, part.up, part.up_bias)
        )
        h = module(h)
        return h + strength * (F.gelu(h @ down.T + down_bias) @ up.T + up_bias)

    _assert_equal(model, mix, strength, net, around)


def test_the_prompt_joins_the_features_from_the_bottom_on(net: SmallCnn, mix: Tensor, strength: float) -> None:
    model = filled(Prompt(net, TASKS, 5))
    assert list(model.sites) == ["/middle/1", "/decoder"]

    def around(name: str, module: nn.Module, h: Tensor) -> Tensor:
        h = module(h)
        if (part := _part(model, name)) is None:
            return h
        prompt = sum(share * part.prompts[task] for task, share in enumerate(mix)).permute(2, 0, 1)[None]
        prompt = F.interpolate(prompt, h.shape[1:3], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        # One pointwise layer on the concatenation, with the identity for the prompt.
        joint = torch.cat([part.expand.weight, torch.eye(5)], dim=1)
        hidden = F.gelu(torch.cat([h, prompt.expand(len(h), -1, -1, -1)], dim=-1) @ joint.T)
        local = F.conv2d(hidden.permute(0, 3, 1, 2), part.depthwise.weight, padding=1, groups=5).permute(0, 2, 3, 1)
        return h + strength * (local @ part.reduce.weight.T + part.reduce.bias)

    _assert_equal(model, mix, strength, net, around)


def test_task_norm_is_another_scale_and_shift_in_each_norm(net: SmallCnn, mix: Tensor, strength: float) -> None:
    model = filled(TaskNorm(net, TASKS))
    own = copy.deepcopy(net)
    with torch.no_grad():
        for name, module in own.named_modules():
            if isinstance(module, nn.LayerNorm):
                part = _part(model, name)
                factor = 1 + strength * (mix @ part.scale)
                module.weight.mul_(factor)
                module.bias.mul_(factor).add_(strength * (mix @ part.shift))
    _assert_equal(model, mix, strength, own)


def test_a_task_head_is_another_first_and_last_layer(net: SmallCnn, mix: Tensor, strength: float) -> None:
    model = filled(TaskHead(net, TASKS))
    own = copy.deepcopy(net)
    with torch.no_grad():
        for name in ("head", "tail"):
            layer, part = own.get_submodule(name), _part(model, name)
            layer.weight.add_(strength * torch.tensordot(mix, part.weight, dims=1))
            layer.bias.add_(strength * mix @ part.bias)
    _assert_equal(model, mix, strength, own)
