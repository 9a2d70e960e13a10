"""The three sub-layers against plain loops in float64."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instruct_ipt.backbone import FocalContextSelfAttention, GlobalGridSelfAttention, RepDepthwise

EPS = 1e-6


def _randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.double()


def _image(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def _channel_attention(tokens: Tensor, layer: FocalContextSelfAttention) -> Tensor:
    """Tokens (L, C) of one window, without padding -> (L, C)."""
    q, k, v = (tokens @ layer.qkv.weight.T).chunk(3, dim=1)
    depth = q.shape[1] // layer.heads
    out = torch.zeros_like(q)
    for head in range(layer.heads):
        part = slice(head * depth, (head + 1) * depth)
        for i in range(depth):
            logits = torch.stack(
                [
                    layer.temperature[head, 0, 0]
                    * torch.dot(q[:, part][:, i], k[:, part][:, j])
                    / ((q[:, part][:, i].square().sum() + EPS) * (k[:, part][:, j].square().sum() + EPS)).sqrt()
                    for j in range(depth)
                ]
            )
            out[:, head * depth + i] = v[:, part] @ logits.softmax(0)
    return out @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9), (3, 9), (4, 2)])
def test_focal_attention_sees_exactly_the_real_pixels_of_each_window(shifted: bool, height: int, width: int) -> None:
    layer = _randomised(FocalContextSelfAttention(6, heads=2, window=4, shifted=shifted), 1)
    x = _image(1, height, width, 6)
    expected = torch.zeros_like(x)
    # Along an axis no longer than a window there is one window, never shifted.
    start = {side: -2 if shifted and side > 4 else 0 for side in (height, width)}
    for top in range(start[height], height, 4):
        for left in range(start[width], width, 4):
            rows, columns = slice(max(top, 0), top + 4), slice(max(left, 0), left + 4)
            window = x[0, rows, columns]
            expected[0, rows, columns] = _channel_attention(window.reshape(-1, 6), layer).view(window.shape)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("channels", "heads", "length"), [(6, 2, 16), (16, 1, 64), (8, 4, 16), (4, 1, 3)])
def test_both_forms_of_focal_attention_are_the_same_function(channels: int, heads: int, length: int) -> None:
    layer = _randomised(FocalContextSelfAttention(channels, heads, window=8, shifted=False), 1)
    tokens = _image(3, length, channels).requires_grad_()
    outputs = [form(tokens) for form in (layer._attend, layer._attend_by_gram)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(out.sin().sum(), (tokens, *layer.parameters())) for out in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)
    single = copy.deepcopy(layer).float()
    torch.testing.assert_close(single._attend_by_gram(tokens.float()), outputs[0].float(), rtol=1e-4, atol=1e-4)


def test_the_gram_form_survives_channels_that_are_zero() -> None:
    layer = FocalContextSelfAttention(8, 2, 4, shifted=False)
    with torch.no_grad():
        layer.qkv.weight[:4] = 0.0
    x = _image(1, 16, 8).float()
    x[..., :4] = 0.0
    torch.testing.assert_close(layer._attend_by_gram(x), layer._attend(x), rtol=0, atol=1e-5)


def test_autocast_takes_the_textbook_form() -> None:
    layer = FocalContextSelfAttention(8, 2, 4, shifted=False)
    x = _image(1, 4, 4, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
        assert torch.equal(low, layer._attend(x.flatten(1, 2)).view_as(low))
    torch.testing.assert_close(low.float(), layer(x), rtol=0.1, atol=0.05)


def _spatial_attention(tokens: Tensor, answering: Tensor, layer: GlobalGridSelfAttention) -> Tensor:
    """Tokens (L, C) that ask and (M, C) that answer -> (L, C)."""
    wq, wk, wv = layer.qkv.weight.chunk(3)
    q, k, v = tokens @ wq.T, answering @ wk.T, answering @ wv.T
    depth = q.shape[1] // layer.heads
    heads = []
    for head in range(layer.heads):
        part = slice(head * depth, (head + 1) * depth)
        unit = k[:, part] / (k[:, part].square().sum(1, keepdim=True) + EPS).sqrt()
        scale = min(math.exp(layer.logit_scale[head, 0, 0].item()), 100.0) / math.sqrt(q.shape[1])
        heads.append((scale * q[:, part] @ unit.T).softmax(1) @ v[:, part])
    return torch.cat(heads, dim=1) @ layer.proj.weight.T + layer.proj.bias


def _grid_attention(x: Tensor, layer: GlobalGridSelfAttention) -> Tensor:
    """Brute force on one (H, W, C) map: loop over offsets, clamp coordinates into the map."""
    s = layer.stride
    windows = [math.ceil(size / s) for size in x.shape[:2]]
    # The middles of `count` equal parts.
    answering = [
        [math.floor((i + 0.5) * n / count) for i in range(count)] for n in windows for count in [min(n, layer.grid)]
    ]
    out = torch.full_like(x, float("nan"))
    for dy, dx in itertools.product(range(s), repeat=2):

        def token(i: int, j: int, dy: int = dy, dx: int = dx) -> Tensor:
            return x[min(i * s + dy, x.shape[0] - 1), min(j * s + dx, x.shape[1] - 1)]

        places = list(itertools.product(range(windows[0]), range(windows[1])))
        asks = torch.stack([token(i, j) for i, j in places])
        answers = torch.stack([token(i, j) for i, j in itertools.product(*answering)])
        for (i, j), value in zip(places, _spatial_attention(asks, answers, layer), strict=True):
            if i * s + dy < x.shape[0] and j * s + dx < x.shape[1]:
                out[i * s + dy, j * s + dx] = value
    return out


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (13, 18), (1, 1), (3, 25)])
def test_grid_attention_equals_brute_force_over_offsets(height: int, width: int, heads: int) -> None:
    layer = _randomised(GlobalGridSelfAttention(6, heads=heads, stride=2, grid=4), 2)
    x = _image(2, height, width, 6)
    expected = torch.stack([_grid_attention(sample, layer) for sample in x])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("heads", "answers"), [(1, 5), (2, 5), (3, 2), (3, 40)])
def test_both_forms_of_grid_attention_are_the_same_function(heads: int, answers: int) -> None:
    layer = _randomised(GlobalGridSelfAttention(6, heads=heads, stride=1, grid=4), 2)
    asking, answering = _image(2, 7, 6).requires_grad_(), _image(2, answers, 6).add(0.3).requires_grad_()
    outputs = [form(asking, answering) for form in (layer._attend, layer._attend_to_few)]
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(out.sin().sum(), (asking, answering, *layer.parameters())) for out in outputs]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [8, 16, 40, 64])
def test_grid_attention_shows_no_border_on_a_smooth_map_of_any_size(size: int) -> None:
    layer = _randomised(GlobalGridSelfAttention(6, heads=2, stride=2, grid=4), 2)
    ramp = torch.linspace(0, 1, size, dtype=torch.float64)
    directions = _image(2, 6)
    out = layer((ramp[:, None, None] * directions[0] + ramp[None, :, None] * directions[1])[None])
    for axis in (1, 2):
        steps = out.diff(dim=axis).abs().mean(dim=(0, 3 - axis, 3))
        # Independent chunks of 8 pixels give steps of 7 times the median at their borders.
        assert steps.max() < 1.5 * steps.median()


def test_the_far_end_of_a_large_map_reaches_every_pixel() -> None:
    layer = _randomised(GlobalGridSelfAttention(6, heads=2, stride=2, grid=4), 2)
    x = _image(1, 32, 8, 6)
    changed = x.clone()
    changed[:, 24:] += 1.0
    assert not torch.isclose(layer(x)[:, :24], layer(changed)[:, :24]).all(dim=-1).any()


def test_logit_scale_is_capped_at_one_hundred() -> None:
    layer = _randomised(GlobalGridSelfAttention(4, heads=1, stride=1, grid=4), 3)
    x = _image(1, 4, 4, 4)
    outputs = []
    for value in (math.log(100.0), 9.0):
        with torch.no_grad():
            layer.logit_scale.fill_(value)
        outputs.append(layer(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("size", [(1, 1), (6, 7), (40, 33)])
def test_the_merged_kernel_equals_separate_branches_to_1e_6_in_single_precision(size: tuple[int, int]) -> None:
    torch.manual_seed(4)
    layer = RepDepthwise(5)
    x = _image(2, *size, 5).float()
    image = x.permute(0, 3, 1, 2)
    branches = [layer.weight, *layer.branches]
    apart = sum((F.conv2d(image, k, padding=k.shape[-1] // 2, groups=5) for k in branches), image)
    layer.fold()
    difference = (layer(x).permute(0, 3, 1, 2) - apart).abs().max()
    assert difference <= 1e-6 * apart.abs().max()


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_depthwise_is_the_sum_of_its_branches_before_and_after_folding(side: int) -> None:
    layer = _randomised(RepDepthwise(5, side), 4)
    assert [kernel.shape[-1] for kernel in layer.branches] == list(range(side - 2, 0, -2))
    x = _image(2, 6, 7, 5)
    image = x.permute(0, 3, 1, 2)
    expected = image
    for kernel in (layer.weight, *layer.branches):
        expected = expected + F.conv2d(image, kernel, padding=kernel.shape[-1] // 2, groups=5)
    expected = expected.permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    layer.fold()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    kernel = layer.weight.clone()
    layer.fold()
    assert torch.equal(layer.weight, kernel)
