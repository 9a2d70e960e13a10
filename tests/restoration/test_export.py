"""`ipt export`: one file that gives what the network gives, at every size, or no file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from instruct_ipt.cli import main
from instruct_ipt.errors import InputError
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration import export as module
from instruct_ipt.restoration.export import BOUND, FORMATS, SIZES, export, largest_difference, load_exported
from instruct_ipt.restoration.traceable import Traceable

from . import nets

# None of them among those that the export checks itself.
OTHER_SIZES = ((1, 32, 32), (1, 33, 71), (3, 15, 16), (1, 128, 100), (1, 2, 9), (1, 7, 1))


@pytest.fixture(scope="module", params=["ipt", "naf"])
def restorer(request: pytest.FixtureRequest) -> Restorer:
    return Restorer(nets.tiny(request.param), "cpu")


def run(format: str, path: Path, image: torch.Tensor) -> torch.Tensor:
    """What another program would do with a file."""
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["restored"], {"image": image.numpy()})[0])
    return torch.jit.load(str(path))(image) if format == "torchscript" else load_exported(path)(image)


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.* is deprecated:DeprecationWarning")
@pytest.mark.parametrize("format", FORMATS)
def test_a_file_gives_what_the_network_gives_at_every_size(restorer, tmp_path, format):
    path = tmp_path / f"net{FORMATS[format]}"
    done = export(restorer, {"derain": 0.75, "dehaze": 0.25}, format, path, strength=0.5)
    assert done.path == path and done.bytes == path.stat().st_size and done.difference <= BOUND
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    model = restorer._model
    for count, height, width in OTHER_SIZES:
        image = torch.rand(count, 3, height, width)
        with torch.inference_mode():
            expected = model(image, torch.tensor([[0, 0, 0.75, 0.25, 0]] * count), 0.5)
            found = run(format, path, image)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_decisions_the_network_is_the_same(restorer):
    network = restorer.network("desnow")
    assert largest_difference(network, Traceable(network)) < 5e-6
    sides = [(h, w) for _, h, w in SIZES]
    assert any(h != w for h, w in sides) and any(h % 8 and w % 8 for h, w in sides)


def test_plain_weights_are_the_very_same_and_say_what_they_are(restorer, tmp_path):
    path = tmp_path / "net.safetensors"
    assert export(restorer, "deblur", "safetensors", path).difference == 0
    network, loaded = restorer.network("deblur"), load_exported(path)
    assert type(loaded) is type(network) and loaded.config == network.config
    pairs = zip(network.state_dict().items(), loaded.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["export"])
    assert facts["tasks"] == {"deblur": 1.0} and facts["strength"] == 1.0 and facts["format_version"] == 1
    image = np.random.default_rng(0).random((30, 41, 3), dtype=np.float32)
    with torch.inference_mode():
        found = loaded(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found.clip(0, 1), restorer.restore(image, "deblur"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
def test_a_file_that_deviates_is_not_left(tmp_path, monkeypatch, format):
    restorer, other = Restorer(nets.tiny(), "cpu"), Restorer(nets.tiny(seed=1), "cpu").network("derain")
    write = module._WRITERS[format]
    monkeypatch.setitem(module._WRITERS, format, lambda network, path, facts: write(other, path, facts))
    path = tmp_path / f"net{FORMATS[format]}"
    path.write_bytes(b"an older file")
    with pytest.raises(InputError, match="is not written: .* differ by .*, more than 0.0001"):
        export(restorer, "derain", format, path, force=True)
    assert [p.name for p in tmp_path.iterdir()] == [path.name] and path.read_bytes() == b"an older file"


def test_what_is_not_finite_deviates():
    network = nets.tiny_restorer().network("derain")
    assert largest_difference(network, lambda x: network(x) * float("nan")) == float("inf")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"missing \({package}\): pip install 'instruct-ipt\[export\]'"):
        export(nets.tiny_restorer(), "derain", "onnx", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "format", "task", "words"),
    [
        ("a.pt", "pickle", "derain", "'pickle' is not written; allowed: onnx, torchscript, safetensors"),
        ("a.onnx", "torchscript", "derain", "ends in .pt"),
        ("a.pt", "torchscript", "rain", "unknown task 'rain'"),
        ("there.pt", "torchscript", "derain", "exists; give --force"),
        ("release/rain.safetensors", "safetensors", "derain", "packs of a release"),
        ("there.pt/a.pt", "torchscript", "derain", "cannot be written"),
    ],
)
def test_bad_usage_is_refused(tmp_path, name, format, task, words):
    nets.write_release(tmp_path / "release")
    (tmp_path / "there.pt").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        export(nets.tiny_restorer(), task, format, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors, facts: save_file(tensors, "x.safetensors"),
        lambda tensors, facts: save_file(tensors, "x.safetensors", {"export": "{"}),
        lambda tensors, facts: save_file(
            tensors, "x.safetensors", {"export": json.dumps(facts | {"format_version": 2})}
        ),
        lambda tensors, facts: save_file(tensors, "x.safetensors", {"export": json.dumps(facts | {"architecture": 1})}),
        lambda tensors, facts: save_file(
            dict(list(tensors.items())[1:]), "x.safetensors", {"export": json.dumps(facts)}
        ),
        lambda tensors, facts: Path("x.safetensors").write_bytes(b"no"),
        lambda tensors, facts: Path("x.safetensors").unlink(),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    export(nets.tiny_restorer(), "derain", "safetensors", Path("x.safetensors"))
    with safe_open("x.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["export"])
    damage(load_file("x.safetensors"), facts)
    with pytest.raises(InputError, match="x.safetensors is no exported network") as refusal:
        load_exported(Path("x.safetensors"))
    assert "\n" not in str(refusal.value)


def test_the_command_names_the_file_after_the_task(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nets.write_release(Path("weights"))
    monkeypatch.setattr(sys, "argv", ["ipt", "export", "-t", "derain=0.5,dehaze=0.5", "--format", "torchscript"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and Path("derain-dehaze.pt").is_file()
    assert f"checked on {len(SIZES)} sizes" in capsys.readouterr().out
