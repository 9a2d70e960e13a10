"""Networks that others wrote, a diffusion U-Net and a ViT, against float64 copies with written-out weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from instruct_ipt.modulation import FullBias, Modulated, RankRule, modulate

TASKS = ("denoise", "derain", "desnow")
INDEX = torch.tensor([0, 2, 0, 1, 2, 0])
MIX = torch.tensor(
    [[0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3], [0.6, 0.0, 0.4], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
)


class Denoiser(nn.Module):
    """diffusers' U-Net at one time step: (N, 3, H, W) -> (N, 3, H, W)."""

    def __init__(self) -> None:
        # Here, for it takes seconds: at the top, each process that only collects the tests would pay them.
        from diffusers import UNet2DModel

        super().__init__()
        self.net = UNet2DModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, 10).sample


class Vision(nn.Module):
    """transformers' ViT: (N, 3, 8, 8) -> (N, 5, 16)."""

    def __init__(self) -> None:
        from transformers import ViTConfig, ViTModel

        super().__init__()
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4
        )
        self.net = ViTModel(config, add_pooling_layer=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).last_hidden_state


NETWORKS = {"unet": Denoiser, "vit": Vision}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Relative to the largest output. Our task weights are float32 also in a float64 network."""


def _model(kind: str, dtype: torch.dtype = torch.float32, without: str | None = None) -> Modulated:
    """Random weights, random biases of rank 3 on every parameter, or on those without a word in their names."""
    torch.manual_seed(0)
    network = NETWORKS[kind]().eval()
    with torch.no_grad():
        # Fresh ones are zero or tiny in places; here everything counts.
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    names = [name for name, _ in network.named_parameters() if without is None or without not in name]
    model = modulate(network.to(dtype), TASKS, names, RankRule("constant", 3))
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    return model


def _reference(model: Modulated, x: Tensor, mix: Tensor) -> Tensor:
    """Sample by sample through a float64 copy whose weights are W + sum over t of mix[t] * up[t] @ down[t]."""
    outputs = []
    for sample, row in zip(x.double(), mix.double(), strict=True):
        network = copy.deepcopy(model.backbone).double()
        for name in model.selection():
            bias, weight = model.bias(name), network.get_parameter(name)
            for task, share in enumerate(row):
                if isinstance(bias, FullBias):
                    weight.data += share * bias.full[task].detach().double()
                else:
                    up, down = bias.up[task].detach().double(), bias.down[task].detach().double()
                    weight.data += share * torch.einsum("or,ri->oi", up, down).reshape(weight.shape)
        outputs.append(network(sample[None]).detach())
    return torch.cat(outputs)


def _assert_close(output: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert output.dtype == dtype
    assert float((output.double() - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("kind", NETWORKS)
@torch.no_grad()
def test_every_way_to_run_equals_a_float64_copy_with_written_out_weights(kind: str, dtype: torch.dtype) -> None:
    model = _model(kind, dtype)
    x = torch.randn(len(INDEX), 3, 8, 8, dtype=dtype)
    bare = _reference(model, x, torch.zeros(len(x), 3))
    _assert_close(model(x, "derain", strength=0.0), bare, dtype)
    for strength in (1.0, 0.4, 1.5):
        expected = _reference(model, x, strength * torch.eye(3)[INDEX])
        assert float((expected - bare).abs().max()) > 0.05 * float(bare.abs().max()), "the biases have to matter"
        _assert_close(model(x, INDEX, strength), expected, dtype)
        for number, task in enumerate(TASKS):
            own = number == INDEX
            _assert_close(model(x[own], task, strength), expected[own], dtype)
            _assert_close(model.fold(task, strength)(x[own]), expected[own], dtype)
            model.fold_(task, strength)
            _assert_close(model(x[own], task, strength), expected[own], dtype)
            model.unfold_()
    expected = _reference(model, x, 0.7 * MIX)
    _assert_close(model(x, MIX, 0.7), expected, dtype)
    _assert_close(model.fold(MIX[:1], 0.7)(x[:1]), expected[:1], dtype)


# A ViT's class token and positions are spread over the batch, which one pass does not do.
@pytest.mark.parametrize(("kind", "without"), [("unet", None), ("vit", "embeddings")])
@pytest.mark.parametrize("choice", [INDEX, MIX], ids=["mixed", "soft"])
@torch.no_grad()
def test_a_batch_of_several_tasks_takes_one_pass(kind: str, without: str | None, choice: Tensor) -> None:
    model = _model(kind, without=without)
    x = torch.randn(len(INDEX), 3, 8, 8)
    model(x, choice)  # the proof
    calls: list[None] = []
    handle = model.backbone.register_forward_hook(lambda *_: calls.append(None))
    output = model(x, choice)
    handle.remove()
    assert len(calls) == 1
    mix = choice if choice.is_floating_point() else torch.eye(3)[choice]
    _assert_close(output, _reference(model, x, mix), torch.float32)


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_reach_backbone_and_biases_of_the_tasks_present(kind: str) -> None:
    model = _model(kind)
    model(torch.randn(2, 3, 8, 8), torch.tensor([0, 2])).square().mean().backward()
    assert [name for name, p in model.backbone.named_parameters() if p.grad is None] == []
    for parameter in model.bias_parameters():
        assert parameter.grad is not None and not parameter.grad[1].any()
    assert sum(bool(p.grad[0].any() and p.grad[2].any()) for p in model.bias_parameters()) > 0.9 * len(
        model.bias_parameters()
    )
