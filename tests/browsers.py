"""What tests in a browser share: how Chromium is started, a visitor, two sizes of window, a measure of contrast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
PHONE, DESK = (390, 844), (1280, 900)

# WCAG 2.2, success criterion 1.4.3: 4.5 to 1, for large text 3 to 1. A text's background is that of its nearest painted
# ancestor. Canvas turns any notation of a colour into bytes.
CONTRAST = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const bytes = colour => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = bytes(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  let texts = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || element.closest("script, .unseen, .skip") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const [a, b] = [light(bytes(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    texts += 1;
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return { texts, found };
}"""


class Visit:
    """A page as a visitor sees it, with all it asked for and complained about.

    Attributes:
        page: the opened page.
        requests: addresses that were asked for.
        complaints: errors and warnings, but those that `expected` matches.
    """

    def __init__(self, page: Page, expected: re.Pattern[str] | None = None) -> None:
        self.page, self.requests, self.complaints, self._expected = page, [], [], expected
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda line: self._hear(line.type, line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning") and not (self._expected and self._expected.match(text)):
            self.complaints.append(text)


@contextmanager
def visiting(browser: Browser, allowed: tuple[str, ...], expected: re.Pattern[str] | None = None) -> Iterator[Visit]:
    """A visitor at a desk, in light; at the end only addresses that begin as `allowed` may have been asked for."""
    context = browser.new_context(viewport=size(DESK), color_scheme="light", reduced_motion="reduce")
    visitor = Visit(context.new_page(), expected)
    yield visitor
    context.close()
    assert visitor.requests and all(url.startswith(allowed) for url in visitor.requests)
    assert visitor.complaints == []


def size(window: tuple[int, int]) -> Any:
    """A size as Playwright takes it."""
    return {"width": window[0], "height": window[1]}
