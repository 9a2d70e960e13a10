"""Downloads end whole or not at all, whatever the server does."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instruct_ipt.data import download
from instruct_ipt.data.catalogue import Entry, load_catalogue, select
from instruct_ipt.data.download import fetch, plan
from instruct_ipt.errors import InputError
from tests.data.server import serving
from tests.data.sets import REAL, small_catalogue


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0.001)


def entry(path: str, data: bytes, **changes) -> Entry:
    made = Entry(path, None, hashlib.sha256(data).hexdigest(), len(data), "train", "target")
    return dataclasses.replace(made, **changes)


@pytest.fixture
def mirror(tmp_path):
    """Files with awkward names and their entries: (folder, entries)."""
    rng, root, entries = random.Random(0), tmp_path / "mirror", []
    for name in ("a/one.png", "a/two words.png", "b/p%20q#?.png", "b/c/ü.png", "b/empty.txt", "c/big.bin"):
        data = rng.randbytes(0 if "empty" in name else 400_000 if "big" in name else 3000)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        entries.append(entry(name, data))
    return root, entries


def whole(root: Path, entries: list[Entry]) -> bool:
    return all(hashlib.sha256((root / e.path).read_bytes()).hexdigest() == e.sha256 for e in entries)


def leftovers(raw: Path) -> list[Path]:
    return [p for p in (raw / ".partial").rglob("*") if p.is_file()]


@pytest.mark.parametrize("kind", ["folder", "http"])
def test_a_mirror_stands_in_for_the_network(tmp_path, mirror, kind):
    root, entries = mirror
    with serving(root) as server:
        fetch(entries, tmp_path / "raw", str(root) if kind == "folder" else server.address, tmp_path / "lock")
    assert whole(tmp_path / "raw", entries) and not leftovers(tmp_path / "raw")


def test_without_a_mirror_each_file_comes_from_its_own_address(tmp_path, mirror):
    root, entries = mirror
    with serving(root) as server:
        own = [dataclasses.replace(entries[0], url=server.address + "a/one.png")]
        fetch(own, tmp_path / "raw", lock=tmp_path / "lock")
    assert whole(tmp_path / "raw", own)


def test_a_second_call_asks_nothing_and_reads_nothing(tmp_path, mirror, monkeypatch):
    root, entries = mirror
    with serving(root) as server:
        fetch(entries, tmp_path / "raw", server.address, tmp_path / "lock")
        asked = len(server.requests)
        monkeypatch.setattr(download, "sha256_file", lambda path: pytest.fail(f"{path} was read again"))
        assert not fetch(entries, tmp_path / "raw", server.address, tmp_path / "lock").missing
        assert len(server.requests) == asked


def test_a_file_that_changed_since_is_brought_again(tmp_path, mirror):
    root, entries = mirror
    fetch(entries, tmp_path / "raw", str(root), tmp_path / "lock")
    (tmp_path / "raw" / "a/one.png").write_bytes(b"scribble")
    done = fetch(entries, tmp_path / "raw", str(root), tmp_path / "lock")
    assert [e.path for e in done.missing] == ["a/one.png"] and whole(tmp_path / "raw", entries)


def test_twenty_cut_connections_still_end_with_every_file_whole(tmp_path, mirror):
    root, entries = mirror
    with serving(root) as server:
        cuts = iter(range(20))
        server.fault = lambda path, number: "cut" if "empty" not in path and next(cuts, None) is not None else None
        fetch(entries, tmp_path / "raw", server.address, tmp_path / "lock", workers=3)
        assert next(cuts, None) is None, "all twenty cuts happened"
    assert whole(tmp_path / "raw", entries) and not leftovers(tmp_path / "raw")


@pytest.mark.parametrize("fault", ["500", "429", "norange", "shift", "cut"])
def test_passing_faults_are_overcome(tmp_path, mirror, fault):
    root, entries = mirror
    with serving(root) as server:
        server.fault = lambda path, number: "cut" if number == 1 else fault if number in (2, 3) else None
        fetch(entries[-1:], tmp_path / "raw", server.address, tmp_path / "lock")
    assert whole(tmp_path / "raw", entries[-1:])


def test_a_flipped_bit_is_caught_and_named_and_the_old_file_stays(tmp_path, mirror):
    root, entries = mirror
    raw = tmp_path / "raw"
    (raw / "a").mkdir(parents=True)
    (raw / "a/one.png").write_bytes(b"old")
    with serving(root) as server:
        server.fault = lambda path, number: "flip" if path == "a/one.png" else None
        with pytest.raises(InputError, match="1 of 6 files failed: a/one.png: checksum differs: expected") as caught:
            fetch(entries, raw, server.address, tmp_path / "lock")
    assert entries[0].sha256 in str(caught.value) and "\n" not in str(caught.value)
    assert (raw / "a/one.png").read_bytes() == b"old"
    assert whole(raw, entries[1:]), "the others are in place"


def test_a_missing_file_fails_at_once_and_is_named(tmp_path, mirror):
    root, entries = mirror
    with serving(root) as server:
        server.fault = lambda path, number: "404" if path == "a/one.png" else None
        with pytest.raises(InputError, match="a/one.png: the server answered 404"):
            fetch(entries, tmp_path / "raw", server.address, tmp_path / "lock")
        assert server.requests.count("a/one.png") == 1


def test_a_server_that_only_fails_is_given_up(tmp_path, mirror):
    root, entries = mirror
    with serving(root) as server:
        server.fault = lambda path, number: "500"
        with pytest.raises(InputError, match="given up after"):
            fetch(entries[:1], tmp_path / "raw", server.address, tmp_path / "lock")
        assert len(server.requests) == download.RETRIES + 1


def test_nobody_there_is_one_line(tmp_path, mirror):
    with pytest.raises(InputError, match="a/one.png: ConnectionError") as caught:
        fetch(mirror[1][:1], tmp_path / "raw", "http://127.0.0.1:9/", tmp_path / "lock")
    assert "\n" not in str(caught.value)


def test_a_part_of_another_file_is_not_continued(tmp_path, mirror):
    root, entries = mirror
    part = download._partial(tmp_path / "raw", entries[-1])
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    with serving(root) as server:
        fetch(entries[-1:], tmp_path / "raw", server.address, tmp_path / "lock")
    assert whole(tmp_path / "raw", entries[-1:])


def test_a_killed_fetch_goes_on_where_it_was(tmp_path):
    data = random.Random(1).randbytes(30_000_000)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/big.bin").write_bytes(data)
    wanted, raw = entry("big.bin", data), tmp_path / "raw"
    code = (
        "import sys; from pathlib import Path; from instruct_ipt.data.download import fetch\n"
        "from instruct_ipt.data.catalogue import Entry\n"
        "import time\n"
        f"e = Entry('big.bin', None, {wanted.sha256!r}, {wanted.bytes}, 'train', 'target')\n"
        "fetch([e], Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), observe=lambda *_: time.sleep(0.02))\n"
    )
    with serving(tmp_path / "mirror") as server:
        run = subprocess.Popen([sys.executable, "-c", code, str(raw), server.address, str(tmp_path / "lock")])
        part = download._partial(raw, wanted)
        deadline = time.monotonic() + 60
        while download.size_of(part) < 2_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        had = download.size_of(part)
        assert 2_000_000 <= had < len(data) and not (raw / "big.bin").exists()
        server.served = 0
        fetch([wanted], raw, server.address, tmp_path / "lock")
        assert whole(raw, [wanted]) and server.served == len(data) - had


def test_two_at_once_are_refused(tmp_path, mirror):
    from filelock import FileLock

    root, entries = mirror
    (tmp_path / "raw").mkdir()
    with FileLock(tmp_path / "raw/.fetch.lock"), pytest.raises(InputError, match="another `ipt data fetch`"):
        fetch(entries, tmp_path / "raw", str(root), tmp_path / "lock")


def test_too_little_disk_is_said_before_anything_is_fetched(tmp_path, mirror, monkeypatch):
    root, entries = mirror
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"0.4 MB are to come and 0.0 MB are free"):
        fetch(entries, tmp_path / "raw", str(root), tmp_path / "lock")
    assert not list((tmp_path / "raw").glob("[a-z]*"))


def test_the_plan_counts_what_is_missing(tmp_path, mirror):
    root, entries = mirror
    fetch(entries[:2], tmp_path / "raw", str(root), tmp_path / "lock")
    found = plan(entries, tmp_path / "raw", tmp_path / "lock")
    assert len(found.missing) == 4 and found.bytes == 3000 + 3000 + 400_000 and found.unknown == 0


def test_an_unpublished_checksum_is_recorded_once_and_holds_from_then_on(tmp_path, mirror):
    root, entries = mirror
    unknown = [dataclasses.replace(entries[0], sha256=None, bytes=None)]
    lock = tmp_path / "lock.json"
    fetch(unknown, tmp_path / "raw", str(root), lock)
    assert download.read_lock(lock)["a/one.png"] == {"sha256": entries[0].sha256, "bytes": 3000}
    (root / "a/one.png").write_bytes(b"the site changed its mind")
    with pytest.raises(InputError, match="checksum differs"):
        fetch(unknown, tmp_path / "elsewhere", str(root), lock)
    assert not fetch(unknown, tmp_path / "raw", str(root), lock).missing


@pytest.mark.parametrize("path", ["../out.png", "/etc/out.png", "a/../../out.png", "a\\..\\out.png"])
def test_no_path_leaves_the_folder(tmp_path, mirror, path):
    with pytest.raises(InputError, match="must lie below"):
        fetch([entry(path, b"x")], tmp_path / "raw", str(mirror[0]), tmp_path / "lock")


def test_no_path_leaves_the_folder_through_a_link(tmp_path, mirror):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a").symlink_to(tmp_path)
    with pytest.raises(InputError, match="must lie below"):
        fetch(mirror[1][:1], tmp_path / "raw", str(mirror[0]), tmp_path / "lock")


def test_the_whole_benchmark_level_is_fetched_over_http(tmp_path):
    """The real mirror where there is one, else a generated one of the same shape."""
    if REAL:
        catalogue, root = load_catalogue(Path(__file__).parents[2] / "data/catalogue"), REAL
    else:
        folder, root = small_catalogue(tmp_path)
        catalogue = load_catalogue(folder)
    entries = [e for dataset in select(catalogue, "benchmark") for e in dataset.entries]
    with serving(root) as server:
        fetch(entries, tmp_path / "raw", server.address, tmp_path / "lock")
        begun = time.monotonic()
        assert not fetch(entries, tmp_path / "raw", server.address, tmp_path / "lock").missing
        assert time.monotonic() - begun < 2
    assert whole(tmp_path / "raw", entries)


@pytest.mark.skipif(REAL is None, reason="needs the real mirror")
def test_the_catalogue_lists_every_file_of_the_mirror():
    catalogue = load_catalogue(Path(__file__).parents[2] / "data/catalogue")
    listed = {e.path: e.sha256 for d in select(catalogue, "benchmark") for e in d.entries}
    with (REAL / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        assert listed == {row["path"]: row["sha256"] for row in csv.DictReader(stream)}


def test_a_write_that_takes_a_part_goes_on_with_the_rest():
    """As a disk that is nearly full does it: without an error, and without a checksum nothing else would notice."""

    class Short(io.RawIOBase):
        found = b""

        def write(self, data) -> int:
            self.found += bytes(data[:3])
            return min(3, len(data))

    stream = Short()
    download._write(stream, b"0123456789")
    assert stream.found == b"0123456789"
