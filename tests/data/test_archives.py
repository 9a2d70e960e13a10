"""Archives are unpacked whole and inside their folder, or refused in one line."""

from __future__ import annotations

import io
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.data import archives, images
from instruct_ipt.data.archives import unpack
from instruct_ipt.errors import InputError

FILES = {"set/a.txt": b"first", "set/sub/b.txt": b"second " * 1000, "c.txt": b""}


def make_zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as out:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        for info in extra:
            out.addfile(info)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in archives._files(folder)}


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_every_member_comes_out(tmp_path, make):
    # The name says nothing: the content decides.
    unpack(make(tmp_path / "archive.bin", FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == FILES


def test_unpacking_twice_does_nothing_and_a_new_archive_replaces(tmp_path):
    archive = make_zip(tmp_path / "a.zip", FILES)
    unpack(archive, tmp_path / "out")
    before = (tmp_path / "out/c.txt").stat().st_mtime_ns
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/c.txt").stat().st_mtime_ns == before
    unpack(make_zip(tmp_path / "a.zip", {"new.txt": b"new"}), tmp_path / "out")
    assert contents(tmp_path / "out") == {"new.txt": b"new"}


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(path: Path) -> Path:
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(info, "/etc/passwd")
    return path


REFUSED = {
    "zip, dots": (lambda p: make_zip(p, {"../out.txt": b"x"}), "would leave its folder"),
    "zip, absolute": (lambda p: make_zip(p, {"/tmp/out.txt": b"x"}), "would leave its folder"),
    "zip, backslash": (lambda p: make_zip(p, {"a\\..\\..\\out.txt": b"x"}), "would leave its folder"),
    "zip, drive": (lambda p: make_zip(p, {"C:/out.txt": b"x"}), "would leave its folder"),
    "zip, link": (zip_link, "link or a device"),
    "zip, case": (lambda p: make_zip(p, {"a.txt": b"x", "A.txt": b"y"}), "there twice"),
    "zip, bomb": (lambda p: make_zip(p, {"zeros": bytes(20_000_000)}), "refused as a bomb"),
    "tar, dots": (lambda p: make_tar(p, {"a/../../out.txt": b"x"}), "would leave its folder"),
    "tar, symlink": (lambda p: make_tar(p, {}, link("a", "/etc")), "link or a device"),
    "tar, hard link": (lambda p: make_tar(p, {"b": b"x"}, link("a", "b", tarfile.LNKTYPE)), "link or a device"),
    "tar, device": (lambda p: make_tar(p, {}, link("a", "", tarfile.CHRTYPE)), "link or a device"),
    "tar, bomb": (lambda p: make_tar(p, {"zeros": bytes(20_000_000)}), "refused as a bomb"),
    "no archive": (lambda p: p.write_bytes(b"hello") and p, "cannot be unpacked"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_hostile_archives_are_refused_in_one_line_and_the_old_folder_stays(tmp_path, name):
    make, message = REFUSED[name]
    archive, out = tmp_path / "archive", tmp_path / "out"
    out.mkdir()
    (out / "old.txt").write_text("old")
    make(archive)
    with pytest.raises(InputError, match=message) as caught:
        unpack(archive, out, max_bytes=10_000_000)
    assert "\n" not in str(caught.value) and str(archive) in str(caught.value)
    assert contents(out) == {"old.txt": b"old"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["archive", "out"], "nothing is left over"


def test_too_many_members_are_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {f"{i}": b"" for i in range(20)})
    with pytest.raises(InputError, match="more than 10 members"):
        unpack(archive, tmp_path / "out", max_files=10)


def test_a_header_that_lies_about_the_size_does_not_help_a_bomb(tmp_path):
    archive = make_zip(tmp_path / "a.zip", {"zeros": bytes(5_000_000)})
    data = bytearray(archive.read_bytes())
    place = data.find(b"PK\x01\x02") + 24
    data[place : place + 4] = (10).to_bytes(4, "little")
    archive.write_bytes(data)
    with pytest.raises(InputError):
        unpack(archive, tmp_path / "out", max_bytes=1_000_000)
    assert not (tmp_path / "out").exists()


def test_an_image_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(buffer, "PNG")
    with pytest.raises(InputError, match="40 x 40 pixels"):
        unpack(make_zip(tmp_path / "a.zip", {"big.png": buffer.getvalue()}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_mutated_archives_end_in_files_inside_or_in_one_line(tmp_path, make):
    rng = random.Random(0)
    good = bytearray(make(tmp_path / "good", FILES).read_bytes())
    refused = 0
    for _ in range(150):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "bad").write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            unpack(tmp_path / "bad", tmp_path / "out", max_bytes=1_000_000)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50
    assert {p.name for p in tmp_path.iterdir()} <= {"good", "bad", "out"}
