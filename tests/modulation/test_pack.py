"""Task packs: one file per task."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from instruct_ipt.modulation import Modulated, RankRule, backbone_digest, install_pack, load_pack, modulate, save_pack

TASKS = ("denoise", "derain")


def _model(seed: int = 0, rank: int = 2, select: tuple[str, ...] = ("0.weight", "0.bias", "2.weight")) -> Modulated:
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 3, 1))
    return modulate(backbone, TASKS, select, RankRule("constant", rank), torch.Generator().manual_seed(seed))


def _trained() -> Modulated:
    model = _model()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def test_a_pack_carries_one_task_to_another_model_bit_for_bit(tmp_path: Path) -> None:
    trained, fresh = _trained(), _model()
    save_pack(trained, "derain", tmp_path / "new" / "derain.safetensors", {"psnr": 30.5})
    pack = load_pack(tmp_path / "new" / "derain.safetensors")
    assert (pack.task, pack.metadata) == ("derain", {"psnr": 30.5})
    assert pack.ranks == {"0.weight": 2, "0.bias": None, "2.weight": 2}
    x = torch.rand(1, 3, 9, 9)
    untouched = fresh(x, "denoise")
    install_pack(fresh, pack)
    assert torch.equal(fresh(x, "derain"), trained(x, "derain"))
    assert torch.equal(fresh(x, "denoise"), untouched)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["derain.safetensors"]


def test_the_same_model_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_pack(_trained(), "denoise", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_digest_is_what_its_docstring_says() -> None:
    layer = nn.Linear(3, 2)
    digest = hashlib.sha256()
    for name in ("bias", "weight"):
        weight = getattr(layer, name).detach()
        digest.update(f"{name} torch.float32 {tuple(weight.shape)}\n".encode() + weight.numpy().tobytes())
    assert backbone_digest(layer) == digest.hexdigest()


def test_a_pack_of_another_backbone_is_refused(tmp_path: Path) -> None:
    save_pack(_trained(), "derain", tmp_path / "p")
    with pytest.raises(ValueError, match="belongs to backbone"):
        install_pack(_model(seed=1), load_pack(tmp_path / "p"))


@pytest.mark.parametrize("other", [{"rank": 1}, {"select": ("0.weight",)}])
def test_a_pack_of_another_selection_or_rank_is_refused(tmp_path: Path, other: dict[str, object]) -> None:
    save_pack(_trained(), "derain", tmp_path / "p")
    with pytest.raises(ValueError, match="another selection or other ranks"):
        install_pack(_model(**other), load_pack(tmp_path / "p"))


def test_wrong_tasks_files_and_states_are_refused(tmp_path: Path) -> None:
    model = _trained()
    with pytest.raises(KeyError, match="denoise, derain"):
        save_pack(model, "desnow", tmp_path / "p")
    (tmp_path / "noise").write_bytes(b"no pack at all")
    with pytest.raises(ValueError, match="is no task pack"):
        load_pack(tmp_path / "noise")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain")
    with pytest.raises(ValueError, match="pack format None"):
        load_pack(tmp_path / "plain")
    with pytest.raises(FileNotFoundError):
        load_pack(tmp_path / "missing")
    model.fold_("derain")
    with pytest.raises(ValueError, match="unfold_"):
        save_pack(model, "derain", tmp_path / "p")
    model.unfold_()
    save_pack(model, "derain", tmp_path / "p")
