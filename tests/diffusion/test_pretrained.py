"""Denoisers of others, randomly initialised and small: loaded, wrapped, and modulated unchanged."""

from __future__ import annotations

import json

import pytest
import torch

from instruct_ipt.diffusion.denoiser import weights_of
from instruct_ipt.diffusion.pretrained import Wrapped, load_pretrained
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule, modulate

TASKS = ("inpaint", "outpaint")


def conditioned() -> torch.nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip


def transformer() -> torch.nn.Module:
    from diffusers import DiTTransformer2DModel

    return DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        patch_size=2, num_embeds_ada_norm=10, norm_num_groups=8,
    )  # fmt: skip


def plain() -> torch.nn.Module:
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8, norm_num_groups=8,
    )  # fmt: skip


MAKERS = {"UNet2DConditionModel": conditioned, "DiTTransformer2DModel": transformer, "UNet2DModel": plain}


@pytest.fixture(scope="module", params=list(MAKERS))
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param)
    MAKERS[request.param]().save_pretrained(path)
    return path


def inputs(network: Wrapped, samples: int = 3) -> torch.Tensor:
    side = network.network.config["sample_size"]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 5, side, side, generator=generator)
    x[:, 4] = torch.tensor([3.0, 500.0, 999.0])[:samples, None, None]
    return x


def modulated(network: Wrapped, stir: bool = True):
    groups = weights_of(network)
    names = groups["attention"] + groups["convolution"]
    model = modulate(network, TASKS, names, RankRule("constant", 2), torch.Generator().manual_seed(0))
    if stir:
        with torch.no_grad():
            for parameter in model.bias_parameters():
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    return model.eval()


def test_what_is_loaded_predicts_as_the_network_itself(folder):
    network = load_pretrained(str(folder))
    x = inputs(network)
    with torch.no_grad():
        found = network(x)
        each = torch.cat([network(x[i : i + 1]) for i in range(3)])
    assert found.shape == (3, 4, *x.shape[2:])
    torch.testing.assert_close(found, each, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(found).all() and found.std() > 0


def test_attention_is_always_found_and_convolutions_where_there_are_some(folder):
    network = load_pretrained(str(folder))
    groups = weights_of(network)
    assert groups["attention"]
    assert bool(groups["convolution"]) == (network.kind != "DiTTransformer2DModel")


def test_a_fresh_modulation_changes_nothing(folder):
    network = load_pretrained(str(folder))
    x, model = inputs(network), modulated(network, stir=False)
    with torch.no_grad():
        assert all(torch.equal(model(x, task), network(x)) for task in TASKS)


def test_folded_unfolded_and_mixed_agree(folder):
    model = modulated(load_pretrained(str(folder)))
    x = inputs(model.backbone)
    with torch.no_grad():
        alone = [model(x, task) for task in TASKS]
        assert (alone[0] - alone[1]).abs().max() > 1e-4
        for task, expected in zip(TASKS, alone, strict=True):
            assert torch.equal(model.fold(task).eval()(x), expected)
        mixed = model(x, torch.tensor([0, 1, 0]))
    expected = torch.stack([alone[0][0], alone[1][1], alone[0][2]])
    torch.testing.assert_close(mixed, expected, atol=1e-4, rtol=1e-4)


def test_a_synchronous_step_reaches_both_families(folder):
    # With an empty prompt of zeros nothing would reach the weights that look at it.
    prompt = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    model = modulated(load_pretrained(str(folder), prompt)).train()
    model.set_trainable(backbone=True, biases=True)
    model(inputs(model.backbone), torch.tensor([0, 1, 0])).square().mean().backward()
    biases = [p.grad for p in model.bias_parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in biases)
    assert any(grad.abs().max() > 0 for grad in biases)
    names = set(model.selection())
    weights = [p.grad for name, p in model.backbone.named_parameters() if name in names]
    assert all(grad is not None and grad.abs().max() > 0 for grad in weights)


def test_a_prompt_reaches_a_conditioned_network():
    torch.manual_seed(0)
    network = conditioned().eval()
    x = torch.randn(2, 5, 16, 16)
    with torch.no_grad():
        empty, told = Wrapped(network)(x), Wrapped(network, torch.randn(3, 8))(x)
    assert (empty - told).abs().max() > 1e-5


# ---- what cannot be loaded ------------------------------------------------------------------------------------------


def test_another_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(InputError, match="AutoencoderKL are not known; known: UNet2DModel"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_without_a_class_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json is missing or names no class"):
        load_pretrained(str(tmp_path))


def test_missing_weights_are_refused(tmp_path):
    plain().save_config(tmp_path)
    with pytest.raises(InputError, match="cannot be loaded as UNet2DModel"):
        load_pretrained(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    plain().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_pretrained(str(tmp_path))
