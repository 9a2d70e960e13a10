"""Photographs of any size and kind are filled in and extended; what is known keeps its bits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from instruct_ipt.cli import app
from instruct_ipt.diffusion.painter import Painter
from instruct_ipt.diffusion.store import load_denoiser, save_denoiser
from instruct_ipt.errors import InputError
from instruct_ipt.restoration.filling import Sides, extend_picture, fill_picture, read_mask
from instruct_ipt.restoration.pictures import Picture

from .denoisers import card, picture, stirred

runner = CliRunner()


@pytest.fixture(scope="module")
def painter() -> Painter:
    return Painter(stirred(), card())


@pytest.fixture(scope="module")
def denoiser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "diffusion"
    save_denoiser(folder / "synchronous", stirred(), card())
    return folder


def hole(height: int, width: int, *box: int) -> np.ndarray:
    top, bottom, left, right = box
    missing = np.zeros((height, width), dtype=bool)
    missing[top:bottom, left:right] = True
    return missing


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3)).astype(np.float32)


# ---- filling in -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [
        (64, 96, (10, 20, 30, 44)),  # smaller than the denoiser's window
        (200, 300, (20, 180, 50, 250)),  # needs a window larger than it
        (40, 333, (0, 40, 0, 60)),  # at the edge of a strip
        (7, 9, (2, 4, 3, 6)),  # smaller than a window altogether
        (33, 1, (3, 9, 0, 1)),
    ],
)
def test_what_is_known_keeps_its_bits(painter, height, width, box):
    given, missing = photo(height, width), hole(height, width, *box)
    found = painter.fill(given, missing)
    assert found.pixels.shape == given.shape and found.pixels.dtype == np.float32
    assert np.array_equal(found.pixels[~missing], given[~missing])
    assert np.isfinite(found.pixels).all() and found.pixels.min() >= 0 and found.pixels.max() <= 1
    assert not np.array_equal(found.pixels[missing], given[missing])


def test_what_was_under_the_mask_does_not_matter(painter):
    given, missing = photo(120, 90), hole(120, 90, 30, 80, 20, 60)
    other = np.where(missing[..., None], 1 - given, given)
    assert np.array_equal(painter.fill(given, missing).pixels, painter.fill(other, missing).pixels)


def test_the_enlargement_is_told(painter):
    assert painter.fill(photo(80, 80), hole(80, 80, 30, 40, 30, 40)).enlarged == 1
    large = painter.fill(photo(320, 320), hole(320, 320, 80, 240, 80, 240))
    assert large.enlarged == 10 and "enlarged 10.0 times" in str(large)


def test_regions_far_apart_have_windows_of_their_own(painter):
    missing = hole(200, 200, 5, 15, 5, 15) | hole(200, 200, 180, 190, 180, 190)
    found = painter.fill(photo(200, 200), missing)
    assert found.windows == 2 and found.enlarged == 1


def test_seed_and_steps_decide(painter):
    given, missing = photo(40, 40), hole(40, 40, 10, 30, 10, 30)
    first, again, other = (painter.fill(given, missing, seed=seed).pixels for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    told = []
    painter.fill(given, missing, steps=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize("margins", [(0, 24, 0, 0), (5, 6, 7, 8), (0, 0, 90, 0)])
def test_extending_keeps_the_photograph(painter, margins):
    given = photo(90, 70)
    top, right, bottom, left = margins
    found = painter.extend(given, margins).pixels
    assert found.shape == (90 + top + bottom, 70 + left + right, 3)
    assert np.array_equal(found[top : top + 90, left : left + 70], given)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (np.zeros((40, 40), bool), "marks nothing"),
        (np.ones((40, 40), bool), "marks everything"),
        (np.ones((40, 30), bool), "the mask is 30 x 40"),
    ],
)
def test_impossible_masks_are_refused(painter, missing, message):
    with pytest.raises(InputError, match=message):
        painter.fill(photo(40, 40), missing)


def test_impossible_numbers_are_refused(painter):
    given, missing = photo(40, 40), hole(40, 40, 1, 9, 1, 9)
    with pytest.raises(InputError, match="steps is 0"):
        painter.fill(given, missing, steps=0)
    with pytest.raises(InputError, match="knows no task derain"):
        painter.fill(given, missing, "derain")
    for margins in ((0, 0, 0, 0), (-1, 5, 0, 0), (0, 41, 0, 0)):
        with pytest.raises(InputError, match="margins are"):
            painter.extend(given, margins)
    with pytest.raises(InputError, match="has no task biases"):
        Painter(card("shared").build().eval(), card("shared")).fill(given, missing)


# ---- pictures of any kind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "mode"),
    [
        ((40, 50), np.uint8, "L"),
        ((40, 50, 2), np.uint8, "LA"),
        ((40, 50, 3), np.uint8, "RGB"),
        ((40, 50, 4), np.uint8, "RGBA"),
        ((40, 50), np.uint16, "I;16"),
        ((40, 50, 3), np.uint16, "RGB"),
    ],
)
def test_every_kind_of_picture_keeps_its_known_bits(painter, shape, dtype, mode):
    rng = np.random.default_rng(0)
    given = Picture(rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype), mode, icc=b"profile")
    missing = hole(40, 50, 10, 25, 10, 30)
    done, _ = fill_picture(painter, given, missing)
    assert done.pixels.dtype == dtype and done.mode == mode and done.icc == b"profile"
    assert np.array_equal(done.pixels[~missing], given.pixels[~missing])
    assert not np.array_equal(done.pixels[missing], given.pixels[missing])
    if shape[-1] in (2, 4):
        assert np.array_equal(done.pixels[..., -1], given.pixels[..., -1])
    larger, _ = extend_picture(painter, given, Sides(left=12))
    assert larger.pixels.shape == (40, 62, *shape[2:])
    assert np.array_equal(larger.pixels[:, 12:], given.pixels)


def test_a_turned_picture_is_filled_as_it_is_seen(painter):
    rng = np.random.default_rng(0)
    given = Picture(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), "RGB", orientation=6)
    missing = hole(60, 40, 0, 10, 0, 10)  # upright it is 60 high
    done, _ = fill_picture(painter, given, missing)
    assert done.pixels.shape == given.pixels.shape
    assert np.array_equal(done.upright()[~missing], given.upright()[~missing])
    assert not np.array_equal(done.upright()[missing], given.upright()[missing])


def test_masks_are_read_as_people_draw_them(tmp_path):
    white = np.zeros((8, 8), np.uint8)
    white[2:4, 2:6] = 255
    expected = white > 0
    for name, image in {
        "grey.png": Image.fromarray(white),
        "colour.png": Image.fromarray(white).convert("RGB"),
        "bits.png": Image.fromarray(expected),
        "clear.png": Image.merge("RGBA", [Image.new("L", (8, 8), 255)] * 3 + [Image.fromarray(white)]),
    }.items():
        image.save(tmp_path / name)
        assert np.array_equal(read_mask(tmp_path / name), expected), name


# ---- on disk --------------------------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(denoiser):
    model, told = load_denoiser(denoiser / "synchronous")
    assert told == card()
    state = stirred().state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    before = torch.random.get_rng_state()
    load_denoiser(denoiser / "synchronous")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "newer version"),
        ({"preset": "huge"}, "not known"),
        ({"sampler": "euler"}, "not known"),
        ({"size": 10**9}, "not known"),
        ({"colour": 1}, "damaged"),
        ({"format_version": -1}, "damaged"),
        ({"format_version": True}, "damaged"),
        ({"tasks": ["x"] * 10_000}, "not known"),
        ({"weights": ["text"]}, "not known"),
        (None, "damaged"),
    ],
)
def test_a_card_that_cannot_be_is_refused(tmp_path, change, message):
    save_denoiser(tmp_path, stirred(), card())
    path = tmp_path / "denoiser.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_denoiser(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    save_denoiser(tmp_path, card("film").build(), card())
    with pytest.raises(InputError, match="does not fit this network"):
        load_denoiser(tmp_path)


# ---- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    pixels = (picture(1, 48) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    mask = np.zeros((48, 48), np.uint8)
    mask[10:30, 10:30] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path, pixels, mask > 0


def test_inpaint_fills_in(files, denoiser):
    folder, pixels, missing = files
    arguments = ["inpaint", str(folder / "photo.png"), "-m", str(folder / "mask.png"), "--weights", str(denoiser)]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = np.asarray(Image.open(folder / "photo-inpainted.png"))
    assert np.array_equal(found[~missing], pixels[~missing]) and (found[missing] != pixels[missing]).any()
    assert "px" in done.stderr
    again = runner.invoke(app, arguments)
    assert isinstance(again.exception, InputError) and "--force" in str(again.exception)
    assert runner.invoke(app, [*arguments, "--force", "--seed", "3"]).exit_code == 0
    assert not np.array_equal(np.asarray(Image.open(folder / "photo-inpainted.png")), found)


def test_outpaint_adds(files, denoiser):
    folder, pixels, _ = files
    target = folder / "wide.tif"
    arguments = ["outpaint", str(folder / "photo.png"), "--left", "16", "--bottom", "8", "-o", str(target)]
    done = runner.invoke(app, [*arguments, "--weights", str(denoiser), "--steps", "2"])
    assert done.exit_code == 0, done.output
    found = np.asarray(Image.open(target))
    assert found.shape == (56, 64, 3) and np.array_equal(found[:48, 16:], pixels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inpaint", "photo.png", "-m", "photo.jpg"], "photo.jpg: there is no such file"),
        (["inpaint", "none.png", "-m", "mask.png"], "none.png: there is no such file"),
        (["inpaint", "photo.png", "-m", "mask.png", "-o", "out.gif"], "out.gif: pictures are written as PNG"),
        (["outpaint", "photo.png"], "margins are 0, 0, 0, 0"),
        (["outpaint", "photo.png", "--top", "400"], "margins are 400"),
        (["inpaint", "photo.png", "-m", "mask.png", "--weights", "nowhere"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(files, denoiser, monkeypatch, arguments, message):
    folder, _, _ = files
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    extra = [] if "--weights" in arguments else ["--weights", str(denoiser)]
    done = runner.invoke(app, [*arguments, *extra])
    assert isinstance(done.exception, InputError) and message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert sorted(folder.iterdir()) == before
