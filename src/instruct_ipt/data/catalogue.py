"""The catalogue of data sets under `data/catalogue/`: what each is, where it comes from, which file is in which split.

    benchmark.yaml, benchmark.csv      sets of public benchmark images, every file with its checksum
    paper.yaml                         the full official sets: archives, or folders placed by hand
    custom/<name>.yaml, .csv           folders that `ipt data add` registered

A YAML file describes sets; a CSV file of the same stem lists their files. Every descriptive field of a set is a *fact*:
a value with the place where it was read, or nothing, which is shown as `unverified`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

Level = Literal["benchmark", "paper", "custom"]
Split = Literal["train", "validation", "test"]
Layout = Literal["clean", "paired", "both", "mask", "picture"]
Part = Literal["target", "input", "both", "mask", "picture", "aux"]

CATALOGUE = Path("data/catalogue")
FACTS = ("publication", "homepage", "terms", "files", "bytes", "resolution")


@dataclass(frozen=True)
class Fact:
    """A descriptive field.

    Attributes:
        value: what is known, or None for `unverified`.
        source: where it was read: an address, or a file of this repository.
    """

    value: str | int | None = None
    source: str | None = None

    @property
    def verified(self) -> bool:
        """Whether a value with a source stands here."""
        return self.value is not None and self.source is not None


@dataclass(frozen=True)
class Entry:
    """One file of a set, or one archive to download.

    Attributes:
        path: its place under `data/raw` and in a mirror, POSIX, relative.
        url: its address on the network; None when it must be placed by hand.
        sha256: hex checksum; None when nobody publishes one (the lock file then records the first download's).
        bytes: size; None when unknown.
        split: the only split in which any pixel of it may appear.
        part: ``target`` (also any clean image), ``input`` (degraded), ``both`` (side by side, clean left), ``mask``
            (snow), ``picture`` (degraded, without ground truth), ``aux`` (kept beside, not used).
        width, height: pixels; None when unknown.
    """

    path: str
    url: str | None
    sha256: str | None
    bytes: int | None
    split: Split
    part: Part
    width: int | None = None
    height: int | None = None

    @property
    def stem(self) -> str:
        """File name without extension: what pairs `input` and `target`."""
        return PurePosixPath(self.path).stem


@dataclass(frozen=True)
class Pattern:
    """Where the images of an unpacked archive, or of a folder placed by hand, lie.

    Attributes:
        split, part: as in :class:`Entry`.
        glob: POSIX pattern below the set's folder `data/raw/<set>`, ``**`` allowed.
        key: regular expression whose group 1 on the path below the set's folder is the scene that pairs an input with
            its target (several inputs may share one target).
    """

    split: Split
    part: Part
    glob: str
    key: str


@dataclass(frozen=True)
class DataSet:
    """One entry of the catalogue.

    Attributes:
        name: short unique name, its folder under `data/raw`, and the `dataset` column of every table.
        level: `benchmark`, `paper` or `custom`.
        title: name as the field writes it.
        task: one of :data:`instruct_ipt.tasks.TASKS`.
        layout: how its images pair up.
        note: what a reader of its numbers must know, one or two sentences.
        facts: name of :data:`FACTS` -> fact.
        entries: its files with checksums; empty for sets known only as archives.
        archives: archives that hold its images.
        patterns: where the images lie once archives are unpacked or folders placed.
        by_hand: how a person gets it when it sits behind a form or a drive page; None when it downloads by itself.
        folder: where its files lie if not in `data/raw/<name>` (custom sets stay where they are).
    """

    name: str
    level: Level
    title: str
    task: str
    layout: Layout
    note: str
    facts: dict[str, Fact]
    entries: tuple[Entry, ...] = ()
    archives: tuple[Entry, ...] = ()
    patterns: tuple[Pattern, ...] = ()
    by_hand: str | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Scene:
    """One image, or one pair, as it lies on disk.

    Attributes:
        dataset, task, name, split: what it is; ``name`` is unique within (dataset, split).
        layout: as in :class:`DataSet`.
        input: the degraded file; None for ``clean`` and ``mask``. For ``both`` it is the same file as ``target``.
        target: the clean file (for ``mask`` the mask); None for ``picture``.
    """

    dataset: str
    task: str
    name: str
    split: Split
    layout: Layout
    input: Path | None
    target: Path | None


def load_catalogue(folder: Path = CATALOGUE) -> dict[str, DataSet]:
    """Every set of the catalogue by name: benchmark, then paper, then custom ones, each in the order of its file.

    Raises:
        InputError: a file is missing or malformed; the line names file, set and key.
    """
    raise NotImplementedError


def select(catalogue: dict[str, DataSet], level: str | None = None, names: tuple[str, ...] = ()) -> list[DataSet]:
    """The sets of a level (None: all levels), or those named.

    Raises:
        InputError: a name or level does not exist; the line lists what does.
    """
    raise NotImplementedError


def scenes(dataset: DataSet, raw: Path) -> list[Scene]:
    """The scenes of a set as they lie under ``raw`` (`data/raw`), by split (train, validation, test), then by name.

    Sets with entries are taken from the entries; the others from their patterns, on disk.

    Raises:
        InputError: an input has no target or the other way round, or nothing is there; the line says how to get it.
    """
    raise NotImplementedError
