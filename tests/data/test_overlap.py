"""Copies of a photograph are recognised through what people do to copies, and different photographs are kept apart."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from instruct_ipt.data.images import read_image, write_image
from instruct_ipt.data.overlap import THRESHOLD, fingerprint, fingerprint_file, overlaps
from instruct_ipt.data.photographs import BUNDLED, locate

# The right view of the stereo pair shows the scene of the left one.
PHOTOGRAPHS = {p.name: read_image(locate(p)) for p in BUNDLED if p.name != "motorcycle_right"}
PRINTS = {name: fingerprint(image) for name, image in PHOTOGRAPHS.items()}


def cut(image: Image.Image, kept: float, x: float, y: float) -> Image.Image:
    width, height = (round(side * kept) for side in image.size)
    left, top = round((image.width - width) * x), round((image.height - height) * y)
    return image.crop((left, top, left + width, top + height))


def jpeg(image: Image.Image, quality: int = 30) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(image: Image.Image, x: float, y: float) -> Image.Image:
    return image.resize((round(image.width * x), round(image.height * y)), Image.Resampling.BICUBIC)


DISGUISES = {
    "half the size": lambda im: scaled(im, 0.5, 0.5),
    "larger by half": lambda im: scaled(im, 1.5, 1.5),
    "squeezed": lambda im: scaled(im, 0.8, 1.0),
    "quality 10": lambda im: jpeg(im, 10),
    "grey": lambda im: im.convert("L").convert("RGB"),
    "less contrast": lambda im: im.point(lambda v: v * 0.3 + 90),
    "gamma": lambda im: im.point(lambda v: 255 * (v / 255) ** 1.8),
    "cut to 95 % in a corner": lambda im: cut(im, 0.95, 0, 1),
    "cut to 93 % anywhere": lambda im: cut(im, 0.93, 0.3, 0.8),
    "cut to 90 % in the middle": lambda im: cut(im, 0.9, 0.5, 0.5),
    "all at once": lambda im: ImageOps.mirror(jpeg(scaled(cut(im, 0.95, 1, 0), 0.6, 0.6))).rotate(90, expand=True),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_every_photograph_is_found_in_disguise_and_no_other_is(disguise):
    hidden = {
        name: fingerprint(np.asarray(DISGUISES[disguise](Image.fromarray(im)))) for name, im in PHOTOGRAPHS.items()
    }
    assert sorted((m.first, m.second) for m in overlaps(hidden, PRINTS)) == sorted((n, n) for n in PHOTOGRAPHS)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_a_match_says_how_the_copy_lies(mirrored, turns):
    image = PHOTOGRAPHS["coffee"]
    copy = np.ascontiguousarray(np.rot90(image[:, ::-1] if mirrored else image, turns))
    (match,) = overlaps({"copy": fingerprint(copy)}, {"original": PRINTS["coffee"]})
    assert (match.mirrored, match.turns, match.cut) == (mirrored, turns, False)
    assert match.similarity == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("order", [("cut", "whole"), ("whole", "cut")])
def test_a_cut_image_meets_its_whole_on_either_side(order):
    prints = {
        "cut": fingerprint(np.asarray(cut(Image.fromarray(PHOTOGRAPHS["china"]), 0.9, 0, 0))),
        "whole": PRINTS["china"],
    }
    first, second = ({name: prints[name]} for name in order)
    (match,) = overlaps(first, second)
    assert match.cut and match.how == "cut" and match.similarity > 0.9


def test_unrelated_photographs_stay_well_below_the_threshold():
    matches = [m for m in overlaps(PRINTS, PRINTS, threshold=-1.0) if m.first != m.second]
    assert len(matches) == len(PRINTS) * (len(PRINTS) - 1)
    assert max(m.similarity for m in matches) < THRESHOLD - 0.1
    assert matches == sorted(matches, key=lambda m: -m.similarity), "the most alike come first"


def test_similarity_is_symmetric():
    there = {(m.first, m.second): m.similarity for m in overlaps(PRINTS, PRINTS, threshold=-1.0)}
    assert all(there[b, a] == pytest.approx(value, abs=1e-5) for (a, b), value in there.items())


@pytest.mark.parametrize("image", [np.zeros((9, 7, 3), np.uint8), np.full((400, 300, 3), 200, np.uint8)])
def test_a_flat_image_is_like_nothing_not_even_itself(image):
    noisy = image + np.random.default_rng(0).integers(0, 2, image.shape, np.uint8)
    prints = {"flat": fingerprint(image), "noisy": fingerprint(noisy)}
    assert overlaps(prints, prints) == []


def test_many_images_are_compared_in_blocks_of_bounded_size(monkeypatch):
    whole = overlaps(PRINTS, PRINTS, threshold=0.3)
    monkeypatch.setattr("instruct_ipt.data.overlap._BLOCK", 1)
    apart = overlaps(PRINTS, PRINTS, threshold=0.3)
    assert {(m.first, m.second) for m in apart} == {(m.first, m.second) for m in whole}


def test_of_a_side_by_side_file_the_left_half_counts(tmp_path):
    image = PHOTOGRAPHS["chelsea"]
    write_image(tmp_path / "pair.png", np.concatenate([image, 255 - image[::-1]], axis=1))
    assert np.array_equal(fingerprint_file(tmp_path / "pair.png", half=True), PRINTS["chelsea"])


def test_nothing_overlaps_nothing():
    assert overlaps({}, PRINTS) == overlaps(PRINTS, {}) == []
