"""A file server on 127.0.0.1 that can resume, and that can be told to misbehave."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

Fault = Callable[[str, int], str | None]


class Server:
    """What a test sees of the server.

    Attributes:
        address: base address.
        served: bytes of content sent.
        requests: paths asked for, in order.
        fault: called with (path, number of requests so far); names what goes wrong, or None. Known: ``cut`` (half of
            the answer, then the connection ends), ``500``, ``429``, ``404``, ``flip`` (one bit differs), ``norange``
            (the range is ignored), ``shift`` (another range than was asked for).
    """

    def __init__(self, root: Path) -> None:
        self.root, self.served, self.requests = root, 0, []
        self.fault: Fault = lambda path, number: None
        self.random = random.Random(0)
        self.guard = threading.Lock()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]):
    """A server on 127.0.0.1 that answers with ``handler`` until the block ends; yields its address."""
    http = _Quiet(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_address[1]}/"
    finally:
        http.shutdown()
        http.server_close()


@contextmanager
def serving(root: Path):
    """Serve ``root`` until the block ends; yields a :class:`Server`."""
    server = Server(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(self.path).lstrip("/")
            with server.guard:
                server.requests.append(path)
                fault = server.fault(path, len(server.requests))
            if fault in ("500", "429", "404"):
                return self._short(int(fault))
            try:
                data = (root / path).read_bytes()
            except OSError:
                return self._short(404)
            self._send(data, fault)

        def _send(self, data: bytes, fault: str | None) -> None:
            start = 0
            asked = self.headers.get("Range")
            if asked and fault != "norange":
                start = int(asked.removeprefix("bytes=").split("-")[0])
                if start >= len(data):
                    return self._short(416)
                start -= fault == "shift"
            body = data[start:]
            self.send_response(206 if asked and fault != "norange" else 200)
            if asked and fault != "norange":
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if fault == "flip":
                body = bytes([body[0] ^ 1]) + body[1:]
            if fault == "cut":
                with server.guard:
                    body = body[: server.random.randrange(len(body))]
                self.close_connection = True
            with server.guard:
                server.served += len(body)
            self.wfile.write(body)
            if fault == "cut":
                self.wfile.flush()
                self.connection.close()

        def _short(self, status: int) -> None:
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with listening(Handler) as address:
        server.address = address
        yield server
