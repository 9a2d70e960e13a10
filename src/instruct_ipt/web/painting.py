"""Filling in and extending a photo, in the worker's thread, beside `work`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from scipy import ndimage

from instruct_ipt.errors import InputError
from instruct_ipt.restoration.files import encode, read, read_header
from instruct_ipt.restoration.filling import Sides, extend_picture, fill_picture, read_mask
from instruct_ipt.restoration.pictures import Picture

from . import work
from .limits import Limits, Refused, in_megabytes
from .line import Place

if TYPE_CHECKING:
    from instruct_ipt.diffusion.painter import Painted, Painter, Progress

LARGEST_SEED = 2**31 - 1
MOST_STEPS = 1000


@dataclass(frozen=True)
class Stroke:
    """How a photo is to be painted in.

    Attributes:
        seed: of the noise; another gives another filling.
        steps: passes of the sampler per window; None: as the denoiser was evaluated.
        name: of the file as the client calls it; nothing is opened by it.
    """

    seed: int = 0
    steps: int | None = None
    name: str = ""


def can(painter: Painter | None, task: str) -> bool:
    """Whether there is a denoiser, and it knows the task."""
    return painter is not None and task in painter.card.tasks


def divide(content: bytes, photo_bytes: int, limits: Limits) -> work.Sent:
    """Photo and mask of an upload that is one behind the other; of both, the headers are looked at.

    Raises:
        InputError: either is no picture, or they have different sizes.
        Refused: the photo is not as long as was said, or one of them is too large.
    """
    photo, mask = content[:photo_bytes], content[photo_bytes:]
    if not mask:
        raise Refused(
            422,
            f"photo_bytes is {photo_bytes} and the upload has {len(content)} bytes; "
            "send the photo's bytes and behind them those of the mask",
        )
    if len(mask) > limits.mask_bytes:
        raise Refused(413, f"the mask is larger than the {in_megabytes(limits.mask_bytes)} that are allowed")
    header = work.look(photo, limits)
    with work.about("mask"):
        of_mask = read_header(mask)
    # Turned by its EXIF, a photo may be stored with its sides swapped; which it is, shows when it is decoded.
    if sorted((of_mask.width, of_mask.height)) != sorted((header.width, header.height)):
        raise InputError(
            f"the mask is {of_mask.width} x {of_mask.height} and the photo {header.width} x {header.height} px; "
            "give a mask of the photo's size"
        )
    work.check_size("photo has", header.width, header.height, limits.paintable)
    return work.Sent(photo, header, mask)


def inpainting(painter: Painter | None, stroke: Stroke, limits: Limits) -> work.Job:
    """A job that fills in what a mask marks; gives a `work.Finished`.

    Raises:
        Refused: there is no denoiser for it. The job: the mask marks too many areas; and see `Place.check`.
        InputError: the job: photo or mask cannot be decoded or do not fit, or nothing or everything is marked.
        Gone: see `Place.check`.
    """
    known = _able(painter, "inpaint")

    def paint(sent: work.Sent, picture: Picture, place: Place) -> tuple[Picture, Painted]:
        with work.about("mask"):
            missing = read_mask(sent.mask)
        _check_areas(missing, limits)
        place.check()
        return fill_picture(known, picture, missing, stroke.seed, stroke.steps, _progress(place))

    return _job(stroke, "inpainted", paint)


def outpainting(painter: Painter | None, sides: Sides, stroke: Stroke, limits: Limits) -> work.Job:
    """A job that adds to a photo at its sides; gives a `work.Finished`.

    Raises:
        Refused: there is no denoiser for it. The job: the photo becomes too large; and see `Place.check`.
        InputError: nothing is added. The job: the photo cannot be decoded, or a side becomes too long.
        Gone: see `Place.check`.
    """
    known = _able(painter, "outpaint")
    if not any((sides.top, sides.right, sides.bottom, sides.left)):
        raise InputError("nothing is to be added; give top, right, bottom or left, in px")

    def paint(_: work.Sent, picture: Picture, place: Place) -> tuple[Picture, Painted]:
        height, width = picture.upright().shape[:2]
        if max(sides.top, sides.bottom) <= height and max(sides.left, sides.right) <= width:  # else it is refused below
            grown = width + sides.left + sides.right, height + sides.top + sides.bottom
            work.check_size("extended photo would have", *grown, limits.paintable)
        place.check()
        return extend_picture(known, picture, sides, stroke.seed, stroke.steps, _progress(place))

    return _job(stroke, "outpainted", paint)


def _able(painter: Painter | None, task: str) -> Painter:
    """The painter, if it knows the task."""
    if painter is None:
        raise Refused(501, "this server has no denoiser, so it adds nothing to photographs; start it with --denoiser")
    if not can(painter, task):
        raise Refused(501, f"this server's denoiser knows no task {task}; it knows: {', '.join(painter.card.tasks)}")
    return painter


def _job(stroke: Stroke, word: str, paint: Callable[[work.Sent, Picture, Place], tuple[Picture, Painted]]) -> work.Job:
    """A job that decodes, paints and encodes."""

    def job(sent: work.Sent, place: Place) -> work.Finished:
        with work.about("photo"):
            picture = read(sent.photo)
        result, painted = paint(sent, picture, place)
        format = sent.header.format
        height, width = result.pixels.shape[:2]
        told = {
            "said": str(painted),
            "windows": painted.windows,
            "enlarged": round(painted.enlarged, 3),
            "trained": painted.size,
            "seed": stroke.seed,
        }
        headers = {"X-Ipt-Painted": str(painted), "X-Ipt-Seed": str(stroke.seed)}
        name, parts = work.result_name(stroke.name, format, word), {"photo": encode(result, format)}
        return work.Finished("painted", told, headers, name, Image.MIME[format], width, height, parts)

    return job


def _progress(place: Place) -> Progress:
    """Told of each pass, it ends the work where nobody waits any more, or it has taken too long."""
    place.tiles(0)  # the clock starts; how many passes there are is known after the first
    return place.advance


def _check_areas(missing: np.ndarray, limits: Limits) -> None:
    """Nothing, if a mask's separate areas, bool (H, W), are few enough."""
    _, areas = ndimage.label(missing)
    if areas > limits.areas:
        raise Refused(
            422, f"the mask marks {areas:,} separate areas; at most {limits.areas:,} are filled in: mark larger ones"
        )
