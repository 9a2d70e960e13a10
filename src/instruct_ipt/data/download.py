"""Downloads that end whole or not at all: parallel, resumable, checked, never half under their final name.

A file arrives under `<root>/.partial/`, is compared with its size and SHA-256, flushed to disk and renamed. A killed
run leaves its parts there, and the next one asks the server for the rest (HTTP range). What has been checked once is
remembered with its size and time of change, so that a second call reads no file.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from instruct_ipt.errors import InputError
from instruct_ipt.provenance import sha256_file, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from instruct_ipt.data.catalogue import Entry

LOCK = Path("data/checksums.lock.json")
TIMEOUT = (10.0, 30.0)  # s to connect, s between two bytes
RETRIES = 6  # without a new byte; every byte that arrives gives all of them back
BACK_OFF = 0.5  # s before the first retry; doubled each time, up to 30 s
MARGIN = 100 * 2**20  # bytes of disk that stay free
_CHUNK = 1 << 18
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
Observe = Callable[[int, str], None]


class _Retry(Exception):
    """A failure that may pass; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class Plan:
    """What a fetch has to do.

    Attributes:
        missing: entries that are not there, or were never checked.
        bytes: how much is still to come, as far as sizes are known.
        unknown: number of missing entries of unknown size.
    """

    missing: list[Entry]
    bytes: int
    unknown: int


def safe_place(root: Path, path: str) -> Path:
    """``root / path``.

    Raises:
        InputError: the path is absolute or leaves ``root``, through `..` or through a link.
    """
    parts = PurePosixPath(path).parts
    target = root.joinpath(*parts)
    inside = target.parent.resolve().is_relative_to(root.resolve())
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or not inside:
        raise InputError(f"{path}: the place of a file must lie below {root}; mend the catalogue")
    return target


class Stamps:
    """Files that were checked: path -> [size, time of change in ns, sha256], in `<root>/.verified.json`."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / ".verified.json"
        self._lock = threading.Lock()
        try:
            self._known: dict[str, list[Any]] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}

    def sha256(self, path: str) -> str | None:
        """Checksum of ``root / path`` if it was checked and has not changed since; None otherwise."""
        try:
            status = (self.root / path).stat()
        except OSError:
            return None
        known = self._known.get(path)
        return known[2] if known and known[:2] == [status.st_size, status.st_mtime_ns] else None

    def measure(self, path: str) -> str | None:
        """The same, but an unknown file is read and remembered; None when there is none."""
        known = self.sha256(path)
        if known is None and (self.root / path).is_file():
            known = sha256_file(self.root / path)
            self.note(path, known)
        return known

    def note(self, path: str, sha256: str) -> None:
        """Remember ``path`` as it is now."""
        status = (self.root / path).stat()
        with self._lock:
            self._known[path] = [status.st_size, status.st_mtime_ns, sha256]

    def save(self) -> None:
        """Write them down."""
        with self._lock:
            write_json(self.path, self._known)


def read_lock(lock: Path) -> dict[str, dict[str, Any]]:
    """Checksums that first downloads recorded: path -> {sha256, bytes}."""
    try:
        return json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise InputError(f"{lock} is not valid JSON; restore it (`git checkout {lock}`) or delete it") from None


def plan(entries: Sequence[Entry], root: Path, lock: Path = LOCK) -> Plan:
    """What is missing of ``entries`` below ``root`` and how many bytes that is; files never checked before are read."""
    stamps, recorded = Stamps(root), read_lock(lock)
    missing = [e for e in entries if stamps.measure(e.path) not in _accepted(e, recorded)]
    if root.is_dir():
        stamps.save()
    todo = [(e, e.bytes if e.bytes is not None else recorded.get(e.path, {}).get("bytes")) for e in missing]
    known = sum(max(0, size - size_of(_partial(root, e))) for e, size in todo if size is not None)
    return Plan(missing, known, sum(size is None for _, size in todo))


def _accepted(entry: Entry, recorded: dict[str, dict[str, Any]]) -> tuple[str | None, ...]:
    """Checksums that make a file on disk a finished one."""
    expected = entry.sha256 or recorded.get(entry.path, {}).get("sha256")
    return (expected,) if expected else ()


def fetch(
    entries: Sequence[Entry],
    root: Path,
    mirror: str | None = None,
    lock: Path = LOCK,
    workers: int = 8,
    observe: Observe | None = None,
) -> Plan:
    """Bring every entry to ``root / entry.path`` and check it.

    Args:
        entries: files of the catalogue.
        root: `data/raw`.
        mirror: folder or http(s) address that holds the same paths; None asks each entry's own address.
        lock: where checksums that nobody publishes are recorded at the first download; later ones must match.
        workers: parallel downloads.
        observe: called with (bytes so far, path).

    Returns:
        The plan that was carried out; nothing missing means that nothing was done.

    Raises:
        InputError: too little disk, another fetch at work, or files that could not be had; every other file is whole.
    """
    for entry in entries:
        safe_place(root, entry.path)
    todo = plan(entries, root, lock)
    if not todo.missing:
        return todo
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        _check_disk(todo, root)
        run = _Run(root, mirror, lock, observe)
        with ThreadPoolExecutor(max_workers=workers) as pool:
            waiting = {pool.submit(run.one, entry): entry for entry in todo.missing}
            failures = [(waiting[f].path, str(f.exception())) for f in as_completed(waiting) if f.exception()]
        run.finish()
    if failures:
        named = "; ".join(f"{path}: {reason}" for path, reason in sorted(failures)[:3])
        more = f" and {len(failures) - 3} more" if len(failures) > 3 else ""
        raise InputError(
            f"{len(failures)} of {len(todo.missing)} files failed: {named}{more}; "
            "the others are in place, run the same command again to go on"
        )
    return todo


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the folder against a second fetch."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(root / ".fetch.lock", timeout=0):
            yield
    except Timeout:
        raise InputError(f"another `ipt data fetch` is writing to {root}; wait for it to end") from None


def _check_disk(todo: Plan, root: Path) -> None:
    free = shutil.disk_usage(root).free
    if todo.bytes + MARGIN > free:
        raise InputError(
            f"{root}: {todo.bytes / 1e6:,.1f} MB are to come and {free / 1e6:,.1f} MB are free; make room or link "
            f"{root} to a larger disk"
        )


@dataclass
class _Run:
    """One call of :func:`fetch`: what its threads share."""

    root: Path
    mirror: str | None
    lock: Path
    observe: Observe | None
    recorded: dict[str, dict[str, Any]] = field(default_factory=dict)
    received: int = 0

    def __post_init__(self) -> None:
        self.known, self.stamps = read_lock(self.lock), Stamps(self.root)
        self._guard, self._threads = threading.Lock(), threading.local()

    def one(self, entry: Entry) -> None:
        """Bring one entry; twice if the resumed part turns out not to belong to what the server has now."""
        expected = entry.sha256 or self.known.get(entry.path, {}).get("sha256")
        part = _partial(self.root, entry)
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        self._bring(entry, part)
        found = sha256_file(part)
        if expected and found != expected and resumed:
            part.unlink()
            self._bring(entry, part)
            found = sha256_file(part)
        size = size_of(part)
        if (expected and found != expected) or (entry.bytes is not None and size != entry.bytes):
            part.unlink()
            raise InputError(
                f"checksum differs: expected {expected} ({entry.bytes} bytes), found {found} ({size} bytes); "
                "what stood there before is kept"
            )
        self._place(entry, part, found)
        if not expected:
            with self._guard:
                self.recorded[entry.path] = {"sha256": found, "bytes": size}

    def finish(self) -> None:
        """Write down what was checked and what was learned."""
        self.stamps.save()
        if self.recorded:
            write_json(self.lock, read_lock(self.lock) | self.recorded)
        parts = self.root / ".partial"
        if parts.is_dir() and not any(parts.iterdir()):
            parts.rmdir()

    def _place(self, entry: Entry, part: Path, sha256: str) -> None:
        target = safe_place(self.root, entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
        self.stamps.note(entry.path, sha256)

    def _bring(self, entry: Entry, part: Path) -> None:
        if self.mirror and not self.mirror.startswith(("http://", "https://")):
            source = Path(self.mirror, *PurePosixPath(entry.path).parts)
            if not source.is_file():
                raise InputError(f"the mirror {self.mirror} has no such file")
            shutil.copyfile(source, part)
            self._count(size_of(part), entry)
            return
        url = self._url(entry)
        failures, size = 0, size_of(part)
        while True:
            try:
                return self._stream(url, entry, part)
            except _Retry as reason:
                # A part that grew is progress: only a server that gives nothing at all uses up the patience.
                grown = size_of(part)
                failures, size = (0 if grown > size else failures + 1), grown
                if failures > RETRIES:
                    raise InputError(f"{reason} ({url}), given up after {RETRIES} retries") from None
                pause = min(30.0, BACK_OFF * 2**failures) * random.uniform(0.5, 1.0)
                time.sleep(max(min(reason.wait, 60.0), pause))

    def _url(self, entry: Entry) -> str:
        if self.mirror:
            return f"{self.mirror.rstrip('/')}/{quote(entry.path)}"
        if entry.url is None:
            raise InputError("has no address; it is placed by hand (`ipt data list` says how)")
        return entry.url

    def _stream(self, url: str, entry: Entry, part: Path) -> None:
        import requests

        have = size_of(part)
        if entry.bytes is not None and have == entry.bytes:
            part.touch()  # an empty file has nothing to ask for
            return
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        try:
            with self._session().get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                self._check_status(answer, part, have)
                resumed = answer.status_code == 206
                # What arrived before a cut is kept; the length is compared below.
                answer.raw.enforce_content_length = False
                with part.open("ab" if resumed else "wb") as stream:
                    for chunk in answer.iter_content(_CHUNK):
                        stream.write(chunk)
                        self._count(len(chunk), entry)
                self._check_length(answer, part, have if resumed else 0)
        except requests.exceptions.RequestException as error:
            raise _Retry(_plain(error)) from None

    def _check_status(self, answer: Any, part: Path, have: int) -> None:
        if answer.status_code == 416 or (
            answer.status_code == 206 and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        ):
            # The part is longer than the file, or the server sent another range: begin anew.
            part.unlink(missing_ok=True)
            raise _Retry("the server could not resume")
        if answer.status_code in _RETRY_STATUS:
            asked = answer.headers.get("Retry-After", "")
            raise _Retry(f"the server answered {answer.status_code}", float(asked) if asked.isdigit() else 0.0)
        if answer.status_code not in (200, 206):
            raise InputError(f"the server answered {answer.status_code} for {answer.url}")

    def _check_length(self, answer: Any, part: Path, offset: int) -> None:
        promised = answer.headers.get("Content-Length", "")
        if promised.isdigit() and size_of(part) != offset + int(promised):
            raise _Retry("the connection ended early")

    def _session(self) -> Any:
        if not hasattr(self._threads, "session"):
            import requests

            self._threads.session = requests.Session()
        return self._threads.session

    def _count(self, size: int, entry: Entry) -> None:
        with self._guard:
            self.received += size
            if self.observe:
                self.observe(self.received, entry.path)


def _partial(root: Path, entry: Entry) -> Path:
    """Where a part waits: named by content where that is known, so that no part is ever continued as another file."""
    name = entry.sha256 or hashlib.sha256(f"{entry.path} {entry.url}".encode()).hexdigest()
    # Two entries may have the same content; the path keeps their parts apart.
    tail = hashlib.sha256(entry.path.encode()).hexdigest()[:8]
    return root / ".partial" / f"{name}-{tail}"


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _plain(error: Exception) -> str:
    """What went wrong with a connection, short enough for one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
