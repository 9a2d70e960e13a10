"""Small sound pictures of every kind that people have, as files."""

from __future__ import annotations

import io
import struct
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms

from tests.restoration.hostile import picture, saved, turned


def _tiff(pixels: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def volume(pixels: np.ndarray, depth: int) -> bytes:
    """A TIFF of 16-bit colour that says how many such planes it holds; tifffile reads that tag, and writes it not."""
    own, known = (struct.pack("<HHI", tag, 4, 1) for tag in (65000, 32997))
    written = _tiff(pixels, photometric="rgb", compression="zlib", extratags=[(65000, 4, 1, depth, True)])
    return written.replace(own, known)


def originals() -> dict[str, bytes]:
    """File name -> content: PNG, JPEG, TIFF and WebP; modes, depths, layouts, metadata, several pictures in one."""
    colour = Image.fromarray(picture(0, 40, 52))
    second, clear = Image.fromarray(picture(1, 40, 52)), Image.fromarray(picture(2, 40, 52, channels=4))
    deep = picture(3, 40, 52, channels=4).astype(np.uint16) * 257 + 3
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    several: dict[str, Any] = {"save_all": True, "append_images": [second]}
    told: dict[str, Any] = {"exif": turned(6), "icc_profile": profile, "dpi": (300, 300)}
    return {
        "grey.png": saved(colour.convert("L"), "PNG"),
        "colour.png": saved(colour, "PNG", **told),
        "alpha.png": saved(clear, "PNG"),
        "palette.png": saved(colour.quantize(16), "PNG", transparency=2),
        "bits.png": saved(colour.convert("1"), "PNG"),
        "deep-grey.png": saved(Image.fromarray(deep[..., 0].copy()), "PNG"),
        "deep.png": imagecodecs.png_encode(deep[..., :3].copy()),
        "deep-alpha.png": imagecodecs.png_encode(deep),
        "moving.png": saved(colour, "PNG", **several),
        "grey.jpg": saved(colour.convert("L"), "JPEG"),
        "colour.jpg": saved(colour, "JPEG", **told),
        "progressive.jpg": saved(colour, "JPEG", progressive=True),
        "ink.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "phone.jpg": saved(colour, "MPO", **several),
        "colour.tif": saved(colour, "TIFF", **told),
        "alpha.tif": saved(clear, "TIFF", compression="tiff_lzw"),
        "bits.tif": saved(colour.convert("1"), "TIFF", compression="group4"),
        "jpeg.tif": saved(colour, "TIFF", compression="jpeg"),
        "ink.tif": saved(colour.convert("CMYK"), "TIFF"),
        "pages.tif": _tiff(np.stack([np.asarray(colour), np.asarray(second)]), photometric="rgb", compression="zlib"),
        "tiles.tif": _tiff(np.asarray(colour), tile=(16, 16), compression="zlib", photometric="rgb"),
        "deep-grey.tif": _tiff(deep[..., 0]),
        "deep.tif": _tiff(deep[..., :3], photometric="rgb", compression="zlib"),
        "deep-tiles.tif": _tiff(deep[..., :3], photometric="rgb", tile=(16, 16), compression="lzw", predictor=True),
        "deep-planes.tif": _tiff(
            np.moveaxis(deep[..., :3], -1, 0).copy(), photometric="rgb", planarconfig="separate", byteorder=">"
        ),
        "deep-volume.tif": volume(deep[..., :3], 1),
        "big.tif": _tiff(np.asarray(colour), photometric="rgb", bigtiff=True),
        "floats.tif": _tiff(np.asarray(colour.convert("F")), compression="zlib"),
        "lossy.webp": saved(colour, "WEBP", **told),
        "lossless.webp": saved(clear, "WEBP", lossless=True),
        "moving.webp": saved(colour, "WEBP", **several),
    }
