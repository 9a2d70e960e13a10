"""The quick `ipt` of the tests stands for the real one."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests import warm
from tests.restoration import hostile, nets

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="tests.warm needs Linux")


def real(*command: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).parent / "ipt"
    return subprocess.run([program, *command], capture_output=True, text=True)


def package(folder: Path, command: str) -> str:
    """Where a package stands whose `ipt` does ``command``."""
    place = folder / "elsewhere"
    (place / "instruct_ipt").mkdir(parents=True)
    (place / "instruct_ipt/__init__.py").touch()
    (place / "instruct_ipt/cli.py").write_text(f"import os, sys, time\n\n\ndef main():\n    {command}\n")
    (place / "instruct_ipt/__main__.py").write_text("from instruct_ipt.cli import main\n\nmain()\n")
    return str(place)


@pytest.mark.parametrize("command", [["check-params"], ["profile", "none"], ["nothing"], ["--help"], ["rank"]])
def test_it_says_and_ends_as_the_real_one(workspace, command):
    asked, expected = warm.ipt(*command), real(*command)
    assert (asked.returncode, asked.stdout, asked.stderr) == (expected.returncode, expected.stdout, expected.stderr)


def test_a_command_that_computes_does_what_the_real_one_does(workspace):
    nets.write_release(workspace / "weights")
    Image.fromarray(hostile.picture(0)).save("photo.png")
    command = ["restore", "photo.png", "--task", "derain", "-o"]
    asked, expected = warm.ipt(*command, "asked/a.png"), real(*command, "real/a.png")
    assert asked.returncode == expected.returncode == 0, asked.stderr
    words = [re.sub(r"\d+\.\d s", "", done.stdout + done.stderr) for done in (asked, expected)]
    assert words[0] == words[1].replace("real", "asked")
    assert Path("asked/a.png").read_bytes() == Path("real/a.png").read_bytes()


def test_the_sources_are_those_of_its_own_path(workspace):
    place = package(workspace, "raise SystemExit(os.environ['CODE'] + ' said')")
    done = warm.ipt("status", PYTHONPATH=place, CODE="what it")
    assert (done.returncode, done.stderr) == (1, "what it said\n")


def test_it_becomes_the_real_one_where_python_would_start_otherwise(workspace):
    place = package(workspace, "print('torch' in sys.modules)")
    assert warm.ipt(PYTHONPATH=place).stdout == "True\n"
    assert warm.ipt(PYTHONPATH=place, PYTHONHASHSEED="7").stdout == "False\n"


def test_threads_that_still_run_are_waited_for_and_words_of_the_end_are_said(workspace):
    late = "import threading; threading.Timer(0.2, print, ['late']).start(); sys.exit(('not', 'a number'))"
    place = package(workspace, late)
    asked = warm.ipt(PYTHONPATH=place)
    assert (asked.returncode, asked.stdout, asked.stderr) == (1, "late\n", "('not', 'a number')\n")


def test_modules_are_found_where_the_real_one_finds_them(workspace):
    place = package(workspace, "import tests")
    assert "No module named 'tests'" in warm.ipt(PYTHONPATH=place).stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_command_that_a_signal_ends_ends_the_asker_so(workspace, number):
    place = package(workspace, f"os.kill(os.getpid(), {int(number)}); time.sleep(60)")
    assert warm.ipt(PYTHONPATH=place).returncode == -number


def test_one_who_asks_nothing_lets_others_ask(workspace):
    place = package(workspace, "print('said')")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(warm.environment_of()["IPT_WARM_ADDRESS"])
        assert warm.ipt(PYTHONPATH=place).stdout == "said\n"


def test_who_kills_it_kills_the_command(workspace):
    place = package(workspace, "print(os.getpid(), flush=True); time.sleep(60)")
    environment = warm.environment_of() | {"PYTHONPATH": place}
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(["ipt"], cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True)
        child = int(process.stdout.readline())
        process.send_signal(number)
        assert process.wait() == -number
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{child}").exists()
        process.stdout.close()
