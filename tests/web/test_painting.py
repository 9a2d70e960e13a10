"""Filling in and extending over HTTP: known pixels keep their bits, every refusal, the end of work nobody waits for."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image

from instruct_ipt.restoration.filling import Sides, extend_picture, fill_picture
from instruct_ipt.restoration.pictures import Picture
from instruct_ipt.web import Limits

from ..restoration import hostile
from . import servers
from .test_api import live, pixels, raw, taken

LIMITS = Limits(bytes=40_000, pixels=20_000, painted=10_000, mask_bytes=2_000, areas=5)
PHOTO, MASK = servers.photo(), servers.mask()
MISSING = pixels(MASK).astype(bool)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with servers.serving(servers.tiny(), LIMITS, servers.painter()) as address:
        yield address


@pytest.fixture(scope="module")
def bare() -> Iterator[str]:
    """A server without a denoiser."""
    with servers.serving(servers.tiny(), LIMITS) as address:
        yield address


def inpaint(
    url: str, photo: bytes = PHOTO, mask: bytes = MASK, way: str = "", length: object = None, **query: object
) -> requests.Response:
    """Have a photo filled in; `length` is what is said of the photo's."""
    query["photo_bytes"] = len(photo) if length is None else length
    return requests.post(f"{url}/api/inpaint{way}", data=photo + mask, params=query)


def outpaint(url: str, photo: bytes = PHOTO, way: str = "", **query: object) -> requests.Response:
    return requests.post(f"{url}/api/outpaint{way}", data=photo, params=query)


def refused(answer: requests.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and words in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_a_photo_is_filled_in_and_every_other_pixel_keeps_its_bits(url):
    answer = inpaint(url, name="a.b.png", seed=3)
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    before, after = pixels(PHOTO), pixels(answer.content)
    assert np.array_equal(after[~MISSING], before[~MISSING]) and (after[MISSING] != before[MISSING]).any()
    expected, painted = fill_picture(servers.painter(), Picture(before, "RGB"), MISSING, seed=3)
    assert np.array_equal(after, expected.pixels)
    assert answer.headers["x-ipt-painted"] == str(painted) == "filled at full resolution (trained on 32 x 32 px)"
    assert answer.headers["x-ipt-seed"] == "3" and answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-disposition"].endswith("''a.b-inpainted.png")


def test_another_seed_is_another_filling_and_the_same_is_the_same(url):
    first, again, other = (inpaint(url, seed=seed).content for seed in (0, 0, 1))
    assert first == again and not np.array_equal(pixels(first), pixels(other))
    assert inpaint(url).content == first and inpaint(url, steps=1).content != first


def test_a_photo_is_extended_and_what_was_there_keeps_its_bits(url):
    answer = outpaint(url, top=5, right=12, left=7, name="a.png")
    before, after = pixels(PHOTO), pixels(answer.content)
    assert after.shape == (24 + 5, 32 + 12 + 7, 3) and np.array_equal(after[5:, 7:-12], before)
    expected, painted = extend_picture(servers.painter(), Picture(before, "RGB"), Sides(top=5, right=12, left=7))
    assert np.array_equal(after, expected.pixels)
    assert answer.headers["x-ipt-painted"] == str(painted)
    assert answer.headers["content-disposition"].endswith("''a-outpainted.png")


def test_a_live_answer_holds_the_same_photo_and_says_how_fine_it_is(url):
    large, mask = servers.photo(width=100, height=80), servers.mask(100, 80, (20, 10, 60, 50))
    lines, parts = live(inpaint(url, large, mask, "/live", seed=4).content)
    assert all(line["state"] in ("waiting", "working") for line in lines[:-1])
    last = lines[-1]
    assert last["state"] == "painted" and last["seed"] == 4 and last["windows"] == 1 and last["trained"] == 32
    assert last["said"] == "filled at 32 px and enlarged 2.5 times: it has no finer detail than that"
    assert last["enlarged"] == 2.5 and (last["width"], last["height"]) == (100, 80)
    assert list(parts) == ["photo"] and parts["photo"] == inpaint(url, large, mask, seed=4).content
    lines, parts = live(outpaint(url, way="/live", bottom=24).content)
    assert (lines[-1]["width"], lines[-1]["height"]) == (32, 48) == pixels(parts["photo"]).shape[1::-1]
    assert parts["photo"] == outpaint(url, bottom=24).content


def test_a_turned_photo_is_painted_as_it_is_displayed(url):
    turned = servers.photo("TIFF", exif=hostile.turned(6))  # stored 32 x 24, displayed 24 x 32
    shown = np.rot90(pixels_of_tiff(turned), -1)
    mask = servers.mask(24, 32, (2, 3, 12, 9))
    answer = inpaint(url, turned, mask)
    assert answer.status_code == 200, answer.text
    after = np.rot90(pixels_of_tiff(answer.content), -1)
    missing = pixels(mask).astype(bool)
    assert np.array_equal(after[~missing], shown[~missing]) and (after[missing] != shown[missing]).any()
    refused(inpaint(url, turned, MASK), 422, "the mask is 32 x 24 and the picture 24 x 32 px")
    extended = pixels_of_tiff(outpaint(url, turned, left=20).content)
    assert extended.shape == (32, 44, 3) and np.array_equal(extended[:, 20:], shown)


def pixels_of_tiff(content: bytes) -> np.ndarray:
    """As stored; Pillow would turn it."""
    import tifffile

    return tifffile.imread(io.BytesIO(content))


MANY = Image.new("1", (32, 24))
for at in range(6):
    MANY.putpixel((4 * at, 4), 1)


@pytest.mark.parametrize(
    ("mask", "status", "words"),
    [
        (servers.mask(31, 24), 422, "the mask is 31 x 24 and the photo 32 x 24 px; give a mask of the photo's size"),
        (servers.mask(box=(0, 0, 0, 0)), 422, "the mask marks nothing as missing"),
        (servers.mask(box=(0, 0, 32, 24)), 422, "the mask marks everything as missing"),
        (b"these are words", 422, "the mask cannot be used: it is no PNG"),
        (MASK[:-30], 422, "the mask cannot be used: it is damaged"),
        (MASK + bytes(2_000), 413, "the mask is larger than the 0.002 MB that are allowed"),
        (hostile.saved(MANY, "PNG"), 422, "the mask marks 6 separate areas; at most 5 are filled in"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(url, mask, status, words):
    refused(inpaint(url, mask=mask), status, words)
    assert taken(url) == 0


@pytest.mark.parametrize(
    ("photo", "length", "status", "words"),
    [
        (PHOTO, len(PHOTO) + len(MASK), 422, f"and the upload has {len(PHOTO + MASK)} bytes; send the"),
        (PHOTO, 10_000, 422, "photo_bytes is 10000 and the upload has"),
        (PHOTO, 100, 422, "the mask cannot be used: it is no PNG"),
        (PHOTO, 3, 422, "the photo cannot be used: it is no PNG"),
        (PHOTO, 0, 422, "photo_bytes: "),
        (PHOTO, -5, 422, "photo_bytes: "),
        (PHOTO, "all", 422, "photo_bytes: "),
        (PHOTO, 10**30, 413, "the photo is larger than the 0.04 MB"),
        (bytes(LIMITS.bytes + 1), None, 413, "the photo is larger than the 0.04 MB"),
        (bytes(60_000), LIMITS.bytes, 413, "the upload is larger than the 0.042 MB"),
    ],
)  # fmt: skip
def test_lengths_that_do_not_fit_are_refused(url, photo, length, status, words):
    refused(inpaint(url, photo, length=length), status, words)
    assert taken(url) == 0


def test_without_a_length_nothing_is_guessed(url):
    refused(requests.post(f"{url}/api/inpaint", data=PHOTO + MASK), 422, "photo_bytes: Field required")


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({}, 422, "nothing is to be added; give top, right, bottom or left"),
        ({"left": 33}, 422, "margins are 0, 0, 0, 33 px (top, right, bottom, left); allowed: 0 up to the side"),
        ({"left": 10**30}, 422, "allowed: 0 up to the side"),
        ({"top": -1}, 422, "top: "),
        ({"top": 1.5}, 422, "top: "),
        ({"top": 1, "seed": -1}, 422, "seed: "),
        ({"top": 1, "seed": 2**31}, 422, "seed: "),
        ({"top": 1, "steps": 0}, 422, "steps: "),
        ({"top": 1, "steps": 1001}, 422, "steps: "),
    ],
)
def test_numbers_out_of_range_are_refused(url, query, status, words):
    refused(outpaint(url, **query), status, words)
    assert taken(url) == 0


def test_what_is_painted_has_a_limit_of_pixels_of_its_own(url):
    large = servers.photo(width=150, height=100)
    assert requests.post(f"{url}/api/restore?task=derain", data=large).status_code == 200
    words = "the photo has 150 x 100 pixels, more than the 0.01 megapixels that are allowed"
    refused(inpaint(url, large, servers.mask(150, 100)), 413, words)
    words = "the extended photo would have 150 x 100 pixels, more than the 0.01 megapixels"
    refused(outpaint(url, servers.photo(width=100, height=90), right=50, top=10), 413, words)
    assert outpaint(url, servers.photo(width=90, height=100), right=10).status_code == 200


def test_in_a_live_answer_what_is_found_while_working_is_its_last_line(url):
    for answer, words in (
        (inpaint(url, mask=servers.mask(box=(0, 0, 0, 0)), way="/live"), "marks nothing"),
        (inpaint(url, PHOTO[:-300], way="/live"), "the photo cannot be used: it is damaged"),
        (outpaint(url, way="/live", left=33), "margins are"),
    ):
        last = json.loads(answer.content.splitlines()[-1])
        assert answer.status_code == 200 and last["state"] == "error" and last["status"] == 422
        assert words in last["error"]
    # What can be known before the photo waits in the line is the answer's status.
    refused(inpaint(url, mask=servers.mask(31, 24), way="/live"), 422, "the mask is 31 x 24")
    refused(outpaint(url, way="/live"), 422, "nothing is to be added")


@pytest.mark.parametrize("way", ["", "/live"])
def test_without_a_denoiser_both_are_refused_and_the_rest_works(bare, way):
    for answer in (inpaint(bare, way=way), outpaint(bare, way=way, left=3)):
        refused(answer, 501, "this server has no denoiser")
        assert "--denoiser" in answer.json()["error"]
    about = requests.get(f"{bare}/api/about").json()
    assert about["can_fill"] is about["can_extend"] is False and about["denoiser"] is None
    assert requests.post(f"{bare}/api/restore?task=derain", data=PHOTO).status_code == 200 and taken(bare) == 0


def test_a_denoiser_that_does_not_know_a_task_says_so():
    with servers.serving(servers.tiny(), LIMITS, servers.painter(("inpaint", "upscale"))) as url:
        about = requests.get(f"{url}/api/about").json()
        assert about["can_fill"] and not about["can_extend"]
        refused(outpaint(url, left=3), 501, "knows no task outpaint; it knows: inpaint, upscale")
        assert inpaint(url).status_code == 200


def test_facts_and_description(url):
    about = requests.get(f"{url}/api/about").json()
    assert about["can_fill"] and about["can_extend"] and about["denoiser"] == {"size": 32, "steps": 2}
    assert about["limits"]["painted"] == LIMITS.painted and about["limits"]["areas"] == LIMITS.areas
    paths = requests.get(f"{url}/api/openapi.json").json()["paths"]
    for path in ("/api/inpaint", "/api/inpaint/live"):
        described = paths[path]["post"]
        required = {each["name"] for each in described["parameters"] if each["required"]}
        assert required == {"photo_bytes"} and "501" in described["responses"]
        assert "directly behind them those of the mask's" in described["requestBody"]["description"]
    for path in ("/api/outpaint", "/api/outpaint/live"):
        names = {each["name"] for each in paths[path]["post"]["parameters"]}
        assert names == {"top", "right", "bottom", "left", "seed", "steps", "name"}


# ---- time, and the line


INPAINT = f"/api/inpaint?photo_bytes={len(PHOTO)}"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INPAINT, PHOTO + MASK),
        (INPAINT.replace("inpaint", "inpaint/live"), PHOTO + MASK),
        ("/api/outpaint/live?left=9", PHOTO),
    ],
)
def test_who_leaves_stops_the_work_before_the_next_pass(monkeypatch, path, body):
    noticed = servers.leaving(monkeypatch)
    with servers.serving(servers.tiny(), painter=servers.paced_painter()) as url:
        with raw(url, f"Content-Length: {len(body)}", body, path):
            servers.begun()
        assert noticed.wait(60) and taken(url) == 1
        servers.Paced.gate.set()
        servers.until(lambda: taken(url) == 0)
        assert servers.Paced.tiles == 1, "the second pass was not begun"


def test_work_that_takes_too_long_ends_at_the_next_pass(monkeypatch):
    limits = Limits(seconds=100)
    with servers.serving(servers.tiny(), limits, servers.paced_painter()) as url, ThreadPoolExecutor() as pool:
        asked = pool.submit(inpaint, url)
        servers.begun()
        servers.later(monkeypatch, 101)
        servers.Paced.gate.set()
        refused(asked.result(), 503, "longer than the 100 s that are allowed (1 of 2 parts were done)")
        assert servers.Paced.tiles == 1 and taken(url) == 0


def test_painting_and_restoring_share_one_line_and_progress_counts_passes():
    limits = Limits(waiting=1)
    with servers.serving(servers.tiny(), limits, servers.paced_painter()) as url, ThreadPoolExecutor() as pool:
        first = pool.submit(inpaint, url, way="/live")
        servers.begun()
        second = requests.post(f"{url}/api/restore/live?task=derain", data=PHOTO, stream=True)
        lines = second.iter_lines(chunk_size=1)
        assert json.loads(next(lines)) == {"state": "waiting", "ahead": 1}
        third = outpaint(url, left=3)
        refused(third, 503, "its line is full (places: 2); try again in")
        assert third.headers["retry-after"]
        servers.Paced.gate.set()
        told, parts = live(first.result().content)
        assert told[0]["state"] in ("waiting", "working") and told[-1]["state"] == "painted" and parts
        assert [line for line in lines if line.startswith(b'{"state": "restored"')]


def test_progress_is_told_pass_by_pass():
    with servers.serving(servers.tiny(), painter=servers.paced_painter()) as url:
        answer = requests.post(f"{url}{INPAINT.replace('inpaint', 'inpaint/live')}", data=PHOTO + MASK, stream=True)
        lines = map(json.loads, answer.iter_lines(chunk_size=1))
        servers.begun()
        assert next(line for line in lines if line["state"] == "working")["done"] == 0
        servers.Paced.gate.set()
        assert servers.Paced.started.acquire(timeout=60), "the second pass"
        assert next(line for line in lines if line["state"] == "painted")["windows"] == 1
        answer.close()


def test_a_defect_is_one_line_too(monkeypatch):
    painter = servers.painter()
    monkeypatch.setattr(painter, "fill", lambda *_, **__: 1 / 0)
    with servers.serving(servers.tiny(), painter=painter) as url:
        answer = inpaint(url)
        assert answer.status_code == 500 and answer.json()["error"].startswith("unexpected ZeroDivisionError")
        assert taken(url) == 0
