"""Many files: what is written where, several small pictures at a time, and one bad file does not stop the others."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch

from instruct_ipt.data.images import EXTENSIONS
from instruct_ipt.disk import complaint, naming
from instruct_ipt.errors import InputError

from .choice import Choice
from .files import SUFFIXES, Header, encode, format_of, read, read_header, read_stream, side_by_side, write_all
from .restorer import DEFAULT_TILE, Restorer, Task

STREAM = "-"
_LISTED = EXTENSIONS | {".gif"}


@dataclass(frozen=True)
class Job:
    """One picture to restore.

    Attributes:
        name: of the input, as a person gave it.
        source: the file, or its content.
        target: file to write; None is standard output.
        header: what the input says about itself, None with a problem.
        format: in which to write.
        problem: why this one cannot be done, found before anything was decoded.
    """

    name: str
    source: Path | bytes
    target: Path | None
    header: Header | None = None
    format: str = ""
    problem: str | None = None

    @property
    def renamed(self) -> bool:
        """Whether the output has another name than the input."""
        return self.target is not None and self.target.name != Path(self.name).name

    @property
    def comparison(self) -> Path | None:
        """Where the side-by-side picture goes."""
        return self.target and self.target.with_name(f"{self.target.stem}-compare.jpg")


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        input: its name.
        output: the file that was written, `-` for standard output, None where it failed.
        error: why it failed, one line; None where it did not.
        width, height: in pixels; None where they are unknown.
        seconds: from reading to writing.
        guess: what seemed to have damaged it, where no task was given.
    """

    input: str
    output: str | None
    error: str | None
    width: int | None
    height: int | None
    seconds: float
    guess: str | None = None


@dataclass(frozen=True)
class Settings:
    """How every picture of a batch is restored.

    Attributes:
        task, strength, tile: see `Restorer.restore`; without a task each picture's damage is guessed.
        force: whether files that exist may be replaced.
        compare: whether a side-by-side picture is written too.
    """

    task: Task | None
    strength: float | None = None
    tile: int | None = None
    force: bool = False
    compare: bool = False


def plan(
    inputs: Sequence[str], output: str, format: str | None, settings: Settings, stdin: BinaryIO | None = None
) -> list[Job]:
    """The jobs for `inputs`, which name files, folders (searched for images at any depth), patterns, or `-`.

    A folder's pictures keep their place below it. A file keeps its name; its suffix changes only where another format
    is written than it promises, and where that name is taken, a suffix is added. `output` is a file where there is one
    input and its suffix says so, else a folder.

    Args:
        inputs: as given.
        output: a folder, a file, or `-`.
        format: a key of `SUFFIXES`; None writes what came in, and PNG for what is only read.
        settings: of the batch.
        stdin: where `-` is read from.

    Raises:
        InputError: the inputs or the output make no sense as a whole.
    """
    found = [entry for name in inputs for entry in _find(name, Path(output))]
    alone = len(inputs) == 1 and len(found) == 1 and not Path(inputs[0]).is_dir()
    to_file = output == STREAM or _names_file(Path(output))
    if to_file and not alone:
        raise InputError(f"several pictures, or a folder of them, do not fit into {output}; name a folder")
    if output == STREAM and settings.compare:
        raise InputError("--compare needs a file or folder to write beside; `-` is neither")
    if to_file and output != STREAM:
        named = format_of(Path(output).suffix)
        if format is not None and format != named:
            raise InputError(f"{output} and --format {format.lower()} disagree")
        format = named
    elif not to_file and any(name == STREAM for name, _ in found):
        raise InputError(f"a picture from standard input needs a file name; {output} is none")
    elif not to_file and Path(output).is_file():
        raise InputError(f"{output} is a file that is no picture; name a folder")
    folder = None if output == STREAM else Path(output)
    jobs = [_job(name, below, folder, to_file, format, stdin) for name, below in found]
    taken: dict[Path, str] = {}
    # Those that keep their names come first: a damaged a.bmp must not take the place of a.png.
    for index in sorted(range(len(jobs)), key=lambda index: jobs[index].renamed):
        jobs[index] = _checked(jobs[index], taken, settings)
    return jobs


def _find(name: str, output: Path) -> list[tuple[str, Path]]:
    """The files that an input names, each with its place below the output folder."""
    if name == STREAM:
        return [(name, Path(name))]
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in _LISTED and p.is_file())
        places = [(p, p.relative_to(path)) for p in files]
        places = [(p, place) for p, place in places if not any(part.startswith(".") for part in place.parts)]
        if (own := output.resolve()) != path.resolve():
            # What an earlier run wrote into a folder inside of this one is not restored again.
            places = [(p, place) for p, place in places if not p.resolve().is_relative_to(own)]
        if not places:
            raise InputError(f"{name} holds no images ({', '.join(sorted(_LISTED))})")
        return [(str(p), place) for p, place in places]
    if not path.exists() and glob.has_magic(name):
        matches = [p for p in sorted(glob.glob(name, recursive=True)) if Path(p).is_file()]
        if not matches:
            raise InputError(f"no file matches {name}")
        return [(match, Path(Path(match).name)) for match in matches]
    return [(name, Path(path.name))]


def _names_file(output: Path) -> bool:
    """Whether an output is meant as a file."""
    if output.is_dir():
        return False
    suffix = output.suffix.lower()
    if suffix in _LISTED and format_of(suffix) is None:
        known = ", ".join(names[0] for names in SUFFIXES.values())
        raise InputError(f"{output}: {suffix} is not written; allowed: {known}")
    return format_of(suffix) is not None


def _job(name: str, below: Path, output: Path | None, to_file: bool, format: str | None, stdin: BinaryIO | None) -> Job:
    """The job for one file; its target's suffix follows from its content."""
    source: Path | bytes = Path(name)
    try:
        if name == STREAM:
            source = read_stream(stdin) if stdin is not None else b""
        header = read_header(source)
    except InputError as error:
        return Job(name, source, None, problem=str(error))
    chosen = format or header.format
    if output is not None and not to_file:
        output = output / _renamed(below, chosen)
    return Job(name, source, output, header, chosen)


def _renamed(below: Path, format: str) -> Path:
    """The name with a suffix that fits the format; an image suffix that does not is replaced."""
    if format_of(below.suffix) == format:
        return below
    suffix = SUFFIXES[format][0]
    return below.with_suffix(suffix) if below.suffix.lower() in _LISTED else below.with_name(below.name + suffix)


def _checked(job: Job, taken: dict[Path, str], settings: Settings) -> Job:
    """The job; with a longer name, or a problem, where what it would write is there or is written by another one."""
    if job.problem or job.target is None:
        return job
    if job.target in taken and job.renamed:
        job = replace(job, target=job.target.with_name(Path(job.name).name + job.target.suffix))
    for path in (job.target, job.comparison) if settings.compare else (job.target,):
        if path in taken:
            return replace(job, problem=f"{path} is written for {taken[path]} already; restore them into two folders")
        if path.exists() and not settings.force:
            return replace(job, problem=f"{path} exists; give --force to replace it")
        taken[path] = job.name
    return job


def count_tiles(jobs: Sequence[Job], restorer: Restorer, settings: Settings) -> int:
    """How many tiles the whole batch is restored in."""
    sizes = [job.header for job in jobs if job.header is not None and job.problem is None]
    return sum(restorer.tiles(header.height, header.width, settings.tile) for header in sizes)


def run(
    jobs: Sequence[Job],
    restorer: Restorer,
    settings: Settings,
    workers: int,
    advance: Callable[[str], None] = lambda name: None,
    stdout: BinaryIO | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Do the jobs; yields the position and outcome of each as it is finished.

    Pictures of up to one tile are restored `workers` at a time, with one thread each: they are too small to keep
    several threads busy. Larger ones follow one after another, with all threads.

    Args:
        jobs: from `plan`.
        restorer: the network.
        settings: of the batch.
        workers: how many small pictures at a time, >= 1.
        advance: called with the input's name after each tile, from any thread.
        stdout: where a picture without a target goes.
    """
    todo = []
    for index, job in enumerate(jobs):
        if job.problem is not None:
            yield index, Outcome(job.name, None, job.problem, *_size(job), 0.0)
        else:
            todo.append(index)
    small = [index for index in todo if _is_small(jobs[index])] if workers > 1 else []
    if len(small) > 1:
        yield from _together(jobs, small, restorer, settings, workers, advance)
        todo = [index for index in todo if index not in set(small)]
    for index in todo:
        yield index, _done(jobs[index], restorer, settings, advance, stdout)


def _together(
    jobs: Sequence[Job],
    small: Sequence[int],
    restorer: Restorer,
    settings: Settings,
    workers: int,
    advance: Callable[[str], None],
) -> Iterator[tuple[int, Outcome]]:
    """Small jobs, several at a time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(workers)
    try:
        waiting = {pool.submit(_done, jobs[index], restorer, settings, advance, None): index for index in small}
        for finished in as_completed(waiting):
            yield waiting[finished], finished.result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _is_small(job: Job) -> bool:
    return job.header is not None and job.header.width * job.header.height <= DEFAULT_TILE**2


def _size(job: Job) -> tuple[int | None, int | None]:
    return (job.header.width, job.header.height) if job.header else (None, None)


def _done(
    job: Job, restorer: Restorer, settings: Settings, advance: Callable[[str], None], stdout: BinaryIO | None
) -> Outcome:
    """Do one job; whatever goes wrong is its outcome."""
    begun, error, chosen = time.monotonic(), None, None
    try:
        chosen = _restore(job, restorer, settings, advance, stdout)
    except InputError as problem:
        error = str(problem)
    except Exception as defect:  # the other files are not to suffer from it
        error = complaint(defect) if isinstance(defect, OSError) else None
        if error is None:
            if os.environ.get("IPT_DEBUG"):
                raise
            said = " ".join(str(defect).split())[:200]
            error = f"unexpected {type(defect).__name__}: {said} (IPT_DEBUG=1 shows where)"
    output = None if error else STREAM if job.target is None else str(job.target)
    guess = str(chosen) if chosen is not None and chosen.source == "image" else None
    return Outcome(job.name, output, error, *_size(job), time.monotonic() - begun, guess)


def _restore(
    job: Job, restorer: Restorer, settings: Settings, advance: Callable[[str], None], stdout: BinaryIO | None
) -> Choice:
    """Read, restore, write; nothing is written before all that is to be written has been made."""
    picture = read(job.source)
    before = picture.upright()
    chosen = restorer.choose(before, settings.task, settings.strength)
    after = restorer.restore(
        before, chosen.weights, chosen.strength, settings.tile, progress=lambda done, total: advance(job.name)
    )
    written = encode(picture.with_upright(after), job.format)
    comparison = side_by_side(before, after) if settings.compare else None
    if job.target is None:
        assert stdout is not None
        with naming(Path("standard output")):
            stdout.write(written)
            stdout.flush()
        return chosen
    contents = {job.target: written}
    if comparison is not None and job.comparison is not None:
        contents[job.comparison] = comparison
    write_all(contents, settings.force)
    return chosen
