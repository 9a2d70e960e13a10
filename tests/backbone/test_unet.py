"""The U-Net as its callers see it."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from instruct_ipt.backbone import PRESETS, WEIGHT_GROUPS, BackboneConfig, TransformerBlock, UNet, build_backbone


@pytest.fixture
def tiny() -> UNet:
    torch.manual_seed(0)
    return build_backbone("tiny")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (37, 53), (16, 16)])
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_any_size_in_is_the_same_size_out(height: int, width: int, stem_stride: int) -> None:
    config = BackboneConfig(
        width=8, depths=(1, 1, 1), heads=(1, 2), window=4, stride=2, grid=4, stem_stride=stem_stride
    )
    x = torch.rand(2, 3, height, width)
    output = UNet(config)(x)
    assert output.shape == x.shape and output.dtype == torch.float32
    assert torch.isfinite(output).all()


def test_a_fresh_network_is_close_to_the_identity(tiny: UNet) -> None:
    x = torch.rand(1, 3, 24, 24)
    assert (tiny(x) - x).abs().mean() < 0.1


def test_the_shape_of_the_batch_does_not_change_a_sample(tiny: UNet) -> None:
    x = torch.rand(3, 3, 21, 34)
    torch.testing.assert_close(tiny(x)[1:2], tiny(x[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", ["tiny", "quick"])
def test_every_parameter_has_a_gradient_at_the_first_step(preset: str) -> None:
    torch.manual_seed(1)
    model = build_backbone(preset)
    x = torch.rand(2, 3, 64, 64)
    (model(x) - torch.rand_like(x)).abs().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_folding_keeps_the_output_and_can_be_repeated(tiny: UNet) -> None:
    x = torch.rand(1, 3, 29, 18)
    before = tiny(x)
    copied = copy.deepcopy(tiny)
    assert tiny.fold() is tiny
    once = tiny(x)
    torch.testing.assert_close(once, before, rtol=0, atol=1e-5)
    assert torch.equal(tiny.fold()(x), once)
    assert sum(p.numel() for p in tiny.parameters()) < sum(p.numel() for p in copied.parameters())
    assert torch.equal(copied(x), before)


@pytest.mark.parametrize(
    ("preset", "low", "high"),
    [("tiny", 1, 60_000), ("quick", 500_000, 700_000), ("small", 4_500_000, 5_500_000)],
)
def test_presets_have_their_size(preset: str, low: int, high: int) -> None:
    assert low <= sum(p.numel() for p in build_backbone(preset).parameters()) <= high


def test_base_has_the_published_size_and_cost() -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        model = build_backbone("base")
        model(torch.empty(1, 3, 128, 128))
    assert abs(sum(p.numel() for p in model.parameters()) / 26.03e6 - 1) < 0.05
    # The counter counts a multiply-add as two.
    assert abs(counter.get_total_flops() / 2 / 41.16e9 - 1) < 0.05


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_groups_partition_the_parameters(preset: str) -> None:
    with torch.device("meta"):
        model = build_backbone(preset)
    groups = model.weight_groups()
    assert tuple(groups) == WEIGHT_GROUPS and all(groups.values())
    counted = Counter(name for names in groups.values() for name in names)
    assert counted == Counter(name for name, _ in model.named_parameters())


def test_groups_hold_what_their_names_say(tiny: UNet) -> None:
    groups = tiny.weight_groups()
    assert groups["head"] == ["head.weight", "head.bias"]
    assert groups["tail"] == ["tail.weight", "tail.bias"]
    assert groups["downsample"] == ["encoder.0.down.weight", "encoder.0.down.bias"]
    assert all(".depthwise." in name for name in groups["ffn.depthwise"])
    assert "middle.0.local.temperature" in groups["norm"] and "middle.0.norm1.weight" in groups["norm"]


def test_stage_depths_follow_the_network(tiny: UNet) -> None:
    depths = tiny.stage_depths()
    assert list(depths) == [name for name, _ in tiny.named_parameters()]
    assert depths["head.weight"] == depths["encoder.0.down.weight"] == depths["decoder.0.fuse.weight"] == 0
    assert depths["middle.1.ffn.expand.weight"] == 1
    assert {name.split(".")[0] for name, depth in depths.items() if depth == 1} == {"middle"}


def test_adaptation_sites_are_the_blocks(tiny: UNet) -> None:
    sites = tiny.adaptation_sites()
    seen: dict[str, int] = {}
    for name in sites:
        tiny.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output.shape[-1])
        )
    tiny(torch.rand(1, 3, 16, 16))
    assert list(seen.items()) == list(sites.items())
    assert len(sites) == sum(isinstance(module, TransformerBlock) for module in tiny.modules())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 7}, "window is 7; allowed: an even"),
        ({"window": 0}, "window is 0"),
        ({"stem_stride": 3}, "stem_stride is 3; allowed: 1 or 2"),
        ({"depths": (1, 1)}, "depths"),
        ({"depths": (1, 0, 1)}, "depths"),
        ({"heads": (1,)}, "heads is .* here 2"),
        ({"heads": (3, 2)}, r"heads\[0\] is 3; allowed: a divisor of 8"),
        ({"width": 0}, "width is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"grid": 0}, "grid is 0"),
        ({"ffn_ratio": 0.0}, "ffn_ratio"),
    ],
)
def test_a_wrong_config_is_refused_by_key(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BackboneConfig(**{"width": 8, "depths": (1, 1, 1), "heads": (1, 2), **change})


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="tiny, quick, small, base"):
        build_backbone("huge")
