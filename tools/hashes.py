"""Writes `requirements.hashes.lock`: the packages of `requirements.lock` with the SHA-256 of each of their files.

`python tools/hashes.py` writes it and `python tools/hashes.py --check` compares it, both with what the index lists that
pip is set up to use. pip finds the files: addresses, certificates and folders of wheels are as its configuration has
them, and none of them is written down.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pip._internal.commands import create_command
from pip._internal.index.collector import LinkCollector, parse_links
from pip._internal.models.link import Link
from pip._vendor.packaging.specifiers import SpecifierSet
from pip._vendor.packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from pip._vendor.packaging.version import InvalidVersion

LOCK, HASHES = Path("requirements.lock"), Path("requirements.hashes.lock")
HEAD = "# requirements.lock with the SHA-256 of every file of each version; written by `make lock`.\n"

Locked = dict[str, set[str]]
"""`name==version` -> digests."""


def pins(lock: Path) -> list[str]:
    """The lines `name==version` of a lock, with hashes or without."""
    return re.findall(r"^[\w.-]+==[\w.]+", lock.read_text(encoding="utf-8"), re.MULTILINE)


def read(hashes: Path) -> Locked:
    """What a hashed lock says; nothing where there is none."""
    found: Locked = {}
    for line in hashes.read_text(encoding="utf-8").splitlines() if hashes.exists() else []:
        if pin := re.match(r"[\w.-]+==[\w.]+", line):
            found[pin[0]] = set()
        elif digest := re.match(r"    --hash=sha256:([0-9a-f]{64})( \\)?$", line):
            found[list(found)[-1]].add(digest[1])
    return found


def text(locked: Locked) -> str:
    """A hashed lock's content, as pip reads it."""
    entries = (" \\\n    ".join([pin, *(f"--hash=sha256:{it}" for it in sorted(locked[pin]))]) for pin in locked)
    return HEAD + "".join(f"{entry}\n" for entry in entries)


def listed(wanted: list[str]) -> Locked:
    """The digests of all files that the index lists, for any Python and machine, of each pinned version.

    A version stands for its local builds too: `torch==2.13.0` for `2.13.0+cpu`.
    """
    command = create_command("download")
    options, _ = command.parse_args([])
    with command.main_context():
        collector = LinkCollector.create(command._build_session(options), options=options)
        return {pin: {_digest(link) for link in _links(collector, pin)} for pin in wanted}


def _links(collector: LinkCollector, pin: str) -> Iterator[Link]:
    """The files of one pinned version."""
    name, _, version = pin.partition("==")

    def on_page(page: Link) -> list[Link]:
        response = collector.fetch_response(page)
        return list(parse_links(response)) if response else []

    sources = collector.collect_sources(name, candidates_from_page=on_page)
    for source in filter(None, (*sources.find_links, *sources.index_urls)):
        for link in (*source.file_links(), *source.page_candidates()):
            if _belongs(link.filename, name, version):
                yield link


def _belongs(file: str, name: str, version: str) -> bool:
    """Whether a file is of a package's version; eggs and installers of old are of none."""
    try:
        found = parse_wheel_filename(file) if file.endswith(".whl") else parse_sdist_filename(file)
    except (InvalidSdistFilename, InvalidWheelFilename, InvalidVersion):
        return False
    return found[0] == canonicalize_name(name) and SpecifierSet(f"=={version}").contains(found[1], prereleases=True)


def _digest(link: Link) -> str:
    """As the index says it; of a file on this machine, as it is."""
    if link.hash_name == "sha256" and link.hash:
        return link.hash
    if link.is_file:
        return hashlib.sha256(Path(link.file_path).read_bytes()).hexdigest()
    raise SystemExit(f"hashes: the index gives no SHA-256 for {link.filename}")


def problems(locked: Locked, now: Locked) -> Iterator[str]:
    """What an index lists that the hashed lock does not know."""
    if list(locked) != list(now):
        yield f"{HASHES} and {LOCK} name different packages or versions; `make lock` writes it anew"
    for pin, digests in now.items():
        if not digests:
            yield f"{pin}: the index lists no file of it"
        for digest in sorted(digests - locked.get(pin, set())):
            yield f"{pin}: the index lists a file that is not in {HASHES}: sha256 {digest}"


def main(arguments: list[str]) -> int:
    """Write the hashed lock, or check it; 1 where something does not fit."""
    locked, now = read(HASHES), listed(pins(LOCK))
    if arguments != ["--check"]:
        # What stands there of the same version stays: torch has builds that only some machines are offered.
        locked = {pin: digests | locked.get(pin, set()) for pin, digests in now.items()}
        HASHES.write_text(text(locked), encoding="utf-8")
    found = list(problems(locked, now))
    print(*found, f"{len(now)} packages, {sum(map(len, now.values()))} files listed", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
