"""PEFT's LoRA, written by others, with the same factors: single tasks, mixed batches, merged, weighted, gradients.

Its Conv2d is a k x k convolution to rank r followed by a 1 x 1 one, which is our product on the flattened kernel as
long as there are neither groups nor dilation; there it has no counterpart to ours, and float64 is the reference.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from instruct_ipt.modulation import Modulated, RankRule, modulate

if TYPE_CHECKING:
    from peft import PeftModel

TASKS = ("denoise", "derain", "desnow")
RANK = 2
INDEX = torch.tensor([2, 0, 1, 1, 0, 2, 2])


def _networks() -> dict[str, tuple[nn.Module, tuple[int, ...], tuple[str, ...]]]:
    """Network, shape of a sample, the modulated layers."""
    torch.manual_seed(0)
    return {
        "linear": (nn.Sequential(nn.Linear(7, 5), nn.GELU(), nn.Linear(5, 4, bias=False)), (7,), ("0", "2")),
        "linear on tokens": (nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), (5, 6), ("0", "2")),
        "1x1 conv": (nn.Sequential(nn.Conv2d(4, 6, 1), nn.GELU(), nn.Conv2d(6, 3, 1)), (4, 5, 3), ("0", "2")),
        "1x1 conv, strided": (nn.Sequential(nn.Conv2d(4, 6, 1, stride=2, bias=False)), (4, 5, 6), ("0",)),
        "3x3 conv, strided": (nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1)), (4, 7, 6), ("0",)),
    }


KINDS = tuple(_networks())


def _pair(kind: str) -> tuple[Modulated, PeftModel, Tensor]:
    """Ours and PEFT's with the same weights and factors, in float64, and a batch."""
    # Here, for it takes seconds: at the top, each process that only collects the tests would pay them.
    from peft import LoraConfig, get_peft_model

    network, shape, layers = _networks()[kind]
    network = network.double()
    ours = modulate(copy.deepcopy(network), TASKS, [f"{name}.weight" for name in layers], RankRule("constant", RANK))
    with torch.no_grad():
        for parameter in ours.bias_parameters():
            parameter.normal_()
    config = LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=list(layers))
    theirs = get_peft_model(network, config, adapter_name=TASKS[0], autocast_adapter_dtype=False)
    for task in TASKS[1:]:
        theirs.add_adapter(task, config)
    theirs = theirs.double().eval()
    with torch.no_grad():
        for name in layers:
            bias, lora = ours.bias(f"{name}.weight"), theirs.base_model.model.get_submodule(name)
            for number, task in enumerate(TASKS):
                down, up = lora.lora_A[task].weight, lora.lora_B[task].weight
                down.copy_(bias.down[number].view(down.shape))
                up.copy_(bias.up[number].view(up.shape))
    return ours, theirs, torch.randn(len(INDEX), *shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_task_equals_peft(kind: str) -> None:
    ours, theirs, x = _pair(kind)
    with theirs.disable_adapter():
        bare = theirs(x)
    torch.testing.assert_close(ours(x, 0, strength=0.0), bare, rtol=1e-12, atol=1e-12)
    for task in TASKS:
        theirs.set_adapter(task)
        expected = theirs(x)
        assert not torch.allclose(expected, bare, atol=0.1)
        torch.testing.assert_close(ours(x, task), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_batch_equals_peft(kind: str) -> None:
    ours, theirs, x = _pair(kind)
    expected = theirs(x, adapter_names=[TASKS[number] for number in INDEX])
    torch.testing.assert_close(ours(x, INDEX), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_weights_equal_merged_ones(kind: str) -> None:
    ours, theirs, _ = _pair(kind)
    merged = theirs.merge_and_unload(adapter_names=["derain"]).state_dict()
    folded = ours.fold("derain").state_dict()
    assert folded.keys() == merged.keys()
    for name, value in folded.items():
        torch.testing.assert_close(value, merged[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_soft_weights_and_strength_equal_weighted_adapters(kind: str) -> None:
    ours, theirs, x = _pair(kind)
    # PEFT joins scaled factors along the rank axis, into a new adapter in float32.
    theirs.add_weighted_adapter(list(TASKS), [0.2, 0.5, 0.3], "mixture", combination_type="cat")
    theirs.add_weighted_adapter(["desnow"], [1.5], "strong", combination_type="cat")
    theirs.set_adapter("mixture")
    soft = torch.tensor([[0.2, 0.5, 0.3]]).expand(len(x), -1)
    torch.testing.assert_close(ours(x, soft), theirs(x), rtol=1e-5, atol=2e-5)
    theirs.set_adapter("strong")
    torch.testing.assert_close(ours(x, "desnow", strength=1.5), theirs(x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_factors_equal_peft(kind: str) -> None:
    """Ours in one mixed batch; PEFT refuses to train one, so there each task takes its samples in turn."""
    ours, theirs, x = _pair(kind)
    pull = torch.randn_like(ours(x, INDEX))
    (ours(x, INDEX) * pull).sum().backward()
    theirs.train()
    for number, task in enumerate(TASKS):
        theirs.set_adapter(task)
        (theirs(x[number == INDEX]) * pull[number == INDEX]).sum().backward()
        for name in _networks()[kind][2]:
            bias, lora = ours.bias(f"{name}.weight"), theirs.base_model.model.get_submodule(name)
            for own, factor in ((bias.down, lora.lora_A[task].weight), (bias.up, lora.lora_B[task].weight)):
                assert factor.grad.any()
                torch.testing.assert_close(own.grad[number].view(factor.shape), factor.grad, rtol=1e-9, atol=1e-9)
