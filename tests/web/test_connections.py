"""Clients that keep a connection and do nothing with it: each is let go, and none keeps others out."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
from PIL import Image

from instruct_ipt.web import Limits, connections

from ..restoration import hostile
from . import servers

HASTY = Limits(pause=0.3)


def connected(url: str, sent: bytes = b"", buffer: int = 0) -> socket.socket:
    """A client that has sent these bytes; HOST among them is the server's."""
    parts = urlsplit(url)
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(20)
    client.connect((parts.hostname, parts.port))
    with contextlib.suppress(TimeoutError):
        client.sendall(sent.replace(b"HOST", parts.netloc.encode()))
    return client


@pytest.fixture
def url() -> Iterator[str]:
    with servers.serving(servers.tiny(), HASTY) as address:
        yield address


def ended(client: socket.socket) -> bool:
    """Whether the server ends the connection before the client's patience does."""
    try:
        while client.recv(1 << 16):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /health HTTP/1.1\r\nHost: HO",
        b"GET /health HTTP/1.1\r\nHost: HOST\r\n\r\nGET /hea",
        b"POST /nothing HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000\r\n\r\nabc",
    ],
    ids=["nothing", "half a head", "half a second head", "half a body that nobody asked for"],
)
def test_who_says_nothing_more_is_let_go(url, sent):
    with connected(url, sent) as client:
        assert ended(client)


def test_a_head_that_comes_byte_by_byte_is_given_up(url):
    with connected(url, b"GET /health HTTP/1.1\r\nX-Slow: ") as client:
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - begun < 20:
                client.sendall(b"a")
                time.sleep(0.05)


def noise() -> bytes:
    """A request with a photo whose result fits into no socket's buffer."""
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    photo = hostile.saved(Image.fromarray(pixels), "BMP")
    head = f"POST /api/restore?task=derain&strength=0 HTTP/1.1\r\nHost: HOST\r\nContent-Length: {len(photo)}\r\n\r\n"
    return head.encode() + photo


@pytest.mark.parametrize("what", ["pages", "photo"])
def test_who_takes_nothing_of_an_answer_does_not_keep_the_connection(url, what):
    sent = noise() if what == "photo" else b"GET /page.css HTTP/1.1\r\nHost: HOST\r\n\r\n" * 3000
    before = len(os.listdir("/proc/self/fd"))
    with connected(url, sent, buffer=4096):
        servers.until(lambda: len(os.listdir("/proc/self/fd")) <= before + 1, 30)


def test_idle_connections_do_not_keep_others_out(monkeypatch):
    monkeypatch.setattr(connections, "MOST", 5)
    with servers.serving(servers.tiny()) as url, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connected(url)) for _ in range(12)]
        assert requests.get(f"{url}/health").status_code == 200
        assert ended(clients[0]), "it was idle longest"
        clients[-1].sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert clients[-1].recv(20).startswith(b"HTTP/1.1 200")


def test_garbage_within_a_request_is_no_defect_of_ours(capsys):
    chunked = b"Host: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    with servers.serving(servers.tiny(), HASTY) as url:
        for _ in range(5):
            for path in (b"/api/restore?task=derain", b"/nothing"):
                with connected(url, b"POST " + path + b" HTTP/1.1\r\n" + chunked + b"zz\r\n") as client:
                    assert client.recv(20).startswith(b"HTTP/1.1 400")
                with connected(url, b"POST " + path + b" HTTP/1.1\r\n" + chunked) as client:
                    time.sleep(0.05)
                    client.sendall(b"zz\r\n")
                    assert ended(client)
        assert requests.get(f"{url}/health").json()["taken"] == 0
    assert "Traceback" not in capsys.readouterr().err
