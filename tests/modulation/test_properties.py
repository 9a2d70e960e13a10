"""Any layer, shape, rank and mix of tasks against loops in NumPy, in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from instruct_ipt.modulation import FullBias, LowRankBias, Modulated, RankRule, matrix_shape, modulate

EIGHTHS = 8
"""Task weights and strengths are drawn in eighths: exact in float32, so that float64 results can be compared."""


class Scale(nn.Module):
    """x * scale + shift over the last axis: 1-D weights outside any norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(channels)), nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@dataclass(frozen=True)
class Case:
    """A modulated layer in float64 and a batch for it: x (N, ...), mix (N, T) and a strength."""

    model: Modulated
    x: Tensor
    mix: Tensor
    strength: float


@st.composite
def layers(draw: st.DrawFn, kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A layer of `kind` and the shape of a sample."""
    size, pair = st.integers(1, 5), lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
    lead = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    if kind == "linear":
        features = draw(size)
        return nn.Linear(features, draw(size), bias=draw(st.booleans())), (*lead, features)
    if kind == "scale":
        channels = draw(size)
        return Scale(channels), (*lead, channels)
    if kind == "layer_norm":
        channels = draw(st.integers(2, 6))
        return nn.LayerNorm(channels), (*lead, channels)
    if kind == "group_norm":
        groups = draw(st.integers(1, 3))
        channels = groups * draw(st.integers(1, 2))
        return nn.GroupNorm(groups, channels), (channels, *draw(pair(2, 4)))
    groups = draw(st.integers(1, 3))
    inputs = groups * (1 if kind == "depthwise" else draw(st.integers(1, 3)))
    kernel, dilation, padding = draw(pair(1, 3)), draw(pair(1, 2)), draw(pair(0, 2))
    layer = nn.Conv2d(
        inputs,
        groups * draw(st.integers(1, 3)),
        kernel,
        stride=draw(pair(1, 3)),
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    reach = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding, strict=True)]
    return layer, (inputs, *(max(1, least) + extra for least, extra in zip(reach, draw(pair(0, 3)), strict=True)))


@st.composite
def cases(draw: st.DrawFn, kind: str) -> Case:
    """A random part of the parameters is modulated, in a random rank, for 1 to 4 tasks."""
    seed = draw(st.integers(0, 2**31))
    torch.manual_seed(seed)
    layer, shape = draw(layers(kind))
    names = [name for name, _ in layer.named_parameters()]
    select = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    tasks = [f"task{number}" for number in range(draw(st.integers(1, 4)))]
    rules = [RankRule("constant", draw(st.integers(1, 5))), RankRule("proportional", 0.5), RankRule("full")]
    model = modulate(layer.double(), tasks, select, draw(st.sampled_from(rules)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    mixed = st.lists(st.integers(0, EIGHTHS), min_size=len(tasks) - 1, max_size=len(tasks) - 1).map(
        lambda cuts: np.diff([0, *sorted(cuts), EIGHTHS]).tolist()
    )
    single = st.integers(0, len(tasks) - 1).map(
        lambda task: [EIGHTHS * (number == task) for number in range(len(tasks))]
    )
    rows = draw(st.lists(draw(st.sampled_from([single, mixed])), min_size=1, max_size=5))
    strength = draw(st.integers(0, 12)) / EIGHTHS
    return Case(model, torch.randn(len(rows), *shape).double(), torch.tensor(rows) / EIGHTHS, strength)


def brute_weights(case: Case, row: int) -> dict[str, np.ndarray]:
    """W + strength * sum over t of mix[t] * up[t] @ down[t], outer product by outer product."""
    weights = {name: weight.detach().numpy().copy() for name, weight in case.model.backbone.named_parameters()}
    for name in case.model.selection():
        bias, shape = case.model.bias(name), weights[name].shape
        for task, share in enumerate(case.mix[row].tolist()):
            if isinstance(bias, FullBias):
                weights[name] += case.strength * share * bias.full[task].detach().numpy()
                continue
            up, down = bias.up[task].detach().numpy(), bias.down[task].detach().numpy()
            for column, line in zip(up.T, down, strict=True):
                weights[name] += case.strength * share * np.outer(column, line).reshape(shape)
    return weights


def brute_conv(layer: nn.Conv2d, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """(C, H, W) -> (O, H', W'), output pixel by output pixel."""
    (down, right), (high, wide), (p, q) = layer.stride, layer.dilation, layer.padding
    x = np.pad(x, ((0, 0), (p, p), (q, q)))
    outputs, inputs, rows, columns = weight.shape
    reach = high * (rows - 1) + 1, wide * (columns - 1) + 1
    out = np.empty((outputs, (x.shape[1] - reach[0]) // down + 1, (x.shape[2] - reach[1]) // right + 1))
    for o, i, j in np.ndindex(*out.shape):
        first = o // (outputs // layer.groups) * inputs
        top, left = i * down, j * right
        window = x[first : first + inputs, top : top + reach[0] : high, left : left + reach[1] : wide]
        out[o, i, j] = (window * weight[o]).sum() + (0 if bias is None else bias[o])
    return out


def brute(case: Case, row: int) -> np.ndarray:
    """One sample through the layer's formula."""
    layer, x, weights = case.model.backbone, case.x[row].numpy(), brute_weights(case, row)
    weight, bias = weights.get("weight"), weights.get("bias")
    if isinstance(layer, Scale):
        return x * weights["scale"] + weights["shift"]
    if isinstance(layer, nn.Linear):
        return x @ weight.T + (0 if bias is None else bias)
    if isinstance(layer, nn.Conv2d):
        return brute_conv(layer, x, weight, bias)
    if isinstance(layer, nn.LayerNorm):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.eps) * weight + bias
    grouped = x.reshape(layer.num_groups, -1)
    centred = grouped - grouped.mean(1, keepdims=True)
    normed = (centred / np.sqrt((centred**2).mean(1, keepdims=True) + layer.eps)).reshape(x.shape)
    return normed * weight[:, None, None] + bias[:, None, None]


KINDS = ("linear", "conv", "depthwise", "layer_norm", "group_norm", "scale")
many = settings(max_examples=40, deadline=None, derandomize=True)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(data=st.data())
def test_every_way_to_run_equals_loops_in_numpy(kind: str, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    model, x, mix, strength = case.model, case.x, case.mix, case.strength
    expected = torch.from_numpy(np.stack([brute(case, row) for row in range(len(x))]))
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(model(x, mix, strength), expected, **close)
    if bool((mix.amax(1) == 1).all()):
        torch.testing.assert_close(model(x, mix.argmax(1), strength), expected, **close)
    for row in range(len(x)):
        sample, wanted = x[row : row + 1], expected[row : row + 1]
        torch.testing.assert_close(model.fold(mix[row : row + 1], strength)(sample), wanted, **close)


@pytest.mark.parametrize("kind", KINDS)
@many
@given(data=st.data())
def test_gradients_of_a_mixed_batch_equal_those_of_a_loop_over_samples(kind: str, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    together, apart = case.model, copy.deepcopy(case.model)
    output = together(case.x, case.mix, case.strength)
    pull = torch.randn_like(output)
    (output * pull).sum().backward()
    for row in range(len(case.x)):
        one = slice(row, row + 1)
        (apart(case.x[one], case.mix[one], case.strength) * pull[one]).sum().backward()
    for (name, one), other in zip(together.named_parameters(), apart.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) <= 1e-5 * float(other.grad.norm()) + 1e-12, name


@pytest.mark.parametrize("kind", KINDS)
@many
@given(data=st.data())
def test_folding_is_exact_idempotent_and_undone_bit_for_bit(kind: str, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    model, mix, strength = case.model, case.mix[:1], case.strength
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    folded = dict(model.fold(mix, strength).named_parameters())
    for name, weight in brute_weights(case, 0).items():
        torch.testing.assert_close(folded[name].detach(), torch.from_numpy(weight), rtol=1e-12, atol=1e-12)
    for choice in (mix, mix, torch.roll(mix, 1, dims=1), mix):
        model.fold_(choice, strength)
    assert all(torch.equal(folded[name], p) for name, p in model.backbone.named_parameters())
    for _ in range(2):
        model.unfold_()
        assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@many
@given(data=st.data())
def test_kind_rank_and_count_of_a_bias_follow_shape_and_rule(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    model = data.draw(cases(kind)).model
    weights, count = dict(model.backbone.named_parameters()), 0
    for name in model.selection():
        shape, bias = weights[name].shape, model.bias(name)
        if len(shape) < 2 or (len(shape) > 2 and shape[1] == 1):
            assert isinstance(bias, FullBias)
        if isinstance(bias, LowRankBias):
            rows, cols = matrix_shape(shape)
            assert 1 <= bias.rank <= min(rows, cols)
            count += bias.rank * (rows + cols)
        else:
            count += weights[name].numel()
    assert model.added_parameters() == count * len(model.tasks)
