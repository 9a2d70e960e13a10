"""Task packs: one file per task, and what a stranger's file may not do."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from instruct_ipt.modulation import Modulated, RankRule, backbone_digest, install_pack, load_pack, modulate, save_pack

TASKS = ("denoise", "derain")
RANGE = {"sigma_8bit": [0, 50]}
METRICS = {"psnr_db": 30.5}


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


def _header(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["pack"])


def test_a_pack_carries_one_task_to_another_model_bit_for_bit(tmp_path: Path) -> None:
    trained, fresh = _trained(), _model()
    path = tmp_path / "new" / "derain.safetensors"
    save_pack(trained, "derain", path, {"steps": 600}, degradation=RANGE, metrics=METRICS)
    pack = load_pack(path)
    assert (pack.task, pack.backbone) == ("derain", backbone_digest(trained.backbone))
    assert (pack.degradation, pack.metrics, pack.metadata) == (RANGE, METRICS, {"steps": 600})
    assert pack.ranks == {"0.weight": 2, "0.bias": None, "2.weight": 2}
    x = torch.rand(1, 3, 9, 9)
    untouched = fresh(x, "denoise")
    install_pack(fresh, pack)
    assert torch.equal(fresh(x, "derain"), trained(x, "derain"))
    assert torch.equal(fresh(x, "denoise"), untouched)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["derain.safetensors"]


def test_the_header_holds_every_field_by_name(tmp_path: Path) -> None:
    model = _trained()
    save_pack(model, "denoise", tmp_path / "full", {"steps": 600}, degradation=RANGE, metrics=METRICS)
    save_pack(model, "denoise", tmp_path / "bare")
    facts = {
        "format_version": 1,
        "backbone": backbone_digest(model.backbone),
        "task": "denoise",
        "selection": ["0.weight", "0.bias", "2.weight"],
        "ranks": {"0.weight": 2, "0.bias": None, "2.weight": 2},
    }
    assert _header(tmp_path / "full") == facts | {
        "degradation": RANGE,
        "metrics": METRICS,
        "metadata": {"steps": 600},
    }
    assert _header(tmp_path / "bare") == facts | {"degradation": None, "metrics": None, "metadata": {}}
    assert (load_pack(tmp_path / "bare").degradation, load_pack(tmp_path / "bare").metrics) == (None, None)


def test_the_same_model_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_pack(_trained(), "denoise", tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_pack_keeps_the_type_of_the_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    trained, fresh = _trained().to(dtype), _model().to(dtype)
    save_pack(trained, "derain", tmp_path / "p")
    pack = load_pack(tmp_path / "p")
    assert {value.dtype for value in pack.tensors.values()} == {dtype}
    install_pack(fresh, pack)
    x = torch.rand(1, 3, 9, 9, dtype=dtype)
    assert torch.equal(fresh(x, "derain"), trained(x, "derain"))


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
    model = _model(**other)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="another selection, other ranks"):
        install_pack(model, load_pack(tmp_path / "p"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_pack_of_another_type_is_refused_and_not_rounded(tmp_path: Path) -> None:
    save_pack(_trained(), "derain", tmp_path / "p")
    tensors = {name: value.double() for name, value in load_file(tmp_path / "p").items()}
    save_file(tensors, tmp_path / "q", metadata={"pack": json.dumps(_header(tmp_path / "p"))})
    with pytest.raises(ValueError, match="types than the model"):
        install_pack(_model(), load_pack(tmp_path / "q"))


def test_wrong_tasks_and_states_are_refused(tmp_path: Path) -> None:
    model = _trained()
    with pytest.raises(KeyError, match="denoise, derain"):
        save_pack(model, "desnow", tmp_path / "p")
    with pytest.raises(FileNotFoundError, match="missing"):
        load_pack(tmp_path / "missing")
    model.fold_("derain")
    with pytest.raises(ValueError, match="unfold_"):
        save_pack(model, "derain", tmp_path / "p")
    model.unfold_()
    for facts in ({"psnr_db": float("nan")}, {"psnr_db": Path()}):
        with pytest.raises(ValueError, match="must be JSON"):
            save_pack(model, "derain", tmp_path / "p", metrics=facts)
    with torch.no_grad():
        model.bias("0.bias").full[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"0\.bias:full of task 'derain' is not finite"):
        save_pack(model, "derain", tmp_path / "p")
    assert list(tmp_path.iterdir()) == []
    save_pack(model, "denoise", tmp_path / "p")
    save_pack(_trained(), "derain", tmp_path / "p")
    with pytest.raises(KeyError, match="unknown task 'derain'; known tasks: denoise"):
        install_pack(modulate(_model().backbone, ["denoise"], ["0.bias"], RankRule("full")), load_pack(tmp_path / "p"))


def test_a_write_that_fails_leaves_the_old_pack_and_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "p", []
    save_pack(_trained(), "derain", path)
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_pack(_trained(), "denoise", path)
    assert synced and synced[0] > 0, "the content has to be in the file when it is forced to the disk"
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["p"]


Damage = Callable[[dict[str, Any], dict[str, Tensor]], None]


def _set(field: str, value: Any) -> Damage:
    return lambda header, tensors: header.__setitem__(field, value)


def _without(field: str) -> Damage:
    return lambda header, tensors: header.pop(field)


def _tensor(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
    return lambda header, tensors: tensors.__setitem__(name, change(tensors[name]).contiguous())


def _rank_above_full(header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """2.weight is 3 x 6."""
    header["ranks"]["2.weight"] = 4
    tensors["2.weight:down"], tensors["2.weight:up"] = torch.zeros(4, 6), torch.zeros(3, 4)


HOSTILE: dict[str, tuple[Damage, str]] = {
    **{
        f"no {field}": (_without(field), f"no field '{field}'")
        for field in ("backbone", "task", "selection", "ranks", "metadata")
    },
    "no version": (_without("format_version"), "pack format None, this version reads 1"),
    "later version": (_set("format_version", 2), "pack format 2, this version reads 1"),
    "version as text": (_set("format_version", "1"), "pack format '1'"),
    "version as truth": (_set("format_version", True), "pack format True"),
    "task of a number": (_set("task", 3), "field 'task' is of type int"),
    "empty task": (_set("task", ""), "field 'task' is empty"),
    "backbone null": (_set("backbone", None), "field 'backbone' is of type NoneType"),
    "backbone no digest": (_set("backbone", "AB" * 32), "no SHA-256"),
    "selection a mapping": (_set("selection", {}), "field 'selection' is of type dict"),
    "selection empty": (_set("selection", []), "at least one"),
    "selection of numbers": (_set("selection", [1, 2]), "list of parameter names"),
    "selection of lists": (_set("selection", [["0.weight"]]), "list of parameter names"),
    "selection repeats": (_set("selection", ["0.weight", "0.bias", "2.weight", "0.bias"]), "each once"),
    "selection lacks one": (_set("selection", ["0.weight", "0.bias"]), "do not name the same"),
    "ranks a list": (_set("ranks", [2, 2]), "field 'ranks' is of type list"),
    "rank of another name": (_set("ranks", {"0.weight": 2, "0.bias": None, "9.weight": 2}), "do not name the same"),
    "rank zero": (_set("ranks", {"0.weight": 0, "0.bias": None, "2.weight": 2}), "rank of '0.weight'"),
    "rank a fraction": (_set("ranks", {"0.weight": 2.0, "0.bias": None, "2.weight": 2}), "rank of '0.weight'"),
    "rank a truth": (_set("ranks", {"0.weight": 2, "0.bias": True, "2.weight": 2}), "rank of '0.bias'"),
    "rank too small": (_set("ranks", {"0.weight": 1, "0.bias": None, "2.weight": 2}), r"\(2, 27\) and \(6, 2\)"),
    "rank for a full bias": (_set("ranks", {"0.weight": 2, "0.bias": 1, "2.weight": 2}), "tensor '0.bias:down'"),
    "full for a rank": (_set("ranks", {"0.weight": None, "0.bias": None, "2.weight": 2}), "tensor '0.weight:down'"),
    "rank above full": (_rank_above_full, "rank of '2.weight' is 4, more than its 3 x 6"),
    "degradation a list": (_set("degradation", [0, 50]), "field 'degradation' is of type list"),
    "metrics a number": (_set("metrics", 31.2), "field 'metrics' is of type float"),
    "metrics not a number": (_set("metrics", {"psnr_db": float("nan")}), "NaN is no JSON number"),
    "metadata null": (_set("metadata", None), "field 'metadata' is of type NoneType"),
    "tensor missing": (lambda header, tensors: tensors.pop("2.weight:up"), "tensor '2.weight:up' is missing"),
    "tensor too many": (lambda header, tensors: tensors.update(x=torch.zeros(1)), "tensor 'x' is not in"),
    "tensor of three axes": (_tensor("2.weight:up", lambda t: t[None]), "factors of '2.weight'"),
    "tensor transposed": (_tensor("0.weight:down", lambda t: t.T), "factors of '0.weight'"),
    "tensor of integers": (_tensor("0.bias:full", lambda t: t.long()), "torch.int64"),
    "tensor of complex numbers": (_tensor("0.bias:full", lambda t: t.to(torch.complex64)), "torch.complex64"),
    "tensor of eight bits": (_tensor("0.bias:full", lambda t: t.to(torch.float8_e4m3fn)), "torch.float8_e4m3fn"),
    "factors of two types": (_tensor("0.weight:up", lambda t: t.double()), "of two types"),
    "tensor infinite": (_tensor("0.weight:up", lambda t: t / 0), "tensor '0.weight:up' is not finite"),
}


def _assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        load_pack(path)
    message = str(refusal.value)
    assert type(refusal.value) is ValueError
    assert message.startswith(f"{path} is no task pack: ") and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("kind", HOSTILE)
def test_fields_and_tensors_that_do_not_fit_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    damage, reason = HOSTILE[kind]
    save_pack(_trained(), "derain", tmp_path / "good", degradation=RANGE, metrics=METRICS)
    header, tensors = _header(tmp_path / "good"), load_file(tmp_path / "good")
    save_file(tensors, tmp_path / "same", metadata={"pack": json.dumps(header)})
    assert load_pack(tmp_path / "same").metrics == METRICS, "undamaged, the same file is a pack"
    damage(header, tensors)
    save_file(tensors, tmp_path / "bad", metadata={"pack": json.dumps(header)})
    _assert_refused(tmp_path / "bad", reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no key 'pack'"),
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "not JSON"),
        ('{"format_version": ' + "9" * 5000 + "}", "not JSON"),
        ('{"format_version": "' + "x" * 5000 + '\\n"}', "pack format 'xxx"),
    ],
)
def test_a_header_that_is_no_pack_is_refused_in_one_line(tmp_path: Path, text: str | None, reason: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "bad", metadata=None if text is None else {"pack": text})
    _assert_refused(tmp_path / "bad", reason)


class _Trap:
    """Unpickled, it would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_files_that_are_no_safetensors_are_refused_in_one_line_and_never_executed(tmp_path: Path) -> None:
    save_pack(_trained(), "derain", tmp_path / "good")
    good = (tmp_path / "good").read_bytes()
    contents = {
        "empty": b"",
        "text": b"no pack at all",
        "cut in the tensors": good[:-1],
        "cut in the header": good[:60],
        "longer": good + b"\0",
        "pickle": pickle.dumps(_Trap(tmp_path / "executed")),
        "huge header": (1 << 62).to_bytes(8, "little") + good[8:],
    }
    torch.save(_Trap(tmp_path / "executed"), tmp_path / "torch")
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    for name in (*contents, "torch", "folder"):
        _assert_refused(tmp_path / name, "get the file again")
    assert not (tmp_path / "executed").exists()
