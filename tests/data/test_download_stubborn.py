"""Downloads end, and end right, against servers and people that do what the standard allows but nobody expects."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from instruct_ipt.data import download
from instruct_ipt.data.catalogue import Entry
from instruct_ipt.data.download import fetch, plan
from instruct_ipt.errors import InputError
from tests.data.server import listening

Respond = Callable[[BaseHTTPRequestHandler, int], None]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0.0005)


@contextmanager
def answering(respond: Respond):
    """A server whose every answer is ``respond(handler, number of requests so far)``; yields (address, requests)."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked.append(self.path)
            respond(self, len(asked))

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler) as address:
        yield address, asked


def reply(handler, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = length is not None


def start_of(handler) -> int | None:
    asked = handler.headers.get("Range")
    return int(asked.removeprefix("bytes=").rstrip("-")) if asked else None


def entry(path: str, data: bytes | None = None, url: str | None = None) -> Entry:
    known = (hashlib.sha256(data).hexdigest(), len(data)) if data is not None else (None, None)
    return Entry(path, url, *known, "train", "target")


def within(seconds: float, action: Callable[[], object]) -> BaseException | None:
    """The error that ``action`` ends with, if any; it must end in time."""
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            action()
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert ended, f"still at it after {seconds} s"
    return ended[0]


def test_a_server_that_cannot_resume_and_always_cuts_is_given_up(tmp_path):
    data, rng = random.Random(0).randbytes(200_000), random.Random(1)

    def respond(handler, number):
        reply(handler, 200, data[: rng.randrange(1, 150_000)], length=len(data))

    with answering(respond) as (address, asked):
        error = within(10, lambda: fetch([entry("a", data)], tmp_path / "raw", address, tmp_path / "lock"))
    assert isinstance(error, InputError) and "given up" in str(error) and len(asked) < 200


def test_an_archive_that_the_server_calls_gzip_encoded_stays_packed(tmp_path):
    data = gzip.compress(b"x" * 1_000_000)
    with answering(lambda handler, number: reply(handler, 200, data, Content_Encoding="gzip")) as (address, _):
        error = within(10, lambda: fetch([entry("a.tgz", data)], tmp_path / "raw", address, tmp_path / "lock"))
    assert error is None and (tmp_path / "raw/a.tgz").read_bytes() == data


@pytest.mark.parametrize("tagged", [True, False])
def test_a_file_without_checksum_that_changed_on_the_server_is_not_mixed(tmp_path, tagged):
    old, new = b"A" * 100_000, b"B" * 100_000

    def respond(handler, number):
        tag = {"ETag": '"old"' if number == 1 else '"new"'} if tagged else {}
        if number == 1:
            return reply(handler, 200, old[:40_000], length=len(old), **tag)
        start, condition = start_of(handler), handler.headers.get("If-Range")
        if start is not None and condition in (None, tag.get("ETag")):
            span = {"Content-Range": f"bytes {start}-{len(new) - 1}/{len(new)}"}
            return reply(handler, 206, new[start:], **tag, **span)
        reply(handler, 200, new, **tag)

    with answering(respond) as (address, _):
        fetch([entry("a")], tmp_path / "raw", address, tmp_path / "lock")
    assert (tmp_path / "raw/a").read_bytes() == new


def test_a_file_without_checksum_resumes_where_the_server_vouches_for_it(tmp_path):
    data, served = random.Random(0).randbytes(100_000), []

    def respond(handler, number):
        start = start_of(handler) or 0
        body = data[start:40_000] if number == 1 else data[start:]
        served.append(len(body))
        if start:
            span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            return reply(handler, 206, body, ETag='"1"', **span)
        reply(handler, 200, body, length=len(data), ETag='"1"')

    with answering(respond) as (address, _):
        fetch([entry("a")], tmp_path / "raw", address, tmp_path / "lock")
    assert (tmp_path / "raw/a").read_bytes() == data and sum(served) == len(data)


def test_a_checksum_nobody_publishes_survives_a_kill(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a").write_bytes(b"x" * 1000)
    code = (
        "import os, sys; from pathlib import Path; from instruct_ipt.data import download\n"
        "from instruct_ipt.data.catalogue import Entry\n"
        "real = os.replace\n"
        "def replace(a, b):\n"
        "    real(a, b)\n"
        "    if Path(b).name == 'a': os._exit(9)\n"
        "os.replace = replace\n"
        "a = Entry('a', None, None, None, 'train', 'target')\n"
        "download.fetch([a], Path('raw'), 'mirror', Path('lock'))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 9
    assert not plan([entry("a")], tmp_path / "raw", tmp_path / "lock").missing


def test_a_file_placed_by_hand_is_taken_once_and_must_stay_the_same(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a").write_bytes(b"mine")
    fetch([entry("a")], tmp_path / "raw", lock=tmp_path / "lock")
    assert download.read_lock(tmp_path / "lock")["a"]["bytes"] == 4
    (tmp_path / "raw/a").write_bytes(b"yours")
    with pytest.raises(InputError, match="placed by hand"):
        fetch([entry("a")], tmp_path / "raw", lock=tmp_path / "lock")


def test_interrupting_does_not_wait_for_the_queue(tmp_path):
    code = (
        "import sys; from pathlib import Path; from instruct_ipt.data.download import fetch\n"
        "from instruct_ipt.data.catalogue import Entry\n"
        # A shell's background jobs are born ignoring SIGINT, and children inherit that.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "many = [Entry(f'{i}', None, None, 1, 'train', 'target') for i in range(100)]\n"
        "fetch(many, Path('raw'), sys.argv[1], Path('lock'), workers=4)\n"
    )
    with answering(lambda handler, number: (time.sleep(0.2), reply(handler, 200, b"x"))) as (address, asked):
        run = subprocess.Popen([sys.executable, "-c", code, address], cwd=tmp_path, stderr=subprocess.DEVNULL)
        while len(asked) < 4 and run.poll() is None:
            time.sleep(0.02)
        run.send_signal(signal.SIGINT)
        run.wait(20)
    assert len(asked) < 30


def test_a_dead_server_is_not_asked_for_every_file(tmp_path):
    many = [entry(f"{i:03}", b"x") for i in range(100)]
    with answering(lambda handler, number: reply(handler, 503)) as (address, asked):
        with pytest.raises(InputError, match="100 of 100 files failed: 0.*503.* 97 more") as caught:
            fetch(many, tmp_path / "raw", address, tmp_path / "lock")
        assert len(asked) <= 2 * download.SILENT * (download.RETRIES + 1) and "not tried" not in str(caught.value)


def test_a_rotten_file_of_unchanged_size_and_time_is_mended_when_asked(tmp_path):
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a").write_bytes(b"xx")
    wanted, raw = [entry("a", b"xx")], tmp_path / "raw"
    fetch(wanted, raw, str(tmp_path / "mirror"), tmp_path / "lock")
    before = (raw / "a").stat()
    (raw / "a").write_bytes(b"xy")
    os.utime(raw / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    fetch(wanted, raw, str(tmp_path / "mirror"), tmp_path / "lock", rehash=True)
    assert (raw / "a").read_bytes() == b"xx"


def test_an_entry_that_two_sets_share_is_fetched_once_and_a_contradiction_is_named(tmp_path):
    data = random.Random(0).randbytes(2_000_000)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/a").write_bytes(data)
    shared = [entry("a", data)] * 4
    assert len(fetch(shared, tmp_path / "raw", str(tmp_path / "mirror"), tmp_path / "lock").missing) == 1
    with pytest.raises(InputError, match="a: listed twice"):
        plan([*shared, entry("a", b"other")], tmp_path / "raw", tmp_path / "lock")


def test_a_whole_part_needs_no_byte_more(tmp_path):
    data = b"x" * 1000
    (wanted,) = [dataclasses.replace(entry("a", data), bytes=None)]
    part = download._partial(tmp_path / "raw", wanted)
    part.parent.mkdir(parents=True)
    part.write_bytes(data)
    with answering(lambda handler, number: reply(handler, 416, Content_Range="bytes */1000")) as (address, asked):
        fetch([wanted], tmp_path / "raw", address, tmp_path / "lock")
        assert len(asked) == 1
    assert (tmp_path / "raw/a").read_bytes() == data


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(tmp_path):
    with answering(lambda handler, number: reply(handler, 200, b"", length=10**9)) as (address, asked):
        with pytest.raises(InputError, match="the server has 1000000000 bytes, the catalogue says 2"):
            fetch([entry("a", b"xx")], tmp_path / "raw", address, tmp_path / "lock")
        assert len(asked) == 1


@pytest.mark.parametrize("kind", ["seconds", "date"])
def test_the_server_may_ask_for_a_pause_by_seconds_or_by_date(tmp_path, kind):
    moments = []

    def respond(handler, number):
        moments.append(time.monotonic())
        asked = "1" if kind == "seconds" else formatdate(time.time() + 2, usegmt=True)
        reply(handler, 200, b"xx") if number > 1 else reply(handler, 429, Retry_After=asked)

    with answering(respond) as (address, _):
        fetch([entry("a", b"xx")], tmp_path / "raw", address, tmp_path / "lock")
    assert 0.7 < moments[1] - moments[0] < 4


@pytest.mark.parametrize("text", ["[1]", "{", '"x"'])
def test_a_damaged_record_of_checked_files_costs_time_only_and_a_damaged_lock_is_named(tmp_path, text):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/a").write_bytes(b"x")
    (tmp_path / "raw/.verified.json").write_text(text)
    assert not plan([entry("a", b"x")], tmp_path / "raw", tmp_path / "lock").missing
    (tmp_path / "lock").write_text(text)
    with pytest.raises(InputError, match="lock is not valid JSON"):
        plan([entry("a", b"x")], tmp_path / "raw", tmp_path / "lock")


def test_two_plans_at_the_same_moment_do_not_trip_over_each_other(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    code = (
        "from pathlib import Path; from instruct_ipt.data.download import Stamps\n"
        "stamps = Stamps(Path('raw'))\n"
        "for _ in range(300): stamps.save()\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path) for _ in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]


@pytest.mark.parametrize("path", [".partial/a", ".verified.json", ".fetch.lock", "", "."])
def test_no_entry_takes_the_place_of_our_own_files(tmp_path, path):
    with pytest.raises(InputError, match="must lie below"):
        download.safe_place(Path(tmp_path), path)
