"""What a person does with the page, for the tests in a browser."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..browsers import Visit
from . import servers

if TYPE_CHECKING:
    from playwright.sync_api import Page

WIDTH, HEIGHT = 120, 90
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (4\d\d|503)")


def opened(visit: Visit, url: str) -> Page:
    """Open the page of a server, which is then known."""
    visit.page.goto(url)
    visit.page.get_by_role("button", name="Noise", exact=True).wait_for()
    return visit.page


def pixels(content: bytes) -> np.ndarray:
    """Of a file: int16 (H, W, 3)."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def give(page: Page, content: bytes | None = None, name: str = "photo.png", type: str = "image/png") -> bytes:
    """Choose a file."""
    content = servers.photo(width=WIDTH, height=HEIGHT) if content is None else content
    page.set_input_files("#file", {"name": name, "mimeType": type, "buffer": content})
    return content


def done(page: Page) -> None:
    """Wait until the result is there and nothing goes on."""
    page.locator("#download").wait_for()
    page.locator("#progress").wait_for(state="hidden")


def shown(page: Page) -> np.ndarray:
    """The picture as it stands on the screen."""
    return pixels(page.locator("#stage").screenshot())


def downloaded(page: Page) -> tuple[str, bytes]:
    """Name and content of what the page offers."""
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def tabbed(page: Page) -> set[str]:
    """Go by Tab through what can be reached, each with a name and a visible focus; their ids."""
    page.locator(".skip").focus()
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
          const e = document.activeElement, name = e.labels?.[0]?.textContent || e.ariaLabel || e.textContent;
          return [e.tagName, e.id, getComputedStyle(e).outlineWidth, name.trim()];
        }""")
        if found[0] == "BODY":
            break
        seen.add(found[1])
        assert found[2] == "3px" and found[3], found
    return seen


def problem(page: Page, words: str) -> None:
    """Wait until something is refused in these words, and nothing goes on."""
    alert = page.get_by_role("alert")
    alert.filter(has_text=words).wait_for()
    page.wait_for_timeout(50)
    assert alert.is_visible() and page.locator("#progress").is_hidden()
    box = alert.bounding_box()
    assert box is not None and box["y"] >= 0, "it is within the window"
