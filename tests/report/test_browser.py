"""The report in a real browser: it opens from disk, and what a person can do with it works, by keyboard too.

Chromium is Debian's (`apt-get install chromium`), driven by Playwright. Without one of them these tests skip; where
IPT_REQUIRE_BROWSER is set, as in CI, they fail.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pages
import pytest
from PIL import Image

from instruct_ipt.report.runtime import COLUMNS, write_runtime

from ..browsers import CONTRAST, DESK, PHONE, Visit, size, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = pages.write_root(tmp_path_factory.mktemp("browser") / "root")
    (folder / "logs").mkdir()
    rows = "\n".join([",".join(COLUMNS), "figures,9.1,500,x86_64,python=3", "report,100.6,280,x86_64,python=3", ""])
    (folder / "logs/runtime.csv").write_text(rows, encoding="utf-8")
    write_runtime(folder / "logs/runtime.csv", folder / "logs/runtime.html")
    return folder


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """A visitor at a desk, in light; at the end nothing may have been asked of the network, nor gone wrong."""
    with visiting(browser, ("file:", "data:")) as visitor:
        yield visitor


def _open(visit: Visit, file: Path) -> Page:
    """Open ``file`` from disk."""
    visit.page.goto(file.as_uri())
    return visit.page


def _column(page: Page, table: str, number: int) -> list[str]:
    return page.locator(f"{table} tbody tr > :nth-child({number})").all_inner_texts()


def _seen(picture: Locator) -> np.ndarray:
    """What stands on the screen, int16 (H, W, 3)."""
    with Image.open(io.BytesIO(picture.screenshot())) as opened:
        return np.asarray(opened.convert("RGB"), dtype=np.int16)


def _changed(before: np.ndarray, after: np.ndarray) -> float:
    """Share of pixels that differ; a little is nothing, for a browser draws edges of its tiles now so, now so."""
    return float((np.abs(before - after).max(axis=2) > 8).mean())


GAINS = "section:has(#gains) table"


def test_a_slider_moves_by_keyboard_and_the_picture_changes(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    pair = page.locator(".pair").first
    slider, picture = pair.locator("input"), pair.locator(".stage")
    # Focus first: it may scroll, and a picture between two pixels is drawn a little differently.
    slider.focus()
    before = _seen(picture)
    page.keyboard.press("End")
    assert slider.input_value() == "100" and _changed(before, _seen(picture)) > 0.1
    page.keyboard.press("Home")
    restored = _seen(picture)
    for _ in range(50):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "50" and _changed(before, _seen(picture)) < 0.01 < 0.1 < _changed(before, restored)


def test_a_slider_follows_the_pointer(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    pair = page.locator(".pair").first
    pair.scroll_into_view_if_needed()
    box = pair.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.up()
    assert pair.locator("input").input_value() == "25"


def test_the_passes_of_the_sampler_are_stepped_through_by_keyboard(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    fill = page.locator(".fill").first
    slider, guess = fill.locator("input"), fill.locator(".guess img:visible")
    slider.focus()
    assert slider.get_attribute("aria-valuetext") == "pass 4 of 4, 11.00 dB"
    last = _seen(guess)
    page.keyboard.press("ArrowLeft")
    assert fill.locator(".pass").inner_text() == "pass 3 of 4" and fill.locator(".psnr").inner_text() == "10.75 dB"
    assert slider.get_attribute("aria-valuetext") == "pass 3 of 4, 10.75 dB"
    assert guess.count() == 1 and guess.get_attribute("alt") == "Photograph coffee-0, guess after pass 3 of 4 (inpaint)"
    third = _seen(guess)
    page.keyboard.press("Home")
    first = _seen(guess)
    assert fill.locator(".pass").inner_text() == "pass 1 of 4"
    # Guess by guess the fixture grows brighter.
    assert first.mean() < third.mean() - 20 < last.mean() - 40
    page.keyboard.press("End")
    assert fill.locator(".pass").inner_text() == "pass 4 of 4" and _changed(last, _seen(guess)) < 0.01
    assert page.locator(".fill").nth(1).locator(".pass").inner_text() == "pass 4 of 4", "each moves by itself"


def test_a_guess_stands_beside_the_photograph_pixel_for_pixel(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    for width, height in (DESK, PHONE):
        page.set_viewport_size(size((width, height)))
        boxes = [picture.bounding_box() for picture in page.locator(".fill").first.locator("img:visible").all()]
        given, guess, photograph = (box for box in boxes if box is not None)
        assert given["y"] == guess["y"] == photograph["y"] and given["x"] < guess["x"] < photograph["x"]
        assert given["width"] == pytest.approx(guess["height"], abs=0.1) and guess["width"] > 80
    look = "getComputedStyle(document.querySelector('.guess img')).imageRendering"
    assert page.evaluate(look) == "pixelated"


def test_a_table_is_sorted_by_click_and_by_keyboard(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    written = ["Shared", "FiLM", "Experts", "Weight modulation"]
    assert _column(page, GAINS, 1) == written
    head = page.locator(f"{GAINS} thead th").last
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert _column(page, GAINS, 1) == ["Experts", "Weight modulation", "FiLM", "Shared"]
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert _column(page, GAINS, 1) == ["Shared", "FiLM", "Weight modulation", "Experts"]
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") is None and _column(page, GAINS, 1) == written
    first = page.locator(f"{GAINS} thead th").first
    first.locator("button").click()
    assert first.get_attribute("aria-sort") == "ascending" and _column(page, GAINS, 1) == sorted(written)


def test_rows_of_one_metric_stay_together(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    table = "#table04 ~ .scroll:has([aria-describedby=table04-note]) table"
    before = _column(page, table, 1)
    page.locator(f"{table} thead th:nth-child(3) button").click()
    assert _column(page, table, 1) == before
    values = [float(text) for text in _column(page, table, 3)]
    count = before.count(before[0])
    assert values[:count] == sorted(values[:count], reverse=True)


def test_dark_and_light_follow_the_system_and_the_switch(browser: Browser, visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    colour = "getComputedStyle(document.body).backgroundColor"
    switch = page.get_by_role("button", name="Dark")
    light = page.evaluate(colour)
    assert switch.get_attribute("aria-pressed") == "false"
    switch.click()
    dark = page.evaluate(colour)
    assert dark != light and switch.get_attribute("aria-pressed") == "true"
    page.reload()
    assert page.evaluate(colour) == dark, "the choice is kept"
    page.get_by_role("button", name="Dark").click()
    assert page.evaluate(colour) == light
    context = browser.new_context(color_scheme="dark")
    other = context.new_page()
    other.goto((root / "report/index.html").as_uri())
    assert other.evaluate(colour) == dark
    context.close()


@pytest.mark.parametrize("file", ["report/index.html", "logs/runtime.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_level_aa(visit: Visit, root: Path, file: str, scheme: str) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    result = _open(visit, root / file).evaluate(CONTRAST)
    assert result["texts"] > 20 and result["found"] == []


@pytest.mark.parametrize("file", ["report/index.html", "logs/runtime.html"])
def test_a_phone_shows_it_without_scrolling_sideways(visit: Visit, root: Path, file: str) -> None:
    visit.page.set_viewport_size(size(PHONE))
    page = _open(visit, root / file)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
    wider = """() => [...document.querySelectorAll("body *:not(.unseen, .skip)")]
      .filter(e => !e.closest(".scroll *, dialog") && e.getBoundingClientRect().right > innerWidth + 1)
      .map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate(wider) == []
    summary = page.locator(".toc summary")
    assert summary.is_visible() and not page.locator(".toc a").first.is_visible()
    summary.click()
    page.locator(".toc a").first.click()
    assert not page.locator(".toc a").first.is_visible(), "folded away once a place was chosen"


def test_the_contents_follow_the_reader(visit: Visit, root: Path) -> None:
    visit.page.set_viewport_size(size((DESK[0], 400)))
    page = _open(visit, root / "report/index.html")
    current = page.locator(".toc a[aria-current]")
    for place in ("table04", "again", "claims"):
        page.evaluate(f"document.getElementById('{place}').scrollIntoView()")
        page.locator(f".toc a[aria-current][href='#{place}']").wait_for(state="attached")
        assert current.count() == 1
        box = current.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= 400, place


def test_the_focus_is_always_to_be_seen(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    seen = set()
    for _ in range(400):
        page.keyboard.press("Tab")
        tag, width, name = page.evaluate(
            "(e => [e.tagName, getComputedStyle(e).outlineWidth, e.className])(document.activeElement)"
        )
        if tag == "BODY":
            break
        seen.add((tag, name))
        assert width == "3px", (tag, name)
    assert {"A", "BUTTON", "INPUT", "DIV", "SUMMARY"} <= {tag for tag, _ in seen}
    assert {name for _, name in seen} >= {"copy", "enlarge", "skip", "scroll"}


def test_a_command_is_copied(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    page.evaluate("""() => {
      window.copied = [];
      document.addEventListener("copy", () => copied.push(getSelection().toString()));
      Object.defineProperty(navigator, "clipboard", { value: { writeText: async text => { copied.push(text); } } });
    }""")
    button = page.locator(".copy").first
    button.click()
    assert page.evaluate("copied") == ["dvc repro ablations claims"]
    assert page.locator("#said").inner_text() == "Copied: dvc repro ablations claims"
    # Where a browser gives pages from disk no clipboard, the old way is tried.
    page.evaluate("navigator.clipboard.writeText = undefined")
    button.click()
    assert page.evaluate("copied") == ["dvc repro ablations claims"] * 2


def test_a_figure_is_enlarged_and_closed_by_keyboard(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    dialog = page.locator("dialog")
    page.locator(".enlarge").first.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("src") == page.locator(".plate img").first.get_attribute("src")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_pictures_are_decoded(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    sizes = page.evaluate("[...document.querySelectorAll('main img[src]')].map(i => i.complete && i.naturalWidth)")
    assert len(sizes) == pages.PICTURES and all(sizes)


def test_the_link_to_hardware_leads_to_a_page_that_leads_back(visit: Visit, root: Path) -> None:
    page = _open(visit, root / "report/index.html")
    page.locator("header").get_by_role("link", name="logs/runtime.html").click()
    assert page.url == (root / "logs/runtime.html").as_uri()
    page.get_by_role("button", name="Duration").click()
    assert _column(page, "table", 1) == ["report", "figures"]
    page.get_by_role("link", name="report").click()
    assert page.url == (root / "report/index.html").as_uri()


def test_without_a_script_all_content_is_there(browser: Browser, root: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((root / "report/index.html").as_uri())
    assert page.locator(".toc a").first.is_visible() and page.locator("table").count() == 15
    assert not page.locator("#theme").is_visible() and not page.locator(".copy").first.is_visible()
    fill = page.locator(".fill").first
    assert fill.locator(".guess img:visible").get_attribute("data-pass") == "pass 4 of 4"
    assert not fill.locator("input").is_visible(), "no slider that moves nothing"
    context.close()
