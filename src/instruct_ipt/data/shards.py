"""Training images, decoded once: a few flat files that every process maps into memory instead of decoding PNG and JPEG.

    shard-000.bin ...   uint8 pixels, image after image, row by row
    index.csv           name, dataset, task, kind, file, offset, height, width

A patch then costs the rows it covers, worker processes share one copy in the page cache, and sets larger than memory
work. Kinds: ``clean`` (for our damage), ``input`` and ``target`` (a real pair, one after the other), ``mask`` (snow).
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from instruct_ipt.errors import InputError

COLUMNS = ("name", "dataset", "task", "kind", "file", "offset", "height", "width")
SHARD_BYTES = 256 * 2**20
Place = tuple[str, int, int, int, str]  # file, offset in bytes, height, width, name for messages


class ShardWriter:
    """Context that writes shards into ``folder``; they get their names once all is written, the index last.

    Args:
        folder: made if it is missing.
        shard_bytes: size that no file exceeds, unless a single image does.

    Raises:
        InputError: the folder holds shards already.
    """

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._rows: list[tuple[Any, ...]] = []
        self._files: list[str] = []
        self._stream: IO[bytes] | None = None
        self._offset = 0

    def __enter__(self) -> ShardWriter:
        if (self.folder / "index.csv").exists() or any(self.folder.glob("shard-*.bin")):
            raise InputError(f"{self.folder} holds shards already; remove that folder, or write to another")
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._stream is not None:
                self._stream.close()
            if kind is None:
                self._publish()
        finally:
            # After a full disk, too, which may strike at the last byte; what has got its name is not found here.
            for file in (*self._files, "index.csv"):
                self._temporary(file).unlink(missing_ok=True)

    def _publish(self) -> None:
        """Write the index, and give all files their names."""
        with self._temporary("index.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)
        for file in (*self._files, "index.csv"):
            os.replace(self._temporary(file), self.folder / file)

    def add_clean(self, name: str, dataset: str, image: np.ndarray) -> None:
        """A clean image, uint8 (H, W, 3), for our own damage."""
        self._add(name, dataset, "", "clean", image)

    def add_pair(self, name: str, dataset: str, task: str, given: np.ndarray, target: np.ndarray) -> None:
        """A real pair of one task: degraded input and its target, uint8 (H, W, 3) each.

        Raises:
            InputError: they differ in size.
        """
        if given.shape != target.shape:
            raise InputError(
                f"{dataset}/{name}: input {given.shape} and target {target.shape} differ in size; a pair needs one"
            )
        self._add(name, dataset, task, "input", given)
        self._add(name, dataset, task, "target", target)

    def add_mask(self, name: str, dataset: str, image: np.ndarray) -> None:
        """A snow mask, uint8 (H, W, 3), white where a flake hides all."""
        self._add(name, dataset, "desnow", "mask", image)

    def _add(self, name: str, dataset: str, task: str, kind: str, image: np.ndarray) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise InputError(f"{dataset}/{name}: {image.dtype} of shape {image.shape}; give uint8 of shape (H, W, 3)")
        if self._stream is None or self._offset and self._offset + image.size > self.shard_bytes:
            self._next_file()
        assert self._stream is not None
        self._rows.append((name, dataset, task, kind, self._files[-1], self._offset, *image.shape[:2]))
        self._stream.write(np.ascontiguousarray(image).data)
        self._offset += image.size

    def _next_file(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._files.append(f"shard-{len(self._files):03d}.bin")
        self._stream, self._offset = self._temporary(self._files[-1]).open("wb"), 0

    def _temporary(self, file: str) -> Path:
        return self.folder / f".{file}.tmp"


class Images(Sequence[np.ndarray]):
    """Images of the shards, as read-only views uint8 (H, W, 3); a file is mapped when its first image is asked for.

    Pickles as file names and offsets, so that a worker process maps the files itself.

    Attributes:
        sizes: (height, width) of every image, known without touching a pixel.
        names: ``dataset/name`` of every image.
    """

    def __init__(self, folder: Path, places: Sequence[Place]) -> None:
        self._folder, self._places = folder, tuple(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        file, offset, height, width, _ = self._places[index]
        if file not in self._maps:
            self._maps[file] = np.asarray(np.memmap(self._folder / file, np.uint8, "r"))
        return self._maps[file][offset : offset + height * width * 3].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        return Images, (self._folder, self._places)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image in pixels, without reading any."""
        return [(height, width) for _, _, height, width, _ in self._places]

    @property
    def names(self) -> list[str]:
        """``dataset/name`` of each image."""
        return [name for *_, name in self._places]

    @cached_property
    def _maps(self) -> dict[str, np.ndarray]:
        return {}


class Pairs(Sequence[tuple[np.ndarray, np.ndarray]]):
    """Real pairs: (input, target) views of one size.

    Attributes:
        sizes: (height, width) of every pair.
        names: ``dataset/name`` of every pair.
    """

    def __init__(self, inputs: Images, targets: Images) -> None:
        self._inputs, self._targets = inputs, targets
        self.sizes, self.names = inputs.sizes, inputs.names

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: Any) -> Any:
        return self._inputs[index], self._targets[index]


class Shards:
    """The read side.

    Raises:
        InputError: the index is missing or not one of ours, or a shard is shorter than it says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, index = folder, folder / "index.csv"
        try:
            with index.open(newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            self._rows = [(row["kind"], row["task"], _place(row)) for row in rows]
        except FileNotFoundError:
            raise InputError(f"{index} does not exist; `dvc repro prepare` makes it") from None
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{index} is damaged; `dvc repro --force --single-item prepare` makes it anew") from None
        self._check()

    def clean(self) -> Images:
        """The clean images, in the order in which they were written."""
        return self._images("clean")

    def pairs(self, task: str) -> Pairs:
        """The real pairs of ``task``, in the order in which they were written; empty when it has none."""
        return Pairs(self._images("input", task), self._images("target", task))

    def masks(self) -> Images:
        """The snow masks."""
        return self._images("mask")

    def _images(self, kind: str, task: str | None = None) -> Images:
        return Images(self.folder, [place for k, t, place in self._rows if k == kind and task in (None, t)])

    def _check(self) -> None:
        ends: dict[str, int] = {}
        for _, _, (file, offset, height, width, _) in self._rows:
            ends[file] = max(ends.get(file, 0), offset + height * width * 3)
        for file, end in ends.items():
            path = self.folder / file
            if not path.is_file() or path.stat().st_size < end:
                raise InputError(
                    f"{path} is missing or cut short; `dvc repro --force --single-item prepare` makes it anew"
                )


def _place(row: dict[str, str]) -> Place:
    return row["file"], int(row["offset"]), int(row["height"]), int(row["width"]), f"{row['dataset']}/{row['name']}"
