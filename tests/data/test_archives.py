"""Archives are unpacked whole and inside their folder, or refused in one line."""

from __future__ import annotations

import gzip
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
    (out / archives.MARK).write_text('{"sha256": "of an archive unpacked before"}')
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


def test_an_archive_of_a_folder_itself_is_welcome(tmp_path):
    """`tar -C folder -czf x.tgz .` begins with a member named `.`."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a.txt").write_text("a")
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as out:
        out.add(tmp_path / "source", ".")
    unpack(tmp_path / "x.tgz", tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.txt": b"a"}


def damaged(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGE = {
    "tar, second header": ("w", lambda data: damaged(data, 1024 + 10)),
    "tar, cut between members": ("w", lambda data: data[:1024]),
    "tar.gz, checksum": ("w:gz", lambda data: damaged(data, len(data) - 6)),
    "tar.gz, cut": ("w:gz", lambda data: data[:-20]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_tar_is_not_taken_for_a_shorter_one(tmp_path, name):
    mode, harm = DAMAGE[name]
    archive = make_tar(tmp_path / "x", {"a": b"1", "b": b"2", "c": b"3"}, mode=mode)
    archive.write_bytes(harm(archive.read_bytes()))
    with pytest.raises(InputError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = make_zip(tmp_path / "inner.zip", {"inner.txt": b"x"}).read_bytes()
    unpack(make_tar(tmp_path / "x", {"a.txt": b"a", "inner.zip": inner}, mode="w"), tmp_path / "out")
    assert contents(tmp_path / "out") == {"a.txt": b"a", "inner.zip": inner}


def test_what_macs_add_to_a_zip_does_no_harm(tmp_path):
    files = {"a.txt": b"x", "__MACOSX/._a.jpg": b"\0\5\x16\7Mac OS X"}
    unpack(make_zip(tmp_path / "x", files), tmp_path / "out")
    assert contents(tmp_path / "out") == files


def test_files_of_a_person_are_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="were not unpacked from"):
        unpack(make_zip(tmp_path / "x", FILES), tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine.txt": b"mine"}


def test_a_second_call_does_not_read_the_archive(tmp_path, monkeypatch):
    archive = make_zip(tmp_path / "x", FILES)
    unpack(archive, tmp_path / "out")
    monkeypatch.setattr(archives, "sha256_file", lambda path: pytest.fail("it was read again"))
    assert len(unpack(archive, tmp_path / "out")) == len(FILES)


def test_a_bomb_larger_than_the_free_disk_is_refused_under_default_limits(tmp_path, monkeypatch):
    usage = type("usage", (), {"free": archives.MARGIN + 1_000_000})
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match="refused as a bomb"):
        unpack(make_zip(tmp_path / "x", {"zeros": bytes(3_000_000)}), tmp_path / "out")


def test_a_header_of_any_claimed_length_is_not_read_into_memory(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "x").write_bytes(gzip.compress(header.tobuf() + bytes(4_000_000)))
    with pytest.raises(InputError, match="header is longer"):
        unpack(tmp_path / "x", tmp_path / "out")


def test_an_encrypted_zip_is_named_as_such(tmp_path):
    data = bytearray(make_zip(tmp_path / "x", {"a": b"x"}).read_bytes())
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match="'a' is encrypted; unpack it by hand"):
        unpack(tmp_path / "x", tmp_path / "out")


def test_a_zip_packed_otherwise_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="'a' is not deflated"):
        unpack(make_zip(tmp_path / "x", {"a": b"x" * 999}, zipfile.ZIP_LZMA), tmp_path / "out")
