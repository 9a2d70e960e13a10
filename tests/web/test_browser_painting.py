"""Filling in and extending in a real browser: by pointer, finger and keyboard; nothing but what was meant changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.web import Limits

from ..browsers import CONTRAST, PHONE, Visit, size
from ..restoration import hostile
from . import servers
from .pages import HEIGHT, WIDTH, done, downloaded, give, opened, pixels, problem, shown, tabbed
from .test_api import taken

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.usefixtures("browser")
LIMITS = Limits(painted=5_000_000)
Point = tuple[float, float]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with servers.serving(servers.darker(), LIMITS, servers.painter()) as address:
        yield address


def grey(width: int = WIDTH, height: int = HEIGHT, format: str = "PNG") -> bytes:
    return hostile.saved(Image.new("RGB", (width, height), (200, 200, 200)), format)


def go(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def place(page: Page, x: float, y: float) -> Point:
    """On the screen, of a place on the photo in shares of its sides."""
    box = page.locator("#paint").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def paint(page: Page, *points: Point) -> None:
    """A stroke of the mouse."""
    page.mouse.move(*place(page, *points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(page, *point), steps=5)
    page.mouse.up()


def field(page: Page, name: str) -> Locator:
    """For a number."""
    return page.get_by_role("spinbutton", name=name, exact=True)


def box(page: Page, left: int, top: int, width: int, height: int) -> None:
    """Mark a rectangle by numbers."""
    if not page.locator("#box-left").is_visible():
        page.get_by_text("Mark a rectangle by numbers").click()
    for name, value in zip(
        ("From the left", "From the top", "Width", "Height"), (left, top, width, height), strict=True
    ):
        field(page, name).fill(str(value))
    page.locator("#mark").click()


def marked(visit: Visit, url: str) -> Page:
    """A grey photo with a rectangle marked in it."""
    page = opened(visit, url)
    go(page, "Fill in")
    give(page, grey())
    page.locator("#paint").wait_for()
    box(page, 10, 10, 20, 20)
    return page


def fill(page: Page) -> None:
    page.get_by_role("button", name="Fill in", exact=True).click()
    done(page)


def changed(before: bytes, after: bytes) -> np.ndarray:
    """Which pixels differ, bool (H, W)."""
    return (pixels(before) != pixels(after)).any(axis=2)


def inside(left: int, top: int, width: int, height: int, of: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """The pixels of a rectangle, bool (H, W)."""
    found = np.zeros(of, dtype=bool)
    found[top : top + height, left : left + width] = True
    return found


def test_a_photo_chosen_before_the_server_has_answered_can_be_painted_on(visit: Visit, url: str) -> None:
    page, held = visit.page, []
    page.route("**/api/about", lambda route: held.append(route))
    with page.expect_request("**/api/about"):
        page.goto(url, wait_until="commit")
    give(page, grey())
    page.locator("#caption").filter(has_text=f"{WIDTH} x {HEIGHT}").wait_for()
    held[-1].continue_()
    go(page, "Fill in")
    page.locator("#diameter").filter(has_text="9 px").wait_for()
    box(page, 20, 20, 60, 40)
    page.locator("#marked").filter(has_text="22 % of the photograph is marked.").wait_for()
    fill(page)


def test_a_stroke_is_filled_in_compared_and_downloaded(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    go(page, "Fill in")
    assert page.get_by_text("The denoiser was trained at 32 x 32 px.").first.is_visible()
    sent = give(page, grey())
    page.locator("#paint").wait_for()
    page.get_by_label("Size of the brush").fill("20")
    assert page.locator("#diameter").inner_text() == "18 px"
    before = shown(page)
    paint(page, (0.25, 0.5), (0.75, 0.5))
    page.locator("#marked").filter(has_text="12 % of the photograph is marked.").wait_for()
    page.mouse.move(0, 0)
    marked = np.abs(shown(page) - before).max(axis=2) > 30
    rows = np.flatnonzero(marked.any(axis=1)) / len(marked)
    assert rows[0] == pytest.approx(0.4, abs=0.03) and rows[-1] == pytest.approx(0.6, abs=0.03), (
        "what is painted is seen"
    )
    fill(page)
    said = page.locator("#painted").inner_text()
    assert "Filling 1" in said and "Filled at 32 px and enlarged 3.8 times: it has no finer detail than that." in said
    assert not page.locator("#paint").is_visible() and page.get_by_role("button", name="Back to painting").is_visible()
    # To the left of the divider the photo is as it was.
    page.locator("#at").focus()
    page.keyboard.press("End")
    assert np.abs(shown(page)[4:-60, 20:-20] - 200).max() <= 12, "but for the handle's shadow"
    page.keyboard.press("Home")
    seen = np.abs(shown(page)[4:-60, 20:-20] - 200).max(axis=2) > 12
    assert seen.any() and not seen[: len(seen) // 3].any()
    name, content = downloaded(page)
    assert name == "photo-inpainted.png"
    found = changed(sent, content)
    # Half of the height and a brush of 18 px: from the 36th to the 54th row, rounded ends.
    assert found.any() and not (found & ~inside(20, 35, 80, 20)).any()
    assert found[38:52, 31:89].mean() > 0.95, "all of what was painted is filled in"


def test_eraser_undo_and_clear(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    go(page, "Fill in")
    sent = give(page, grey())
    page.locator("#paint").wait_for()
    undo, clear = page.get_by_role("button", name="Undo"), page.get_by_role("button", name="Clear")
    assert (
        undo.is_disabled() and clear.is_disabled() and page.locator("#marked").inner_text() == "Nothing is marked yet."
    )
    box(page, 0, 0, 60, 90)
    assert page.locator("#marked").inner_text() == "50 % of the photograph is marked."
    page.get_by_role("button", name="Eraser").click()
    assert page.locator("#mark").inner_text() == "Unmark the rectangle"
    box(page, 0, 0, 30, 90)
    assert page.locator("#marked").inner_text() == "25 % of the photograph is marked."
    page.get_by_label("Size of the brush").fill("40")
    paint(page, (0.375, 0.0), (0.375, 1.0))
    assert page.locator("#marked").inner_text() == "Nothing is marked yet.", "what is left of it is rubbed out"
    page.keyboard.press("Control+z")
    assert page.locator("#marked").inner_text() == "25 % of the photograph is marked."
    fill(page)
    found = changed(sent, downloaded(page)[1])
    assert found[:, 30:60].mean() > 0.95 and not (found & ~inside(30, 0, 30, 90)).any()
    # Painting on begins where it ended.
    page.get_by_role("button", name="Back to painting").click()
    assert page.locator("#paint").is_visible() and page.locator("#download").is_hidden()
    undo.click()
    assert page.locator("#marked").inner_text() == "50 % of the photograph is marked."
    clear.click()
    assert undo.is_disabled() and page.locator("#marked").inner_text() == "Nothing is marked yet."


def test_without_a_pointer_a_rectangle_is_filled_in(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    sent = give(page)
    page.get_by_text("photo.png, 120 x 90").wait_for()
    press = page.keyboard.press
    page.get_by_role("tab", name="Restore").focus()
    press("ArrowRight")
    page.locator("#tab-fill:focus").wait_for()
    for _ in range(20):
        press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    press("Enter")
    for value in ("70", "20", "31", "43"):
        press("Tab")
        page.keyboard.type(value)  # what a field holds is selected when it is reached
    assert page.locator("#box").is_visible(), "the rectangle is seen before it is marked"
    press("Enter")
    page.locator("#marked").filter(has_text="12 % of the photograph is marked.").wait_for()
    page.locator("#fill").focus()
    press("Enter")
    done(page)
    found = changed(sent, downloaded(page)[1])
    assert not (found & ~inside(70, 20, 31, 43)).any() and found[20:63, 70:101].mean() > 0.95


def test_a_finger_paints_and_a_second_one_takes_its_stroke_back(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    go(page, "Fill in")
    give(page, grey())
    page.locator("#paint").wait_for()
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, *points: Point) -> None:
        found = [{"x": x, "y": y} for x, y in (place(page, *point) for point in points)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": found})

    fingers("touchStart", (0.2, 0.2))
    for step in range(1, 8):
        fingers("touchMove", (0.2 + 0.05 * step, 0.2 + 0.05 * step))
    fingers("touchEnd")
    page.locator("#marked").filter(has_text="% of the photograph is marked.").wait_for()
    marked = page.locator("#marked").inner_text()
    assert page.locator("#tip").is_hidden() and page.evaluate("scrollY") == 0
    page.dispatch_event(
        "#paint", "pointerdown", {"isPrimary": True, "button": 0, "pointerId": 1, "clientX": 300, "clientY": 300}
    )
    page.dispatch_event("#paint", "pointercancel", {"isPrimary": True, "pointerId": 1})
    assert page.locator("#marked").inner_text() == marked


def test_a_mask_has_the_photos_size_however_large_it_is(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    go(page, "Fill in")
    width, height = 2001, 2100  # more than is drawn at a time, and a width that fills no whole bytes
    sent = give(page, grey(width, height))
    page.get_by_text(f"photo.png, {width} x {height}").wait_for()
    box(page, 1990, 1990, 11, 20)
    page.locator("#marked").filter(has_text="less than 1 % of the photograph is marked.").wait_for()
    box(page, 3, 0, 9, 5)
    fill(page)
    found = changed(sent, downloaded(page)[1])
    meant = inside(1990, 1990, 11, 20, found.shape) | inside(3, 0, 9, 5, found.shape)
    assert not (found & ~meant).any() and found[meant].mean() > 0.95


def test_a_photo_is_extended_by_what_the_frame_shows(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    go(page, "Extend")
    sent = give(page, grey())
    page.get_by_text("180 x 90").wait_for()
    assert field(page, "Left").get_attribute("max") == "120" and field(page, "Top").get_attribute("max") == "90"
    for side, value in {"Left": 40, "Right": 0, "Top": 30, "Bottom": 0}.items():
        field(page, side).fill(str(value))
    page.get_by_text("160 x 120").wait_for()
    frame, whole = page.locator("#before").bounding_box(), page.locator("#stage").bounding_box()
    assert frame is not None and whole is not None
    across, down = (frame["x"] - whole["x"]) / whole["width"], (frame["y"] - whole["y"]) / whole["height"]
    assert (across, down) == (pytest.approx(0.25, abs=0.01), pytest.approx(0.25, abs=0.01))
    seen = shown(page)
    assert len(np.unique(seen[: len(seen) // 5].reshape(-1, 3), axis=0)) > 1, "what is added is hatched"
    page.get_by_role("button", name="Extend", exact=True).click()
    done(page)
    assert "Filled at 32 px and enlarged" in page.locator("#painted").inner_text()
    name, content = downloaded(page)
    after = pixels(content)
    assert name == "photo-outpainted.png" and after.shape == (120, 160, 3)
    assert np.array_equal(after[30:, 40:], pixels(sent)) and np.abs(after[:30] - 200).max() > 5
    # Another number asks for something else: what was made by the one before is not shown as if it followed from it.
    field(page, "Top").fill("10")
    assert page.locator("#download").is_hidden() and page.get_by_text("160 x 100").is_visible()


def test_another_filling_and_the_one_before(visit: Visit, url: str) -> None:
    page = marked(visit, url)
    fill(page)
    first = downloaded(page)[1]
    assert page.get_by_role("button", name="The one before").is_hidden()
    page.get_by_role("button", name="Another filling").click()
    page.get_by_text("Filling 2").wait_for()
    done(page)
    assert downloaded(page)[1] != first
    page.get_by_role("button", name="The one before").click()
    page.get_by_text("Filling 1").wait_for()
    done(page)
    assert downloaded(page)[1] == first
    page.get_by_role("button", name="Go on with the result").click()
    page.get_by_text("photo-inpainted.png, 120 x 90").wait_for()
    assert page.locator("#download").is_hidden() and page.locator("#marked").inner_text() == "Nothing is marked yet."
    box(page, 60, 60, 10, 10)
    fill(page)
    assert not (changed(first, downloaded(page)[1]) & ~inside(60, 60, 10, 10)).any()


# ---- tabs


def test_tabs_move_by_arrow_keys_and_each_keeps_its_result(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    tabs = page.get_by_role("tab")
    assert tabs.all_inner_texts() == ["Restore", "Fill in", "Extend"]

    def chosen() -> tuple[list[str], str, str]:
        states = [tab.get_attribute("aria-selected") or "" for tab in tabs.all()]
        assert [tab.get_attribute("tabindex") or "0" for tab in tabs.all()].count("0") == states.count("true") == 1
        (panel,) = page.get_by_role("tabpanel").all()
        return states, panel.get_attribute("id") or "", page.locator(":focus").inner_text()

    tabs.first.click()
    for key, at, panel, words in (
        ("ArrowRight", 1, "fill-panel", "Fill in"),
        ("ArrowRight", 2, "extend-panel", "Extend"),
        ("ArrowRight", 0, "restore-panel", "Restore"),
        ("ArrowLeft", 2, "extend-panel", "Extend"),
        ("Home", 0, "restore-panel", "Restore"),
        ("End", 2, "extend-panel", "Extend"),
    ):
        page.keyboard.press(key)
        assert chosen() == (["true" if number == at else "false" for number in range(3)], panel, words)
        assert page.title() == page.locator("h1").inner_text() == f"{words} a photograph"
    page.keyboard.press("Home")
    give(page, grey())
    page.get_by_role("button", name="Rain", exact=True).click()
    done(page)
    restored = downloaded(page)
    go(page, "Extend")
    assert page.locator("#download").is_hidden() and page.locator("#divide").is_hidden()
    assert np.abs(pixels(page.locator("#before").screenshot())[4:-4, 4:-4] - 200).max() <= 2, (
        "it begins with the photo as it was"
    )
    go(page, "Restore")
    assert downloaded(page) == restored and page.locator("#understood").is_visible()


def test_without_a_denoiser_there_are_no_tabs(visit: Visit) -> None:
    with servers.serving(servers.darker()) as url:
        page = opened(visit, url)
        assert page.get_by_role("tab").count() == 0 and page.get_by_role("tabpanel").count() == 0
        assert "filled in" not in page.locator("footer").inner_text()
        give(page)
        page.get_by_role("button", name="Rain", exact=True).click()
        done(page)


def test_what_the_denoiser_does_not_know_has_no_tab(visit: Visit) -> None:
    with servers.serving(servers.darker(), None, servers.painter(("inpaint",))) as url:
        assert opened(visit, url).get_by_role("tab").all_inner_texts() == ["Restore", "Fill in"]


def test_work_is_shown_goes_on_in_another_tab_and_can_be_cancelled(visit: Visit) -> None:
    with servers.serving(servers.darker(), None, servers.paced_painter()) as url:
        page = opened(visit, url)
        go(page, "Fill in")
        give(page, grey())
        page.locator("#paint").wait_for()
        box(page, 10, 10, 20, 20)
        page.locator("#fill").click()
        servers.begun()
        servers.one_more()
        page.get_by_text("Filling in: pass 2 of 2").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.locator("#progress").wait_for(state="hidden")
        assert page.get_by_role("alert").is_hidden() and page.locator("#paint").is_visible()
        servers.Paced.gate.set()
        servers.until(lambda: taken(url) == 0)
        assert servers.Paced.tiles == 2

        servers.Paced.gate.clear()
        page.locator("#fill").click()
        servers.begun()
        go(page, "Extend")
        servers.Paced.gate.set()
        page.get_by_text("It is to be seen in its own tab.").wait_for(state="attached")
        assert page.locator("#download").is_hidden()
        go(page, "Fill in")
        assert downloaded(page)[0] == "photo-inpainted.png"


# ---- refusals


def test_what_cannot_be_done_is_said_before_anything_is_sent(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    go(page, "Fill in")
    page.locator("#fill").click()
    problem(page, "Choose a photograph first.")
    give(page, grey())
    page.locator("#paint").wait_for()
    page.locator("#fill").click()
    problem(page, "Paint over what shall be replaced first.")
    box(page, 0, 0, 120, 90)
    page.locator("#fill").click()
    problem(page, "Everything is painted over")
    box(page, 0, 0, 121, 90)
    problem(page, "Width: give a whole number from 1 to 120.")
    box(page, -1, 0, 12, 9)
    problem(page, "From the left: give a whole number from 0 to 119.")
    go(page, "Extend")
    assert page.get_by_role("alert").is_hidden()
    add = page.get_by_role("button", name="Extend", exact=True)
    for side in ("Left", "Right"):
        field(page, side).fill("0")
    add.click()
    problem(page, "Say at one side at least how many px shall be added.")
    for value, side in (("1.5", "Bottom"), ("91", "Top"), ("", "Left")):
        field(page, side).fill(value)
        add.click()
        problem(page, f"{side}: give a whole number from 0 to")
        field(page, side).fill("0")
    give(page, grey(format="TIFF"), "scan.tif", "image/tiff")
    page.get_by_text("Your browser does not show this kind of file").wait_for()
    add.click()
    problem(page, "Your browser does not show scan.tif, so nothing can be placed on it.")
    give(page, grey(2500, 2100))
    page.get_by_text("photo.png, 2500 x 2100").wait_for()
    add.click()
    problem(page, "photo.png has 2500 x 2100 pixels; at most 5 megapixels are painted in.")
    give(page, grey(2000, 2000))
    page.get_by_text("photo.png, 2000 x 2000").wait_for()
    add.click()
    problem(page, "The result would have 3000 x 2000 pixels; at most 5 megapixels are painted in.")
    assert not any("paint/live" in asked for asked in visit.requests)


def test_what_the_server_refuses_is_to_be_read(visit: Visit, url: str) -> None:
    page = marked(visit, url)
    page.evaluate("""() => {
      const send = window.fetch;
      window.fetch = (path, options) => send(path.replace("photo_bytes=", "photo_bytes=9"), options);
    }""")
    page.locator("#fill").click()
    problem(page, "send the photo's bytes and behind them those of the mask")
    assert (
        page.locator("#paint").is_visible()
        and page.locator("#marked").inner_text() == "4 % of the photograph is marked."
    )


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_level_aa(visit: Visit, url: str, scheme: str) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    page = opened(visit, url)
    for tab in ("Fill in", "Extend"):
        go(page, tab)
        assert page.evaluate(CONTRAST)["found"] == []
    give(page, servers.photo("JPEG", WIDTH, HEIGHT), "photo.jpg", "image/jpeg")
    page.get_by_text("photo.jpg, 120 x 90").wait_for()
    page.get_by_role("button", name="Extend", exact=True).click()
    done(page)
    assert page.get_by_text("As JPEG everything is compressed anew").is_visible()
    assert page.evaluate(CONTRAST)["found"] == []
    go(page, "Fill in")
    box(page, 10, 10, 20, 20)
    fill(page)
    result = page.evaluate(CONTRAST)
    assert result["texts"] > 20 and result["found"] == []


def test_a_phone_shows_it_without_scrolling_sideways(visit: Visit, url: str) -> None:
    visit.page.set_viewport_size(size(PHONE))
    page = opened(visit, url)
    wider = """() => [...document.querySelectorAll("body *:not(.unseen, .skip)")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    give(page, servers.photo("JPEG", 190, 100), f"{'a very long name ' * 12}.jpg", "image/jpeg")
    for tab in ("Fill in", "Extend"):
        go(page, tab)
        if tab == "Fill in":
            box(page, 10, 10, 20, 20)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0] and page.evaluate(wider) == []
        page.locator("#fill, #add button").locator("visible=true").click()
        done(page)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0] and page.evaluate(wider) == []


def test_the_focus_is_always_to_be_seen_and_everything_has_a_name(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page)
    page.get_by_text("photo.png, 120 x 90").wait_for()
    seen = set()
    for tab in ("Fill in", "Extend"):
        go(page, tab)
        if tab == "Fill in":
            box(page, 10, 10, 20, 20)
            fill(page)
        seen |= tabbed(page)
    assert {"tab-fill", "tab-extend", "brush", "eraser", "undo", "clear", "size", "box-left", "box-height"} <= seen
    assert {"mark", "fill", "repaint", "another", "keep", "download", "at", "top", "right", "bottom", "left"} <= seen
