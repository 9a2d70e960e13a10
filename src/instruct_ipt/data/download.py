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
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from io import RawIOBase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from instruct_ipt.disk import complaint
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
SILENT = 8  # files in a row that a host never gave before the rest of its files are not tried
_CHUNK = 1 << 16
_SAVE_EVERY = 10.0  # s between two notes of what was checked
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_RESERVED = {".partial", ".verified.json", ".fetch.lock"}
Observe = Callable[[int, str], None]


class _Retry(Exception):
    """A failure that may pass; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Silent(InputError):
    """A file was given up after all retries."""


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
        InputError: the path is absolute, leaves ``root`` (through `..` or a link) or is a name that this module uses.
    """
    parts = PurePosixPath(path).parts
    target = root.joinpath(*parts)
    own = not parts or parts[0] in _RESERVED
    inside = target.parent.resolve().is_relative_to(root.resolve())
    if own or path.startswith("/") or ".." in parts or "\\" in path or not inside:
        raise InputError(f"{path}: the place of a file must lie below {root}; mend the catalogue")
    return target


class Stamps:
    """Files that were checked: path -> [size, time of change in ns, sha256], in `<root>/.verified.json`."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / ".verified.json"
        self._lock = threading.Lock()
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        # It only saves time: a damaged one is as good as none.
        self._known: dict[str, list[Any]] = known if isinstance(known, dict) else {}

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

    def forget(self, path: str) -> None:
        """Let the next :meth:`measure` of ``path`` read it again."""
        self._known.pop(path, None)

    def save(self) -> None:
        """Write them down, if the folder can be written to."""
        # Another process may save at the same moment: each has a temporary name of its own.
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        with self._lock, suppress(OSError):
            try:
                temporary.write_text(json.dumps(self._known, sort_keys=True), encoding="utf-8")
                os.replace(temporary, self.path)
            finally:
                temporary.unlink(missing_ok=True)


def read_lock(lock: Path) -> dict[str, dict[str, Any]]:
    """Checksums that first downloads recorded: path -> {sha256, bytes}."""
    try:
        recorded = json.loads(lock.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise InputError(f"{lock} is not valid JSON; restore it (`git checkout {lock}`) or delete it")
    return recorded


def plan(entries: Sequence[Entry], root: Path, lock: Path = LOCK, rehash: bool = False) -> Plan:
    """What is missing of ``entries`` below ``root`` and how many bytes that is.

    Files that were never checked, or changed since, are read; with ``rehash`` every one is.
    """
    entries = _unique(entries)
    stamps, recorded = Stamps(root), read_lock(lock)
    for entry in entries if rehash else ():
        stamps.forget(entry.path)
    missing = [e for e in entries if stamps.measure(e.path) not in _accepted(e, recorded)]
    if root.is_dir():
        stamps.save()
    todo = [(e, e.bytes if e.bytes is not None else recorded.get(e.path, {}).get("bytes")) for e in missing]
    known = sum(max(0, size - size_of(_partial(root, e))) for e, size in todo if size is not None)
    return Plan(missing, known, sum(size is None for _, size in todo))


def _unique(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that two sets share, once."""
    places = {entry.path: entry for entry in entries}
    for entry in entries:
        if entry.sha256 != places[entry.path].sha256:
            raise InputError(f"{entry.path}: listed twice with different checksums; mend the catalogue")
    return list(places.values())


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
    rehash: bool = False,
) -> Plan:
    """Bring every entry to ``root / entry.path`` and check it.

    Args:
        entries: files of the catalogue.
        root: `data/raw`.
        mirror: folder or http(s) address that holds the same paths; None asks each entry's own address.
        lock: where checksums that nobody publishes are recorded at the first download; later ones must match.
        workers: parallel downloads.
        observe: called with (bytes so far, path).
        rehash: read every file again, also those that seem unchanged.

    Returns:
        The plan that was carried out; nothing missing means that nothing was done.

    Raises:
        InputError: too little disk, another fetch at work, or files that could not be had; every other file is whole.
    """
    for entry in entries:
        safe_place(root, entry.path)
    todo = plan(entries, root, lock, rehash)
    if not todo.missing:
        return todo
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        _check_disk(todo, root)
        failures = _Run(root, mirror, lock, observe).all(todo.missing, workers)
    if failures:
        named = "; ".join(f"{path}: {reason}" for path, reason in failures[:3])
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


class _Run:
    """One call of :func:`fetch`: what its threads share."""

    def __init__(self, root: Path, mirror: str | None, lock: Path, observe: Observe | None) -> None:
        self.root, self.mirror, self.lock, self.observe = root, mirror, lock, observe
        self.known, self.stamps = read_lock(lock), Stamps(root)
        self.received, self.silent = 0, Counter[str]()
        self._guard, self._threads, self._stop = threading.Lock(), threading.local(), threading.Event()

    def all(self, entries: Sequence[Entry], workers: int) -> list[tuple[str, str]]:
        """Bring every entry; (path, reason) of those that failed, those not even tried last."""
        pool = ThreadPoolExecutor(max_workers=workers)
        try:
            waiting = {pool.submit(self.one, entry): entry.path for entry in entries}
            return self._failures(waiting)
        finally:
            # Ctrl-C must not wait for the whole queue.
            self._stop.set()
            pool.shutdown(cancel_futures=True)
            self.stamps.save()
            with suppress(OSError):
                (self.root / ".partial").rmdir()

    def _failures(self, waiting: dict[Future[None], str]) -> list[tuple[str, str]]:
        failures, saved = [], time.monotonic()
        for future in as_completed(waiting):
            if error := future.exception():
                said = complaint(error) if isinstance(error, OSError) else None
                failures.append((waiting[future], said or str(error)))
            if time.monotonic() - saved > _SAVE_EVERY:
                self.stamps.save()
                saved = time.monotonic()
        return sorted(failures, key=lambda failure: (failure[1].startswith("not tried"), failure[0]))

    def one(self, entry: Entry) -> None:
        """Bring one entry; twice if the resumed part turns out not to belong to what the server has now."""
        if self._placed_by_hand(entry):
            return
        expected = self._expected(entry)
        part = _partial(self.root, entry)
        part.parent.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        self._bring(entry, part)
        found = sha256_file(part)
        if expected and found != expected and resumed:
            self._drop(part)
            self._bring(entry, part)
            found = sha256_file(part)
        size = size_of(part)
        if (expected and found != expected) or (entry.bytes is not None and size != entry.bytes):
            self._drop(part)
            raise InputError(
                f"checksum differs: expected {expected} ({entry.bytes} bytes), found {found} ({size} bytes); "
                "what stood there before is kept"
            )
        if not entry.sha256:
            self._record(entry.path, found, size)
        self._place(entry, part, found)

    def _expected(self, entry: Entry) -> str | None:
        return entry.sha256 or self.known.get(entry.path, {}).get("sha256")

    def _placed_by_hand(self, entry: Entry) -> bool:
        """Whether a file without address and checksum is there; its checksum is recorded as that of a download is."""
        if entry.url or self.mirror or self._expected(entry):
            return False
        found = self.stamps.measure(entry.path)
        if found:
            self._record(entry.path, found, size_of(self.root / entry.path))
        return found is not None

    def _record(self, path: str, sha256: str, size: int) -> None:
        """Note a checksum that nobody publishes, before the file gets its name: a killed run must not lose it."""
        from filelock import FileLock

        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self._guard, FileLock(self.lock.with_name(f".{self.lock.name}.guard")):
            recorded = read_lock(self.lock)
            first = recorded.setdefault(path, {"sha256": sha256, "bytes": size})
            if first["sha256"] != sha256:
                raise InputError(f"checksum differs: expected {first['sha256']} ({self.lock}), found {sha256}")
            write_json(self.lock, recorded)

    def _place(self, entry: Entry, part: Path, sha256: str) -> None:
        target = safe_place(self.root, entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part, target)
        self._drop(part)
        self.stamps.note(entry.path, sha256)

    def _drop(self, part: Path) -> None:
        self._count(-size_of(part), "")
        part.unlink(missing_ok=True)
        _origin(part).unlink(missing_ok=True)

    def _bring(self, entry: Entry, part: Path) -> None:
        if not self.mirror or self.mirror.startswith(("http://", "https://")):
            return self._download(self._url(entry), entry, part)
        source = Path(self.mirror, *PurePosixPath(entry.path).parts)
        if not source.is_file():
            raise InputError(f"the mirror {self.mirror} has no such file")
        try:
            shutil.copyfile(source, part)
        except OSError:
            # Nothing goes on from half a copy, and what is short now is room.
            part.unlink(missing_ok=True)
            raise
        self._count(size_of(part), entry.path)

    def _download(self, url: str, entry: Entry, part: Path) -> None:
        host = urlsplit(url).netloc
        if self.silent[host] >= SILENT:
            raise InputError(f"not tried: {host} gave none of {SILENT} files before")
        try:
            self._persist(url, entry, part)
        except _Silent:
            self.silent[host] += 1
            raise
        self.silent[host] = 0

    def _persist(self, url: str, entry: Entry, part: Path) -> None:
        failures, most = 0, size_of(part)
        while True:
            try:
                return self._stream(url, entry, part)
            except _Retry as reason:
                # Only a part longer than ever is progress: one that is begun anew again and again must end too.
                size = size_of(part)
                failures, most = (0 if size > most else failures + 1), max(size, most)
                if failures > RETRIES:
                    raise _Silent(f"{reason} ({url}), given up after {RETRIES} retries") from None
                pause = min(30.0, BACK_OFF * 2**failures) * random.uniform(0.5, 1.0)
                if self._stop.wait(max(min(reason.wait, 60.0), pause)):
                    raise InputError("interrupted") from None

    def _url(self, entry: Entry) -> str:
        if self.mirror:
            return f"{self.mirror.rstrip('/')}/{quote(entry.path)}"
        if entry.url is None:
            raise InputError("has no address; it is placed by hand (`ipt data list` says how)")
        return entry.url

    def _stream(self, url: str, entry: Entry, part: Path) -> None:
        """Ask once for what is missing of ``part``."""
        import requests
        import urllib3

        have, headers = self._resume(url, entry, part)
        if have and have == entry.bytes:
            return
        try:
            with self._session().get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
                if self._is_rest(answer, entry, part, have):
                    self._receive(answer, url, entry, part, have)
        except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
            raise _Retry(_plain(error)) from None
        except requests.RequestException as error:
            raise InputError(f"{_plain(error)} ({url})") from None

    def _resume(self, url: str, entry: Entry, part: Path) -> tuple[int, dict[str, str]]:
        """Bytes to go on from, and the request's headers.

        Without a checksum nothing would notice a file that changed on the server between two parts: then a part is
        continued only if the server can tell (If-Range, RFC 9110, 13.1.5).
        """
        headers, have = {"Accept-Encoding": "identity"}, size_of(part)
        with suppress(OSError, ValueError):
            origin, version = _origin(part).read_text(encoding="utf-8").split("\n")
            if origin == url and version:
                headers["If-Range"] = version
        if not have or not (self._expected(entry) or "If-Range" in headers):
            return 0, {"Accept-Encoding": "identity"}
        return have, headers | {"Range": f"bytes={have}-"}

    def _is_rest(self, answer: Any, entry: Entry, part: Path, have: int) -> bool:
        """Whether the answer brings bytes; False when the part is whole already."""
        status, sent = answer.status_code, answer.headers.get("Content-Range", "")
        if status == 416 and sent == f"bytes */{have}":
            return False
        if status == 416 or (status == 206 and not sent.startswith(f"bytes {have}-")):
            # The part is longer than the file, or the server sent another range: begin anew.
            self._drop(part)
            raise _Retry("the server could not resume")
        if status in _RETRY_STATUS:
            raise _Retry(f"the server answered {status}", _wait_asked(answer.headers.get("Retry-After", "")))
        if status not in (200, 206):
            raise InputError(f"the server answered {status} for {answer.url}")
        return True

    def _receive(self, answer: Any, url: str, entry: Entry, part: Path, have: int) -> None:
        if answer.status_code == 200:
            self._drop(part)
            tag = answer.headers.get("ETag", "")
            version = answer.headers.get("Last-Modified", "") if tag.startswith("W/") or not tag else tag
            _origin(part).write_text(f"{url}\n{version}", encoding="utf-8")
            have = 0
        length = answer.headers.get("Content-Length", "")
        promised = have + int(length) if length.isdigit() else None
        if promised is not None and entry.bytes is not None and promised != entry.bytes:
            raise InputError(f"the server has {promised} bytes, the catalogue says {entry.bytes}; another file?")
        with part.open("ab", buffering=0) as stream:
            # Raw: a server that labels a .tar.gz as gzip-encoded content must not have it unpacked here.
            for chunk in answer.raw.stream(_CHUNK, decode_content=False):
                _write(stream, chunk)
                self._count(len(chunk), entry.path)
                if self._stop.is_set():
                    raise InputError("interrupted")
        if promised is not None and size_of(part) != promised:
            raise _Retry("the connection ended early")

    def _session(self) -> Any:
        if not hasattr(self._threads, "session"):
            import requests

            self._threads.session = requests.Session()
        return self._threads.session

    def _count(self, size: int, path: str) -> None:
        with self._guard:
            self.received += size
            if self.observe and path:
                self.observe(max(0, self.received), path)


def _origin(part: Path) -> Path:
    """Where a part's address and version (ETag or Last-Modified) are noted."""
    return part.with_name(f"{part.name}.origin")


def _partial(root: Path, entry: Entry) -> Path:
    """Where a part waits: named by content where that is known, so that no part is ever continued as another file."""
    name = entry.sha256 or hashlib.sha256(f"{entry.path} {entry.url}".encode()).hexdigest()
    # Two entries may have the same content; the path keeps their parts apart.
    tail = hashlib.sha256(entry.path.encode()).hexdigest()[:8]
    return root / ".partial" / f"{name}-{tail}"


def _write(stream: RawIOBase, chunk: bytes) -> None:
    """Write all of a chunk: on a disk that is nearly full the system takes a part of it, and says so by a number."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[stream.write(rest) :]


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _plain(error: Exception) -> str:
    """What went wrong with a connection, short enough for one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"


def _wait_asked(value: str) -> float:
    """Seconds of a Retry-After header, which holds a number or a date (RFC 9110, 10.2.3); 0 when it is neither."""
    if value.isdigit():
        return float(value)
    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
