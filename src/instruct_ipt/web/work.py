"""What is done with one photo, in the worker's thread: bytes in, bytes out, nothing else kept."""

from __future__ import annotations

import contextlib
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from instruct_ipt.errors import InputError
from instruct_ipt.restoration import Choice, Restorer
from instruct_ipt.restoration.files import SUFFIXES, Header, encode, preview, read, read_header

from .limits import Limits, Refused, in_megapixels
from .line import Place

_LONGEST_NAME = 80
Job = Callable[[bytes, Header, Place], Any]
"""What the worker does with an upload, of which the header is known."""


@dataclass(frozen=True)
class Order:
    """What is to be done with a photo.

    Attributes:
        choice: task weights and strength; None guesses them.
        strength: of a guess; None is 1.
        name: of the file as the client calls it; nothing is opened by it.
        previews: whether PNGs of before and after are wanted too.
    """

    choice: Choice | None = None
    strength: float | None = None
    name: str = ""
    previews: bool = False


@dataclass(frozen=True)
class Restored:
    """A finished photo.

    Attributes:
        choice: what was done.
        name: for the file.
        type: media type of `parts["photo"]`; the others are PNG.
        width, height: in pixels, as stored.
        parts: `photo`, and with previews `before` and `after`.
    """

    choice: Choice
    name: str
    type: str
    width: int
    height: int
    parts: dict[str, bytes]


def look(content: bytes, limits: Limits) -> Header:
    """The header of an upload; nothing is decoded.

    Raises:
        InputError: no photo.
        Refused: too large a one.
    """
    with _of_photo():
        header = read_header(content)
    if header.width * header.height > limits.pixels:
        raise Refused(
            413,
            f"the photo has {header.width} x {header.height} pixels, "
            f"more than the {in_megapixels(limits.pixels)} that are allowed; scale it down",
        )
    return header


def restoring(restorer: Restorer, order: Order) -> Job:
    """A job that decodes, restores and encodes; gives a `Restored`.

    The job raises:
        InputError: the photo cannot be decoded, or seems undamaged where it should be guessed.
        Gone, Refused: see `Place.check`.
    """

    def job(content: bytes, header: Header, place: Place) -> Restored:
        with _of_photo():
            picture = read(content)
        before = picture.upright()
        choice = order.choice or restorer.guess(before, order.strength)
        place.check()
        place.tiles(restorer.tiles(*before.shape[:2]))
        after = restorer.restore(before, choice.weights, choice.strength, progress=place.advance)
        result = picture.with_upright(after)
        parts = {"photo": encode(result, header.format)}
        if order.previews:
            parts |= {"before": preview(picture), "after": preview(result)}
        name = restored_name(order.name, header.format)
        return Restored(choice, name, Image.MIME[header.format], header.width, header.height, parts)

    return job


def guessing(restorer: Restorer) -> Job:
    """A job that says what seems to have damaged a photo; gives a `Choice`.

    Raises:
        InputError: nothing that could guess stands beside the weights. The job: the photo cannot be decoded, or seems
            undamaged.
    """
    restorer.check(None)

    def job(content: bytes, _: Header, __: Place) -> Choice:
        with _of_photo():
            picture = read(content)
        return restorer.guess(picture.upright())

    return job


@contextlib.contextmanager
def _of_photo() -> Iterator[None]:
    """Says of what an error in the block speaks."""
    try:
        yield
    except InputError as error:
        raise InputError(f"the photo cannot be used: {error}") from error


def restored_name(name: str, format: str) -> str:
    """A file name for the result: the client's own, without folders or anything that could steer a file system."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    kept = "".join(c for c in stem if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    return f"{kept.strip(' .')[:_LONGEST_NAME].rstrip(' .') or 'photo'}-restored{SUFFIXES[format][0]}"
