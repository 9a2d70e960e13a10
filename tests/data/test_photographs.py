"""The bundled photographs: they exist, they are split by image, and their terms are known."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.data.images import read_image
from instruct_ipt.data.photographs import BUNDLED, Photograph, locate
from instruct_ipt.errors import InputError


@pytest.mark.parametrize("photo", BUNDLED, ids=lambda photo: photo.name)
def test_each_photograph_is_in_its_wheel_with_terms(photo: Photograph) -> None:
    image = read_image(locate(photo))
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and min(image.shape[:2]) >= 300
    assert np.array_equal(image[..., 0], image[..., 2]) == photo.grey
    assert photo.licence and photo.credit


def test_split_is_by_image_with_the_stereo_pair_on_one_side() -> None:
    split = {photo.name: photo.split for photo in BUNDLED}
    assert len(split) == len(BUNDLED), "names are unique"
    assert len({(photo.package, photo.member) for photo in BUNDLED}) == len(BUNDLED)
    assert [name for name in split if split[name] == "test"] == ["coffee", "flower", "rocket"]
    assert [name for name in split if split[name] == "validation"] == ["china"]
    assert split["motorcycle_left"] == split["motorcycle_right"] == "train"
    assert all(photo.split == "train" for photo in BUNDLED if photo.grey)


def test_no_two_splits_hold_the_same_pixels() -> None:
    contents = {photo.name: locate(photo).read_bytes() for photo in BUNDLED}
    assert len(set(contents.values())) == len(BUNDLED)


def test_the_readme_gives_the_terms_of_each() -> None:
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    assert [photo.name for photo in BUNDLED if photo.name not in text] == []


def test_locating_imports_neither_package() -> None:
    code = (
        "import sys; from instruct_ipt.data.photographs import BUNDLED, locate; [locate(p) for p in BUNDLED]; "
        "sys.exit('skimage' in sys.modules or 'sklearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_file_or_package_is_named() -> None:
    gone = dataclasses.replace(BUNDLED[0], member="data/gone.png")
    with pytest.raises(InputError, match="scikit-image holds no file data/gone.png"):
        locate(gone)
    with pytest.raises(InputError, match="no_such_package is not installed"):
        locate(dataclasses.replace(gone, package="no_such_package"))


def test_alpha_is_laid_over_white_and_grey_is_replicated(tmp_path: Path) -> None:
    rgba = np.array([[[200, 100, 0, 0], [200, 100, 0, 255]]], np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[255, 255, 255], [200, 100, 0]]]
    Image.fromarray(np.array([[7, 9]], np.uint8)).save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").tolist() == [[[7, 7, 7], [9, 9, 9]]]
    Image.fromarray(np.array([[0x4000, 0xFFFF]], np.uint16)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").tolist() == [[[64, 64, 64], [255, 255, 255]]]


@pytest.mark.parametrize("name", ["absent.png", "text.png"])
def test_an_unreadable_image_is_an_input_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=name):
        read_image(tmp_path / name)
