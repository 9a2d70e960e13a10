"""Those who visit a server in a crowd: a few want a photo restored, the others are slow, broken, rude or hostile."""

from __future__ import annotations

import contextlib
import io
import json
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import numpy as np
from PIL import Image

from instruct_ipt.restoration import Restorer

from ..restoration import hostile

RESTORE = "/api/restore?task=derain"
SLOWEST = 180.0
"""Seconds after which a client that means it has to have been served, however many others there are. The server gives
no numbers to those that it refuses: who comes again when a place is free has it, so some wait far longer than most."""


@dataclass(frozen=True)
class Town:
    """Where the visitors go, and what they bring.

    Attributes:
        port: of the server on 127.0.0.1.
        largest: bytes of an upload that are allowed.
        upload: seconds within which one has to be there.
        photos: files, and the pixels that their restored ones have to have.
        kept: sockets of those who neither speak nor leave.
        waits: seconds until each of the honest had a photo.
    """

    port: int
    largest: int
    upload: float
    photos: list[tuple[bytes, np.ndarray]]
    kept: list[socket.socket] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def photos(restorer: Restorer, sizes: list[tuple[int, int]]) -> list[tuple[bytes, np.ndarray]]:
    """A PNG of each height and width, and what the restorer makes of it."""
    pictures = [hostile.picture(seed, *size) for seed, size in enumerate(sizes)]
    return [(hostile.saved(Image.fromarray(it), "PNG"), restorer.restore(it, "derain")) for it in pictures]


class Client:
    """A connection by which anything can be sent."""

    def __init__(self, town: Town, buffer: int = 0) -> None:
        self.socket = socket.socket()
        if buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.settimeout(SLOWEST)
        self.socket.connect(("127.0.0.1", town.port))
        self._host = f"127.0.0.1:{town.port}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> bool:
        """Send bytes; whether the server still took them."""
        try:
            self.socket.sendall(content)
        except OSError:
            return False
        return True

    def head(self, method: str, path: str, *headers: str, host: str | None = None) -> bytes:
        """A request's head."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host if host is None else host}", *headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def ask(
        self, body: bytes, *headers: str, path: str = RESTORE, method: str = "POST", host: str | None = None
    ) -> int:
        """Send a request; the status of the answer."""
        self.send(self.head(method, path, f"Content-Length: {len(body)}", *headers, host=host) + body)
        return self.answer()[0]

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; status 0 where the connection ends without an answer."""
        reader = self.socket.makefile("rb")
        with contextlib.suppress(ConnectionError):
            while first := reader.readline():
                status = int(first.split()[1])
                lines = iter(lambda: reader.readline().decode("latin-1").strip(), "")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                if status >= 200:
                    return status, headers, _body(reader, headers)
        return 0, {}, b""


def _body(reader: io.BufferedReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return reader.read(int(headers["content-length"])) if "content-length" in headers else reader.read()
    parts = []
    while length := int(reader.readline() or b"0", 16):
        parts.append(reader.read(length))
        reader.readline()
    reader.readline()
    return b"".join(parts)


# ---- who means it


def honest(town: Town, chance: random.Random) -> dict[str, int]:
    """Ask until the photo is restored; a refusal has to say when to come again. What comes has to be right."""
    photo, expected = town.photos[-1] if chance.random() < 0.05 else chance.choice(town.photos[:-1])
    live = chance.random() < 0.3
    refused, begun = 0, time.monotonic()
    while True:
        with Client(town) as client:
            path = f"/api/restore/live?task=derain&name={quote(chance.choice(NAMES))}" if live else RESTORE
            client.send(client.head("POST", path, f"Content-Length: {len(photo)}") + photo)
            status, headers, body = client.answer()
        if status == 200:
            assert np.array_equal(_pixels(_photo_of(body) if live else body), expected), "nobody gets another's photo"
            town.waits.append(time.monotonic() - begun)
            return {"photos restored": 1, "refused and come again": refused}
        assert status == 503 and 1 <= int(headers["retry-after"]) <= 600, (status, headers, body)
        assert time.monotonic() - begun < SLOWEST, f"refused {refused} times in {SLOWEST:g} s"
        refused += 1
        time.sleep(chance.uniform(0.1, 0.4))


def _photo_of(content: bytes) -> bytes:
    """The photo behind the lines of a live answer, in which nobody may be overtaken."""
    ahead = []
    while True:
        line, _, content = content.partition(b"\n")
        told = json.loads(line)
        if told["state"] == "waiting":
            ahead.append(told["ahead"])
        elif told["state"] == "restored":
            assert ahead == sorted(ahead, reverse=True), "somebody who came later was served before"
            return content[: told["parts"]["photo"]]


def _pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image)


# ---- who does not

NAMES = ("../../etc/passwd", "C:\boot.ini", "..", "a\0b\r\nSet-Cookie: c", "/" * 200, "%2e%2f", "x" * 3000, "\u202eg")
PATHS = ("/../app.py", "/%2e%2e/app.py", "/..%2f..%2fapp.py", "//etc/passwd", "/%00", "/%ff%fe")
METHODS = ("PUT", "DELETE", "TRACE", "CONNECT", "PROPFIND", "X" * 200)
HOSTS = ("evil.example", "", "127.0.0.1@evil", "[::1")


def oversized(town: Town, chance: random.Random) -> None:
    """More bytes than allowed, announced or not, or far more announced than come."""
    with Client(town) as client:
        match chance.randrange(3):
            case 0:
                client.ask(bytes(town.largest + 1))
            case 1:
                client.send(client.head("POST", RESTORE, "Transfer-Encoding: chunked"))
                piece = b"10000\r\n" + bytes(65536) + b"\r\n"
                while client.send(piece) and chance.random() < 0.98:
                    pass
            case _:
                client.send(client.head("POST", RESTORE, f"Content-Length: {10**15}", "Expect: 100-continue"))
                _one_of(client.answer()[0], 413, 503)


def slow(town: Town, chance: random.Random) -> None:
    """An upload byte by byte, to the end of what is allowed; or one that stops."""
    with Client(town) as client:
        client.send(client.head("POST", RESTORE, "Content-Length: 1000"))
        end = time.monotonic() + 3 * town.upload
        if chance.random() < 0.5:
            while client.send(b"x") and time.monotonic() < end:
                time.sleep(town.upload / 20)
        else:
            client.send(b"x" * chance.randrange(1000))
        _one_of(client.answer()[0], 0, 408, 503)


def malformed_picture(town: Town, chance: random.Random) -> None:
    """Photos that are none, are cut off, claim to be huge, or hide megabytes in a few kilobytes."""
    for number in chance.sample(range(len(BAD_PICTURES)), 5):
        with Client(town) as client:
            status = client.ask(BAD_PICTURES[number])
        assert status in (413, 422, 503) or (status == 200 and number == GOOD_AFTER_ALL), f"picture {number}: {status}"


def malformed_request(town: Town, chance: random.Random) -> None:
    """What is no HTTP, or only half; none of it may be taken for a request that succeeded, or for a defect of ours."""
    for number in chance.sample(range(len(BAD_REQUESTS)), 5):
        with Client(town) as client:
            client.send(BAD_REQUESTS[number].replace(b"HOST", f"127.0.0.1:{town.port}".encode()))
            client.socket.shutdown(socket.SHUT_WR)
            status = client.answer()[0]
        assert status in (0, 400, 404, 405, 408, 413, 422, 431, 501, 503), f"request {number}: {status}"


def junk_behind(town: Town, chance: random.Random) -> None:
    """A sound request, and behind it, in the same breath, something else."""
    with Client(town) as client:
        junk = chance.choice([b"\0" * 5000, b"GET /health HTTP/1.1\r\n", bytes(range(256)) * 50, b"\r\n" * 500])
        client.send(client.head("GET", "/health") + junk)
        first = client.answer()[0]
        client.send(junk)
        _one_of(first, 200)


def leaver(town: Town, chance: random.Random) -> None:
    """Leaves within the upload, or the answer; politely or not."""
    photo, _ = chance.choice(town.photos)
    with Client(town) as client:
        if chance.random() < 0.5:  # the other side sees a reset, not an end
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        path = chance.choice([RESTORE, "/api/restore/live?task=derain&previews=true"])
        whole = client.head("POST", path, f"Content-Length: {len(photo)}") + photo
        cut = chance.choice([len(whole), chance.randrange(len(whole))])
        client.send(whole[:cut])
        if cut == len(whole):
            time.sleep(chance.uniform(0, 0.3))
            with contextlib.suppress(OSError):
                client.socket.recv(chance.randrange(1, 400)) if chance.random() < 0.3 else None


def liar(town: Town, chance: random.Random) -> None:
    """Another site's page, or another name for the server."""
    photo, _ = town.photos[0]
    evil = f"http://evil.example:{town.port}"
    with Client(town) as client:
        match chance.randrange(5):
            case 0:
                _one_of(client.ask(photo, f"Origin: {evil}"), 403)
            case 1:
                _one_of(client.ask(photo, "Sec-Fetch-Site: cross-site"), 403)
            case 2:
                _one_of(client.ask(photo, host=chance.choice(HOSTS)), 400)
            case 3:
                asked = (f"Origin: {evil}", "Access-Control-Request-Method: POST")
                client.send(client.head("OPTIONS", RESTORE, *asked))
                status, headers, _ = client.answer()
                assert not any(name.startswith("access-control") for name in headers)
                _one_of(status, 405)
            case _:
                _one_of(client.ask(photo, "Origin: null", "Content-Type: text/plain"), 403)


def burglar(town: Town, chance: random.Random) -> None:
    """Paths out of the page's folder, methods that nobody knows, a web socket."""
    upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAA", "Sec-WebSocket-Version: 13")
    with Client(town) as client:
        match chance.randrange(3):
            case 0:
                client.send(client.head("GET", chance.choice(PATHS)))
                status, _, body = client.answer()
                assert b"import" not in body and b"root:" not in body
                _one_of(status, 404)
            case 1:
                client.send(client.head(chance.choice(METHODS), chance.choice(["/", RESTORE, "/health"])))
                _one_of(client.answer()[0], 400, 405)
            case _:
                client.send(client.head("GET", chance.choice(["/", "/api/restore/live"]), *upgrade))
                _one_of(client.answer()[0], 200, 404, 405)


def squatter(town: Town, chance: random.Random) -> None:
    """Comes, asks for nothing or for half of something, or takes nothing of the answer, and stays for good."""
    client = Client(town, buffer=4096)
    town.kept.append(client.socket)
    match chance.randrange(4):
        case 0:
            pass
        case 1:
            client.send(b"POST /api/restore HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"a" * chance.randrange(9000))
        case 2:
            client.socket.settimeout(0.5)
            client.send(client.head("GET", "/page.css") * 2000)
        case _:
            client.send(client.head("POST", "/nothing", "Content-Length: 100000") + b"x" * 100)


Rude = Callable[[Town, random.Random], None]
RUDE: dict[str, Rude] = {
    "oversized uploads": oversized,
    "slow uploads": slow,
    "malformed pictures": malformed_picture,
    "malformed requests": malformed_request,
    "requests with junk behind": junk_behind,
    "clients that left": leaver,
    "cross-site requests": liar,
    "paths and methods that there are not": burglar,
    "clients that stayed and said nothing": squatter,
}


def _one_of(status: int, *allowed: int) -> None:
    assert status in allowed, f"answered {status}, allowed: {allowed}"


def _bad_pictures() -> Iterator[bytes]:
    image = Image.fromarray(hostile.picture(0, 96, 128))
    for format in ("JPEG", "PNG", "WEBP", "TIFF"):
        content = hostile.saved(image, format)
        yield content[: len(content) // 2]
        yield content[:20] + bytes(len(content) - 20)
    yield b"these are words, not a picture" * 100
    yield b"\x89PNG\r\n\x1a\n" + b"and these are words too" * 100
    yield b""
    form = b'--b\r\nContent-Disposition: form-data; name="f"; filename="../../x.png"\r\n\r\n'
    yield form + hostile.saved(image, "PNG") + b"\r\n--b--\r\n"
    yield hostile.png(30_000, 30_000, 8, 2, b"")
    yield hostile.png(2**31 - 1, 2**31 - 1, 16, 6, b"")
    yield hostile.saved(image, "GIF")[:6] + b"\xff\xff\xff\xff" + hostile.saved(image, "GIF")[10:]
    yield b"RIFF\x1e\0\0\0WEBPVP8 \x12\0\0\0\x30\x01\0\x9d\x01\x2a\xff\x3f\xff\x3f" + bytes(16)  # 16383 x 16383
    yield b"P6 30000 30000 255\n" + bytes(1000)
    megabyte = zlib.compress(bytes(2**20 - 1), 9)
    yield hostile.png(96, 128, 8, 2, b"", *(hostile.block(b"zTXt", b"%d\0\0" % i + megabyte) for i in range(63)))
    yield hostile.png(96, 128, 8, 2, bytes(100_000_000))  # a small picture, and far more behind it than it needs


BAD_PICTURES = list(_bad_pictures())
GOOD_AFTER_ALL = len(BAD_PICTURES) - 1
"""The picture that is there, whatever comes behind it."""

_POST = b"POST /api/restore?task=derain HTTP/1.1\r\nHost: HOST\r\n"
BAD_REQUESTS = [
    b"\0" * 100,
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(400),  # a client that speaks TLS
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: HOST\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHost: HOST\r\n\r\n",
    b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: HOST\r\n" + b"X-Long: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: HOST\r\n" + b"X-Many: a\r\n" * 10_000 + b"\r\n",
    b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /nothing HTTP/1.1\r\nHost: HOST\r\n folded: header\r\nno colon\r\n\r\n",
    _POST + b"Content-Length: -1\r\n\r\nabc",
    _POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
    _POST + b"Content-Length: 9999999999999999999999999\r\n\r\nabc",
    _POST + b"Content-Length: \xb2\r\n\r\nabc",
    _POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
    _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdefg\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\nabc\r\n",
    _POST + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 6\r\n\r\n--b--\r",
    b"POST /nothing HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    b"POST /api/read HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\n\xff\xfe{",
    b"POST /api/read HTTP/1.1\r\nHost: HOST\r\nContent-Length: 16000\r\n\r\n" + b"[" * 16000,
    b"POST /api/inpaint?photo_bytes=99999999999999999999 HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /api/restore?task=" + b"%00%ff" * 500 + b" HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /api/restore?strength=1e999&task=derain HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
]
