"""Pictures as people have them: 8 or 16 bits, grey or colour, with alpha, turned by EXIF, with a colour profile."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms

from instruct_ipt.errors import InputError

# EXIF orientation -> what makes the stored pixels upright. All but two are their own inverse.
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
_INVERSE = {6: 8, 8: 6}
_EXIF_HEAD = b"Exif\x00\x00"
# What describes a photograph in a TIFF's main directory; the other tags there describe the file.
_TIFF_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Orientation,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
_SAME = ("L", "LA", "RGB", "RGBA")
# Modes that a restored picture cannot have, and the nearest that it can.
_NEAREST = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "YCbCr": "RGB", "PA": "RGBA"}


@dataclass(frozen=True)
class Picture:
    """One picture with what belongs to it.

    Attributes:
        pixels: as stored, not turned: uint8 or uint16, (H, W) grey or (H, W, C) with C = 2 grey and alpha, 3 RGB,
            4 RGBA.
        mode: Pillow's name for such pixels; 16-bit ones keep the name they came with.
        orientation: EXIF's, 1 to 8: how to turn the pixels for display.
        icc: colour profile of the pixels.
        exif: EXIF block with its six leading bytes, untouched.
        dpi: dots per inch.
    """

    pixels: np.ndarray
    mode: str
    orientation: int = 1
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None

    def upright(self) -> np.ndarray:
        """The pixels as they are displayed: (H, W) or (H, W, C), or with the axes swapped; a view."""
        return _TURNS[self.orientation](self.pixels)

    def with_upright(self, pixels: np.ndarray) -> Picture:
        """The same picture with other upright pixels, of the shape and type that `upright` gave."""
        back = _TURNS[_INVERSE.get(self.orientation, self.orientation)]
        return replace(self, pixels=np.ascontiguousarray(back(pixels)))


def from_pil(image: Image.Image) -> Picture:
    """The pixels and metadata of a Pillow image.

    Grey, RGB, their forms with alpha and 16-bit grey stay what they are. A palette, one bit, CMYK and YCbCr become grey
    or RGB, a transparent colour becomes alpha: restored pixels need more colours than such an image can hold. CMYK goes
    through its colour profile where it has one.

    Raises:
        InputError: floating-point or Lab values, a transparent value in 16-bit grey, 32-bit values beyond 16 bits, or a
            file behind it that cannot be decoded.
    """
    try:
        # First, for Pillow turns a TIFF on decoding it, and only then says that it is upright.
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise InputError(f"it is damaged: {' '.join(str(error).split())[:200]}") from error
    facts = metadata_of(image)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return Picture(_deep_grey(image), image.mode, **facts)
    if image.mode == "CMYK":
        image, facts["icc"] = _from_cmyk(image), None
    image = image.convert(_mode(image)) if _mode(image) != image.mode else image
    return Picture(np.asarray(image), image.mode, **facts)


def metadata_of(image: Image.Image) -> dict[str, Any]:
    """The fields of a `Picture` beside its pixels and mode."""
    exif, dpi = _exif(image), image.info.get("dpi")
    return {
        "orientation": _orientation(exif),
        "icc": image.info.get("icc_profile") or None,
        "exif": exif,
        "dpi": (float(dpi[0]), float(dpi[1])) if dpi and all(0 < value < 2**16 for value in dpi) else None,
    }


def to_pil(picture: Picture) -> Image.Image:
    """A Pillow image of the picture's mode, with `icc_profile`, `exif` and `dpi` in its `info`."""
    if picture.mode == "I":
        image = Image.fromarray(picture.pixels.astype(np.int32))
    elif picture.mode == "I;16B":
        height, width = picture.pixels.shape
        image = Image.frombytes("I;16B", (width, height), picture.pixels.astype(">u2").tobytes())
    else:
        image = Image.fromarray(picture.pixels)
    info = {"icc_profile": picture.icc, "exif": picture.exif, "dpi": picture.dpi}
    image.info.update({key: value for key, value in info.items() if value})
    return image


def _mode(image: Image.Image) -> str:
    """The mode that `image` is restored in."""
    clear = "transparency" in image.info
    if image.mode == "P":
        return "RGBA" if clear else "RGB"
    mode = _NEAREST.get(image.mode, image.mode)
    if mode not in _SAME:
        raise InputError(f"its mode is {mode}; give 8 or 16 bits per channel, grey or RGB")
    return {"L": "LA", "RGB": "RGBA"}.get(mode, mode) if clear else mode


def _deep_grey(image: Image.Image) -> np.ndarray:
    """16-bit grey as uint16 (H, W)."""
    if "transparency" in image.info:
        raise InputError("it is 16-bit grey with a transparent value; save it with an alpha channel")
    values = np.asarray(image)
    if image.mode == "I" and (values.min() < 0 or values.max() > 65535):
        raise InputError(f"its values go from {values.min()} to {values.max()}; give 8 or 16 bits per channel")
    return values.astype(np.uint16)


def _from_cmyk(image: Image.Image) -> Image.Image:
    """RGB (sRGB where the image says which inks it means)."""
    if profile := image.info.get("icc_profile"):
        try:
            srgb = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, io.BytesIO(profile), srgb, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # a profile of other inks, or a damaged one: as without
    return image.convert("RGB")


def _exif(image: Image.Image) -> bytes | None:
    """The EXIF block; of a TIFF, whose main directory mixes it with the file's own tags, a new one."""
    if raw := image.info.get("exif"):
        return raw if raw.startswith(_EXIF_HEAD) else _EXIF_HEAD + raw
    if image.format != "TIFF":
        return None
    kept = Image.Exif()
    try:
        found = image.getexif()
        for tag in _TIFF_TAGS:
            if tag in found:
                kept[tag] = found[tag]
        for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            if values := found.get_ifd(directory):
                kept[directory] = values
        return kept.tobytes() if len(kept) else None
    except Exception:  # tags that cannot be read: the pixels may be good
        return None


def _orientation(exif: bytes | None) -> int:
    """EXIF's orientation, 1 where there is none or none that can be."""
    if exif is None:
        return 1
    block = Image.Exif()
    try:
        block.load(exif)
        value = block.get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged block is carried along as it is; reading it raises whatever it happens to
        return 1
    return value if isinstance(value, int) and value in _TURNS else 1
