"""`ipt serve` as a person starts and ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from instruct_ipt import cli_serve
from instruct_ipt.diffusion.store import save_denoiser

from .. import warm
from ..restoration import nets
from . import servers

COMMAND = ("ipt", "serve")


@contextlib.contextmanager
def served(folder: Path, *options: str, warning: str = "") -> Iterator[tuple[str, str]]:
    """Address of a server started in a folder that holds weights, and the line that it says it in."""
    command, pipe = [*COMMAND, "--port", "0", "--weights", "weights", *options], subprocess.PIPE
    quick = warm.environment_of()
    with subprocess.Popen(command, cwd=folder, env=quick, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            yield line.split()[0], line
        finally:
            process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 0 and said.startswith(warning) and said.count("\n") == bool(warning)


def test_it_says_where_it_is_answers_and_ends_on_control_c(tmp_path: Path) -> None:
    nets.write_release(tmp_path / "weights")
    with served(tmp_path, "--max-megapixels", "0.001") as (url, line):
        assert url.startswith("http://127.0.0.1:") and line.endswith("/ restores photographs; Ctrl+C ends it\n")
        assert requests.get(f"{url}health").json()["status"] == "ok"
        assert "Restore a photograph" in requests.get(url).text
        assert requests.post(f"{url}api/restore?task=derain", data=servers.photo()).status_code == 200
        large = requests.post(f"{url}api/restore?task=derain", data=servers.photo(width=60))
        assert large.status_code == 413 and "0.001 megapixels" in large.json()["error"]
    assert os.listdir(tmp_path) == ["weights"], "nothing was left behind"


def test_the_time_of_an_upload_can_be_set(tmp_path: Path) -> None:
    nets.write_release(tmp_path / "weights")
    with served(tmp_path, "--max-upload-seconds", "2") as (url, _):
        address = url.removeprefix("http://").rstrip("/")
        with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=60) as client:
            head = f"POST /api/restore?task=derain HTTP/1.1\r\nHost: {address}\r\nContent-Length: 9\r\n\r\n"
            client.sendall(head.encode())
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408 ") and b"within 0.25 s, and all of it within 2 s" in answer


@pytest.mark.parametrize("options", [("--denoiser", "mine"), ()], ids=["named", "the usual one"])
def test_with_a_denoiser_it_fills_in_too(tmp_path: Path, options: tuple[str, ...]) -> None:
    nets.write_release(tmp_path / "weights")
    folder = tmp_path / (options[1] if options else "models/diffusion/synchronous")
    save_denoiser(folder, *servers.denoiser())
    with served(tmp_path, *options) as (url, line):
        assert line.endswith("/ restores, fills in and extends photographs; Ctrl+C ends it\n")
        about = requests.get(f"{url}api/about").json()
        assert about["can_fill"] and about["can_extend"] and about["denoiser"]["size"] == 32
        assert requests.post(f"{url}api/outpaint?left=4", data=servers.photo()).status_code == 200


def test_the_usual_denoiser_is_passed_over_where_it_is_damaged_and_one_that_is_named_is_not(tmp_path: Path) -> None:
    nets.write_release(tmp_path / "weights")
    card = tmp_path / "models/diffusion/denoiser.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}", encoding="utf-8")
    warning = "ipt: warning: models/diffusion/denoiser.json is damaged"
    with served(tmp_path, warning=warning) as (url, _):
        assert requests.get(f"{url}api/about").json()["can_fill"] is False
    done = warm.ipt("serve", "--port", "0", "--denoiser", card.parent, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert "denoiser.json is damaged" in done.stderr


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    nets.write_release(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = warm.ipt("serve", "--port", port, "--weights", tmp_path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"ipt: cannot listen on 127.0.0.1, port {port}" in done.stderr


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("::1", False), ("0.0.0.0", True), ("::", True)]
)
def test_a_server_that_others_can_reach_says_so(capsys: pytest.CaptureFixture[str], host: str, warned: bool) -> None:
    cli_serve._tell(host, 80)
    out, err = capsys.readouterr()
    assert out.startswith(f"http://{f'[{host}]' if ':' in host else host}:80/ ")
    assert (f"whoever can reach {host} can use" in err) == warned and err.count("\n") == warned
