"""Disks that are small, full or read-only: a tmpfs where this may be mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# What fills a disk, and what belongs to no result: scratch, durations, the tracking store and its pictures.
_BALLAST = "ballast.bin"
_ASIDE = {_BALLAST, ".ipt", "logs", "mlflow.db", "mlruns"}
_NOTES = {".verified.json", ".fetch.lock", ".checksums.lock.json.guard"}


class Disk:
    """A small disk of its own, mounted at ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def free(self) -> int:
        """Bytes that are free."""
        return shutil.disk_usage(self.folder).free

    def fill(self, leave: int) -> None:
        """Leave ``leave`` bytes free, but for a page."""
        ballast = self.folder / _BALLAST
        ballast.unlink(missing_ok=True)
        with ballast.open("wb") as stream:
            if (size := self.free() - leave) > 0:
                os.posix_fallocate(stream.fileno(), 0, size)

    def make_room(self) -> None:
        """Take away what filled it."""
        (self.folder / _BALLAST).unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        """Nothing can be written meanwhile."""
        _mount("-o", "remount,ro", str(self.folder))
        try:
            yield
        finally:
            _mount("-o", "remount,rw", str(self.folder))

    def reset(self, base: Path) -> None:
        """Put the files of ``base`` on it, and nothing else."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(base, self.folder, dirs_exist_ok=True, symlinks=True)

    def contents(self) -> dict[str, bytes]:
        """Path -> content of all files that are results, or rubbish."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            place = path.relative_to(self.folder)
            if path.is_file() and place.parts[0] not in _ASIDE and path.name not in _NOTES:
                found[place.as_posix()] = path.read_bytes()
        return found


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Disk]:
    """A disk of some MiB at ``folder``; skips the test where nothing may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder))
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root, to mount a small disk")
    try:
        yield Disk(folder)
    finally:
        # Lazily: MLflow keeps the files of a store open as long as this process lives.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
