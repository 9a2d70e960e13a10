"""`data/prepared`: how the prepared images lie on disk, written and read in one place.

    train/                               decoded training images (data/shards.py)
    index.csv                            every validation and test image: split, task, dataset, name, files
    <split>/<dataset>/clean/<name>.png   images of our own making: crops, and clean photographs beside
    <split>/<dataset>/<task>/<name>.png  their damaged versions

Fetched test images stay where they are, byte for byte; the index points at them. Damage other than noise is stored in
8 bits, as a camera would store it. Noise is not stored: its rule (clipped or not) belongs to the protocol, and it is
made from the clean image when a pair is read, seeded by the image's name.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instruct_ipt.data.catalogue import Scene
from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.images import read_image, to_bytes, to_float, write_image
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.data.stream import PatchStream

COLUMNS = ("split", "task", "dataset", "name", "layout", "input", "target", "sha256")
Noise = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pair:
    """One degraded image with its ground truth.

    Attributes:
        task, dataset, name: what damage, which set (noise levels are sets of their own), which photograph.
        input: float32 (H, W, 3); noise is not clipped, so values may leave [0, 1].
        target: float32 (H, W, 3) in [0, 1].
    """

    task: str
    dataset: str
    name: str
    input: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Row:
    """One line of `index.csv`: a validation or test image.

    Attributes:
        split, task, dataset, name: what it is.
        layout: ``clean`` (noise is made on reading), ``paired``, ``both`` (one file, clean left) or ``picture``.
        input, target: files, relative to the prepared folder; empty where there is none.
        sha256: of the files' contents, so that whoever depends on the index depends on the images.
    """

    split: str
    task: str
    dataset: str
    name: str
    layout: str
    input: str
    target: str
    sha256: str


class Index:
    """Writes the validation and test images that are ours, and `index.csv` at the end.

    Args:
        root: the folder being written.
        home: where it will stand (`data/prepared`): paths to fetched files are relative to that.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self.root, self.home = root, home
        self.rows: list[Row] = []

    def add_scene(self, scene: Scene, task: str | None = None, layout: str | None = None) -> None:
        """A fetched image or pair, where it lies; ``task`` and ``layout`` override those of its set."""
        layout = layout or scene.layout
        given = None if layout == "clean" else scene.input
        files = [os.path.relpath(p, self.home).replace(os.sep, "/") if p else "" for p in (given, scene.target)]
        digest = _digest(p for p in (given, scene.target) if p)
        self.rows.append(Row(scene.split, task or scene.task, scene.dataset, scene.name, layout, *files, digest))

    def add_pair(
        self, split: str, task: str, dataset: str, name: str, given: np.ndarray | None, target: np.ndarray | Path
    ) -> None:
        """An image of our own making, uint8 (H, W, 3) each; ``given`` None: noise is made on reading."""
        clean = self._file(split, dataset, "clean", name, target) if isinstance(target, np.ndarray) else target
        damaged = None if given is None else self._file(split, dataset, task, name, given)
        files = []
        for path in (damaged, clean):
            inside = path is not None and path.is_relative_to(self.root)
            base = self.root if inside else self.home
            files.append("" if path is None else os.path.relpath(path, base).replace(os.sep, "/"))
        layout = "clean" if given is None else "paired"
        digest = _digest(p for p in (damaged, clean) if p)
        self.rows.append(Row(split, task, dataset, name, layout, *files, digest))

    def add_damaged(
        self,
        split: str,
        dataset: str,
        clean: Mapping[str, np.ndarray],
        settings: Any,
        tasks: Sequence[str] = TASKS,
        masks: Sequence[np.ndarray] = (),
    ) -> None:
        """Clean images (uint8) with a damaged version for every task of ``tasks``.

        The damage depends on the image's name alone: runs with different training seeds are scored on the same files.
        """
        for name, image in clean.items():
            for task in tasks:
                given = None if task == "denoise" else damaged(task, image, name, settings, masks)
                self.add_pair(split, task, dataset, name, given, image)

    def write(self) -> None:
        """Write `index.csv`.

        Raises:
            InputError: two images of a set have the same name.
        """
        seen: set[tuple[str, ...]] = set()
        for row in self.rows:
            key = (row.split, row.task, row.dataset, row.name)
            if key in seen:
                raise InputError(f"data set {row.dataset}: two {row.split} images are called {row.name}; rename one")
            seen.add(key)
        with (self.root / "index.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows([getattr(row, column) for column in COLUMNS] for row in self.rows)

    def _file(self, split: str, dataset: str, kind: str, name: str, image: np.ndarray) -> Path:
        path = self.root / split / dataset / kind / f"{name}.png"
        if not path.exists():
            write_image(path, image)
        return path


def damaged(task: str, image: np.ndarray, name: str, settings: Any, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
    """``degrade_named`` of a uint8 image (H, W, 3), stored in 8 bits."""
    return to_bytes(degrade_named(task, to_float(image), name, settings, masks=masks))


def read_scene(scene: Scene) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(input, target) of a scene as uint8 (H, W, 3); None where it has none.

    Raises:
        InputError: a file is unreadable, or the two differ in size; the line names them.
    """
    if scene.layout == "both":
        assert scene.target is not None
        target, given = halves(read_image(scene.target))
        return given, target
    given = read_image(scene.input) if scene.input else None
    target = read_image(scene.target) if scene.target else None
    if given is not None and target is not None and given.shape != target.shape:
        raise InputError(
            f"{scene.input} is {given.shape[1]} x {given.shape[0]} and {scene.target} {target.shape[1]} x "
            f"{target.shape[0]} pixels; a pair needs one size (`ipt data verify` checks them all)"
        )
    return given, target


def halves(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(left, right) of a side-by-side image (H, W, 3): clean and degraded; an odd last column is dropped."""
    middle = image.shape[1] // 2
    return image[:, :middle], image[:, middle : 2 * middle]


def read_index(root: Path) -> list[Row]:
    """The rows of `index.csv`.

    Raises:
        InputError: it is missing or not ours.
    """
    path = root / "index.csv"
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return [Row(**line) for line in csv.DictReader(stream)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `dvc repro prepare` makes it") from None
    except TypeError:
        raise InputError(f"{path} has other columns than {', '.join(COLUMNS)}; `dvc repro prepare` makes it") from None


def pairs(
    root: Path,
    split: str,
    task: str,
    settings: Any,
    sigmas: list[float] | None = None,
    noise: Noise | None = None,
    only: set[tuple[str, str, str]] | None = None,
) -> Iterator[Pair]:
    """The pairs of one task in ``split`` ("validation" or "test"), by noise level, then in the order of the index.

    Args:
        root: `data/prepared`.
        split: "validation" or "test".
        task: one of :data:`instruct_ipt.tasks.TASKS`.
        settings: the `degradation` section of the parameters.
        sigmas: noise levels in 1/255 for ``denoise``; those of ``settings`` when None.
        noise: the protocol's rule for a noisy image (clipping, rounding); None leaves it as it is.
        only: (task, dataset, name) of the pairs to give; None gives all.

    Raises:
        InputError: there is none.
    """
    rows = [row for row in read_index(root) if (row.split, row.task) == (split, task) and row.layout != "picture"]
    if not rows:
        raise InputError(f"{root / 'index.csv'} has no {split} image for {task}; `dvc repro prepare` makes them")
    for sigma in (sigmas or settings.denoise.sigma) if task == "denoise" else [None]:
        for row in rows:
            dataset = row.dataset if sigma is None else f"{row.dataset}-sigma{sigma:g}"
            if only is None or (task, dataset, row.name) in only:
                given, target = _read(root, row)
                if given is None:
                    given = degrade_named(task, target, row.name, settings, sigma)
                    given = given if noise is None else noise(given)
                yield Pair(task, dataset, row.name, given, target)


def pictures(root: Path) -> Iterator[tuple[Row, np.ndarray]]:
    """Degraded photographs without ground truth, float32 (H, W, 3): for the eye only, never for a score."""
    for row in read_index(root):
        if row.layout == "picture":
            yield row, to_float(read_image(_resolve(root, row.input)))


def photographs(root: Path, split: str, limit: int = 3) -> list[tuple[str, np.ndarray]]:
    """(name, float32 image) of the first ``limit`` clean images of ``split`` that noise is put on."""
    rows = [row for row in read_index(root) if (row.split, row.task) == (split, "denoise")]
    return [(row.name, to_float(read_image(_resolve(root, row.target)))) for row in rows[:limit]]


def count(root: Path, split: str) -> dict[str, int]:
    """Task -> number of images with ground truth in ``split``, each noise level counted once."""
    rows = [row for row in read_index(root) if row.split == split and row.layout != "picture"]
    return {task: sum(row.task == task for row in rows) for task in TASKS}


def training_stream(
    root: Path, settings: Any, seed: int, real_share: float | Mapping[str, float], tasks: Sequence[str] = TASKS
) -> PatchStream:
    """The training stream over `data/prepared/train`.

    Args:
        root: `data/prepared`.
        settings: the `degradation` section of the parameters.
        seed: seed of the whole stream.
        real_share: share of a task's samples that are real pairs, where there are any; one for all, or one per damage.
        tasks: names that batches may ask for, in the order of their indices.
    """
    from instruct_ipt.data.shards import Shards
    from instruct_ipt.data.stream import PatchStream

    shards = Shards(root / "train")
    real = {task: found for task in tasks if len(found := shards.pairs(task))}
    return PatchStream(shards.clean(), settings, seed, real, shards.masks(), real_share, tasks)


def _read(root: Path, row: Row) -> tuple[np.ndarray | None, np.ndarray]:
    target = read_image(_resolve(root, row.target))
    if row.layout == "both":
        target, given = halves(target)
        return to_float(given), to_float(target)
    return (to_float(read_image(_resolve(root, row.input))) if row.input else None), to_float(target)


def _resolve(root: Path, file: str) -> Path:
    path = root / file
    if not path.is_file():
        raise InputError(f"{path} is missing though {root / 'index.csv'} names it; `dvc repro` brings it back")
    return path


def _digest(files: Iterator[Path]) -> str:
    """SHA-256 over the contents of a pair's files."""
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()
