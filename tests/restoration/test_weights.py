"""Weights from a release or a finished replication; nothing in a file is taken on trust."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from instruct_ipt.errors import InputError
from instruct_ipt.modulation import load_pack, read_architecture, save_release
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import SCORES_BEGIN, SCORES_END, describe_architecture, write_release
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation, cost, rank_rule
from instruct_ipt.training.checkpoint import save_weights
from tests.helpers import smoke

from . import nets

GROUPS = ["attention.qkv", "norm"]
IMAGE = np.random.default_rng(0).random((40, 52, 3), dtype=np.float32)


@pytest.fixture(params=["ipt", "naf"])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[object, Path]:
    return nets.write_release(tmp_path / "release", request.param), tmp_path / "release"


def test_a_release_says_how_to_build_its_network(release):
    model, folder = release
    drawn = torch.get_rng_state()
    loaded = Restorer.load(folder, "cpu")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert loaded.tasks == TASKS
    assert np.array_equal(loaded.restore(IMAGE, "desnow"), Restorer(model, "cpu").restore(IMAGE, "desnow"))


def replication(folder: Path) -> torch.nn.Module:
    """`models/` as the stages write it, at profile smoke; the trained model."""
    params = smoke()
    rule = rank_rule(params.modulation.rule, params.modulation.value)
    model = build_modulation(params.backbone, 0, GROUPS, rule).eval()
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    (folder / "modulation").mkdir(parents=True)
    save_weights(folder / "modulation/weights.safetensors", model.state_dict())
    values = params.model_dump(mode="json")
    record = {"params": values, "code_digest": "", "inputs": {}}
    metrics = {"validation_psnr": dict.fromkeys(TASKS, 20.5), "steps": 4} | cost(model)
    for path, value in (
        ("modulation/provenance.json", record),
        ("modulation/metrics.json", metrics),
        ("selection.json", {"groups": GROUPS}),
    ):
        (folder / path).write_text(json.dumps(value), encoding="utf-8")
    return model


def test_a_finished_replication_is_used_as_it_is(tmp_path):
    model = replication(tmp_path / "models")
    expected = Restorer(model, "cpu").restore(IMAGE, "dehaze")
    for folder in (tmp_path / "models", tmp_path / "models/modulation"):
        assert np.array_equal(Restorer.load(folder, "cpu").restore(IMAGE, "dehaze"), expected)


def test_a_release_of_a_replication_restores_alike_and_says_what_it_is(tmp_path):
    replication(tmp_path / "models")
    out = tmp_path / "weights"
    write_release(tmp_path / "models", out)
    expected = Restorer.load(tmp_path / "models", "cpu").restore(IMAGE, "derain")
    assert np.array_equal(Restorer.load(out, "cpu").restore(IMAGE, "derain"), expected)
    pack = load_pack(out / "denoise.safetensors")
    assert pack.degradation == {"sigma": [15.0, 25.0, 50.0]} and pack.metrics == {"validation_psnr_db": 20.5}
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "profile `smoke`" in card and "preset `tiny`" in card and "| desnow | 20.50 |" in card
    assert 0 < card.find(SCORES_BEGIN) < card.find(SCORES_END)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(InputError, match="holds a release already"):
        write_release(tmp_path / "models", out)
    write_release(tmp_path / "models", out, force=True)
    assert before == {path.name: path.read_bytes() for path in out.iterdir()}


def test_weights_are_looked_for_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "instruct_ipt.restoration.weights.__file__", str(tmp_path / "x/y/instruct_ipt/restoration/w.py")
    )
    with pytest.raises(InputError, match="no weights in weights or models/modulation.*make repro.*ipt release"):
        Restorer.load()
    replication(tmp_path / "models")
    trained = Restorer.load(device="cpu").restore(IMAGE, "derain")
    nets.write_release(tmp_path / "weights")
    assert not np.array_equal(Restorer.load(device="cpu").restore(IMAGE, "derain"), trained)


def test_a_task_of_one_s_own_is_one_more_pack(tmp_path):
    model = nets.tiny()
    renamed = type(model)(model.backbone, ("night", *TASKS[:2]), {n: model.bias(n) for n in model.selection()})
    for name in renamed.selection():
        for parameter in renamed.bias(name).parameters():
            parameter.data = parameter.data[:3]
    save_release(renamed, tmp_path, architecture=describe_architecture(model.backbone))
    assert Restorer.load(tmp_path, "cpu").tasks == ("denoise", "deblur", "night")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda a: None, "does not say how to build its network"),
        (lambda a: a | {"format_version": 2}, "architecture format 2"),
        (lambda a: a | {"kind": "other"}, "kind 'other'; known: ipt, naf"),
        (lambda a: a | {"config": 7}, "has no config"),
        (lambda a: a | {"kind": ["ipt"]}, "kind"),
        (lambda a: a | {"config": a["config"] | {"width": 10**9}}, "larger than its weights"),
        (lambda a: a | {"config": a["config"] | {"depths": [10**9, 1, 1]}}, "larger than its weights"),
        (lambda a: a | {"config": a["config"] | {"width": 24}}, "parameters, its weights have"),
        (lambda a: a | {"config": a["config"] | {"width": "wide"}}, "cannot be built"),
        (lambda a: a | {"config": a["config"] | {"window": 3}}, "window is 3"),
        (lambda a: a | {"config": a["config"] | {"more": 3}}, "cannot be built"),
        (lambda a: a | {"config": a["config"] | {"heads": [1, 5]}}, "heads"),
    ],
)
def test_an_architecture_that_cannot_be_is_refused_before_memory_is_asked_for(tmp_path, damage, words):
    model = nets.write_release(tmp_path)
    wrong = damage(describe_architecture(model.backbone))
    tensors = load_file(tmp_path / "backbone.safetensors")
    save_file(tensors, tmp_path / "backbone.safetensors", {} if wrong is None else {"architecture": json.dumps(wrong)})
    with pytest.raises(InputError, match=words) as refusal:
        Restorer.load(tmp_path)
    assert "backbone.safetensors" in str(refusal.value) and "\n" not in str(refusal.value)


def test_damaged_files_are_named(tmp_path):
    folder = tmp_path / "release"
    for name, words in (
        ("backbone", "backbone.safetensors is damaged"),
        ("derain", "derain.safetensors is no task pack"),
    ):
        nets.write_release(folder)
        (folder / f"{name}.safetensors").write_bytes(b"nothing of the kind")
        with pytest.raises(InputError, match=words):
            Restorer.load(folder)
    with pytest.raises(InputError, match="holds neither"):
        Restorer.load(tmp_path)
    nets.write_release(folder)
    for task in TASKS:
        (folder / f"{task}.safetensors").unlink()
    with pytest.raises(InputError, match="no task pack"):
        Restorer.load(folder)


@pytest.mark.parametrize("file", ["selection.json", "modulation/provenance.json"])
def test_a_replication_without_its_records_is_refused(tmp_path, file):
    replication(tmp_path)
    for content, words in (
        (b"[]", "damaged"),
        (b"\xff", "damaged"),
        (b"{}", "damaged|does not fit"),
        (None, "cannot be"),
    ):
        (tmp_path / file).unlink() if content is None else (tmp_path / file).write_bytes(content)
        with pytest.raises(InputError, match=words) as refusal:
            Restorer.load(tmp_path)
        assert "make repro" in str(refusal.value) and "\n" not in str(refusal.value)


def test_weights_of_another_shape_are_refused(tmp_path):
    replication(tmp_path)
    (tmp_path / "selection.json").write_text(json.dumps({"groups": ["norm"]}), encoding="utf-8")
    with pytest.raises(InputError, match="does not fit its records"):
        Restorer.load(tmp_path)


def test_an_architecture_is_json_or_refused(tmp_path):
    model = nets.tiny()
    with pytest.raises(ValueError, match="architecture must be JSON"):
        save_release(model, tmp_path, architecture={"config": object()})
    assert list(tmp_path.iterdir()) == []
    save_release(model, tmp_path)
    assert read_architecture(tmp_path) is None
    tensors = load_file(tmp_path / "backbone.safetensors")
    for text in ("[1]", "{", "[" * 100_000):
        save_file(tensors, tmp_path / "backbone.safetensors", {"architecture": text})
        with pytest.raises(ValueError, match="is damaged"):
            read_architecture(tmp_path)
