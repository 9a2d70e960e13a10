"""Shared fixtures: the repository's root, a configuration to mutate, one CPU thread for reproducible floats."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from . import warm
from .browsers import FLAGS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Tests compare bits and feed CPU tensors; a GPU, where there is one, would take the training. Before torch looks.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Threads that wait for each other spin, and where another test process has the core, one that is needed cannot run.
for name, value in (warm.ONE_THREAD | {"OMP_WAIT_POLICY": "passive"}).items():
    os.environ.setdefault(name, value)

import torch  # noqa: E402

from .helpers import put_params  # noqa: E402
from .replication import Copy  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

# Two cores and many tiny networks: one thread is faster than two that wait for each other.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The replication takes longest: begun first, the other files pass beside it. In the order of names the harnesses
    # want it when it is finished, and enough files come after them to keep two processes at work until the end.
    items.sort(key=lambda item: item.get_closest_marker("pipeline") is None or "torture" in item.path.parts)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="run the harnesses of tests/torture in full")


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def replication(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A finished replication at smoke scale, to be copied and not to be changed; takes minutes, once for all."""
    base = tmp_path_factory.getbasetemp()
    # Under xdist each process has a folder of its own within that of the whole run.
    return Copy.finished((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "replication")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the repository's params.yaml at profile smoke; tracking goes to its own store."""
    put_params(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright; without it a test skips, or fails where IPT_REQUIRE_BROWSER is set."""
    program = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        program = None
    if program is None:
        reason = "needs chromium (apt-get install chromium) and playwright (pip install playwright)"
        if os.environ.get("IPT_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        # A profile of its own in a new folder, which goes when the browser is closed.
        opened = playwright.chromium.launch(executable_path=program, args=list(FLAGS), headless=True)
        yield opened
        opened.close()
