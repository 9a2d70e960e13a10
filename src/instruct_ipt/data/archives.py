"""Unpacking archives that nobody here has made: nothing leaves the folder, nothing is a link, nothing explodes."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from instruct_ipt.data.download import MARGIN
from instruct_ipt.data.images import EXTENSIONS, image_size
from instruct_ipt.disk import complaint
from instruct_ipt.errors import InputError
from instruct_ipt.provenance import sha256_file

MAX_BYTES = 2 * 10**12
MAX_FILES = 2_000_000
MARK = ".unpacked"
_CHUNK = 1 << 20
# What zipfile and tarfile raise on damaged input, beside their own errors.
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError, ValueError,
            OverflowError, IndexError, struct.error)  # fmt: skip


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> list[Path]:
    """Unpack a zip, tar or tar.gz into ``folder``, which it replaces; done once per archive content.

    Args:
        archive: the file; its kind is told by its first bytes, not by its name.
        folder: where to; built under a temporary name and renamed at the end.
        max_bytes: most bytes that may come out, counted while unpacking and not taken from any header. What the disk
            has free, less :data:`MARGIN`, is a limit as well.
        max_files: most members.

    Returns:
        The files, sorted.

    Raises:
        InputError: one line naming the archive and the member: a path that leaves the folder, a link or device, too
            much, two members of one name, damage, encryption; or ``folder`` holds something that was not unpacked
            here. What stood in ``folder`` before is kept.
    """
    mark = _mark_of(archive, folder)
    if mark is None:
        return _files(folder)
    work = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        _write_all(archive, work, min(max_bytes, shutil.disk_usage(work).free - MARGIN), max_files)
        check_images(_files(work))
        (work / MARK).write_text(json.dumps(mark), encoding="utf-8")
        _swap(work, folder)
    except InputError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and complaint(error):
            raise
        raise InputError(f"{archive}: cannot be unpacked: {' '.join(str(error).split())}; fetch it again") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return _files(folder)


def check_images(paths: Iterable[Path]) -> None:
    """Refuse images whose header promises more pixels than are ever read (:data:`images.MAX_PIXELS`).

    A file that is no image at all passes (Macs add such ones to archives): it endangers nothing, and whoever reads it
    is told.
    """
    for path in paths:
        if path.suffix.lower() in EXTENSIONS:
            try:
                image_size(path)
            except InputError as error:
                if error.__cause__ is None:
                    raise


def _mark_of(archive: Path, folder: Path) -> dict[str, Any] | None:
    """What is noted in ``folder`` once ``archive`` is unpacked; None when it stands there already.

    Size and time of change spare reading a large archive on every call.
    """
    status = archive.stat()
    mark: dict[str, Any] = {"bytes": status.st_size, "changed": status.st_mtime_ns}
    try:
        old = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder} holds files that were not unpacked from {archive}; move them away") from None
        old = {}
    except ValueError:
        old = {}
    if not isinstance(old, dict):
        old = {}
    if mark.items() <= old.items():
        return None
    mark["sha256"] = sha256_file(archive)
    return None if old.get("sha256") == mark["sha256"] else mark


def _write_all(archive: Path, work: Path, max_bytes: int, max_files: int) -> None:
    total, count, files = 0, 0, set()
    with contextlib.closing(_members(archive, max_bytes)) as members:
        for name, stream in members:
            target = _place(archive, work, name)
            count += 1
            if count > max_files:
                raise InputError(f"{archive}: holds more than {max_files} members; refused")
            if stream is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            # Some file systems tell neither `A.png` from `a.png` nor two spellings of one accent.
            key = unicodedata.normalize("NFC", target.as_posix()).casefold()
            if key in files:
                raise InputError(f"{archive}: member {name!r} is there twice; refused")
            files.add(key)
            total += _write(archive, name, stream, target, max_bytes - total)


def _write(archive: Path, name: str, stream: IO[bytes], target: Path, left: int) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with target.open("xb") as out:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise InputError(
                    f"{archive}: member {name!r} unpacks to more than is allowed or fits; refused as a bomb"
                )
            out.write(chunk)
    return written


def _place(archive: Path, work: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    first = parts[0] if parts else ""
    bad = not name or name.startswith("/") or ".." in parts or "\\" in name or ":" in first or "\0" in name
    if bad or first == MARK or not work.joinpath(*parts).resolve().is_relative_to(work.resolve()):
        raise InputError(f"{archive}: member {name!r} would leave its folder; refused")
    return work.joinpath(*parts)


def _members(archive: Path, max_bytes: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    """(name, stream) of every member; the stream is None for a folder."""
    with archive.open("rb") as stream:
        head = stream.read(4)
    # By the first bytes: a tar may well end with a zip, which `zipfile.is_zipfile` would take for the whole.
    if head in (b"PK\x03\x04", b"PK\x05\x06"):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive, head.startswith(b"\x1f\x8b"), max_bytes)


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise InputError(f"{archive}: member {info.filename!r} is a link or a device; refused")
            if info.flag_bits & 1:
                raise InputError(f"{archive}: member {info.filename!r} is encrypted; unpack it by hand to its folder")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise InputError(f"{archive}: member {info.filename!r} is not deflated; unpack it by hand")
            if info.filename.endswith("/"):
                yield info.filename, None
            else:
                with opened.open(info) as stream:
                    yield info.filename, stream


def _tar_members(archive: Path, zipped: bool, max_bytes: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    with gzip.open(archive) if zipped else archive.open("rb") as plain:
        source = _Measured(plain, archive, max_bytes)
        with tarfile.open(fileobj=source, mode="r:") as opened:  # type: ignore[call-overload]
            for info in opened:
                if not info.isdir() and not info.isreg():
                    raise InputError(f"{archive}: member {info.name!r} is a link or a device; refused")
                try:
                    tarfile.data_filter(info, str(archive.parent))
                except tarfile.FilterError:
                    raise InputError(f"{archive}: member {info.name!r} would leave its folder; refused") from None
                yield info.name, None if info.isdir() else opened.extractfile(info)
                # tarfile keeps every header it has met.
                opened.members.clear()
            _require_end(source, opened.offset)


def _require_end(source: _Measured, offset: int) -> None:
    """tarfile takes a damaged header for the end of the archive; a true end is a block of zeros.

    The rest is read as well: only at its end does gzip compare its checksum.
    """
    source.seek(offset)
    if source.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends early or is damaged")
    while source.read(_CHUNK):
        pass


class _Measured:
    """A stream for tarfile that gives no more than a limit, in no larger pieces than are asked for here.

    A header may claim any length, and tarfile reads long names and pax headers into memory in one piece.
    """

    def __init__(self, stream: IO[bytes], archive: Path, max_bytes: int) -> None:
        # Headers and padding: 1 kB or so for each file.
        self._stream, self._archive, self._last = stream, archive, 2 * max_bytes + 2**30

    def read(self, size: int) -> bytes:
        if size > _CHUNK:
            raise tarfile.ReadError("a header is longer than 1 MiB")
        self._within(self._stream.tell() + size)
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        self._within(position)
        return self._stream.seek(position)

    def tell(self) -> int:
        return self._stream.tell()

    def _within(self, position: int) -> None:
        if position > self._last:
            raise InputError(f"{self._archive}: unpacks to more than is allowed or fits; refused as a bomb")


def _swap(work: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(work, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MARK)
