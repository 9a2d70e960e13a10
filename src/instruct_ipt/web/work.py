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


@dataclass(frozen=True)
class Sent:
    """What came up.

    Attributes:
        photo: the file.
        header: what it says about itself.
        mask: the file of a mask; empty where none belongs to the request.
    """

    photo: bytes
    header: Header
    mask: bytes = b""


Job = Callable[[Sent, Place], Any]
"""What the worker does with an upload."""


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
class Finished:
    """A finished photo.

    Attributes:
        state: what the last line of a live answer calls it: `restored` or `painted`.
        told: what was done, as that line says it.
        headers: the same, as an answer says it that is the photo alone.
        name: for the file.
        type: media type of `parts["photo"]`; the others are PNG.
        width, height: in pixels, as stored.
        parts: `photo`, and with previews `before` and `after`.
    """

    state: str
    told: dict[str, Any]
    headers: dict[str, str]
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
    with about("photo"):
        header = read_header(content)
    check_size("photo has", header.width, header.height, limits.pixels)
    return header


def restoring(restorer: Restorer, order: Order) -> Job:
    """A job that decodes, restores and encodes; gives a `Finished`.

    The job raises:
        InputError: the photo cannot be decoded, or seems undamaged where it should be guessed.
        Gone, Refused: see `Place.check`.
    """

    def job(sent: Sent, place: Place) -> Finished:
        with about("photo"):
            picture = read(sent.photo)
        before = picture.upright()
        choice = order.choice or restorer.guess(before, order.strength)
        place.check()
        place.tiles(restorer.tiles(*before.shape[:2]))
        after = restorer.restore(before, choice.weights, choice.strength, progress=place.advance)
        result, format = picture.with_upright(after), sent.header.format
        parts = {"photo": encode(result, format)}
        if order.previews:
            parts |= {"before": preview(picture), "after": preview(result)}
        told, headers = _said(choice)
        name, size = result_name(order.name, format, "restored"), (sent.header.width, sent.header.height)
        return Finished("restored", told, headers, name, Image.MIME[format], *size, parts)

    return job


def guessing(restorer: Restorer) -> Job:
    """A job that says what seems to have damaged a photo; gives a `Choice`.

    Raises:
        InputError: nothing that could guess stands beside the weights. The job: the photo cannot be decoded, or seems
            undamaged.
    """
    restorer.check(None)

    def job(sent: Sent, _: Place) -> Choice:
        with about("photo"):
            picture = read(sent.photo)
        return restorer.guess(picture.upright())

    return job


def check_size(what: str, width: int, height: int, pixels: int) -> None:
    """Nothing, if a picture of this size is allowed.

    Raises:
        Refused: it has more pixels; the line begins with `what`.
    """
    if width * height > pixels:
        raise Refused(
            413,
            f"the {what} {width} x {height} pixels, more than the {in_megapixels(pixels)} that are allowed; "
            "scale it down",
        )


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """Says of what an error in the block speaks: the `photo`, or the `mask`."""
    try:
        yield
    except InputError as error:
        raise InputError(f"the {what} cannot be used: {error}") from error


def result_name(name: str, format: str, word: str) -> str:
    """A file name for the result: the client's own, without folders or anything that could steer a file system."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] or last
    kept = "".join(c for c in stem if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    return f"{kept.strip(' .')[:_LONGEST_NAME].rstrip(' .') or 'photo'}-{word}{SUFFIXES[format][0]}"


def _said(choice: Choice) -> tuple[dict[str, Any], dict[str, str]]:
    """What was done, for the line and for the headers."""
    told = {"weights": dict(choice.weights), "strength": choice.strength, "source": choice.source}
    weights = ",".join(f"{task}={weight:g}" for task, weight in choice.weights.items() if weight > 0)
    headers = {"X-Ipt-Weights": weights, "X-Ipt-Strength": f"{choice.strength:g}", "X-Ipt-Source": choice.source}
    return told, headers
