"""Tracking stores that are well, and servers that are not."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def mlflow_server(database: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real server on a SQLite file: its process, to be killed, and its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Files go to a folder, past the server: the same store can then be opened without it.
    command += ["--no-serve-artifacts", "--default-artifact-root", str(database.parent / "art")]
    command += ["--backend-store-uri", f"sqlite:///{database}"]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (database.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=database.parent, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(f"http://127.0.0.1:{port}", process)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a server and its workers, which are one group of processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


def _wait(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server does not answer")


@contextlib.contextmanager
def bad_server(kind: str, behind: str = "", delay: float = 0.0) -> Iterator[tuple[str, list[str]]]:
    """A server that is not well; its address, and the requests that it gets.

    Args:
        kind: ``garbage`` and ``errors`` answer at once; ``silent`` never answers; ``slow`` asks the server ``behind``.
        behind: address of a server that is well.
        delay: s before each answer.
    """
    seen: list[str] = []
    closing = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if kind == "silent":
                closing.wait(60)
                return
            closing.wait(delay)
            try:
                code, content = {"garbage": (200, b"\x00<html>{"), "errors": (500, b"no")}.get(kind) or self._ask(body)
            except (OSError, http.client.HTTPException):
                return  # the server behind is dead, and so is the connection
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _ask(self, body: bytes) -> tuple[int, bytes]:
            kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
            asked = urllib.request.Request(behind + self.path, body or None, kept, method=self.command)
            try:
                with urllib.request.urlopen(asked, timeout=60) as found:
                    return found.status, found.read()
            except urllib.error.HTTPError as error:
                return error.code, error.read()

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
