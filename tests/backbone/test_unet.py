"""Both kinds of backbone as their callers see them."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from instruct_ipt.backbone import (
    KINDS,
    WEIGHT_GROUPS,
    BackboneConfig,
    NafBlock,
    NafConfig,
    NafNet,
    TransformerBlock,
    UNet,
    UShape,
    build_backbone,
)


@pytest.fixture(params=sorted(KINDS))
def tiny(request: pytest.FixtureRequest) -> UShape:
    torch.manual_seed(0)
    return build_backbone("tiny", kind=request.param)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (37, 53), (16, 16)])
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_any_size_in_is_the_same_size_out(kind: str, channels: int, height: int, width: int, stem_stride: int) -> None:
    shape = {"width": 8, "depths": (1, 1, 1), "stem_stride": stem_stride}
    transformer = {"heads": (1, 2), "window": 4, "stride": 2, "grid": 4}
    model = NafNet(NafConfig(**shape)) if kind == "naf" else UNet(BackboneConfig(**shape, **transformer))
    x = torch.rand(2, channels, height, width)
    output = model(x)
    assert output.shape == x.shape and output.dtype == torch.float32
    assert torch.isfinite(output).all()


def test_a_grey_image_is_restored_as_the_mean_of_three_equal_channels(tiny: UShape) -> None:
    grey = torch.rand(2, 1, 19, 23)
    expected = tiny(torch.cat([grey, grey, grey], dim=1)).mean(dim=1, keepdim=True)
    assert torch.equal(tiny(grey), expected)


def test_a_fresh_network_is_close_to_the_identity(tiny: UShape) -> None:
    x = torch.rand(1, 3, 24, 24)
    assert (tiny(x) - x).abs().mean() < 0.1


def test_the_shape_of_the_batch_does_not_change_a_sample(tiny: UShape) -> None:
    x = torch.rand(3, 3, 21, 34)
    torch.testing.assert_close(tiny(x)[1:2], tiny(x[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("preset", ["tiny", "quick"])
def test_every_parameter_has_a_gradient_at_the_first_step(preset: str, kind: str) -> None:
    torch.manual_seed(1)
    model = build_backbone(preset, kind=kind)
    x = torch.rand(2, 3, 64, 64)
    (model(x) - torch.rand_like(x)).abs().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_folding_keeps_the_output_and_can_be_repeated(tiny: UShape) -> None:
    x = torch.rand(1, 3, 29, 18)
    before = tiny(x)
    copied = copy.deepcopy(tiny)
    assert tiny.fold() is tiny
    once = tiny(x)
    torch.testing.assert_close(once, before, rtol=0, atol=1e-5)
    assert torch.equal(tiny.fold()(x), once)
    assert sum(p.numel() for p in tiny.parameters()) < sum(p.numel() for p in copied.parameters())
    assert torch.equal(copied(x), before)


def _gradients(model: UShape, x: Tensor, weights: dict[str, Tensor] | None = None) -> tuple[list[Tensor], int]:
    """Gradients of all parameters (or of `weights`, lent for the forward pass), and the bytes kept for the backward."""
    lent = weights or dict(model.named_parameters())
    owned = {value.data_ptr() for value in lent.values()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in owned:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = functional_call(model, weights, (x,)).square().mean() if weights else model(x).square().mean()
    total = sum(kept.values())
    return list(torch.autograd.grad(loss, list(lent.values()))), total


@pytest.mark.parametrize("lend", [False, True])
def test_checkpointing_keeps_the_gradients_and_saves_memory(tiny: UShape, lend: bool) -> None:
    x = torch.rand(2, 3, 32, 32)
    weights = None
    if lend:  # as modulation does: the network's own weights are back when the backward pass runs
        generator = torch.Generator().manual_seed(5)
        weights = {
            name: (p + 0.1 * torch.randn(p.shape, generator=generator)).detach().requires_grad_()
            for name, p in tiny.named_parameters()
        }
    expected, plain_bytes = _gradients(tiny, x, weights)
    tiny.checkpoint = True
    gradients, kept_bytes = _gradients(tiny, x, weights)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-8)
    assert kept_bytes < 0.5 * plain_bytes


def test_checkpointing_remembers_hooks_that_are_gone_by_the_backward_pass(tiny: UShape) -> None:
    x = torch.rand(1, 3, 16, 16)
    results = []
    for tiny.checkpoint in (False, True):
        site = tiny.get_submodule("middle.0.norm1")
        with site.register_forward_hook(lambda module, inputs, output: 3.0 * output):
            loss = tiny(x).square().mean()
        results.append(torch.autograd.grad(loss, list(tiny.parameters())))
        assert not site._forward_hooks
    for plain, recomputed in zip(*results, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-8)


def test_checkpointing_is_a_choice_at_building() -> None:
    assert build_backbone("tiny", checkpoint=True).checkpoint
    assert not build_backbone("tiny").checkpoint


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


@pytest.mark.parametrize(("kind", "preset"), [(kind, preset) for kind, sizes in KINDS.items() for preset in sizes])
def test_groups_partition_the_parameters(kind: str, preset: str) -> None:
    with torch.device("meta"):
        model = build_backbone(preset, kind=kind)
    groups = model.weight_groups()
    assert tuple(groups) == WEIGHT_GROUPS and all(groups.values())
    counted = Counter(name for names in groups.values() for name in names)
    assert counted == Counter(name for name, _ in model.named_parameters())


def test_groups_hold_what_their_names_say() -> None:
    groups = build_backbone("tiny").weight_groups()
    assert groups["head"] == ["head.weight", "head.bias"]
    assert groups["tail"] == ["tail.weight", "tail.bias"]
    assert groups["downsample"] == ["encoder.0.down.weight", "encoder.0.down.bias"]
    assert all(".depthwise." in name for name in groups["ffn.depthwise"])
    assert "middle.0.local.temperature" in groups["norm"] and "middle.0.norm1.weight" in groups["norm"]


def test_stage_depths_follow_the_network(tiny: UShape) -> None:
    depths = tiny.stage_depths()
    assert list(depths) == [name for name, _ in tiny.named_parameters()]
    assert depths["head.weight"] == depths["encoder.0.down.weight"] == depths["decoder.0.up.weight"] == 0
    assert depths["middle.1.ffn.expand.weight"] == 1
    assert {name.split(".")[0] for name, depth in depths.items() if depth == 1} == {"middle"}


def test_adaptation_sites_are_the_blocks(tiny: UShape) -> None:
    sites = tiny.adaptation_sites()
    seen: dict[str, int] = {}
    for name in sites:
        tiny.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.__setitem__(name, output.shape[-1])
        )
    tiny(torch.rand(1, 3, 16, 16))
    assert list(seen.items()) == list(sites.items())
    assert len(sites) == sum(isinstance(module, (TransformerBlock, NafBlock)) for module in tiny.modules())


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


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="ipt, naf"):
        build_backbone("tiny", kind="vgg")
