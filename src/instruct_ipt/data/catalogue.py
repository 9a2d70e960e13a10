"""The catalogue of data sets under `data/catalogue/`: what each is, where it comes from, which file is in which split.

    benchmark.yaml, benchmark.csv      sets of public benchmark images, every file with its checksum
    paper.yaml                         the full official sets: archives, or folders placed by hand
    custom/<name>.yaml, .csv           folders that `ipt data add` registered

A YAML file describes sets; a CSV file of the same stem lists their files. Every descriptive field of a set is a *fact*:
a value with the place where it was read, or nothing, which is shown as `unverified`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from instruct_ipt.data.images import EXTENSIONS
from instruct_ipt.disk import whole, write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS

Level = Literal["benchmark", "paper", "custom"]
Split = Literal["train", "validation", "test"]
Layout = Literal["clean", "paired", "both", "mask", "picture"]
Part = Literal["target", "input", "both", "mask", "picture", "aux"]

CATALOGUE = Path("data/catalogue")
COLUMNS = ("set", "path", "bytes", "sha256", "width", "height", "split", "part", "url")
SPLITS = ("train", "validation", "test")
LAYOUTS = ("clean", "paired", "both", "mask", "picture")
PARTS = ("target", "input", "both", "mask", "picture", "aux")
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
        key: regular expression on the path below the set's folder; its groups, joined by `-`, name the scene that an
            input shares with its target (several inputs may share one target).
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
    found: dict[str, DataSet] = {}
    for path in (folder / "benchmark.yaml", folder / "paper.yaml", *sorted((folder / "custom").glob("*.yaml"))):
        level: Any = "custom" if path.parent.name == "custom" else path.stem
        rows = _read_rows(path.with_suffix(".csv"))
        for name, values in _read_yaml(path).items():
            if name in found:
                raise InputError(f"{path}: {name}: the name is taken; data sets need names of their own")
            found[name] = _Reader(path, name).dataset(level, values, rows.pop(name, []))
        if rows:
            raise InputError(f"{path.with_suffix('.csv')}: set {next(iter(rows))} is not described in {path.name}")
    _check_unique(folder, found)
    return found


def select(catalogue: dict[str, DataSet], level: str | None = None, names: tuple[str, ...] = ()) -> list[DataSet]:
    """The sets of a level (None: all levels), or those named.

    Raises:
        InputError: a name or level does not exist; the line lists what does.
    """
    if level not in (None, "benchmark", "paper", "custom"):
        raise InputError(f"level {level!r} does not exist; allowed: bundled, benchmark, paper, custom")
    unknown = [name for name in names if name not in catalogue]
    if unknown:
        raise InputError(f"data set {unknown[0]!r} is not in the catalogue; it has: {', '.join(catalogue)}")
    chosen = [catalogue[name] for name in names] if names else list(catalogue.values())
    return [dataset for dataset in chosen if level in (None, dataset.level)]


def scenes(dataset: DataSet, raw: Path) -> list[Scene]:
    """The scenes of a set as they lie under ``raw`` (`data/raw`), by split (train, validation, test), then by name.

    Sets with entries are taken from the entries; the others from their patterns, on disk.

    Raises:
        InputError: an input has no target or the other way round, or nothing is there; the line says how to get it.
    """
    parts = _from_entries(dataset, raw) if dataset.entries else _from_patterns(dataset, raw)
    found = []
    for split in SPLITS:
        names = sorted({name for where, part, name in parts if where == split and part != "aux"})
        found += [_scene(dataset, split, name, parts) for name in names]
    if not any(path.is_file() for path in parts.values()):
        way = dataset.by_hand or f"`ipt data fetch --set {dataset.name}` brings it"
        raise InputError(f"data set {dataset.name}: no image found under {raw / dataset.name}; {' '.join(way.split())}")
    return found


def write_custom(dataset: DataSet, folder: Path = CATALOGUE) -> list[Path]:
    """Write a custom set as `custom/<name>.yaml` and `.csv`; returns the two paths.

    Each is written under a temporary name and renamed, the description last: without it the list counts for nothing.
    """
    home = folder / "custom"
    table, description = home / f"{dataset.name}.csv", home / f"{dataset.name}.yaml"
    values = {"title": dataset.title, "task": dataset.task, "layout": dataset.layout, "note": dataset.note}
    values |= {"folder": dataset.folder, "facts": {}}
    with whole(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for entry in dataset.entries:
            writer.writerow([dataset.name, *("" if (v := getattr(entry, c)) is None else v for c in COLUMNS[1:])])
    write_whole(description, yaml.safe_dump({dataset.name: values}, sort_keys=False, allow_unicode=True).encode())
    return [description, table]


# ---- reading --------------------------------------------------------------------------------------------------------


# The C parser is ten times faster; wheels of PyYAML have it, a build from source may not.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML keeps the last of two equal keys in silence; here the second is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run from the repository's root (`git checkout {path}`)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must map names of data sets to their descriptions")
    return values


def _read_rows(path: Path) -> dict[str, list[dict[str, str]]]:
    """Set -> its lines; nothing when there is no such file (sets known only as archives)."""
    if not path.is_file():
        return {}
    rows: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise InputError(f"{path}: the columns must be {', '.join(COLUMNS)}")
        for row in reader:
            if None in row or None in row.values():
                raise InputError(f"{path}: line {reader.line_num} has not {len(COLUMNS)} columns")
            rows.setdefault(row["set"], []).append(row)
    return rows


@dataclass(frozen=True)
class _Reader:
    """Turns the plain values of one set into a :class:`DataSet`, naming file, set and key of whatever is wrong."""

    path: Path
    name: str

    def dataset(self, level: Level, values: Any, rows: list[dict[str, str]]) -> DataSet:
        self._keys(values, {"title", "task", "layout", "note", "facts"}, {"archives", "patterns", "by_hand", "folder"})
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(self.name)):
            raise self._wrong("name", "only letters, digits, - and _ are allowed")
        made = DataSet(
            name=self.name,
            level=level,
            title=self._text(values, "title"),
            task=self._one_of(values, "task", TASKS),
            layout=self._one_of(values, "layout", LAYOUTS),
            note=" ".join(self._text(values, "note").split()),
            facts=self._facts(values["facts"]),
            entries=tuple(self._entry(row) for row in rows),
            archives=tuple(self._archive(item) for item in values.get("archives", [])),
            patterns=tuple(self._pattern(item) for item in values.get("patterns", [])),
            by_hand=self._optional(values, "by_hand", str),
            folder=self._optional(values, "folder", str),
        )
        if not (made.entries or made.patterns):
            raise self._wrong("patterns", "a set needs files in the CSV beside it, or patterns that find them")
        return made

    def _facts(self, values: Any) -> dict[str, Fact]:
        self._keys(values or {}, set(), set(FACTS))
        found = {}
        for key in FACTS:
            fact = (values or {}).get(key) or {}
            self._keys(fact, set(), {"value", "source"})
            if (fact.get("value") is None) != (fact.get("source") is None):
                raise self._wrong(f"facts.{key}", "a value needs its source and the other way round")
            value, source = self._optional(fact, "value", (str, int)), self._optional(fact, "source", str)
            found[key] = Fact(value, source)
        return found

    def _entry(self, row: dict[str, str]) -> Entry:
        number = {key: self._count(row, key) for key in ("bytes", "width", "height")}
        return self._checked(
            Entry(
                path=row["path"],
                url=row["url"] or None,
                sha256=row["sha256"] or None,
                bytes=number["bytes"],
                split=row["split"],
                part=row["part"],
                width=number["width"],
                height=number["height"],  # type: ignore[arg-type]
            )  # fmt: skip
        )

    def _archive(self, item: Any) -> Entry:
        self._keys(item, {"path", "url"}, {"sha256", "bytes"})
        path, url = self._text(item, "path"), self._text(item, "url")
        sha256, size = self._optional(item, "sha256", str), self._optional(item, "bytes", int)
        # The split of what an archive holds is that of the patterns.
        return self._checked(Entry(path, url, sha256, size, split="train", part="aux"))

    def _count(self, row: dict[str, str], key: str) -> int | None:
        if row[key] and not (row[key].isascii() and row[key].isdigit()):
            raise self._wrong(row["path"], f"{key}: {row[key]!r} is not a whole number")
        return int(row[key]) if row[key] else None

    def _checked(self, entry: Entry) -> Entry:
        path, problem = PurePosixPath(entry.path), None
        if not entry.path or path.is_absolute() or ".." in path.parts or "\\" in entry.path:
            problem = "path: must be relative and must not leave its folder"
        elif entry.sha256 is not None and not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            problem = f"sha256: {entry.sha256!r} is not 64 hexadecimal digits"
        elif entry.url is not None and not entry.url.startswith(("https://", "http://")):
            problem = f"url: {entry.url!r} is not an http address"
        elif entry.split not in SPLITS:
            problem = f"split: {entry.split!r}; allowed: {', '.join(SPLITS)}"
        elif entry.part not in PARTS:
            problem = f"part: {entry.part!r}; allowed: {', '.join(PARTS)}"
        if problem:
            raise self._wrong(entry.path or "(no path)", problem)
        return entry

    def _pattern(self, item: Any) -> Pattern:
        self._keys(item, {"split", "part", "glob", "key"}, set())
        glob = PurePosixPath(self._text(item, "glob"))
        if glob.is_absolute() or ".." in glob.parts:
            raise self._wrong("patterns.glob", f"{item['glob']!r} must be relative and must not leave its folder")
        try:
            groups = re.compile(self._text(item, "key")).groups
        except re.error as error:
            raise self._wrong("patterns.key", f"{item['key']!r} is no regular expression: {error}") from None
        if groups < 1 or item["split"] not in SPLITS or item["part"] not in PARTS:
            raise self._wrong("patterns", f"{item} needs a known split and part and a key with a group")
        return Pattern(item["split"], item["part"], item["glob"], item["key"])

    def _keys(self, values: Any, needed: set[str], optional: set[str]) -> None:
        if not isinstance(values, dict):
            raise self._wrong("entry", f"must be a mapping with {', '.join(sorted(needed | optional))}")
        for key in sorted(set(map(str, values)) - needed - optional):
            raise self._wrong(key, f"is not a known key; allowed: {', '.join(sorted(needed | optional))}")
        for key in sorted(needed - set(values)):
            raise self._wrong(key, "is missing")

    def _text(self, values: dict[str, Any], key: str) -> str:
        if not isinstance(values[key], str) or not values[key].strip():
            raise self._wrong(key, "must be a text")
        return values[key]

    def _optional(self, values: dict[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
        value = values.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise self._wrong(key, f"is {value!r}, which is not a {'number' if kind is int else 'text'}")
        return value

    def _one_of(self, values: dict[str, Any], key: str, allowed: Iterable[str]) -> Any:
        if values[key] not in tuple(allowed):
            raise self._wrong(key, f"is {values[key]!r}; allowed: {', '.join(allowed)}")
        return values[key]

    def _wrong(self, key: str, problem: str) -> InputError:
        return InputError(f"{self.path}: {self.name}: {key}: {problem}")


def _check_unique(folder: Path, found: dict[str, DataSet]) -> None:
    seen: dict[str, str] = {}
    for dataset in found.values():
        for entry in (*dataset.entries, *dataset.archives):
            key = f"{dataset.folder or ''}/{entry.path}"
            if key in seen:
                where = folder / f"{dataset.level}.csv"
                raise InputError(f"{where}: {dataset.name}: {entry.path} is listed twice (also in {seen[key]})")
            seen[key] = dataset.name


# ---- scenes ---------------------------------------------------------------------------------------------------------

_Parts = dict[tuple[str, str, str], Path]


def _from_entries(dataset: DataSet, raw: Path) -> _Parts:
    home = Path(dataset.folder) if dataset.folder else raw
    parts: _Parts = {}
    for entry in dataset.entries:
        if entry.part != "aux":  # kept beside the set, used nowhere
            _put(parts, dataset, (entry.split, entry.part, entry.stem), home / entry.path)
    return parts


def _from_patterns(dataset: DataSet, raw: Path) -> _Parts:
    """Images found on disk. Several inputs may share one target: each is then a scene of its own."""
    home = Path(dataset.folder) if dataset.folder else raw / dataset.name
    inputs: list[tuple[str, str, Path]] = []
    others: _Parts = {}
    side: dict[Path, str] = {}
    for pattern in dataset.patterns:
        for path in sorted(home.glob(pattern.glob)):
            key = re.search(pattern.key, path.relative_to(home).as_posix())
            if not key or path.suffix.lower() not in EXTENSIONS:
                continue
            if side.setdefault(path, pattern.split) != pattern.split:
                raise InputError(f"data set {dataset.name}: {path} is in {side[path]} and in {pattern.split}")
            if pattern.part == "input":
                inputs.append((pattern.split, "-".join(key.groups()), path))
            else:
                _put(others, dataset, (pattern.split, pattern.part, "-".join(key.groups())), path)
    return _joined(dataset, inputs, others)


def _put(parts: _Parts, dataset: DataSet, place: tuple[str, str, str], path: Path) -> None:
    if place in parts:
        raise InputError(
            f"data set {dataset.name}: {path} and {parts[place]} are both {place[1]} {place[2]!r} of {place[0]}; "
            "rename or remove one"
        )
    parts[place] = path


def _joined(dataset: DataSet, inputs: list[tuple[str, str, Path]], others: _Parts) -> _Parts:
    sharing = Counter((split, key) for split, key, _ in inputs)
    parts = {place: path for place, path in others.items() if (place[0], place[2]) not in sharing}
    for split, key, path in inputs:
        name = key if sharing[split, key] == 1 else f"{key}-{path.stem}"
        _put(parts, dataset, (split, "input", name), path)
        if (split, "target", key) in others:
            parts[split, "target", name] = others[split, "target", key]
    return parts


def _scene(dataset: DataSet, split: str, name: str, parts: _Parts) -> Scene:
    given, target = parts.get((split, "input", name)), parts.get((split, "target", name))
    if dataset.layout == "both":
        given = target = parts.get((split, "both", name))
    elif dataset.layout == "mask":
        target = parts.get((split, "mask", name))
    elif dataset.layout == "picture":
        given = parts.get((split, "picture", name))
    lacks = {"paired": not (given and target), "clean": not target}.get(dataset.layout, not (given or target))
    if lacks:
        raise InputError(
            f"data set {dataset.name}: {name} ({split}) lacks its {'input' if target else 'target'}; "
            "pairs have equal names (`ipt data verify` lists them all)"
        )
    return Scene(dataset.name, dataset.task, name, split, dataset.layout, given, target)  # type: ignore[arg-type]
