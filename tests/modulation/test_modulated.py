"""Every way to run a modulated module against W + up @ down written out in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.backbone import build_backbone
from instruct_ipt.modulation import (
    FullBias,
    LowRankBias,
    Modulated,
    RankRule,
    TaskModel,
    TaskRows,
    matrix_shape,
    modulate,
)

TASKS = ("denoise", "derain", "desnow")


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _all(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _randomise_biases(model: Modulated, scale: float = 0.3) -> None:
    generator = _generator(5)
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def _brute_weight(model: Modulated, name: str, mix: list[float]) -> Tensor:
    """W + sum_t mix[t] * up[t] @ down[t] in float64, entry by entry of the mix."""
    weight = dict(model.backbone.named_parameters())[name].detach().double()
    if f"/{name.replace('.', '/')}" not in model.biases:
        return weight
    bias = model.bias(name)
    for task, share in enumerate(mix):
        if isinstance(bias, FullBias):
            weight = weight + share * bias.full[task].detach().double()
        else:
            product = torch.einsum("ir,rj->ij", bias.up[task].detach().double(), bias.down[task].detach().double())
            weight = weight + share * product.reshape(weight.shape)
    return weight


def _layers() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    torch.manual_seed(3)
    return {
        "linear": (nn.Linear(7, 5), (7,)),
        "linear_on_maps": (nn.Linear(6, 4, bias=False), (3, 2, 6)),
        "conv": (nn.Conv2d(4, 6, 3, padding=1), (4, 9, 8)),
        "conv_stride_padding": (nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 2)), (4, 9, 8)),
        "conv_dilation": (nn.Conv2d(4, 6, 3, dilation=2), (4, 9, 8)),
        "conv_groups": (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 8)),
        "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1), (4, 9, 8)),
        "layer_norm": (nn.LayerNorm(6), (5, 6)),
    }


def _reference(layer: nn.Module, x: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """One sample through the layer's formula in float64."""
    weight, bias = weights["weight"], weights.get("bias")
    if isinstance(layer, nn.Linear):
        return x @ weight.T + (0 if bias is None else bias)
    if isinstance(layer, nn.LayerNorm):
        return (x - x.mean(-1, keepdim=True)) / (
            x.var(-1, correction=0, keepdim=True) + layer.eps
        ).sqrt() * weight + bias
    return F.conv2d(x[None], weight, bias, layer.stride, layer.padding, layer.dilation, layer.groups)[0]


MIXES = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3], [1.0, 0.0, 0.0]]


@pytest.mark.parametrize("kind", sorted(_layers()))
@pytest.mark.parametrize("rule", [RankRule("constant", 2), RankRule("proportional", 0.5), RankRule("full")])
@pytest.mark.parametrize("strength", [0.0, 1.0, 1.5])
def test_soft_mixed_and_folded_equal_brute_force(kind: str, rule: RankRule, strength: float) -> None:
    layer, shape = _layers()[kind]
    model = modulate(layer, TASKS, _all(layer), rule, _generator())
    _randomise_biases(model)
    x = torch.randn(len(MIXES), *shape, generator=_generator(9))
    soft = model(x, torch.tensor(MIXES), strength)
    for sample, mix, output in zip(x, MIXES, soft, strict=True):
        weights = {name: _brute_weight(model, name, [strength * share for share in mix]) for name in _all(layer)}
        expected = _reference(layer, sample.double(), weights)
        torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=2e-5)
    index = torch.tensor([2, 0, 1, 1, 0, 2])
    mixed = model(x, index, strength)
    for sample, task, output in zip(x, index.tolist(), mixed, strict=True):
        named = model(sample[None], TASKS[task], strength)[0]
        folded = model.fold(task, strength)(sample[None])[0]
        torch.testing.assert_close(output, named, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(folded, named, rtol=1e-5, atol=2e-5)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(index=st.lists(st.integers(0, 2), min_size=1, max_size=7), strength=st.floats(0.0, 1.5))
def test_a_mixed_batch_equals_its_samples_one_by_one(index: list[int], strength: float) -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 3))
    model = modulate(layer, TASKS, _all(layer), RankRule("constant", 2), _generator())
    _randomise_biases(model)
    x = torch.randn(len(index), 5, generator=_generator(1))
    together = model(x, torch.tensor(index), strength)
    alone = torch.cat([model(x[i : i + 1], task, strength) for i, task in enumerate(index)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.fixture
def tiny() -> Modulated:
    torch.manual_seed(0)
    backbone = build_backbone("tiny")
    return modulate(backbone, TASKS, _all(backbone), RankRule("constant", 3), _generator())


def test_a_fresh_model_equals_its_backbone_bit_for_bit(tiny: Modulated) -> None:
    x = torch.rand(3, 3, 20, 17)
    expected = tiny.backbone(x)
    for task in (*TASKS, 1):
        assert torch.equal(tiny(x, task), expected)
    assert torch.equal(tiny.fold("derain")(x), expected)
    assert isinstance(tiny, TaskModel)


def test_ways_to_run_agree_on_the_backbone(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    x = torch.rand(4, 3, 16, 16)
    index = torch.tensor([0, 2, 0, 1])
    mixed = tiny(x, index)
    torch.testing.assert_close(mixed, tiny(x, torch.eye(3)[index]), rtol=0, atol=1e-5)
    for sample, task in enumerate(index.tolist()):
        folded = tiny.fold(task).fold()(x[sample : sample + 1])
        torch.testing.assert_close(mixed[sample : sample + 1], folded, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(tiny(x, 0), tiny(x, 1))


def test_mixed_gradients_equal_the_sum_of_separate_ones(tiny: Modulated) -> None:
    _randomise_biases(tiny, 0.05)
    x = torch.rand(4, 3, 16, 16, generator=_generator(2))
    index = torch.tensor([0, 2, 0, 1])
    separate = copy.deepcopy(tiny)
    tiny(x, index).square().sum().backward()
    for sample, task in enumerate(index.tolist()):
        separate(x[sample : sample + 1], task).square().sum().backward()
    for (name, one), other in zip(tiny.named_parameters(), separate.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) <= 1e-5 * float(other.grad.norm()), name


def test_every_parameter_has_a_gradient_once_biases_are_not_zero(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    x = torch.rand(3, 3, 32, 32, generator=_generator(2))
    tiny(x, torch.arange(3)).square().sum().backward()
    assert [name for name, p in tiny.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_only_the_tasks_present_get_a_gradient(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    tiny(torch.rand(2, 3, 16, 16), torch.tensor([0, 2])).square().sum().backward()
    for parameter in tiny.bias_parameters():
        assert not parameter.grad[1].any()
        assert parameter.grad[0].any() and parameter.grad[2].any()


def test_folding_in_place_is_exact_repeatable_and_undone_bit_for_bit(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    x = torch.rand(2, 3, 16, 16)
    before = {name: p.detach().clone() for name, p in tiny.named_parameters()}
    expected = {task: tiny(x, task, 0.7) for task in TASKS}
    for task in (*TASKS, TASKS[-1]):
        tiny.fold_(task, 0.7)
        torch.testing.assert_close(tiny(x, task, 0.7), expected[task], rtol=0, atol=1e-6)
        torch.testing.assert_close(tiny.backbone(x), expected[task], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="unfold_"):
        tiny(x, TASKS[0], 0.7)
    with pytest.raises(ValueError, match="unfold_"):
        tiny(x, TASKS[-1], 1.0)
    with pytest.raises(ValueError, match="unfold_"):
        tiny.fold("derain")
    tiny.unfold_()
    tiny.unfold_()
    assert all(torch.equal(before[name], p) for name, p in tiny.named_parameters())


def test_folding_gives_a_plain_backbone_and_leaves_the_model_alone(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    before = copy.deepcopy(tiny.state_dict())
    folded = tiny.fold("desnow")
    assert type(folded) is type(tiny.backbone)
    assert folded.state_dict().keys() == tiny.backbone.state_dict().keys()
    assert all(torch.equal(before[key], value) for key, value in tiny.state_dict().items())


def test_a_mixture_of_tasks_can_be_folded(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    x = torch.rand(2, 3, 16, 16)
    mix = torch.tensor([[0.5, 0.2, 0.3]])
    torch.testing.assert_close(tiny.fold(mix)(x), tiny(x, mix.repeat(2, 1)), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="1 samples"):
        tiny.fold(mix.repeat(2, 1))


def test_weights_in_any_memory_format_are_modulated_alike() -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, 3)
    models = [modulate(c, TASKS, ["weight"], RankRule("constant", 2)) for c in (plain, copy.deepcopy(plain))]
    for model in models:
        _randomise_biases(model)
    models[1].backbone.to(memory_format=torch.channels_last)
    x = torch.rand(2, 4, 6, 6)
    torch.testing.assert_close(models[0](x, 1), models[1](x, 1))


def test_bfloat16_autocast_runs_and_rounds_activations_only(tiny: Modulated) -> None:
    x = torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tiny(x, 1), tiny.backbone(x))
        _randomise_biases(tiny)
        torch._foreach_mul_([p.detach() for p in tiny.bias_parameters()], 0.1)
        output = tiny(x, torch.tensor([0, 1]))
    torch.testing.assert_close(output.float(), tiny(x, torch.tensor([0, 1])), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", sorted(_layers()))
def test_every_kind_of_layer_runs_and_learns_under_bfloat16_autocast(kind: str) -> None:
    layer, shape = _layers()[kind]
    model = modulate(layer, TASKS, _all(layer), RankRule("constant", 2), _generator())
    _randomise_biases(model)
    x, index = torch.randn(4, *shape, generator=_generator(9)), torch.tensor([0, 2, 0, 1])
    exact = model(x, index).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(x, index)
        for sample, task in enumerate(index.tolist()):
            own = x[sample : sample + 1]
            # Sums of weights stay in float32, so that a folded network gives the same bits.
            assert torch.equal(model(own, task), model.fold(task)(own))
    assert mixed.dtype == layer_dtype(layer, x)
    assert float((mixed.detach() - exact).abs().max()) <= 2**-6 * float(exact.abs().max())
    mixed.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all() and parameter.grad.any(), name


def layer_dtype(layer: nn.Module, x: Tensor) -> torch.dtype:
    """What autocast makes of the layer without tasks: bfloat16 of products, float32 of norms."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return layer(x).dtype


def test_state_dict_restores_the_model(tiny: Modulated) -> None:
    _randomise_biases(tiny)
    other = modulate(build_backbone("tiny"), TASKS, tiny.selection(), RankRule("constant", 3))
    other.load_state_dict(tiny.state_dict())
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(tiny(x, "derain"), other(x, "derain"))


def test_counts_and_kinds_follow_the_rule(tiny: Modulated) -> None:
    expected = 0
    for name, weight in tiny.backbone.named_parameters():
        depthwise = weight.ndim == 4 and weight.shape[1] == 1
        if weight.ndim < 2 or depthwise or weight.ndim == 3:
            expected += weight.numel()
            assert isinstance(tiny.bias(name), FullBias)
        else:
            rows, cols = matrix_shape(weight.shape)
            expected += min(3, rows, cols) * (rows + cols)
            assert isinstance(tiny.bias(name), LowRankBias)
    assert tiny.added_parameters() == 3 * expected
    assert tiny.parameters_per_task() == expected


def test_trainable_names_are_exactly_those_asked_for(tiny: Modulated) -> None:
    for backbone, biases in ((True, True), (True, False), (False, True), (False, False)):
        tiny.set_trainable(backbone=backbone, biases=biases)
        wanted = {n for n, _ in tiny.named_parameters() if (backbone if n.startswith("backbone.") else biases)}
        assert {n for n, p in tiny.named_parameters() if p.requires_grad} == wanted


def test_frozen_backbone_gets_no_gradient_but_biases_do(tiny: Modulated) -> None:
    tiny.set_trainable(backbone=False, biases=True)
    tiny(torch.rand(2, 3, 16, 16), torch.tensor([0, 1])).square().sum().backward()
    assert all(p.grad is None for p in tiny.backbone_parameters())
    assert any(p.grad is not None and p.grad.any() for p in tiny.bias_parameters())


def test_the_random_start_depends_on_the_seed_only() -> None:
    names = ["0.weight", "1.weight"]
    starts = []
    for select in (names, names[::-1]):
        model = modulate(
            nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), TASKS, select, RankRule("constant", 1), _generator()
        )
        starts.append([p.detach() for p in model.bias_parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*starts, strict=True))


def test_a_selection_leaves_the_other_weights_alone(tiny: Modulated) -> None:
    model = modulate(tiny.backbone, TASKS, ["tail.weight", "tail.bias"], RankRule("constant", 2))
    assert model.selection() == ("tail.weight", "tail.bias")
    _randomise_biases(model)
    plain, folded = dict(tiny.backbone.named_parameters()), dict(model.fold("derain").named_parameters())
    changed = {name for name in plain if not torch.equal(plain[name], folded[name])}
    assert changed == {"tail.weight", "tail.bias"}


def test_increment_and_delta_agree() -> None:
    for bias in (LowRankBias((4, 3, 2, 2), 3, 2, _generator()), FullBias((4,), 3)):
        with torch.no_grad():
            for parameter in bias.parameters():
                parameter.uniform_(-1, 1, generator=_generator(4))
        assert bias.increment(torch.eye(3)[1]).shape == bias.shape
        torch.testing.assert_close(bias.increment(torch.eye(3)[1]), bias.delta(1))
        mix = [0.5, 0.0, 0.25]
        expected = 0.5 * bias.delta(0) + 0.25 * bias.delta(2)
        torch.testing.assert_close(bias.increment(torch.tensor(mix)), expected)
        rows = TaskRows.of(torch.tensor([mix, [0.0, 2.0, 0.0]]), bias.delta(0))
        torch.testing.assert_close(
            bias.add_to(torch.zeros(bias.shape), rows), torch.stack([expected, 2 * bias.delta(1)])
        )


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight


def test_wrong_use_is_refused_with_a_sentence(tiny: Modulated) -> None:
    rule = RankRule("constant", 1)
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(KeyError, match="denoise, derain, desnow"):
        tiny(x, "dehaze")
    with pytest.raises(KeyError, match="denoise, derain, desnow"):
        tiny(x, 3)
    for index in ([0, 3], [-1, 0]):
        with pytest.raises(KeyError, match="known tasks: denoise, derain, desnow"):
            tiny(x, torch.tensor(index))
    for act in (tiny.fold, tiny.fold_):
        for task in ("dehaze", "Denoise", "", -1, 3):
            with pytest.raises(KeyError, match="known tasks: denoise, derain, desnow"):
                act(task)
    tiny(x, "denoise")  # nothing is folded after a refusal
    for strength in (-0.1, 1.6, float("nan")):
        with pytest.raises(ValueError, match="strength"):
            tiny(x, 0, strength)
    for task in (torch.tensor([0]), torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 2), torch.ones(2, 3)):
        with pytest.raises(ValueError, match="task"):
            tiny(x, task)
    with pytest.raises(ValueError, match="empty"):
        modulate(tiny.backbone, TASKS, [], rule)
    with pytest.raises(ValueError, match="no parameter nowhere"):
        modulate(tiny.backbone, TASKS, ["nowhere"], rule)
    with pytest.raises(ValueError, match="distinct"):
        modulate(tiny.backbone, ("a", "a"), ["tail.weight"], rule)
    with pytest.raises(ValueError, match="one.weight is tied"):
        modulate(_Tied(), TASKS, ["one.weight"], rule)
    with pytest.raises(ValueError, match="weight has no shape yet"):
        modulate(nn.LazyLinear(3), TASKS, ["weight"], rule)


def test_names_that_are_also_method_names_are_no_trouble() -> None:
    class Awkward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.keys = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.keys

    model = modulate(Awkward(), TASKS, ["keys"], RankRule("constant", 1))
    assert torch.equal(model(torch.ones(1, 2), "derain"), torch.full((1, 2), 2.0))
