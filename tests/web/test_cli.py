"""`ipt serve` as a person starts and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from instruct_ipt import cli_serve

from ..restoration import nets
from . import servers

COMMAND = (sys.executable, "-m", "instruct_ipt", "serve")


def test_it_says_where_it_is_answers_and_ends_on_control_c(tmp_path: Path) -> None:
    nets.write_release(tmp_path / "weights")
    options = ("--port", "0", "--weights", str(tmp_path / "weights"), "--max-megapixels", "0.001")
    with subprocess.Popen(
        [*COMMAND, *options], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            url = process.stdout.readline().split()[0]
            assert url.startswith("http://127.0.0.1:")
            assert requests.get(f"{url}health").json()["status"] == "ok"
            assert "Restore a photograph" in requests.get(url).text
            assert requests.post(f"{url}api/restore?task=derain", data=servers.photo()).status_code == 200
            large = requests.post(f"{url}api/restore?task=derain", data=servers.photo(width=60))
            assert large.status_code == 413 and "0.001 megapixels" in large.json()["error"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0 and process.stderr.read() == ""
    assert os.listdir(tmp_path) == ["weights"], "nothing was left behind"


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    nets.write_release(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run([*COMMAND, "--port", port, "--weights", tmp_path], capture_output=True, text=True)
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
