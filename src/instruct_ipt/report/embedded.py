"""Pictures as part of a page: data addresses that need no second file, small enough that a whole study fits."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from instruct_ipt.report import named_picture

PHOTOGRAPH_BYTES = 150_000
FIGURE_BYTES = 600_000
_PHOTOGRAPH_SIDE, _FIGURE_SIDE = 760, 2400
_QUALITIES = (92, 85, 78)


@dataclass(frozen=True)
class Picture:
    """An embedded picture.

    Attributes:
        source: data address, for ``src``.
        width, height: size in pixels; of a drawing, of the bitmap that stands beside it.
        vector: whether it is a drawing (SVG), sharp at any size.
    """

    source: str
    width: int
    height: int
    vector: bool = False


def photograph(path: Path) -> Picture:
    """A photograph as JPEG of at most ``PHOTOGRAPH_BYTES``, its longer side at most 760 pixels.

    Raises:
        InputError: the file is missing.
    """
    return _jpeg(named_picture(path, "samples.csv", "evaluate"), _PHOTOGRAPH_SIDE, PHOTOGRAPH_BYTES)


def exact(path: Path, table: str, stage: str) -> Picture:
    """A small picture as PNG, every pixel as it is.

    Args:
        path: of its file.
        table, stage: which result file names it and which stage makes both, for the message.

    Raises:
        InputError: the file is missing.
    """
    picture = named_picture(path, table, stage)
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return Picture(_address(stream.getvalue(), "png"), *picture.size)


def figure(folder: Path, name: str) -> Picture:
    """The figure ``name`` in its smallest true form: the drawing, the bitmap, or, above ``FIGURE_BYTES``, a JPEG.

    Args:
        folder: holds ``<name>.png`` and, where the figure is a drawing, ``<name>.svg``.
        name: of the figure.
    """
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with Image.open(png) as opened:
        bitmap = opened.convert("RGB")
    size = png.stat().st_size
    # A drawing with photographs inside is larger than its bitmap, and gains nothing by being a drawing.
    if svg.is_file() and svg.stat().st_size <= min(size, FIGURE_BYTES):
        return Picture(_address(svg.read_bytes(), "svg+xml"), *bitmap.size, vector=True)
    if size <= FIGURE_BYTES:
        return Picture(_address(png.read_bytes(), "png"), *bitmap.size)
    return _jpeg(bitmap, _FIGURE_SIDE, FIGURE_BYTES)


def _jpeg(picture: Image.Image, side: int, limit: int) -> Picture:
    """``picture`` in the best quality, then the largest size up to ``side`` pixels, of at most ``limit`` bytes."""
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    for quality in _QUALITIES:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, subsampling=0)
        if stream.tell() <= limit:
            return Picture(_address(stream.getvalue(), "jpeg"), *picture.size)
    return _jpeg(picture, round(0.85 * max(picture.size)), limit)


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
