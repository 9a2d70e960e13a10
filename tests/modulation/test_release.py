"""The released form: a backbone and a pack per task in one folder."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from instruct_ipt.backbone import build_backbone
from instruct_ipt.modulation import Modulated, RankRule, load_pack, load_release, modulate, save_release
from instruct_ipt.tasks import TASKS

FACTS = {task: {"psnr_db": 30.0 + number} for number, task in enumerate(TASKS)}


def _fill(model: Modulated, seed: int = 3) -> Modulated:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def _trained(seed: int = 0) -> Modulated:
    torch.manual_seed(seed)
    backbone = build_backbone("tiny")
    groups = backbone.weight_groups()
    select = [name for group in ("attention.qkv", "ffn.depthwise", "norm") for name in groups[group]]
    return _fill(modulate(backbone, TASKS, select, RankRule("proportional", 0.25)))


@pytest.fixture
def released(tmp_path: Path) -> tuple[Modulated, Path]:
    model, folder = _trained(), tmp_path / "release"
    save_release(model, folder, metrics=FACTS, degradation={"denoise": {"sigma_8bit": [0, 50]}})
    return model, folder


def test_a_release_brings_the_network_back_bit_for_bit(released: tuple[Modulated, Path]) -> None:
    model, folder = released
    assert {path.name for path in folder.iterdir()} == {"backbone.safetensors", *(f"{t}.safetensors" for t in TASKS)}
    torch.manual_seed(99)
    architecture = build_backbone("tiny")
    before, drawn = copy.deepcopy(architecture.state_dict()), torch.get_rng_state()
    again = load_release(architecture, folder, TASKS)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(before[name], value) for name, value in architecture.state_dict().items())
    assert (again.tasks, again.selection()) == (TASKS, model.selection())
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    x = torch.rand(5, 3, 16, 16)
    assert torch.equal(again(x, torch.arange(5)), model(x, torch.arange(5)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_release_of_half_precision_is_the_rounded_network(tmp_path: Path, dtype: torch.dtype) -> None:
    """Half the bytes; what is loaded is in single precision, and is what numpy's own rounding would give."""
    model = _trained()
    before = copy.deepcopy(model.state_dict())
    save_release(model, tmp_path / "whole")
    save_release(model, tmp_path / "half", dtype=dtype)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    again = load_release(build_backbone("tiny"), tmp_path / "half", TASKS)
    assert again.state_dict().keys() == before.keys()
    for name, value in again.state_dict().items():
        assert value.dtype == before[name].dtype
        if dtype == torch.float16:
            assert np.array_equal(value.numpy(), before[name].numpy().astype(np.float16).astype(np.float32)), name
        else:
            assert torch.equal(value, before[name].to(dtype).to(value.dtype)), name
    for file in ("backbone", *TASKS):
        tensors = load_file(tmp_path / "half" / f"{file}.safetensors")
        assert {value.dtype for value in tensors.values()} == {dtype}
        whole = load_file(tmp_path / "whole" / f"{file}.safetensors")
        assert 2 * sum(v.nbytes for v in tensors.values()) == sum(v.nbytes for v in whole.values())


def test_weights_too_large_for_half_precision_are_refused_and_named(tmp_path: Path) -> None:
    model = _trained()
    name, parameter = next(model.backbone.named_parameters())
    with torch.no_grad():
        parameter.view(-1)[0] = 1e6
    with pytest.raises(ValueError, match=f"{name} is not finite in torch.float16"):
        save_release(model, tmp_path, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_packs_of_a_release_carry_the_facts_of_their_task(released: tuple[Modulated, Path]) -> None:
    _, folder = released
    packs = {task: load_pack(folder / f"{task}.safetensors") for task in TASKS}
    assert {task: pack.metrics for task, pack in packs.items()} == FACTS
    assert packs["denoise"].degradation == {"sigma_8bit": [0, 50]} and packs["desnow"].degradation is None


def test_some_tasks_in_any_order_need_only_their_packs(released: tuple[Modulated, Path]) -> None:
    model, folder = released
    (folder / "deblur.safetensors").unlink()
    two = load_release(build_backbone("tiny"), folder, ("desnow", "denoise"))
    x = torch.rand(2, 3, 16, 16)
    assert two.tasks == ("desnow", "denoise")
    assert torch.equal(two(x, "desnow"), model(x, "desnow"))
    assert two.added_parameters() * 5 == model.added_parameters() * 2
    with pytest.raises(FileNotFoundError, match=r"deblur\.safetensors"):
        load_release(build_backbone("tiny"), folder, TASKS)


def test_buffers_and_tied_weights_are_part_of_a_release(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.one, self.two = nn.BatchNorm1d(3), nn.Linear(3, 3), nn.Linear(3, 3)
            self.two.weight = self.one.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(self.norm(x)))

    network = Tied()
    network(torch.randn(8, 3))
    model = _fill(modulate(network, ("a", "b"), ["one.bias"], RankRule("full"))).eval()
    save_release(model, tmp_path)
    x = torch.randn(2, 3)
    again = load_release(Tied().eval(), tmp_path, ("a", "b"))
    assert again.backbone.two.weight is again.backbone.one.weight
    assert torch.equal(again(x, "b"), model(x, "b"))


def test_packs_of_another_backbone_task_or_rank_are_refused_naming_the_file(
    released: tuple[Modulated, Path], tmp_path: Path
) -> None:
    model, folder = released
    other, pack = tmp_path / "other", folder / "derain.safetensors"
    save_release(_trained(seed=1), other)
    original = pack.read_bytes()
    pack.write_bytes((other / "derain.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"derain\.safetensors: .* belongs to backbone"):
        load_release(build_backbone("tiny"), folder, TASKS)
    pack.write_bytes((folder / "denoise.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"derain\.safetensors holds task 'denoise'"):
        load_release(build_backbone("tiny"), folder, TASKS)
    smaller = modulate(model.backbone, TASKS, model.selection(), RankRule("constant", 1))
    save_release(smaller, other)
    pack.write_bytes((other / "derain.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"derain\.safetensors: .* other ranks"):
        load_release(build_backbone("tiny"), folder, TASKS)
    pack.write_bytes(original)
    load_release(build_backbone("tiny"), folder, TASKS)


def test_a_pack_for_parameters_that_the_network_lacks_is_refused(released: tuple[Modulated, Path]) -> None:
    _, folder = released
    path = folder / "denoise.safetensors"
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["pack"])
    for name in ("nowhere", "tail.bias"):
        forged = header | {"selection": [name], "ranks": {name: 1}}
        tensors = {f"{name}:down": torch.zeros(1, 2), f"{name}:up": torch.zeros(2, 1)}
        save_file(tensors, path, metadata={"pack": json.dumps(forged)})
        with pytest.raises(ValueError, match=rf"denoise\.safetensors: .*({name}|no matrix)"):
            load_release(build_backbone("tiny"), folder, ["denoise"])


def test_backbone_files_that_do_not_fit_are_refused_in_one_line(released: tuple[Modulated, Path]) -> None:
    _, folder = released
    path = folder / "backbone.safetensors"
    good = load_file(path)
    contents = [{k: v for k, v in good.items() if k != "tail.bias"}, good | {"x": torch.zeros(1)}]
    contents.append(good | {"tail.bias": torch.zeros(1)})
    for tensors in contents:
        save_file(tensors, path)
        with pytest.raises(ValueError, match="backbone.safetensors does not fit") as refusal:
            load_release(build_backbone("tiny"), folder, TASKS)
        assert "\n" not in str(refusal.value)
    path.write_bytes(b"no backbone")
    with pytest.raises(ValueError, match="backbone.safetensors does not fit"):
        load_release(build_backbone("tiny"), folder, TASKS)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="backbone.safetensors"):
        load_release(build_backbone("tiny"), folder, TASKS)


def test_wrong_use_is_refused_with_a_sentence(tmp_path: Path) -> None:
    layer = nn.Linear(2, 2)
    for task in ("", "a/b", "../a", "/a", "backbone"):
        with pytest.raises(ValueError, match="cannot name a file"):
            save_release(modulate(layer, ("fine", task), ["weight"], RankRule("full")), tmp_path)
    model = modulate(layer, ("a",), ["weight"], RankRule("full"))
    model.fold_("a")
    with pytest.raises(ValueError, match="unfold_"):
        save_release(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    for tasks in ((), ("a", "a")):
        with pytest.raises(ValueError, match="distinct"):
            load_release(layer, tmp_path, tasks)
