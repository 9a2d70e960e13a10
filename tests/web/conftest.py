"""A visitor of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ..browsers import Visit, visiting
from .pages import REFUSED

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A visitor at a desk, in light; at the end no other server may have been asked, and nothing gone wrong."""
    with visiting(browser, ("http://127.0.0.1:", "blob:"), REFUSED) as visitor:
        visitor.page.set_default_timeout(60_000)
        yield visitor
