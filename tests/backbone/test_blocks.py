"""The three sub-layers against plain loops in float64."""

from __future__ import annotations

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
@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 9)])
def test_focal_attention_sees_exactly_the_real_pixels_of_each_window(shifted: bool, height: int, width: int) -> None:
    layer = _randomised(FocalContextSelfAttention(6, heads=2, window=4, shifted=shifted), 1)
    x = _image(1, height, width, 6)
    expected = torch.zeros_like(x)
    start = -2 if shifted else 0
    for top in range(start, height, 4):
        for left in range(start, width, 4):
            rows, columns = slice(max(top, 0), top + 4), slice(max(left, 0), left + 4)
            window = x[0, rows, columns]
            expected[0, rows, columns] = _channel_attention(window.reshape(-1, 6), layer).view(window.shape)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-8)


def _spatial_attention(tokens: Tensor, layer: GlobalGridSelfAttention) -> Tensor:
    """Tokens (L, C) of one group -> (L, C)."""
    q, k, v = (tokens @ layer.qkv.weight.T).chunk(3, dim=1)
    depth = q.shape[1] // layer.heads
    heads = []
    for head in range(layer.heads):
        part = slice(head * depth, (head + 1) * depth)
        unit_q = q[:, part] / (q[:, part].square().sum(1, keepdim=True) + depth * EPS).sqrt()
        unit_k = k[:, part] / (k[:, part].square().sum(1, keepdim=True) + depth * EPS).sqrt()
        scale = min(math.exp(layer.logit_scale[head, 0, 0].item()), 100.0)
        heads.append((scale * unit_q @ unit_k.T).softmax(1) @ v[:, part])
    return torch.cat(heads, dim=1) @ layer.proj.weight.T + layer.proj.bias


def _grid_attention(x: Tensor, layer: GlobalGridSelfAttention) -> Tensor:
    """Brute force on one (H, W, C) map: clamp coordinates into the map, loop over chunks and offsets."""
    s, g = layer.stride, layer.grid
    sizes = []
    for size in x.shape[:2]:
        windows = math.ceil(size / s)
        chunks = math.ceil(windows / g)
        sizes.append((chunks, math.ceil(windows / chunks)))
    (rows, down), (columns, across) = sizes
    out = torch.full_like(x, float("nan"))
    for row, column, dy, dx in torch.cartesian_prod(*(torch.arange(n) for n in (rows, columns, s, s))).tolist():
        places = [
            ((row * down + i) * s + dy, (column * across + j) * s + dx) for i in range(down) for j in range(across)
        ]
        tokens = torch.stack([x[min(i, x.shape[0] - 1), min(j, x.shape[1] - 1)] for i, j in places])
        for (i, j), value in zip(places, _spatial_attention(tokens, layer), strict=True):
            if i < x.shape[0] and j < x.shape[1]:
                out[i, j] = value
    return out


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (13, 18), (1, 1), (3, 25)])
def test_grid_attention_equals_brute_force_over_chunks(height: int, width: int) -> None:
    layer = _randomised(GlobalGridSelfAttention(6, heads=2, stride=2, grid=4), 2)
    x = _image(2, height, width, 6)
    expected = torch.stack([_grid_attention(sample, layer) for sample in x])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-10)


def test_grid_attention_splits_a_large_map_in_independent_chunks() -> None:
    layer = _randomised(GlobalGridSelfAttention(6, heads=2, stride=2, grid=4), 2)
    x = _image(1, 16, 8, 6)
    changed = x.clone()
    changed[:, 8:] += 1.0
    assert torch.equal(layer(x)[:, :8], layer(changed)[:, :8])
    assert not torch.allclose(layer(x)[:, 8:], layer(changed)[:, 8:])


def test_logit_scale_is_capped_at_one_hundred() -> None:
    layer = _randomised(GlobalGridSelfAttention(4, heads=1, stride=1, grid=4), 3)
    x = _image(1, 4, 4, 4)
    outputs = []
    for value in (math.log(100.0), 9.0):
        with torch.no_grad():
            layer.logit_scale.fill_(value)
        outputs.append(layer(x))
    assert torch.equal(*outputs)


def test_depthwise_is_the_sum_of_its_branches_before_and_after_folding() -> None:
    layer = _randomised(RepDepthwise(5), 4)
    x = _image(2, 6, 7, 5)
    image = x.permute(0, 3, 1, 2)
    expected = image
    for kernel in (layer.weight, layer.weight3, layer.weight1):
        expected = expected + F.conv2d(image, kernel, padding=kernel.shape[-1] // 2, groups=5)
    expected = expected.permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    layer.fold()
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]
    kernel = layer.weight.clone()
    layer.fold()
    assert torch.equal(layer.weight, kernel)
