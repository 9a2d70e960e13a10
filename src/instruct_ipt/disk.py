"""Files that are written whole or not at all, and what a person is told when a disk takes no more."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Error numbers of a disk, a quota or a limit that takes no more bytes."""
_ROOM = "make room and run the same command again"
_MENDABLE = {
    errno.ENOSPC: f"cannot be written: the disk is full; {_ROOM}",
    errno.EDQUOT: f"cannot be written: your quota on this disk is used up; {_ROOM}",
    errno.EFBIG: f"cannot be written: it is larger than a file may be here (`ulimit -f` shows the limit); {_ROOM}",
    errno.EROFS: "cannot be written: the disk is read-only; mount it for writing, or work on another one",
    errno.EACCES: "may not be read or written (permissions); change them, or work in a folder of your own",
    errno.EPERM: "may not be read or written (permissions); change them, or work in a folder of your own",
    errno.EIO: "cannot be read or written: the disk reports an error; look after it, then run the same command again",
}


def complaint(error: OSError) -> str | None:
    """One line for a person: what cannot be written, why, and what to do.

    Returns:
        None for an error that no disk is to blame for: a defect of ours, which keeps its traceback.
    """
    said = _MENDABLE.get(error.errno or 0)
    # Of two names, as a renaming or a copy has them, the second is the one that is written.
    name = error.filename2 or error.filename
    return said and f"{'the output' if name is None else name} {said}"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put ``path`` into an error that names no file: a failed write, unlike a failed open, does not say where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; what is written under it is ``path`` at the end, and gone where that fails.

    The folder is made. What stood there before stays as it was until the new file is whole and on the disk.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    except BaseException as error:
        # A disk that is read-only refuses to remove even what is not there; the first error is the one to be told.
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and str(temporary) in (str(error.filename), str(error.filename2)):
            error.filename, error.filename2 = str(path), None
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_bytes(content)
