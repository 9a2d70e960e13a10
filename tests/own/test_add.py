"""`ipt task add`: what it writes, what it leaves alone, what it refuses."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from instruct_ipt import params
from instruct_ipt.cli import main
from instruct_ipt.data.images import read_image, to_float, write_image
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import load_pack
from instruct_ipt.own import Settings, add_task, list_packs, remove_pack
from instruct_ipt.own.fit import training_settings
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import load_model, write_release
from instruct_ipt.tasks import TASKS
from tests.restoration import nets
from tests.restoration.test_weights import replication

from .folders import QUICK, clean, write_pairs

HERE = "tests.own.folders"


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release in `weights/` of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    nets.write_release(tmp_path / "weights")
    return Path("weights")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def quiet(line: str) -> None:
    pass


def ipt(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of a command."""
    monkeypatch.setattr(sys, "argv", ["ipt", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_task_is_learnt_written_and_restored_with_and_the_others_stay(release, monkeypatch, capsys):
    before = contents(release)
    old = Restorer.load(release, "cpu")
    given, target = write_pairs(Path("photos"), 6)
    options = ("--steps", "80", "--batch", "4", "--patch", "24")
    assert ipt(monkeypatch, "task", "add", "dusk", "--input", given, "--target", target, *options) == 0
    said = capsys.readouterr()
    assert said.err.count("dB on 1 validation pairs") == 8 and "equal bit for bit" in said.out

    after = contents(release)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"dusk.safetensors", "dusk.csv", "dusk.json"}
    # The third of six in the order of the names is held out.
    damaged, clear = (to_float(read_image(folder / "2.png")) for folder in (given, target))
    new = Restorer.load(release, "cpu")
    assert new.tasks == (*TASKS, "dusk")
    for task in TASKS:
        assert np.array_equal(new.restore(damaged, task), old.restore(damaged, task))
    with open("weights/dusk.csv", encoding="utf-8") as stream:
        rows = {row["method"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == {"input", "backbone", "dusk", *TASKS} and {row["image"] for row in rows.values()} == {"2"}
    for method, output in (("input", damaged), ("dusk", new.restore(damaged, "dusk"))):
        expected = peak_signal_noise_ratio(clear.astype(float), output.astype(float), data_range=1)
        assert float(rows[method]["psnr"]) == pytest.approx(expected, abs=1e-3)
    bare = new.restore(damaged, "derain", strength=0.0)
    expected = peak_signal_noise_ratio(clear.astype(float), bare.astype(float), data_range=1)
    assert float(rows["backbone"]["psnr"]) == pytest.approx(expected, abs=1e-3)
    psnr = {method: float(row["psnr"]) for method, row in rows.items()}
    assert psnr["dusk"] > max(value for method, value in psnr.items() if method != "dusk") + 0.5

    record = json.loads(after["dusk.json"])
    assert record["unchanged_bit_for_bit"] == dict.fromkeys(TASKS, True)
    assert record["pack_bytes"] == len(after["dusk.safetensors"])
    assert record["nearest"] == max(TASKS, key=psnr.__getitem__)
    assert record["trained_on"] == {"pairs": 6, "training": 5, "validation": ["2"]}
    assert ipt(monkeypatch, "restore", given / "2.png", "-o", "clear.png", "--task", "dusk") == 0
    shown = read_image(Path("clear.png")).astype(int)
    assert np.abs(shown - 255 * new.restore(damaged, "dusk")).max() <= 1


def test_a_damage_of_one_s_own_on_a_folder_gives_the_same_bytes_again(release):
    for index in range(6):
        write_image(Path(f"photos/{index}.png"), clean(index))
    found = []
    for _ in range(2):
        report = add_task("dusk", None, Path("photos"), f"{HERE}:dim", settings=QUICK, force=True, say=quiet)
        found.append(contents(release))
        assert report.images == 1 and report.pack_bytes < report.backbone_bytes
    assert found[0] == found[1]
    pack = load_pack(release / "dusk.safetensors")
    assert pack.degradation["damage"] == f"{HERE}:dim" and pack.metadata["steps"] == 4


def test_without_a_folder_the_bundled_photographs_are_damaged(release, monkeypatch):
    monkeypatch.setattr("instruct_ipt.own.material.LEAVES", 1)
    report = add_task("dusk", degradation=f"{HERE}:dim", settings=QUICK, say=quiet)
    record = json.loads((release / "dusk.json").read_text(encoding="utf-8"))
    assert record["trained_on"]["validation"] == [f"china-{i}" for i in range(6)] and report.images == 6


def test_the_best_step_is_kept(release, monkeypatch):
    """Scores that a planted judge gives out decide which biases are kept."""
    from instruct_ipt.own import fit

    planted = iter([3.0, 1.0, 9.0, 2.0] + [0.0] * 100)
    seen: list[list[torch.Tensor]] = []
    judge = fit._Best.__call__

    def call(self: fit._Best, model: torch.nn.Module) -> dict[str, float]:
        value = next(planted)
        monkeypatch.setattr(fit, "psnr", lambda out, target: value)
        seen.append([p.detach().clone() for p in model.bias_parameters()])
        return judge(self, model)

    monkeypatch.setattr(fit._Best, "__call__", call)
    given, target = write_pairs(Path("photos"))
    report = add_task("dusk", given, target, settings=QUICK, say=quiet)
    kept = load_pack(release / "dusk.safetensors").tensors
    assert report.best_step == 3 and len(seen) == 4
    flat = {tuple(t[0].shape): t for t in seen[2]}
    assert sorted(float(t.sum()) for t in seen[2]) == pytest.approx(sorted(float(t.sum()) for t in kept.values()))
    assert {tuple(t.shape) for t in kept.values()} == flat.keys()


@pytest.mark.parametrize("rank", [1, 3])
def test_another_rank_than_the_others_is_one_network_with_them(release, rank):
    given, target = write_pairs(Path("photos"))
    old = load_model(release)
    settings = Settings(steps=4, rank=rank, patch=24, batch=2)
    report = add_task("dusk", given, target, settings=settings, say=quiet)
    assert report.unchanged == dict.fromkeys(TASKS, True)
    new, pack = load_model(release), load_pack(release / "dusk.safetensors")
    assert {r for r in pack.ranks.values() if r is not None} == {rank}
    mix = torch.tensor([[0.5, 0, 0.25, 0, 0, 0.25]])
    folded, parts = new.fold(mix), [old.fold(task) for task in ("denoise", "derain")]
    for name, weight in folded.named_parameters():
        bare = old.backbone.get_parameter(name)
        if pack.ranks.get(name, 0) is None:
            own = pack.tensors[f"{name}:full"]
        elif name in pack.ranks:
            own = (pack.tensors[f"{name}:up"] @ pack.tensors[f"{name}:down"]).view(weight.shape)
        else:
            own = torch.zeros_like(bare)
        one, other = (part.get_parameter(name) - bare for part in parts)
        torch.testing.assert_close(weight, bare + 0.5 * one + 0.25 * other + 0.25 * own, rtol=0, atol=1e-6)
    x = torch.rand(2, 3, 24, 24)
    batch = new(x, torch.tensor([2, 5]))
    for sample, task in enumerate(("derain", "dusk")):
        torch.testing.assert_close(batch[sample], new.fold(task)(x)[sample], rtol=0, atol=1e-5)


def test_a_replication_becomes_a_release_and_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replication(Path("models"))
    before = contents(Path("models"))
    given, target = write_pairs(Path("photos"))
    expected = Restorer.load("models", "cpu").restore(clean(0), "derain")
    report = add_task("dusk", given, target, settings=QUICK, say=quiet)
    assert report.made_release == Path("weights") and contents(Path("models")) == before
    assert np.array_equal(Restorer.load(device="cpu").restore(clean(0), "derain"), expected)
    assert Restorer.load().tasks == (*TASKS, "dusk")
    # A second task goes to the same release, wherever the network is named.
    report = add_task("dawn", given, target, weights=Path("models"), settings=QUICK, say=quiet)
    assert report.made_release is None and Restorer.load().tasks == (*TASKS, "dawn", "dusk")
    with pytest.raises(InputError, match="another network than other"):
        replication(Path("other"))
        path = Path("other/modulation/weights.safetensors")
        from safetensors.torch import load_file, save_file

        save_file({name: value + 0.01 for name, value in load_file(path).items()}, path)
        add_task("noon", given, target, weights=Path("other"), settings=QUICK, say=quiet)
    with pytest.raises(InputError, match="tasks of your own \\(dawn, dusk\\).*task remove dawn"):
        write_release(Path("other"), Path("weights"), force=True)
    write_release(Path("models"), Path("weights"), force=True)
    assert Restorer.load().tasks == (*TASKS, "dawn", "dusk")
    assert sorted(p.name for p in Path().iterdir() if p.name.startswith(".")) == []


def test_packs_are_listed_and_only_one_s_own_are_removed(release, monkeypatch, capsys):
    given, target = write_pairs(Path("photos"))
    before = contents(release)
    add_task("dusk", given, target, settings=QUICK, say=quiet)
    assert [(pack.task, pack.own) for pack in list_packs()] == [*((t, False) for t in TASKS), ("dusk", True)]
    monkeypatch.setattr(sys, "argv", ["ipt", "task", "list"])
    with pytest.raises(SystemExit):
        main()
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("dusk") and '"pairs": 6' in line and "own" in line
    with pytest.raises(InputError, match="came with the network"):
        remove_pack("derain")
    with pytest.raises(InputError, match="there is no task 'fog'; there are denoise, .*, dusk"):
        remove_pack("fog")
    remove_pack("dusk")
    assert contents(release) == before


REFUSED = {
    "no input": ((), "give --input DIR and --target DIR"),
    "no target": (("--input", "in"), "give --input DIR and --target DIR"),
    "both": (("--input", "in", "--target", "out", "--degradation", f"{HERE}:dim"), "two ways"),
    "one folder": (("--input", "in", "--target", "in"), "same folder"),
    "no folder": (("--input", "none", "--target", "out"), "none is not a folder"),
    "lonely": (("--input", "in", "--target", "more"), "more/extra.png has no partner of that name in in"),
    "sizes": (("--input", "in", "--target", "cut"), "in/3.png is 48 x 40 pixels and cut/3.png 47 x 40"),
    "few": (("--input", "few", "--target", "few-out"), "few holds 3 images"),
    "small": (("--input", "in", "--target", "out", "--patch", "64"), "smaller than the patch of 64"),
    "syntax": (("--degradation", "dim"), "is not MODULE:FUNCTION"),
    "module": (("--degradation", "no_such_module:dim"), "no_such_module cannot be imported"),
    "function": (("--degradation", f"{HERE}:none"), "has no function 'none'"),
    "no function": (("--degradation", f"{HERE}:number"), "has no function 'number'"),
    "shape": (("--target", "out", "--degradation", f"{HERE}:grey"), "gave shape (40, 48) for an image of (40, 48, 3)"),
    "type": (("--target", "out", "--degradation", f"{HERE}:double"), "gave float64"),
    "range": (("--target", "out", "--degradation", f"{HERE}:bright"), "gave values from 1"),
    "nan": (("--target", "out", "--degradation", f"{HERE}:empty"), "gave values from nan"),
    "nothing": (("--target", "out", "--degradation", f"{HERE}:nothing"), "gave a NoneType"),
    "failing": (("--target", "out", "--degradation", f"{HERE}:failing"), "failed with KeyError: 'no\\nsuch key'"),
    "broken file": (("--input", "in", "--target", "broken"), "broken/5.png"),
    "weights": (("--input", "in", "--target", "out", "--weights", "nowhere"), "nowhere holds neither"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_leaves_nothing(release, monkeypatch, capsys, case):
    options, words = REFUSED[case]
    write_pairs(Path())
    for index in range(6):
        write_image(Path(f"more/{index}.png"), clean(index))
        write_image(Path(f"cut/{index}.png"), clean(index)[:, : 48 - (index == 3)])
        write_image(Path(f"broken/{index}.png"), clean(index))
    write_pairs(Path("x"), 3)
    Path("x/in").rename("few")
    Path("x/out").rename("few-out")
    write_image(Path("more/extra.png"), clean(9))
    Path("broken/5.png").write_bytes(Path("broken/5.png").read_bytes()[:400])
    before = contents(Path())
    patch = () if "--patch" in options else ("--patch", "24")
    assert ipt(monkeypatch, "task", "add", "dusk", "--steps", "2", *patch, *options) == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("ipt: ") and words in text, text
    assert contents(Path()) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("derain", "is taken"),
        ("Derain", "is taken"),
        ("backbone", "is taken"),
        ("a/b", "letters, digits"),
        ("../x", "letters, digits"),
        ("", "letters, digits"),
        ("x" * 65, "letters, digits"),
        ("denoise-30", "noise of one level"),
        ("dusk", "dusk.safetensors exists"),
        ("Dusk", "dusk.safetensors exists"),
    ],
)
def test_a_name_that_is_taken_or_no_file_name_is_refused(release, name, words):
    given, target = write_pairs(Path("photos"))
    if name.lower() == "dusk":
        add_task("dusk", given, target, settings=QUICK, say=quiet)
    with pytest.raises(InputError, match=words) as refusal:
        add_task(name, given, target, settings=QUICK, say=quiet)
    assert "\n" not in str(refusal.value)


def test_a_stranger_s_pack_is_not_replaced(release):
    given, target = write_pairs(Path("photos"))
    other = release.parent / "other"
    nets.write_release(other)
    (release / "fog.safetensors").write_bytes((other / "derain.safetensors").read_bytes())
    with pytest.raises(InputError, match="fog.safetensors came with the network"):
        add_task("fog", given, target, settings=QUICK, force=True, say=quiet)


def test_images_that_look_alike_on_both_sides_are_said(release):
    given, target = write_pairs(Path("photos"))
    for folder in (given, target):
        (folder / "4.png").write_bytes((folder / "2.png").read_bytes())
    said: list[str] = []
    report = add_task("dusk", given, target, settings=QUICK, say=said.append)
    assert "2 (validation) looks like 4 (training)" in said[0] and report.notes[0] in said[0]


def test_killed_on_the_way_it_leaves_nothing_that_is_seen(release):
    given, target = write_pairs(Path("photos"))
    before = contents(release)
    command = [sys.executable, "-m", "instruct_ipt", "task", "add", "dusk", "--input", given, "--target", target]
    command += ["--steps", "100000", "--patch", "24", "--batch", "1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, env=environment) as process:
        while not (hidden := list(release.glob(".adding-*"))):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {name: value for name, value in contents(release).items() if not name.startswith(".")} == before
    assert len(hidden) == 1 and Restorer.load(release).tasks == TASKS
    add_task("dusk", given, target, settings=QUICK, say=quiet)
    assert Restorer.load(release).tasks == (*TASKS, "dusk") and not list(release.glob(".*"))


def test_rates_and_loss_are_those_of_the_profile_quick():
    """They stand in the code too, because an installed package has no params.yaml."""
    own, quick = training_settings("dusk", Settings()), params.load(profile="quick").training
    for name in ("precision", "warmup", "weight_decay", "clip", "ema"):
        assert getattr(own, name) == getattr(quick, name), name
    assert vars(own.loss) == quick.loss.model_dump()
    assert own.learning_rate.biases == quick.learning_rate.biases
