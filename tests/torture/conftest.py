"""Short or full: how much a harness does, and where what it counted is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .forked import Ipt, forking
from .tally import Tally, keep
from .workplaces import prepare

FOUND = pytest.StashKey[dict[str, Any]]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash.get(FOUND, {})
    if session.config.getoption("--torture") and found:
        keep(found)


@pytest.fixture
def many(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """``many(short, full)``: how often to do a thing, in the short form and under ``--torture``."""
    full = bool(request.config.getoption("--torture"))
    return lambda short, long: long if full else short


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts what this harness does, kept where it passes; its title is the first line of the test's docstring."""
    counted = Tally((request.function.__doc__ or request.node.name).strip().splitlines()[0].rstrip("."))
    failed = request.session.testsfailed
    begun = time.monotonic()
    yield counted
    if request.session.testsfailed == failed and counted.counts:
        seconds = round(time.monotonic() - begun, 1)
        row = {"title": counted.title, "seconds": seconds, "counts": counted.counts}
        request.config.stash.setdefault(FOUND, {})[request.node.nodeid.removeprefix("tests/torture/")] = row


@pytest.fixture(scope="session")
def ipt() -> Iterator[Ipt]:
    """Runs commands; once for all harnesses, because it imports for seconds."""
    with forking() as found:
        yield found


@pytest.fixture(scope="session")
def prepared(ipt: Ipt, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to copy, in which the images are prepared and the weights to modulate stand selected."""
    folder = tmp_path_factory.mktemp("prepared") / "work"
    prepare(ipt, folder)
    return folder
