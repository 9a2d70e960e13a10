"""Image files: what they are, reading them within bounds, writing them with what belongs to them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from instruct_ipt.data import images
from instruct_ipt.disk import complaint
from instruct_ipt.errors import InputError

from .pictures import Picture, from_pil, metadata_of, to_pil

SUFFIXES = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WEBP": (".webp",), "TIFF": (".tif", ".tiff")}
"""Formats that are written, and their suffixes, the usual one first."""
MAX_BYTES = 2**31
"""Largest file that is read."""
QUALITY = 95
"""Of JPEG and WebP."""

_GAP = 8  # pixels between the pictures of a comparison
# Pillow unpacks up to 64 MiB of text from a few kilobytes of a PNG, already when it is asked for the size.
PngImagePlugin.MAX_TEXT_MEMORY = 4 * PngImagePlugin.MAX_TEXT_CHUNK

Source = Path | bytes

# Without a handler it would print what it finds odd in a damaged file.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        format: in which its restored picture is written unless another is asked for.
        width, height: in pixels.
    """

    format: str
    width: int
    height: int


def format_of(suffix: str) -> str | None:
    """The format that is written under a suffix, None where there is none."""
    return next((name for name, known in SUFFIXES.items() if suffix.lower() in known), None)


def read_header(source: Source) -> Header:
    """Look at a file without decoding it.

    Raises:
        InputError: no image that is read, too large, or of several frames; one line that says which.
    """
    with _opened(source) as image:
        # An MPO is a JPEG with a preview or a depth map behind it.
        written = "JPEG" if image.format == "MPO" else image.format
        return Header(written if written in SUFFIXES else "PNG", *image.size)


def read(source: Source) -> Picture:
    """Decode a file: PNG, JPEG, WebP, TIFF, BMP, GIF or PPM by its content, whatever its name says.

    Raises:
        InputError: it cannot be read; one line that says why.
    """
    content = _content(source)
    with _opened(content) as image:
        if image.format == "PNG" and _png_is_deep(content):
            return _deep(_decode_png(content), image)
        if image.format == "TIFF" and _tiff_is_deep(image):
            return _deep(_decode_tiff(content), image)
        stored = metadata_of(image)
        image.load()
        picture = from_pil(image)
        if image.format != "TIFF":
            return picture
        # Pillow has turned it, and forgotten by how much.
        turned = replace(picture, orientation=stored["orientation"], exif=stored["exif"])
        return turned.with_upright(picture.pixels)


def encode(picture: Picture, format: str) -> bytes:
    """The content of a file with this picture, its colour profile, EXIF and resolution.

    Args:
        picture: what to write. JPEG and WebP hold 8 bits: 16 are rounded.
        format: a key of `SUFFIXES`.

    Raises:
        InputError: alpha in a JPEG, or a size or block that the format cannot hold.
    """
    alpha = picture.pixels.ndim == 3 and picture.pixels.shape[2] in (2, 4)
    if format == "JPEG" and alpha:
        raise InputError("a JPEG cannot hold its transparency; write PNG, WebP or TIFF (--format)")
    if format in ("JPEG", "WEBP"):
        picture = _shallow(picture)
    try:
        if picture.pixels.dtype == np.uint16 and picture.pixels.ndim == 3:
            return _encode_deep_png(picture) if format == "PNG" else _encode_deep_tiff(picture)
        stream = io.BytesIO()
        to_pil(picture).save(stream, format, **_options(picture, format))
    except Exception as error:  # encoders, like decoders, raise whatever they run into
        raise InputError(f"it cannot be written as {format}: {_short(error)}") from error
    return stream.getvalue()


def side_by_side(before: np.ndarray, after: np.ndarray) -> bytes:
    """A JPEG of two upright pictures of one shape, (H, W) or (H, W, C); alpha is laid over white.

    Raises:
        InputError: together they are wider than a JPEG can be.
    """
    return encode(Picture(in_a_row(_as_seen(before), _as_seen(after)), "RGB"), "JPEG")


def in_a_row(first: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) pictures of one height side by side, with white gaps between."""
    gap = np.full((len(first), _GAP, 3), 255, np.uint8)
    return np.concatenate([first, *(part for other in others for part in (gap, other))], axis=1)


def preview(picture: Picture) -> bytes:
    """A PNG that browsers show whatever the file was: upright, 8 bits, with its transparency and colour profile."""
    seen = _shallow(picture)
    return encode(replace(seen, pixels=np.ascontiguousarray(seen.upright()), orientation=1, exif=None), "PNG")


def write(path: Path, content: bytes, force: bool) -> None:
    """`write_all` of one file."""
    write_all({path: content}, force)


def write_all(contents: Mapping[Path, bytes], force: bool) -> None:
    """Write files whole, and all of them or none: under other names in the same folders, then renamed.

    Raises:
        InputError: one of them exists and `force` is not given, or cannot be written.
    """
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary[path].write_bytes(content)
        for path in contents:
            if path.exists() and not force:
                raise InputError(f"{path} exists; give --force to replace it")
        for path in contents:
            os.replace(temporary[path], path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise InputError(complaint(error) or f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        for name in temporary.values():
            # A disk that is read-only refuses to remove even what is not there.
            with contextlib.suppress(OSError):
                name.unlink()


def read_stream(stream: BinaryIO) -> bytes:
    """All of a stream.

    Raises:
        InputError: more than `MAX_BYTES`.
    """
    content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"it is longer than {MAX_BYTES:,} bytes")
    return content


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[Image.Image]:
    """The image in a file, its header read and found to be within bounds. Whatever fails inside is an InputError."""
    _check_length(source)
    try:
        with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=images.FORMATS) as image:
            _check_size(*image.size)
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise InputError("it holds several pictures (an animation or pages); save the one you mean")
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(
            "it is no PNG, JPEG, WebP, TIFF, BMP, GIF or PPM image, or of a kind that is not read"
        ) from None
    except PermissionError:
        raise InputError("it may not be read (permissions)") from None
    except MemoryError:
        raise InputError("there is not enough memory for it") from None
    except Exception as error:  # a decoder on a damaged file raises dozens of kinds, none of which says more
        raise InputError(f"it is damaged: {_short(error)}") from error


def _check_length(source: Source) -> None:
    if isinstance(source, Path):
        if not source.is_file():
            raise InputError("it is not a file" if source.exists() else "there is no such file")
        length = source.stat().st_size
    else:
        length = len(source)
    if length == 0:
        raise InputError("it is empty")
    if length > MAX_BYTES:
        raise InputError(f"it is longer than {MAX_BYTES:,} bytes")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"its header says {width} x {height} pixels")
    if width * height > images.MAX_PIXELS:
        raise InputError(f"it has {width} x {height} pixels; at most {images.MAX_PIXELS:,} are read: scale it down")


def _short(error: Exception) -> str:
    """What an error says, as a part of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _content(source: Source) -> bytes:
    """All of it, for a decoder: reading a file, Python sets as many bytes aside as a block says that it is long."""
    if isinstance(source, bytes):
        return source
    _check_length(source)
    try:
        return source.read_bytes()
    except OSError as error:
        raise InputError(f"it cannot be read: {error.strerror or error}") from error


def _deep(pixels: np.ndarray, image: Image.Image) -> Picture:
    """16-bit colour, or grey with alpha, which Pillow would cut to 8 bits."""
    if pixels.ndim != 3 or not 2 <= pixels.shape[2] <= 4:
        raise InputError(f"its pixels have shape {pixels.shape}; give grey or RGB, with or without alpha")
    return Picture(pixels, {2: "LA;16", 3: "RGB;16", 4: "RGBA;16"}[pixels.shape[2]], **metadata_of(image))


def _png_is_deep(content: bytes) -> bool:
    """Whether a PNG has 16 bits and several channels: bit depth and colour type stand at fixed places."""
    return content[24] == 16 and content[25] in (2, 4, 6)


def _decode_png(content: bytes) -> np.ndarray:
    import imagecodecs

    return imagecodecs.png_decode(content)


def _tiff_is_deep(image: Any) -> bool:
    bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, ())
    return len(bits) > 1 and set(bits) == {16}


def _decode_tiff(content: bytes) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        page = tiff.pages[0]
        _check_size(page.imagewidth, page.imagelength)
        if page.imagedepth > 1 or page.samplesperpixel > 4:
            # Before they are decoded: a few bytes can promise a million planes.
            raise InputError(f"its pixels have shape {page.shape}; give grey or RGB, with or without alpha")
        kinds = tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.MINISBLACK
        if page.photometric not in kinds or page.dtype != np.uint16:
            raise InputError("its 16-bit colours are not RGB; convert it to RGB")
        if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
            raise InputError("its 16-bit colours are multiplied by its transparency; save it with straight alpha")
        pixels = page.asarray(maxworkers=1)
        separate = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
        return np.ascontiguousarray(np.moveaxis(pixels, 0, -1)) if separate else pixels


def _options(picture: Picture, format: str) -> dict[str, Any]:
    """What Pillow is told beside the pixels."""
    common = {"icc_profile": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    own: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": QUALITY, "subsampling": "4:4:4"},
        # `exact` keeps the colours of transparent pixels.
        "WEBP": {"quality": QUALITY, "exact": True},
        # Pillow compresses a TIFF by libtiff, which cannot write the directories of EXIF.
        "TIFF": {} if picture.exif else {"compression": "tiff_deflate"},
        "PNG": {},
    }
    return {key: value for key, value in common.items() if value} | own[format]


def _shallow(picture: Picture) -> Picture:
    """The picture with 8 bits."""
    if picture.pixels.dtype == np.uint8:
        return picture
    channels = picture.pixels.shape[2] if picture.pixels.ndim == 3 else 1
    pixels = ((picture.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return Picture(pixels, {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels], **_metadata(picture))


def _metadata(picture: Picture) -> dict[str, Any]:
    return {"orientation": picture.orientation, "icc": picture.icc, "exif": picture.exif, "dpi": picture.dpi}


def _encode_deep_png(picture: Picture) -> bytes:
    """16-bit colour as PNG; Pillow writes the blocks that the codec does not."""
    import imagecodecs

    content = imagecodecs.png_encode(picture.pixels)
    blocks = io.BytesIO()
    if picture.icc:
        PngImagePlugin.putchunk(blocks, b"iCCP", b"ICC Profile\0\0", zlib.compress(picture.icc))
    if picture.dpi:
        per_metre = b"".join(round(value / 0.0254).to_bytes(4, "big") for value in picture.dpi)
        PngImagePlugin.putchunk(blocks, b"pHYs", per_metre, b"\1")
    if picture.exif:
        PngImagePlugin.putchunk(blocks, b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    after_header = 33  # the signature, and the header block, which has to come first
    return content[:after_header] + blocks.getvalue() + content[after_header:]


def _encode_deep_tiff(picture: Picture) -> bytes:
    """16-bit colour as TIFF. Of EXIF, the main directory is kept: what describes the photograph, not the exposure."""
    import tifffile

    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        picture.pixels,
        photometric="rgb" if picture.pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"] if picture.pixels.shape[2] in (2, 4) else None,
        compression="zlib",
        iccprofile=picture.icc,
        resolution=picture.dpi,
        resolutionunit="inch" if picture.dpi else None,
        extratags=_tags(picture.exif),
        metadata=None,
        software=False,
    )
    return stream.getvalue()


def _tags(exif: bytes | None) -> list[tuple[int, str | int, int, Any, bool]]:
    """Text and orientation of an EXIF block, as tifffile takes them."""
    if exif is None:
        return []
    block = Image.Exif()
    block.load(exif)
    found: list[tuple[int, str | int, int, Any, bool]] = []
    for tag, value in block.items():
        if tag == ExifTags.Base.Orientation:
            found.append((tag, 3, 1, value, True))
        elif isinstance(value, str) and value.isascii():
            found.append((tag, 2, 0, value, True))
    return found


def _as_seen(pixels: np.ndarray) -> np.ndarray:
    """Any pixels as uint8 RGB (H, W, 3) on white."""
    image = to_pil(_shallow(Picture(pixels, "L" if pixels.ndim == 2 else "RGB")))
    if "A" not in image.getbands():
        return np.asarray(image.convert("RGB"))
    layer = image.convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))
