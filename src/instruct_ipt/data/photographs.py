"""The natural photographs that ship inside the scikit-image and scikit-learn wheels: the data that needs no network."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from instruct_ipt.errors import InputError

Split = Literal["train", "validation", "test"]

_WHEELS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
_CC0 = "CC0 1.0"
_CC_BY = "CC BY 2.0"
_PUBLIC = "public domain"
_MIDDLEBURY = "no licence stated; published for research, cite Scharstein et al., GCPR 2014"
_STEREO = "D. Scharstein, H. Hirschmueller, Y. Kitajima, G. Krathwohl, N. Nesic, X. Wang, P. Westling (Middlebury 2014)"


@dataclass(frozen=True)
class Photograph:
    """One bundled photograph.

    Attributes:
        name: short unique name, used as the image key in every table.
        package: import name of the package whose wheel holds the file, ``skimage`` or ``sklearn``.
        member: path of the file inside that package, with forward slashes.
        grey: the file has one channel; it is replicated to RGB on reading.
        split: the only split in which any pixel of it may appear.
        licence: terms of use, as its distributor states them.
        credit: who made it, and where it is from.
    """

    name: str
    package: str
    member: str
    grey: bool
    split: Split
    licence: str
    credit: str


def _skimage(file: str, split: Split, licence: str, credit: str, grey: bool = False) -> Photograph:
    return Photograph(file.rsplit(".", 1)[0], "skimage", f"data/{file}", grey, split, licence, credit)


def _sklearn(file: str, split: Split, licence: str, credit: str) -> Photograph:
    return Photograph(file.rsplit(".", 1)[0], "sklearn", f"datasets/images/{file}", False, split, licence, credit)


# Split by image: both views of the stereo pair stand on the training side, for they show the same scene.
BUNDLED: tuple[Photograph, ...] = (
    _skimage("coffee.png", "test", _CC0, "Rachel Michetti, courtesy of Pikolo Espresso Bar"),
    _sklearn("flower.jpg", "test", _CC_BY, "vultilion, flickr.com/photos/vultilion/6056698931"),
    _skimage("rocket.jpg", "test", _PUBLIC, "SpaceX, flickr.com/photos/spacexphotos/16511594820"),
    _sklearn("china.jpg", "validation", _CC_BY, "danielbuechele, flickr.com/photos/danielbuechele/6061409035"),
    _skimage("astronaut.png", "train", _PUBLIC, "NASA Great Images, flic.kr/p/r9qvLn (Eileen Collins)"),
    _skimage("chelsea.png", "train", _CC0, "Stefan van der Walt"),
    _skimage("motorcycle_left.png", "train", _MIDDLEBURY, _STEREO),
    _skimage("motorcycle_right.png", "train", _MIDDLEBURY, _STEREO),
    _skimage("camera.png", "train", _CC0, "Lav Varshney", grey=True),
    _skimage("brick.png", "train", _CC0, "CC0Textures, Bricks25", grey=True),
    _skimage("grass.png", "train", _CC0, "linolafett, deviantart.com/linolafett/art/Grass-01-434853879", grey=True),
    _skimage("gravel.png", "train", _CC0, "CC0Textures, Gravel04", grey=True),
)


def locate(photo: Photograph) -> Path:
    """Path of ``photo`` in the installed wheel, found without importing the package.

    Raises:
        InputError: the package is not installed, or this version of its wheel does not hold the file.
    """
    wheel = _WHEELS.get(photo.package, photo.package)
    spec = importlib.util.find_spec(photo.package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"photograph {photo.name!r}: package {wheel} is not installed; run `pip install {wheel}`")
    for root in spec.submodule_search_locations:
        path = Path(root, photo.member)
        if path.is_file():
            return path
    raise InputError(
        f"photograph {photo.name!r}: the installed {wheel} holds no file {photo.member}; "
        f"install the version of {wheel} named in requirements.lock"
    )
