"""Reading and writing image files: every pixel that enters or leaves the package passes here."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from instruct_ipt.disk import whole
from instruct_ipt.errors import InputError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
MAX_PIXELS = 100_000_000  # a header can promise any size; refusing it costs nothing, decoding it costs all memory

# Pillow knows fifty formats, and some of them start other programs. These are pictures, and well tested.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")

# It warns of odd metadata on its way to reading a picture or refusing it; one of the two is said.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Pillow's own guard warns at a third of this and raises at twice as much; ours is one rule with one message.
Image.MAX_IMAGE_PIXELS = None


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels from the file's header; nothing is decoded.

    Raises:
        InputError: there is no such file, it is not an image, or it has more than :data:`MAX_PIXELS`.
    """
    with _opened(path) as image:
        return image.size


def read_image(path: Path) -> np.ndarray:
    """A file of one of :data:`FORMATS`, whatever its name says, as uint8 (H, W, 3) RGB in [0, 255].

    Grey is replicated, a palette is looked up, alpha is laid over white. Of 16 bits, grey is rounded to 8 and colour
    loses its low byte (Pillow's way, at most one level from rounding).

    Raises:
        InputError: there is no such file, it is not an image, is damaged, has more than :data:`MAX_PIXELS`, or holds
            floating-point values, whose range only their maker knows.
    """
    with _opened(path, whole=True) as image:
        if image.mode == "F":
            raise InputError(f"{path} holds floating-point values; save it with 8 or 16 bits per channel")
        try:
            return np.asarray(_to_rgb(image))
        except Exception as error:
            raise _unreadable(path, error) from error


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as PNG under a temporary name, then rename; the same pixels give the same bytes."""
    with whole(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def to_float(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> float32 in [0, 1]."""
    return image.astype(np.float32) / np.float32(255.0)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """float32 (H, W, 3), clipped to [0, 1] and rounded -> uint8."""
    return np.rint(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _opened(path: Path, whole: bool = False) -> Image.Image:
    try:
        # Decoding from memory: of a file, Python sets as many bytes aside as a block says that it is long.
        image = Image.open(io.BytesIO(path.read_bytes()) if whole else path, formats=FORMATS)
    except Exception as error:
        raise _unreadable(path, error) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise InputError(f"{path} has {width} x {height} pixels; at most {MAX_PIXELS:,} are read: scale it down")
    return image


def _unreadable(path: Path, error: Exception) -> InputError:
    """A decoder on a damaged file raises dozens of kinds of errors, some without a word."""
    if isinstance(error, UnidentifiedImageError):
        reason = f"it is none of {', '.join(FORMATS)}"
    else:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    return InputError(f"cannot read the image {path}: {reason}; give a PNG or JPEG file")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion of 16-bit grey clips at 255 and would give a white image.
        deep = np.clip(np.asarray(image).astype(np.float64), 0, 65535)
        return Image.fromarray(np.rint(deep / 257.0).astype(np.uint8)).convert("RGB")
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
