"""`requirements.hashes.lock` holds the packages of the lock, and its tool finds every file that an index lists."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# pip's internals import the standard library's distutils; torch's compiler, which a later test of this process may use,
# insists on the one of setuptools, which has to come first.
import setuptools  # noqa: F401

from tools import hashes

from .conftest import ROOT


def test_both_locks_name_the_same_packages_and_versions():
    locked = hashes.read(ROOT / hashes.HASHES)
    assert list(locked) == hashes.pins(ROOT / hashes.LOCK) and all(locked.values())
    assert hashes.text(locked) == (ROOT / hashes.HASHES).read_text(encoding="utf-8")


def test_the_hashed_lock_says_nothing_of_where_it_was_made():
    assert not re.search(r"https?:|index|find-links|file:", (ROOT / hashes.HASHES).read_text(encoding="utf-8"))


def wheel(folder: Path, version: str, tag: str = "py3-none-any") -> Path:
    """A package with nothing in it."""
    folder.mkdir(parents=True, exist_ok=True)
    file, info = folder / f"tiny_thing-{version}-{tag}.whl", f"tiny_thing-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-thing\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page of a package on an index of our own, to which pip is set up; `wheels` beside it is searched too."""
    page = tmp_path / "simple/tiny-thing"
    files = [wheel(page, "1.0"), wheel(page, "1.0", "cp399-none-win_arm64"), wheel(page, "2.0")]
    wheel(tmp_path / "wheels", "1.0+cpu")
    links = "".join(f'<a href="{file.name}#sha256={digest(file)}">{file.name}</a>' for file in files)
    (page / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>", encoding="utf-8")
    (tmp_path / "requirements.lock").write_text("# Exact.\ntiny-thing==1.0\n", encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    # pip reads a page once in a process, but here it changes between two runs of the tool.
    monkeypatch.setattr(hashes, "parse_links", hashes.parse_links.__wrapped__)
    monkeypatch.chdir(tmp_path)
    yield page
    server.shutdown()
    server.server_close()


def tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What the tool says and how it ends, without a new start of Python."""
    with redirect_stdout(io.StringIO()) as said:
        code = hashes.main(list(arguments))
    return subprocess.CompletedProcess(arguments, code, said.getvalue())


def real_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "tools/hashes.py", *arguments], capture_output=True, text=True)


def install(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--dry-run", "--require-hashes"]
    return subprocess.run([*command, "-r", "requirements.hashes.lock", *options], capture_output=True, text=True)


def test_every_file_of_the_version_is_listed_and_pip_takes_each_build(index: Path, monkeypatch: pytest.MonkeyPatch):
    assert tool().returncode == 0
    files = [*index.glob("*-1.0-*.whl"), *Path("wheels").iterdir()]
    assert len(files) == 3
    assert hashes.read(hashes.HASHES) == {"tiny-thing==1.0": {digest(file) for file in files}}
    assert "127.0.0.1" not in hashes.HASHES.read_text(encoding="utf-8")
    assert real_tool("--check").returncode == 0
    with_the_local_build = install()
    monkeypatch.delenv("PIP_FIND_LINKS")
    for done in (with_the_local_build, install()):
        assert done.returncode == 0, done.stderr


def test_a_file_that_was_replaced_is_refused_and_said(index: Path):
    assert tool().returncode == 0
    file = index / "tiny_thing-1.0-py3-none-any.whl"
    old = digest(file)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("evil.py", "")
    page = index / "index.html"
    page.write_text(page.read_text(encoding="utf-8").replace(old, digest(file)), encoding="utf-8")
    next(Path("wheels").iterdir()).unlink()
    assert install().returncode != 0
    checked = tool("--check")
    assert checked.returncode == 1 and f"sha256 {digest(file)}" in checked.stdout


def test_what_one_machine_alone_is_offered_stays_in_the_file_when_another_writes_it(index: Path):
    assert tool().returncode == 0
    before = hashes.HASHES.read_text(encoding="utf-8")
    next(Path("wheels").iterdir()).unlink()
    assert tool().returncode == 0 and hashes.HASHES.read_text(encoding="utf-8") == before
    Path("requirements.lock").write_text("tiny-thing==3.0\n", encoding="utf-8")
    checked = tool("--check")
    assert checked.returncode == 1 and "name different packages" in checked.stdout
    assert "tiny-thing==3.0: the index lists no file of it" in checked.stdout
