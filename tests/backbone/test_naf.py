"""The CNN sibling against plain convolutions, and as its callers see it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from instruct_ipt.backbone import PRESETS, NafBlock, NafConfig, NafNet, build_backbone


def _randomised(block: NafBlock) -> NafBlock:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return block.double()


def _norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    return (
        centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]
    )


def _pointwise(x: Tensor, linear: torch.nn.Linear) -> Tensor:
    return F.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def _published_block(x: Tensor, block: NafBlock) -> Tensor:
    """The block as the paper draws it, on an (N, C, H, W) map."""
    mixer, ffn = block.mixer, block.ffn
    y = _pointwise(_norm(x, block.norm1.weight, block.norm1.bias), mixer.expand)
    a, b = F.conv2d(y, mixer.depthwise.weight, mixer.depthwise.bias, padding=1, groups=y.shape[1]).chunk(2, dim=1)
    y = a * b
    y = y * _pointwise(y.mean(dim=(2, 3), keepdim=True), mixer.attention)
    x = x + block.beta[:, None, None] * _pointwise(y, mixer.reduce)
    a, b = _pointwise(_norm(x, block.norm2.weight, block.norm2.bias), ffn.expand).chunk(2, dim=1)
    return x + block.gamma[:, None, None] * _pointwise(a * b, ffn.reduce)


def test_a_block_is_the_published_one_before_and_after_folding() -> None:
    block = _randomised(NafBlock(6))
    x = torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = _published_block(x.permute(0, 3, 1, 2), block).permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)
    block.fold()
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-10)
    assert not {"beta", "gamma"} & {name for name, _ in block.named_parameters()}
    folded = copy.deepcopy(block.state_dict())
    block.fold()
    assert all(torch.equal(value, folded[name]) for name, value in block.state_dict().items())


@pytest.mark.parametrize(("preset", "millions"), [("quick", 0.65), ("small", 5.0), ("base", 17.1)])
def test_presets_have_the_size_of_the_transformer_or_the_published_one(preset: str, millions: float) -> None:
    with torch.device("meta"):
        count = sum(p.numel() for p in build_backbone(preset, kind="naf").parameters())
        transformer = sum(p.numel() for p in build_backbone(preset).parameters())
    assert abs(count / (millions * 1e6) - 1) < 0.05
    assert preset == "base" or abs(count / transformer - 1) < 0.05


def test_both_kinds_have_the_same_presets() -> None:
    assert all(isinstance(build_backbone(preset, kind="naf"), NafNet) for preset in PRESETS if preset != "base")


def test_groups_hold_what_their_names_say() -> None:
    groups = build_backbone("tiny", kind="naf").weight_groups()
    assert "middle.0.beta" in groups["norm"] and "middle.0.norm1.weight" in groups["norm"]
    assert "middle.1.mixer.attention.bias" in groups["attention.proj"]
    assert groups["ffn.depthwise"][0] == "encoder.0.blocks.0.mixer.depthwise.weight"
    assert groups["upsample"] == ["decoder.0.up.weight"]


def test_a_wrong_size_is_refused_by_key() -> None:
    with pytest.raises(ValueError, match="stem_stride is 3; allowed: 1 or 2"):
        NafConfig(width=8, depths=(1, 1, 1), stem_stride=3)
