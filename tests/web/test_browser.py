"""The page in a real browser: what a person can do with it works, by keyboard too, and every refusal is to be seen."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.web import Limits

from ..browsers import CONTRAST, PHONE, Visit, size
from ..restoration import hostile, nets
from . import servers
from .pages import HEIGHT, WIDTH, done, downloaded, give, opened, pixels, problem, shown, tabbed

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.usefixtures("browser")
LIMITS = Limits(bytes=100_000, pixels=20_000)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with servers.serving(servers.darker(), LIMITS) as address:
        yield address


def _ask(page: Page, words: str) -> None:
    page.get_by_label("What is wrong with it?").fill(words)
    page.keyboard.press("Enter")


def _light(page: Page) -> tuple[float, float]:
    """Mean brightness near the left and near the right edge of the picture."""
    seen = shown(page)
    # Above the divider's handle and the two tags.
    return float(seen[10:70, 8:24].mean()), float(seen[10:70, -24:-8].mean())


GREY = hostile.saved(Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 200)), "PNG")


def test_a_sentence_restores_the_photo_and_the_divider_moves_by_keyboard(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page, GREY)
    _ask(page, "take the rain off, gently")
    done(page)
    assert page.locator("#understood").inner_text().split() == [
        *("Understood", "Noise", "25", "%", "Rain", "75", "%", "Strength", "0.5"),
        *page.locator("#strength-note").inner_text().split(),
    ]
    page.locator("#at").focus()
    left, right = _light(page)
    assert left == pytest.approx(200, abs=3) and right == pytest.approx(150, abs=3)
    page.keyboard.press("Home")
    assert _light(page)[0] == pytest.approx(150, abs=3)
    page.keyboard.press("End")
    assert _light(page)[1] == pytest.approx(200, abs=3)
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#at").input_value() == "50" and _light(page) == pytest.approx((left, right), abs=3)


def test_the_divider_follows_the_pointer(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page)
    page.get_by_role("button", name="Haze").click()
    done(page)
    box = page.locator("#stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 20)
    page.mouse.up()
    assert page.locator("#at").input_value() == "25"


def test_another_strength_is_rendered_anew_from_the_photo_that_the_page_holds(visit: Visit, url: str) -> None:
    visit.page.clock.install()
    page = opened(visit, url)
    sent = give(page)
    page.get_by_role("button", name="Snow").click()
    done(page)
    assert page.get_by_role("button", name="Snow").get_attribute("aria-pressed") == "true"
    first = downloaded(page)[1]
    assert np.abs(pixels(first) - pixels(sent) * 0.5).max() <= 1
    page.get_by_label("Strength").focus()
    before = page.locator("#download").get_attribute("href") or ""
    # From here on time passes only as the test says, however slow the machine is.
    page.clock.pause_at(page.evaluate("Date.now()") / 1000 + 60)
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
        page.clock.run_for(300)
    page.clock.run_for(200)
    page.clock.resume()
    page.locator(f"#download:not([href='{before}'])").wait_for()
    done(page)
    assert page.locator("#amount").inner_text() == "0.8"
    assert np.abs(pixels(downloaded(page)[1]) - pixels(sent) * 0.6).max() <= 1
    strengths = re.findall(r"strength=([\d.]+)", " ".join(visit.requests))
    assert strengths == ["1", "0.8"], "the steps between were not rendered"


@pytest.mark.parametrize(("format", "suffix"), [("JPEG", "jpg"), ("WEBP", "webp"), ("PNG", "png")])
def test_the_download_has_the_photos_own_format(visit: Visit, url: str, format: str, suffix: str) -> None:
    page = opened(visit, url)
    give(page, servers.photo(format, WIDTH, HEIGHT), f"../My photo.{suffix}", f"image/{format.lower()}")
    page.get_by_role("button", name="Rain", exact=True).click()
    done(page)
    name, content = downloaded(page)
    assert name == f"My photo-restored.{suffix}"
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == format and image.size == (WIDTH, HEIGHT)


def test_a_tiff_which_no_browser_shows_is_shown_once_it_is_restored(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page, hostile.saved(Image.open(io.BytesIO(GREY)), "TIFF"), "scan.tif", "image/tiff")
    page.get_by_text("Your browser does not show this kind of file").wait_for()
    page.get_by_role("button", name="Rain", exact=True).click()
    done(page)
    assert not page.get_by_text("Your browser does not show this kind of file").is_visible()
    assert _light(page) == (pytest.approx(200, abs=3), pytest.approx(100, abs=3))
    name, content = downloaded(page)
    with Image.open(io.BytesIO(content)) as image:
        assert name == "scan-restored.tif" and image.format == "TIFF"


def test_a_guess_is_shown_and_done_only_when_it_is_agreed_to(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page)
    page.get_by_role("button", name="Guess from the photograph").click()
    agree = page.get_by_role("button", name="Restore with this guess")
    agree.wait_for()
    assert "Guessed" in page.locator("#understood").inner_text() and "80 %" in page.locator("#weights").inner_text()
    assert page.get_by_text("The guess is often wrong").is_visible()
    assert not page.locator("#download").is_visible() and not any("restore" in url for url in visit.requests)
    page.locator("#go:focus").wait_for()
    page.keyboard.press("Enter")
    done(page)
    assert not agree.is_visible() and page.get_by_text("The guess is often wrong").is_visible()


def test_an_example_is_a_click(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page)
    page.get_by_role("button", name="remove the rain").click()
    done(page)
    assert page.get_by_label("What is wrong with it?").input_value() == "remove the rain"


def test_a_photo_is_dropped_and_another_takes_its_place(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    drop = """([bytes, name]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
      document.getElementById("drop").parentElement
        .dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop, [list(servers.photo(width=WIDTH, height=HEIGHT)), "first.png"])
    page.get_by_text(f"first.png, {WIDTH} x {HEIGHT}").wait_for()
    page.get_by_role("button", name="Noise", exact=True).click()
    done(page)
    page.evaluate(drop, [list(servers.photo(width=60, height=50)), "second.png"])
    page.get_by_text("second.png, 60 x 50").wait_for()
    assert not page.locator("#download").is_visible() and not page.locator("#understood").is_visible()
    page.get_by_role("button", name="Another photograph").click()
    assert page.get_by_text("Drop a photograph here").is_visible()
    assert page.evaluate("document.activeElement.id") == "file"


def test_actual_size_shows_pixel_for_pixel_and_scrolls(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    page.set_viewport_size(size(PHONE))
    give(page, servers.photo("JPEG", 1000, 20), "wide.jpg", "image/jpeg")
    page.get_by_role("button", name="Noise", exact=True).click()
    done(page)
    page.get_by_role("button", name="Actual size").click()
    assert page.evaluate("document.getElementById('stage').clientWidth") == 1000
    assert page.evaluate("document.getElementById('frame').scrollLeft") > 200
    at = "parseFloat(getComputedStyle(document.getElementById('stage')).getPropertyValue('--at'))"
    assert page.evaluate(at) == pytest.approx(50, abs=0.5)
    page.locator("#at").focus()
    page.keyboard.press("Home")
    assert 20 < page.evaluate(at) < 45, "the divider stands at the edge of what is seen"
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0]


# ---- refusals


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        (bytes(LIMITS.bytes + 1), "large.jpg", "large.jpg has 0.1 MB; at most 0.1 MB are taken"),
        (b"", "none.png", "none.png is empty"),
        (servers.photo(width=201, height=100), "many.png", "has 201 x 100 pixels; at most 0.02 megapixels"),
    ],
)
def test_what_the_page_knows_to_be_refused_is_not_sent(
    visit: Visit, url: str, content: bytes, name: str, words: str
) -> None:
    page = opened(visit, url)
    give(page, content, name)
    problem(page, words)
    assert page.get_by_text("Drop a photograph here").is_visible()


@pytest.mark.parametrize(
    ("content", "button", "words"),
    [
        (b"these are words", "Noise", "The photo cannot be used: it is no PNG, JPEG"),
        (servers.photo(width=WIDTH, height=HEIGHT)[:-900], "Noise", "The photo cannot be used: it is damaged"),
        (GREY, "Guess from the photograph", "seems undamaged"),
    ],
)
def test_what_the_server_refuses_is_to_be_read(visit: Visit, url: str, content: bytes, button: str, words: str) -> None:
    page = opened(visit, url)
    give(page, content)
    page.get_by_role("button", name=button, exact=True).click()
    problem(page, words)
    give(page)
    assert page.get_by_role("alert").is_hidden()
    page.get_by_role("button", name="Noise", exact=True).click()
    done(page)


def test_the_servers_limits_hold_where_the_pages_are_got_round(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page)
    # The browser says that the file is small; its bytes are more than that.
    page.evaluate(
        """count => {
      const send = window.fetch;
      window.fetch = (path, options) => send(path, { ...options, body: new Uint8Array(count) });
    }""",
        LIMITS.bytes + 1,
    )
    page.get_by_role("button", name="Noise", exact=True).click()
    problem(page, "The upload is larger than the 0.1 MB that are allowed")


def test_a_refused_sentence_says_what_is_possible_and_the_result_before_it_stays(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    _ask(page, "the rain")
    problem(page, "Choose a photograph first.")
    give(page)
    _ask(page, "  ")
    problem(page, "Say what is wrong, or pick it.")
    _ask(page, "the rain")
    done(page)
    _ask(page, "make it nicer")
    problem(page, "I can remove noise, blur, rain, haze or snow")
    assert page.locator("#download").is_visible() and "75 %" in page.locator("#weights").inner_text()


def test_a_full_line_and_a_server_that_is_gone_are_said(visit: Visit) -> None:
    with servers.serving(servers.paced(), Limits(waiting=0)) as url, visit.page.context.new_page() as other:
        other.goto(url)
        give(other)
        other.get_by_role("button", name="Noise", exact=True).click()
        servers.begun()
        page = opened(visit, url)
        give(page)
        page.get_by_role("button", name="Noise", exact=True).click()
        problem(page, "The server is busy and its line is full (places: 1); try again in")
        servers.Paced.gate.set()
        done(other)
        page.get_by_role("button", name="Noise", exact=True).click()
        done(page)
    page.get_by_role("button", name="Rain", exact=True).click()
    problem(page, "The server does not answer. Is ipt serve still running?")
    visit.complaints = [text for text in visit.complaints if "ERR_CONNECTION_REFUSED" not in text]


def test_a_photo_that_takes_too_long_is_said(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    with servers.serving(servers.paced(), Limits(seconds=100)) as url:
        page = opened(visit, url)
        give(page, servers.photo(width=900, height=40))
        page.get_by_role("button", name="Noise", exact=True).click()
        servers.begun()
        servers.later(monkeypatch, 101)
        servers.Paced.gate.set()
        problem(page, "longer than the 100 s that are allowed (1 of 2 parts were done)")


def test_progress_is_shown_and_cancelling_stops_the_work(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    noticed = servers.leaving(monkeypatch)
    with servers.serving(servers.paced()) as url:
        page = opened(visit, url)
        give(page, servers.photo(width=900, height=40))
        page.get_by_role("button", name="Noise", exact=True).click()
        page.get_by_text("Restoring part 1 of 2").wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.locator("#progress").wait_for(state="hidden")
        assert page.get_by_role("alert").is_hidden() and not page.locator("#download").is_visible()
        # The next one waits until the tile in work is finished; the other tile is not begun.
        page.get_by_role("button", name="Rain", exact=True).click()
        page.get_by_text("Waiting: 1 photograph ahead").wait_for()
        assert noticed.wait(60)
        servers.Paced.gate.set()
        done(page)
        assert servers.Paced.tiles == 1 + 2


# ---- for everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_level_aa(visit: Visit, url: str, scheme: str) -> None:
    visit.page.emulate_media(color_scheme=scheme)
    page = opened(visit, url)
    assert page.evaluate(CONTRAST)["found"] == []
    give(page)
    page.get_by_role("button", name="Guess from the photograph").click()
    page.locator("#go").wait_for()
    page.keyboard.press("Enter")
    done(page)
    _ask(page, "make it nicer")
    problem(page, "I can remove")
    result = page.evaluate(CONTRAST)
    assert result["texts"] > 20 and result["found"] == []


def test_a_phone_shows_it_without_scrolling_sideways(visit: Visit, url: str) -> None:
    visit.page.set_viewport_size(size(PHONE))
    page = opened(visit, url)
    wider = """() => [...document.querySelectorAll("body *:not(.unseen, .skip)")]
      .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0] and page.evaluate(wider) == []
    give(page, servers.photo("JPEG", 190, 100), f"{'a very long name ' * 12}.jpg", "image/jpeg")
    _ask(page, "the rain")
    done(page)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE[0] and page.evaluate(wider) == []


def test_the_focus_is_always_to_be_seen_and_everything_has_a_name(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    give(page)
    _ask(page, "the rain")
    done(page)
    assert {"theme", "at", "download", "close", "other", "instruction", "guess", "strength"} <= tabbed(page)
    assert page.evaluate("[...document.images].every(i => i.alt.includes('photo.png'))")


def test_dark_and_light_follow_the_system_and_the_switch(visit: Visit, url: str) -> None:
    page = opened(visit, url)
    colour = "getComputedStyle(document.body).backgroundColor"
    light, switch = page.evaluate(colour), page.get_by_role("button", name="Dark")
    switch.click()
    dark = page.evaluate(colour)
    assert dark != light and switch.get_attribute("aria-pressed") == "true"
    page.reload()
    assert page.evaluate(colour) == dark, "the choice is kept"
    switch.click()
    assert page.evaluate(colour) == light


def test_what_cannot_be_asked_is_not_offered(visit: Visit) -> None:
    with servers.serving(nets.tiny_restorer()) as url:
        page = opened(visit, url)
        assert page.locator("#say").is_hidden() and page.locator("#unsure").is_hidden()
        assert page.get_by_role("heading", name="What is wrong with it?").is_visible()
        give(page)
        page.get_by_role("button", name="Blur").click()
        done(page)
