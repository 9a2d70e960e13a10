"""`ipt restore`: files, folders, patterns, streams; nothing replaced unasked; one bad file does not stop the others."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.cli import main
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.batch import Settings, count_tiles, plan, run
from tests import warm

from . import hostile, nets


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    nets.write_release(folder)
    return folder


def ipt(*arguments: str | Path, weights: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = ["ipt", "restore", *map(str, arguments), "--weights", str(weights)]
    return subprocess.run(command, env=warm.environment_of(), input=stdin, capture_output=True)


def photo(path: Path, seed: int = 0, format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(hostile.picture(seed)).save(path, format)
    return path


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_two_hundred_hostile_files(weights, tmp_path):
    """What can be restored is; the rest is named, with no traceback and no output."""
    files = hostile.write_all(tmp_path / "in")
    assert len(files) == hostile.COUNT == len({file.name for file in files})
    done = ipt(
        *(tmp_path / "in" / f.name for f in files), "-o", tmp_path / "out", "-t", "derain", "--json", weights=weights
    )
    text = done.stderr.decode()
    assert done.returncode == 1 and "Traceback" not in text and "unexpected" not in done.stdout.decode(), text
    lines = {Path(line["input"]).name: line for line in map(json.loads, done.stdout.decode().splitlines())}
    assert lines.keys() == {file.name for file in files}
    for file in files:
        line = lines[file.name]
        if file.good is not None:
            assert (line["error"] is None) == file.good, line
        if line["error"] is None:
            with Image.open(line["output"]) as restored, Image.open(io.BytesIO(file.content)) as given:
                restored.load()
                assert restored.size == given.size or sorted(restored.size) == sorted(given.size), line
        else:
            assert line["output"] is None and line["error"].strip() and "\n" not in line["error"]
            assert "0x" not in line["error"] and "is written for" not in line["error"], line
            if file.name.startswith("bomb"):
                assert "30000 x 30000 pixels" in line["error"]
    restored = {Path(line["output"]).name for line in lines.values() if line["output"]}
    assert {path.name for path in (tmp_path / "out").iterdir()} == restored
    failed = sum(line["error"] is not None for line in lines.values())
    assert f"{len(files) - failed} restored, {failed} failed" in text and "\x1b" not in text
    assert all((tmp_path / "in" / file.name).read_bytes() == file.content for file in files)


def test_results_are_those_of_the_library(weights, tmp_path):
    given = photo(tmp_path / "a.png")
    done = ipt(given, "-o", tmp_path / "b.png", "-t", "dehaze=0.25,derain=0.75", "--strength", "0.5", weights=weights)
    assert done.returncode == 0, done.stderr
    expected = Restorer.load(weights, "cpu").restore(hostile.picture(0), {"dehaze": 0.25, "derain": 0.75}, strength=0.5)
    found = np.asarray(Image.open(tmp_path / "b.png")).astype(int)
    assert np.abs(found - expected).max() <= 1 and np.abs(found - hostile.picture(0)).max() > 1


def test_standard_input_and_output(weights, tmp_path):
    given = photo(tmp_path / "a.webp")
    done = ipt("-", "-o", "-", "-t", "derain", weights=weights, stdin=given.read_bytes())
    assert done.returncode == 0
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert image.format == "WEBP" and image.size == (32, 24)
    done = ipt("-", "-o", "-", "-t", "derain", "--format", "png", weights=weights, stdin=b"no picture")
    assert done.returncode == 1 and done.stdout == b"" and done.stderr.startswith(b"ipt: -: it is no PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.png", "-o", "out"), "or name a task: denoise, deblur, derain, dehaze, desnow"),
        (("a.png", "-o", "out", "-t", "rain"), "unknown task 'rain'; known tasks"),
        (("a.png", "-o", "out", "-t", "derain=much"), "NAME=WEIGHT"),
        (("a.png", "-o", "out", "-t", "derain=0.5"), "sum to 1"),
        (("a.png", "-o", "out", "-t", "derain", "--strength", "2"), "strength is 2.0"),
        (("a.png", "-o", "out", "-t", "derain", "--tile", "10"), "tile is 10; allowed: 0"),
        (("a.png", "-o", "out", "-t", "derain", "--format", "gif"), "'gif' is not written; allowed: png"),
        (("a.png", "-o", "out.gif", "-t", "derain"), ".gif is not written; allowed: .png"),
        (("a.png", "-o", "out.png", "-t", "derain", "--format", "jpeg"), "disagree"),
        (("a.png", "b.png", "-o", "out.png", "-t", "derain"), "several pictures"),
        (("a.png", "-o", "-", "-t", "derain", "--json"), "both need standard output"),
        (("a.png", "-o", "-", "-t", "derain", "--compare"), "--compare needs a file"),
        (("-", "-o", "out", "-t", "derain"), "from standard input needs a file name"),
        (("none*.png", "-o", "out", "-t", "derain"), "no file matches none*.png"),
        (("empty", "-o", "out", "-t", "derain"), "empty holds no images"),
        (("a.png", "-o", "notes.txt", "-t", "derain"), "notes.txt is a file that is no picture"),
        (("a.png", "-o", "out", "-t", "derain", "--weights", "nowhere"), "nowhere holds neither"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(weights, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    before = sorted(tmp_path.rglob("*"))
    more = () if "--weights" in arguments else ("--weights", str(weights))
    monkeypatch.setattr(sys, "argv", ["ipt", "restore", *arguments, *more])
    with pytest.raises(SystemExit) as ended:
        main()
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.count("\n") == 1 and text.startswith("ipt: ") and words in text, text
    assert sorted(tmp_path.rglob("*")) == before


def test_without_weights_it_says_how_to_get_them(tmp_path, monkeypatch, capsys):
    photo(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "instruct_ipt.restoration.weights.__file__", str(tmp_path / "x/y/instruct_ipt/restoration/w.py")
    )
    monkeypatch.setattr(sys, "argv", ["ipt", "restore", "a.png", "-o", "out", "-t", "derain"])
    with pytest.raises(SystemExit) as ended:
        main()
    text = capsys.readouterr().err
    assert ended.value.code == 2 and text.count("\n") == 1 and "make repro" in text and "ipt release" in text


def outcomes(
    inputs: list[Path], output: Path, weights: Path, format: str | None = None, workers: int = 1, **more: object
):
    settings = Settings("derain", **more)
    jobs = plan([str(path) for path in inputs], str(output), format, settings)
    found = dict(run(jobs, Restorer.load(weights, "cpu"), settings, workers))
    return [found[index] for index in range(len(jobs))]


def test_folders_keep_their_shape_and_other_files_are_left_alone(weights, tmp_path):
    root = tmp_path / "in"
    for name in ("a.png", "deep/er/b.jpg", "deep/c.JPEG", "deep/d.gif", ".hidden/e.png", "deep/.f.png"):
        photo(root / name)
    (root / "notes.txt").write_text("x")
    found = outcomes([root], tmp_path / "out", weights)
    assert all(outcome.error is None for outcome in found)
    written = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert written == {"a.png", "deep/er/b.jpg", "deep/c.JPEG", "deep/d.png"}


def test_an_output_folder_inside_the_input_is_no_input_the_second_time(weights, tmp_path):
    photo(tmp_path / "a.png")
    for force in (False, True):
        found = outcomes([tmp_path], tmp_path / "out", weights, force=force)
        assert [Path(outcome.input).name for outcome in found] == ["a.png"] and found[0].error is None


def test_a_pattern_and_a_file_that_looks_like_one(weights, tmp_path):
    for name in ("a.png", "b.png", "sub/c.png", "odd[1].png"):
        photo(tmp_path / name)
    found = outcomes([tmp_path / "**/[abc].png", tmp_path / "odd[1].png"], tmp_path / "out", weights)
    assert [Path(outcome.input).name for outcome in found] == ["a.png", "b.png", "c.png", "odd[1].png"]
    assert all(outcome.error is None for outcome in found)


def test_nothing_is_replaced_without_force(weights, tmp_path):
    given, target = photo(tmp_path / "a.png"), tmp_path / "out" / "a.png"
    target.parent.mkdir()
    target.write_bytes(b"mine")
    found = outcomes([given], tmp_path / "out", weights)
    assert "exists; give --force" in found[0].error and target.read_bytes() == b"mine"
    assert outcomes([given], tmp_path / "out", weights, force=True)[0].error is None
    assert Image.open(target).size == (32, 24)


def test_a_comparison_that_exists_stops_before_anything_is_written(weights, tmp_path):
    given = photo(tmp_path / "a.png")
    photo(tmp_path / "out" / "a-compare.jpg")
    found = outcomes([given], tmp_path / "out", weights, compare=True)
    assert "a-compare.jpg exists" in found[0].error and not (tmp_path / "out/a.png").exists()


def test_two_inputs_of_one_name_are_not_written_over_each_other(weights, tmp_path):
    given = [photo(tmp_path / "z/a.jpg", 3, "PNG"), photo(tmp_path / "x/a.png", 1), photo(tmp_path / "y/a.png", 2)]
    found = outcomes(given, tmp_path / "out", weights, force=True)
    assert [Path(outcome.output or "").name for outcome in found] == ["a.jpg.png", "a.png", ""]
    assert "is written for" in found[2].error and "x/a.png" in found[2].error


def test_a_comparison_shows_before_and_after_as_displayed(weights, tmp_path):
    image = Image.fromarray(hostile.picture(0))
    image.save(tmp_path / "a.jpg", exif=hostile.turned(6), quality=95)
    assert outcomes([tmp_path / "a.jpg"], tmp_path / "out", weights, compare=True)[0].error is None
    assert Image.open(tmp_path / "out/a.jpg").size == (32, 24)
    assert Image.open(tmp_path / "out/a-compare.jpg").size == (24 + 8 + 24, 32)


def test_the_format_that_came_in_goes_out(weights, tmp_path):
    given = [photo(tmp_path / name) for name in ("a.png", "b.jpg", "c.webp", "d.tif", "e.bmp")]
    found = outcomes(given, tmp_path / "out", weights)
    formats = [Image.open(outcome.output).format for outcome in found]
    assert formats == ["PNG", "JPEG", "WEBP", "TIFF", "PNG"]
    found = outcomes(given, tmp_path / "jpeg", weights, format="JPEG")
    assert [Path(outcome.output).name for outcome in found] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


def test_several_at_a_time_give_the_same_files(weights, tmp_path):
    given = [photo(tmp_path / "in" / f"{index}.png", index) for index in range(9)]
    (tmp_path / "in/bad.png").write_bytes(b"bad")
    given.insert(4, tmp_path / "in/bad.png")
    single, several = (outcomes(given, tmp_path / str(workers), weights, workers=workers) for workers in (1, 3))
    for one, other in zip(single, several, strict=True):
        assert one.input == other.input and (one.error is None) == (other.error is None)
        if one.output:
            assert Path(one.output).read_bytes() == Path(other.output).read_bytes()


def test_a_defect_of_ours_in_one_picture_does_not_stop_the_others(weights, tmp_path, monkeypatch):
    given = [photo(tmp_path / name) for name in ("a.png", "b.png")]

    def tell(name: str) -> None:
        if name.endswith("a.png"):
            raise RuntimeError("boom")

    settings = Settings("derain")
    jobs = plan([str(path) for path in given], str(tmp_path / "out"), None, settings)
    found = dict(run(jobs, Restorer.load(weights, "cpu"), settings, 1, advance=tell))
    assert "unexpected RuntimeError: boom" in found[0].error and found[1].error is None
    monkeypatch.setenv("IPT_DEBUG", "1")
    with pytest.raises(RuntimeError, match="boom"):
        dict(run(jobs[:1], Restorer.load(weights, "cpu"), settings, 1, advance=tell))


def test_tiles_of_a_batch_are_counted_before(weights, tmp_path):
    given = [photo(tmp_path / "a.png"), photo(tmp_path / "b.png")]
    Image.fromarray(hostile.picture(0, 200, 300)).save(tmp_path / "large.png")
    (tmp_path / "bad.png").write_bytes(b"bad")
    restorer = Restorer.load(weights, "cpu")
    settings = Settings("derain", tile=96)
    inputs = [*map(str, given), str(tmp_path / "large.png"), str(tmp_path / "bad.png")]
    jobs = plan(inputs, str(tmp_path / "out"), None, settings)
    told: list[str] = []
    dict(run(jobs, restorer, settings, 2, told.append))
    assert len(told) == count_tiles(jobs, restorer, settings) == 2 + restorer.tiles(200, 300, 96) > 6


def test_an_input_too_long_is_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setattr("instruct_ipt.restoration.files.MAX_BYTES", 100)
    found = outcomes([photo(tmp_path / "a.png")], tmp_path / "out", weights)
    assert "longer than 100 bytes" in found[0].error
    jobs = plan(["-"], str(tmp_path / "b.png"), None, Settings("derain"), io.BytesIO(bytes(101)))
    assert "longer than 100 bytes" in jobs[0].problem
