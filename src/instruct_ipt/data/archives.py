"""Unpacking archives that nobody here has made: nothing leaves the folder, nothing is a link, nothing explodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from instruct_ipt.data.images import EXTENSIONS, image_size
from instruct_ipt.errors import InputError
from instruct_ipt.provenance import sha256_file

MAX_BYTES = 2 * 10**12
MAX_FILES = 2_000_000
_CHUNK = 1 << 20
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError,
            NotImplementedError, OverflowError, MemoryError)  # fmt: skip


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> list[Path]:
    """Unpack a zip or a (compressed) tar into ``folder``, which it replaces; done once per archive content.

    Args:
        archive: the file; its kind is told by its content, not by its name.
        folder: where to; built under a temporary name and renamed at the end.
        max_bytes: most bytes that may come out, counted while unpacking and not taken from any header.
        max_files: most members.

    Returns:
        The files, sorted.

    Raises:
        InputError: one line naming the archive and the member: a path that leaves the folder, a link or device, too
            much, two members of one name, damage, encryption. What stood in ``folder`` before is kept.
    """
    digest, mark = sha256_file(archive), folder / ".unpacked"
    if mark.is_file() and mark.read_text(encoding="utf-8") == digest:
        return _files(folder)
    work = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _write_all(archive, work, max_bytes, max_files)
        check_images(_files(work))
        (work / ".unpacked").write_text(digest, encoding="utf-8")
        _swap(work, folder)
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{archive}: cannot be unpacked: {' '.join(str(error).split())}; fetch it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _files(folder)


def check_images(paths: Iterable[Path]) -> None:
    """Refuse images whose header promises more pixels than are ever read (:data:`images.MAX_PIXELS`)."""
    for path in paths:
        if path.suffix.lower() in EXTENSIONS:
            image_size(path)


def _write_all(archive: Path, work: Path, max_bytes: int, max_files: int) -> None:
    total, seen = 0, set()
    with contextlib.closing(_members(archive)) as members:
        for name, stream in members:
            target = _place(archive, work, name)
            # Compared without case: on some file systems `A.png` overwrites `a.png`.
            key = name.rstrip("/").lower()
            if key in seen:
                raise InputError(f"{archive}: member {name!r} is there twice; refused")
            seen.add(key)
            if len(seen) > max_files:
                raise InputError(f"{archive}: holds more than {max_files} members; refused")
            if stream is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            total += _write(archive, name, stream, target, max_bytes - total)


def _write(archive: Path, name: str, stream: IO[bytes], target: Path, left: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as out:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise InputError(f"{archive}: member {name!r} unpacks to more than is allowed; refused as a bomb")
            out.write(chunk)
    return written


def _place(archive: Path, work: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    bad = not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name
    if bad or not work.joinpath(*parts).resolve().is_relative_to(work.resolve()):
        raise InputError(f"{archive}: member {name!r} would leave its folder; refused")
    return work.joinpath(*parts)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, stream) of every member; the stream is None for a folder."""
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{archive}: member {info.filename!r} is a link or a device; refused")
            if info.is_dir():
                yield info.filename, None
            else:
                with opened.open(info) as stream:
                    yield info.filename, stream


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive, "r:*") as opened:
        for info in opened:
            if info.isdir():
                yield info.name, None
            elif info.isreg():
                stream = opened.extractfile(info)
                assert stream is not None
                yield info.name, stream
            else:
                raise InputError(f"{archive}: member {info.name!r} is a link or a device; refused")


def _swap(work: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(work, folder)
    shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".unpacked")
