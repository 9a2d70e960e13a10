"""The HTTP interface on a real server: what it does, what it refuses, and that it recovers from both."""

from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image

from instruct_ipt import __version__
from instruct_ipt.report import html as report
from instruct_ipt.web import Limits
from instruct_ipt.web.app import PAGE
from instruct_ipt.web.work import result_name

from ..restoration import hostile, nets
from . import servers

SMALL = Limits(bytes=40_000, pixels=10_000)
LONG = servers.photo(width=900, height=40)
"""Two tiles of 768 pixels."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with servers.serving(servers.tiny(), SMALL) as address:
        yield address


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


def taken(url: str) -> int:
    return requests.get(f"{url}/health").json()["taken"]


def live(content: bytes) -> tuple[list[dict], dict[str, bytes]]:
    """Lines and parts of a live answer."""
    lines, parts = [], {}
    while content:
        line, _, content = content.partition(b"\n")
        lines.append(json.loads(line))
        for name, length in lines[-1].get("parts", {}).items():
            parts[name], content = content[:length], content[length:]
            assert len(parts[name]) == length
    return lines, parts


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_photo_comes_back_restored_in_its_own_format(url, format):
    sent = servers.photo(format, exif=hostile.turned(6)) if format == "JPEG" else servers.photo(format)
    answer = requests.post(f"{url}/api/restore?task=derain&strength=1.2&name=a.b.png", data=sent)
    assert answer.status_code == 200 and answer.headers["content-type"] == Image.MIME[format]
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.format == format and image.getexif().get(274) == (6 if format == "JPEG" else None)
    upright = np.rot90(pixels(sent), -1) if format == "JPEG" else pixels(sent)
    expected = nets.tiny_restorer().restore(upright, "derain", 1.2)
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(expected, 1) if format == "JPEG" else expected))
    lossy = {"JPEG": {"quality": 95, "subsampling": "4:4:4"}, "WEBP": {"quality": 95, "exact": True}}
    assert np.array_equal(pixels(answer.content), pixels(hostile.saved(stored, format, **lossy.get(format, {}))))
    assert answer.headers["x-ipt-weights"] == "derain=1" and answer.headers["x-ipt-strength"] == "1.2"
    assert answer.headers["x-ipt-source"] == "task" and answer.headers["cache-control"] == "no-store"
    suffix = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif"}[format]
    assert answer.headers["content-disposition"].endswith(f"''a.b-restored.{suffix}")


@pytest.mark.parametrize(
    ("query", "weights", "strength", "source"),
    [
        ("instruction=the rain", servers.RAIN, "0.5", "instruction"),
        ("instruction=the rain&strength=1", servers.RAIN, "1", "instruction"),
        ("instruction=the rain&task=dehaze", {"dehaze": 1}, "1", "task"),
        ("task=dehaze=0.5,derain=0.5", {"dehaze": 0.5, "derain": 0.5}, "1", "task"),
        ("strength=0.3", {"desnow": 0.8, "denoise": 0.2}, "0.3", "image"),
    ],
)
def test_the_answer_says_what_was_understood(url, query, weights, strength, source):
    sent = servers.photo()
    answer = requests.post(f"{url}/api/restore?{query}", data=sent)
    said = dict(part.split("=") for part in answer.headers["x-ipt-weights"].split(","))
    assert {task: float(weight) for task, weight in said.items()} == weights
    assert (answer.headers["x-ipt-strength"], answer.headers["x-ipt-source"]) == (strength, source)
    expected = nets.tiny_restorer().restore(pixels(sent), weights, float(strength))
    assert np.array_equal(pixels(answer.content), expected)


def test_the_live_answer_holds_the_same_photo_and_previews_of_what_no_browser_shows(url):
    deep = (hostile.picture(5).astype(np.uint16) * 257).astype(np.uint16)
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(stream, deep, photometric="rgb")
    sent = stream.getvalue()
    plain = requests.post(f"{url}/api/restore?task=derain", data=sent)
    lines, parts = live(requests.post(f"{url}/api/restore/live?task=derain&previews=true", data=sent).content)
    assert lines[-1]["state"] == "restored" and lines[-1]["weights"]["derain"] == 1
    assert all(line["state"] in ("waiting", "working") for line in lines[:-1])
    assert list(parts) == ["photo", "before", "after"] and parts["photo"] == plain.content
    assert np.array_equal(pixels(parts["before"]), hostile.picture(5))
    restored = tifffile.imread(io.BytesIO(parts["photo"]))
    assert restored.dtype == np.uint16 and np.array_equal(pixels(parts["after"]), (restored + 128.0) // 257)
    lines, parts = live(requests.post(f"{url}/api/restore/live?task=derain", data=servers.photo()).content)
    assert list(parts) == ["photo"]


def test_a_sentence_is_read_and_a_photo_judged(url):
    said = requests.post(f"{url}/api/read", json={"instruction": "the rain"}).json()
    assert said["weights"] == dict.fromkeys(nets.TASKS, 0.0) | servers.RAIN and said["source"] == "instruction"
    assert said["strength"] == 0.5
    guessed = requests.post(f"{url}/api/guess", data=servers.photo()).json()
    assert guessed["weights"]["desnow"] == 0.8 and guessed["source"] == "image"


GREY = hostile.saved(Image.new("RGB", (32, 24), "grey"), "PNG")
RESTORE = "/api/restore?task=derain"


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (RESTORE, b"", 422, "it is empty"),
        (RESTORE, b"these are words, not a picture", 422, "no PNG, JPEG"),
        (RESTORE, servers.photo()[:-300], 422, "damaged"),
        (RESTORE, servers.photo(width=101, height=100), 413, "101 x 100 pixels, more than the 0.01 megapixels"),
        (RESTORE, bytes(SMALL.bytes + 1), 413, "larger than the 0.04 MB"),
        ("/api/restore?task=dewrinkle", servers.photo(), 422, "unknown task 'dewrinkle'; known tasks: denoise"),
        ("/api/restore?task=derain=much", servers.photo(), 422, "NAME=WEIGHT"),
        ("/api/restore?task=derain=0.9,dehaze=0.9", servers.photo(), 422, "must sum to 1"),
        ("/api/restore?instruction=make+it+nicer", servers.photo(), 422, servers.REFUSAL),
        (f"{RESTORE}&strength=1.6", servers.photo(), 422, "strength is 1.6; allowed: a number in [0, 1.5]"),
        (f"{RESTORE}&strength=nan", servers.photo(), 422, "strength is nan"),
        (f"{RESTORE}&strength=much", servers.photo(), 422, "strength: "),
        ("/api/restore", GREY, 422, "seems undamaged"),
        ("/api/guess", GREY, 422, "seems undamaged"),
        ("/api/guess", b"no picture", 422, "no PNG, JPEG"),
        ("/api/read", b'{"instruction": "make it nicer"}', 422, servers.REFUSAL),
        ("/api/read", b'{"instruktion": "rain"}', 422, "instruction: "),
        ("/api/read", b"rain", 422, "Invalid JSON"),
        ("/api/read", b" " * 20_000, 413, "larger than"),
        ("/api/nothing", b"", 405, "Not Allowed"),
    ],
)
def test_a_refusal_is_one_line_and_the_place_is_given_back(url, path, body, status, words):
    answer = requests.post(url + path, data=body)
    assert answer.status_code == status and list(answer.json()) == ["error"]
    assert words in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert taken(url) == 0


def test_in_a_live_answer_what_is_found_while_decoding_is_its_last_line(url):
    answer = requests.post(f"{url}/api/restore/live?task=derain", data=servers.photo()[:-300])
    last = json.loads(answer.content.splitlines()[-1])
    assert answer.status_code == 200 and last["state"] == "error" and last["status"] == 422
    assert "damaged" in last["error"]


def test_the_largest_upload_is_taken_and_one_byte_more_is_cut_off_without_a_stated_length(url):
    photo = servers.photo()
    padded = photo + bytes(SMALL.bytes - len(photo))
    assert requests.post(url + RESTORE, data=padded).status_code == 200
    parts = (padded[i : i + 1000] for i in range(0, len(padded), 1000))
    assert requests.post(url + RESTORE, data=parts).status_code == 200
    longer = ((padded + b"x")[i : i + 1000] for i in range(0, len(padded) + 1, 1000))
    assert requests.post(url + RESTORE, data=longer).status_code == 413


def test_a_reply_comes_before_an_upload_that_is_announced_too_long(url):
    with raw(url, f"Content-Length: {10**12}\r\nExpect: 100-continue") as client:
        assert client.recv(100).startswith(b"HTTP/1.1 413 ")


# ---- time


def raw(url: str, headers: str, body: bytes = b"", path: str = RESTORE) -> socket.socket:
    """A client that has sent a request's head, and as much of its body."""
    parts = urlsplit(url)
    client = socket.create_connection((parts.hostname, parts.port), timeout=60)
    head = f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}\r\n\r\n"
    client.sendall(head.encode() + body)
    return client


@pytest.mark.parametrize(("pause", "upload"), [(0.3, 60), (60, 0.3)])
def test_an_upload_that_stalls_is_given_up(pause, upload):
    with servers.serving(servers.tiny(), Limits(pause=pause, upload=upload)) as url:
        with raw(url, "Content-Length: 1000", b"x" * 10) as client:
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408 ") and b"too slow" in answer
        servers.until(lambda: taken(url) == 0)


def test_an_answer_that_is_not_taken_is_given_up():
    # Noise as BMP: a result that fits into no socket's buffer.
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    sent = hostile.saved(Image.fromarray(noise), "BMP")
    head, path = f"Content-Length: {len(sent)}", "/api/restore?task=derain&strength=0"
    with servers.serving(servers.darker(), Limits(pause=2)) as url, raw(url, head, path=path) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(sent)
        assert client.recv(15, socket.MSG_WAITALL) == b"HTTP/1.1 200 OK"
        servers.until(lambda: taken(url) == 0)


def test_work_that_takes_too_long_ends_at_the_next_tile(monkeypatch):
    with servers.serving(servers.paced(), Limits(seconds=100)) as url, ThreadPoolExecutor() as pool:
        asked = pool.submit(requests.post, url + RESTORE, data=LONG)
        servers.begun()
        servers.later(monkeypatch, 101)
        servers.Paced.gate.set()
        answer = asked.result()
        assert answer.status_code == 503
        assert "longer than the 100 s that are allowed (1 of 2 parts were done)" in answer.json()["error"]
        assert servers.Paced.tiles == 1 and taken(url) == 0


def test_progress_counts_tiles_and_tells_how_long_the_rest_takes():
    with servers.serving(servers.paced()) as url:
        answer = requests.post(f"{url}/api/restore/live?task=derain", data=LONG, stream=True)
        lines = answer.iter_lines(chunk_size=1)
        servers.begun()
        first = next(line for line in map(json.loads, lines) if line.get("total"))
        assert first == {"state": "working", "done": 0, "total": 2, "seconds_left": None}
        servers.Paced.gate.set()
        answer.close()


# ---- the line


def test_one_is_worked_on_one_waits_and_the_next_is_told_to_come_again():
    with servers.serving(servers.paced(), Limits(waiting=1)) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(requests.post, url + RESTORE, data=servers.photo())
        servers.begun()
        second = requests.post(f"{url}/api/restore/live?task=derain", data=servers.photo(), stream=True)
        lines = second.iter_lines(chunk_size=1)
        assert json.loads(next(lines)) == {"state": "waiting", "ahead": 1}
        third = requests.post(url + RESTORE, data=servers.photo())
        assert third.status_code == 503 and 1 <= int(third.headers["retry-after"]) <= 600
        assert "try again in" in third.json()["error"] and taken(url) == 2
        servers.Paced.gate.set()
        assert first.result().status_code == 200
        assert [json.loads(line) for line in lines if line.startswith(b'{"state": "restored"')]
        servers.until(lambda: taken(url) == 0)
        assert requests.post(url + RESTORE, data=servers.photo()).status_code == 200


def test_who_leaves_while_waiting_frees_the_place_and_the_work_is_not_done():
    with servers.serving(servers.paced()) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(requests.post, url + RESTORE, data=servers.photo())
        servers.begun()
        body = servers.photo()
        with raw(url, f"Content-Length: {len(body)}", body):
            servers.until(lambda: taken(url) == 2)
        servers.until(lambda: taken(url) == 1)
        servers.Paced.gate.set()
        assert first.result().status_code == 200 and servers.Paced.tiles == 1


@pytest.mark.parametrize("path", [RESTORE, "/api/restore/live?task=derain"])
def test_who_leaves_while_worked_on_stops_the_work_at_the_next_tile(monkeypatch, path):
    noticed = servers.leaving(monkeypatch)
    with servers.serving(servers.paced()) as url:
        with raw(url, f"Content-Length: {len(LONG)}", LONG, path):
            servers.begun()
        assert noticed.wait(60) and taken(url) == 1
        servers.Paced.gate.set()
        servers.until(lambda: taken(url) == 0)
        assert servers.Paced.tiles == 1


def test_who_leaves_during_the_upload_frees_the_place(url):
    with raw(url, "Content-Length: 1000", b"x" * 10):
        servers.until(lambda: taken(url) == 1)
    servers.until(lambda: taken(url) == 0)


def test_a_crowd_is_served_or_refused_one_by_one():
    with servers.serving(servers.tiny(), Limits(waiting=2)) as url, ThreadPoolExecutor(16) as pool:
        sent = [servers.photo(seed=seed) for seed in range(16)]
        answers = list(pool.map(lambda content: requests.post(url + RESTORE, data=content), sent))
        served = [pair for pair in zip(sent, answers, strict=True) if pair[1].status_code == 200]
        assert len(served) >= 3
        for content, answer in served:
            expected = nets.tiny_restorer().restore(pixels(content), "derain")
            assert np.array_equal(pixels(answer.content), expected), "nobody gets another one's photo"
        for answer in answers:
            assert answer.status_code == 200 or (answer.status_code == 503 and answer.headers["retry-after"])
        servers.until(lambda: taken(url) == 0)


def test_a_defect_is_one_line_too_and_the_server_goes_on(monkeypatch):
    restorer = servers.tiny()
    with servers.serving(restorer) as url:
        with monkeypatch.context() as patch:
            patch.setattr(restorer, "restore", lambda *_, **__: 1 / 0)
            answer = requests.post(url + RESTORE, data=servers.photo())
            assert answer.status_code == 500 and answer.json()["error"].startswith("unexpected ZeroDivisionError")
            answer = requests.post(f"{url}/api/restore/live?task=derain", data=servers.photo(), stream=True)
            lines = [json.loads(line) for line in answer.iter_lines(chunk_size=1)]
            assert lines[-1]["status"] == 500
        assert requests.post(url + RESTORE, data=servers.photo()).status_code == 200 and taken(url) == 0


# ---- who may ask, and what stays


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("192.168.1.7", 200),
        ("photos.example", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example:8080", 400),
        ("evil.example@localhost", 400),
        ("[::1", 400),
        ("", 400),
    ],
)
def test_the_server_answers_to_its_names_only(url, host, status):
    answer = requests.get(f"{url}/api/about", headers={"Host": host})
    assert answer.status_code == status and (status == 200 or "is not called" in answer.json()["error"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://{host}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_pages_cannot_post(url, headers, status):
    sent = {name: value.format(host=urlsplit(url).netloc) for name, value in headers.items()}
    answer = requests.post(url + RESTORE, data=servers.photo(), headers=sent)
    assert answer.status_code == status
    assert not any(name.startswith("access-control") for name in map(str.lower, answer.headers))


def test_no_other_origin_is_let_in_by_a_preflight(url):
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = requests.options(url + RESTORE, headers=headers)
    assert answer.status_code >= 400 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/page.js", "/api/about", "/nothing", "/api/openapi.json"])
def test_every_answer_tells_browsers_what_the_page_may_do(url, path):
    headers = requests.get(url + path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'; ")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == ("no-store" if path.startswith("/api") else "no-cache")


@pytest.mark.parametrize("path", ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/%00"])
def test_no_other_file_is_served(url, path):
    connection = HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404 and b"import" not in answer.read()
    connection.close()


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("holiday.jpg", "holiday-restored.png"),
        ("../../etc/passwd", "passwd-restored.png"),
        ("C:\\Windows\\win.ini", "win-restored.png"),
        ("a\0b\r\nSet-Cookie: c.png", "abSet-Cookie c-restored.png"),
        ("gnp\u202egpj.exe", "gnpgpj-restored.png"),
        ("..", "photo-restored.png"),
        (".hidden", "hidden-restored.png"),
        ("", "photo-restored.png"),
        ("a/", "photo-restored.png"),
        ('<script>"|?*', "script-restored.png"),
        ("\u5199\u771f.heic", "\u5199\u771f-restored.png"),
        ("x" * 5000, "x" * 80 + "-restored.png"),
    ],
)
def test_a_name_names_the_result_and_nothing_else(url, name, result):
    assert result_name(name, "PNG", "restored") == result
    answer = requests.post(url + RESTORE, data=servers.photo(), params={"name": name})
    assert requests.utils.unquote(answer.headers["content-disposition"]) == f"attachment; filename*=UTF-8''{result}"


def test_nothing_is_written_to_disk(url):
    opened: list[object] = []
    watching = True

    def hook(event: str, arguments: tuple) -> None:
        if watching and event == "open" and isinstance(arguments[0], str) and arguments[2] & 3:
            opened.append(arguments[0])
        if watching and event in ("os.mkdir", "os.rename", "tempfile.mkstemp", "tempfile.mkdtemp"):
            opened.append((event, *arguments))

    sys.addaudithook(hook)
    for format in ("PNG", "JPEG", "WEBP", "TIFF"):
        query = "task=derain&previews=true&name=../../tmp/x.png"
        assert requests.post(f"{url}/api/restore/live?{query}", data=servers.photo(format)).status_code == 200
    assert requests.post(url + RESTORE, data=b"x" * 30_000).status_code == 422
    assert requests.post(url + RESTORE, data=bytes(SMALL.bytes + 1)).status_code == 413
    watching = False
    assert opened == []


def test_health_facts_and_description(url):
    assert requests.get(f"{url}/health").json() == {"status": "ok", "version": __version__, "taken": 0, "places": 9}
    about = requests.get(f"{url}/api/about").json()
    assert about["tasks"] == list(nets.TASKS) and about["can_read"] and about["can_guess"]
    assert about["limits"]["bytes"] == SMALL.bytes and about["limits"]["pixels"] == SMALL.pixels
    described = requests.get(f"{url}/api/openapi.json").json()
    assert {"/health", "/api/read", "/api/guess", "/api/restore", "/api/restore/live"} <= set(described["paths"])
    assert described["paths"]["/api/restore"]["post"]["requestBody"]["required"]
    assert requests.get(f"{url}/docs").status_code == 404, "its page would come from another server"


def test_without_reader_and_estimator_a_task_has_to_be_named():
    with servers.serving(nets.tiny_restorer()) as url:
        about = requests.get(f"{url}/api/about").json()
        assert not about["can_read"] and not about["can_guess"]
        for path in ("/api/restore", "/api/restore?instruction=rain", "/api/guess"):
            answer = requests.post(url + path, data=servers.photo())
            assert answer.status_code == 422 and "name a task: denoise" in answer.json()["error"]
        assert requests.post(url + RESTORE, data=servers.photo()).status_code == 200


# ---- the page's files


def test_the_page_asks_nothing_of_other_servers_and_has_no_code_inside():
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in text and "https:" not in text, path.name
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    assert "style=" not in text and "<style" not in text and " on" + "click" not in text


def test_the_look_is_that_of_the_report():
    folder = Path(report.__file__).parent
    known = {line for name in ("base.css.j2", "page.css.j2") for line in (folder / name).read_text().splitlines()}
    look = (PAGE / "look.css").read_text(encoding="utf-8").splitlines()
    assert look[0].startswith("/* The report's look") and [line for line in look[1:] if line not in known] == []
