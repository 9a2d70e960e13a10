"""Training images, decoded once: a few flat files that every process maps into memory instead of decoding PNG and JPEG.

    shard-000.bin ...   uint8 pixels, image after image, row by row
    index.csv           name, dataset, task, kind, file, offset, height, width

A patch then costs the rows it covers, worker processes share one copy in the page cache, and sets larger than memory
work. Kinds: ``clean`` (for our damage), ``input`` and ``target`` (a real pair, one after the other), ``mask`` (snow).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from instruct_ipt.errors import InputError

COLUMNS = ("name", "dataset", "task", "kind", "file", "offset", "height", "width")
SHARD_BYTES = 256 * 2**20


class ShardWriter:
    """Context that writes shards into ``folder``; the index, written last, is what makes them valid.

    Args:
        folder: made if it is missing; must hold no shards.
        shard_bytes: a new file begins once the last one has reached this size.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._rows: list[tuple[Any, ...]] = []
        self._number, self._offset, self._stream = -1, 0, None

    def __enter__(self) -> ShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()
        if kind is None:
            with (self.folder / "index.csv").open("w", newline="", encoding="utf-8") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(self._rows)

    def add_clean(self, name: str, dataset: str, image: np.ndarray) -> None:
        """A clean image, uint8 (H, W, 3), for our own damage."""
        self._add(name, dataset, "", "clean", image)

    def add_pair(self, name: str, dataset: str, task: str, given: np.ndarray, target: np.ndarray) -> None:
        """A real pair of one task, uint8 (H, W, 3) each, of one size."""
        if given.shape != target.shape:
            raise InputError(f"{dataset}/{name}: input {given.shape} and target {target.shape} differ in size")
        self._add(name, dataset, task, "input", given)
        self._add(name, dataset, task, "target", target)

    def add_mask(self, name: str, dataset: str, image: np.ndarray) -> None:
        """A snow mask, uint8 (H, W, 3), white where a flake hides all."""
        self._add(name, dataset, "desnow", "mask", image)

    def _add(self, name: str, dataset: str, task: str, kind: str, image: np.ndarray) -> None:
        if self._stream is None or self._offset >= self.shard_bytes:
            if self._stream is not None:
                self._stream.close()
            self._number, self._offset = self._number + 1, 0
            self._stream = (self.folder / f"shard-{self._number:03d}.bin").open("wb")
        height, width = image.shape[:2]
        file = f"shard-{self._number:03d}.bin"
        self._rows.append((name, dataset, task, kind, file, self._offset, height, width))
        self._stream.write(np.ascontiguousarray(image, np.uint8).data)
        self._offset += image.size


@dataclass(frozen=True)
class Images(Sequence[np.ndarray]):
    """Images of the shards, as read-only views uint8 (H, W, 3) that are mapped on first use.

    Pickles as paths and offsets, so that a worker process maps the files itself.
    """

    places: tuple[tuple[Path, int, int, int], ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        path, offset, height, width = self.places[index]
        # One map per image and not per file: the arrays are independent and cost nothing until they are read.
        return np.memmap(path, np.uint8, "r", offset, (height, width, 3))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image, without touching a pixel."""
        return [(height, width) for _, _, height, width in self.places]


@dataclass(frozen=True)
class Pairs(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Real pairs: (input, target) views of one size."""

    inputs: Images
    targets: Images

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: Any) -> Any:
        return self.inputs[index], self.targets[index]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every pair."""
        return self.inputs.sizes


class Shards:
    """The read side.

    Raises:
        InputError: the index is missing, or a shard is shorter than it says.
    """

    def __init__(self, folder: Path) -> None:
        index = folder / "index.csv"
        try:
            with index.open(newline="", encoding="utf-8") as stream:
                self._rows = list(csv.DictReader(stream))
        except FileNotFoundError:
            raise InputError(f"{index} does not exist; `dvc repro prepare` makes it") from None
        self.folder = folder
        self._check()

    def clean(self) -> Images:
        """The clean images, in the order in which they were written."""
        return self._images("clean")

    def pairs(self, task: str) -> Pairs:
        """The real pairs of ``task``; empty when it has none."""
        return Pairs(self._images("input", task), self._images("target", task))

    def masks(self) -> Images:
        """The snow masks."""
        return self._images("mask")

    def _images(self, kind: str, task: str | None = None) -> Images:
        rows = (row for row in self._rows if row["kind"] == kind and task in (None, row["task"]))
        return Images(tuple(self._place(row) for row in rows))

    def _place(self, row: dict[str, str]) -> tuple[Path, int, int, int]:
        return self.folder / row["file"], int(row["offset"]), int(row["height"]), int(row["width"])

    def _check(self) -> None:
        ends: dict[Path, int] = {}
        for path, offset, height, width in map(self._place, self._rows):
            ends[path] = max(ends.get(path, 0), offset + height * width * 3)
        for path, end in ends.items():
            if not path.is_file() or path.stat().st_size < end:
                raise InputError(
                    f"{path} is missing or cut short; `dvc repro --force --single-item prepare` makes it anew"
                )
