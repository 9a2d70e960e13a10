"""Two hundred files that a person, a phone, a broken disk or an attacker may hand to the restorer."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 200
BOMB = 30_000


@dataclass(frozen=True)
class File:
    """One of them.

    Attributes:
        name: with its suffix.
        content: bytes.
        good: whether it has to be restored; None where either will do, as long as it is said.
    """

    name: str
    content: bytes
    good: bool | None


def picture(seed: int, height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth random values, uint8 (H, W) or (H, W, C)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, channels), dtype=np.uint8)
    size = (width, height)
    planes = [np.asarray(Image.fromarray(coarse[..., c]).resize(size, Image.BICUBIC)) for c in range(channels)]
    return planes[0] if channels == 1 else np.stack(planes, axis=-1)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    """A file of this image."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def block(kind: bytes, data: bytes) -> bytes:
    """A block of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG of any header."""
    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    end = block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + end


def turned(orientation: int) -> bytes:
    """EXIF that asks for a turn."""
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


def odd_but_good() -> list[File]:
    """Unusual pictures that can be restored."""
    colour = Image.fromarray(picture(0))
    clear = colour.quantize(16)
    clear.info["transparency"] = 2
    deep = (picture(1).astype(np.uint16) * 257 + 3).astype(">u2")
    deep_rows = b"".join(b"\0" + row.tobytes() for row in deep)
    grey_rows = b"".join(b"\0" + row[:, 0].tobytes() for row in deep)
    names: dict[str, bytes] = {
        "one-pixel.png": saved(Image.fromarray(picture(2, 1, 1)), "PNG"),
        "one-pixel.jpg": saved(Image.fromarray(picture(2, 1, 1)), "JPEG"),
        "thread.png": saved(Image.fromarray(picture(3, 20_000, 1)), "PNG"),
        "thread.jpg": saved(Image.fromarray(picture(3, 1, 20_000)), "JPEG"),
        "grey.jpg": saved(colour.convert("L"), "JPEG"),
        "ink.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "ink.tif": saved(colour.convert("CMYK"), "TIFF"),
        "palette.png": saved(colour.quantize(16), "PNG"),
        "palette-clear.png": saved(clear, "PNG", transparency=2),
        "still.gif": saved(colour.quantize(16), "GIF"),
        "bit.png": saved(colour.convert("1"), "PNG"),
        "bit.tif": saved(colour.convert("1"), "TIFF"),
        "grey-alpha.png": saved(Image.fromarray(picture(4, channels=2)), "PNG"),
        "alpha.png": saved(Image.fromarray(picture(5, channels=4)), "PNG"),
        "alpha.webp": saved(Image.fromarray(picture(5, channels=4)), "WEBP"),
        "alpha.tif": saved(Image.fromarray(picture(5, channels=4)), "TIFF"),
        "deep-grey.png": png(32, 24, 16, 0, grey_rows),
        "deep.png": png(32, 24, 16, 2, deep_rows),
        "deep-grey.tif": saved(Image.fromarray(deep[..., 0].astype(np.uint16)), "TIFF"),
        "key.png": saved(colour, "PNG", transparency=(1, 2, 3)),
        "progressive.jpg": saved(colour, "JPEG", progressive=True),
        "phone.jpg": saved(colour, "MPO", save_all=True, append_images=[Image.fromarray(picture(6, 8, 8))]),
        "windows.bmp": saved(colour, "BMP"),
        "colours.ppm": saved(colour, "PPM"),
        "greys.pgm": saved(colour.convert("L"), "PPM"),
        "lossless.webp": saved(colour, "WEBP", lossless=True),
        "packed.tif": saved(colour, "TIFF", compression="tiff_lzw"),
        "jpeg-called.png": saved(colour, "JPEG"),
        "png-called.jpg": saved(colour, "PNG"),
        "webp-called.tiff": saved(colour, "WEBP"),
        "odd-exif.jpg": saved(colour, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"),
        "odd-profile.png": saved(colour, "PNG", icc_profile=b"no profile"),
        "name with \x1b[31m in it.png": saved(colour, "PNG"),
    }
    found = [File(name, content, True) for name, content in names.items()]
    for orientation in range(2, 9):
        found.append(File(f"turned-{orientation}.jpg", saved(colour, "JPEG", exif=turned(orientation)), True))
        found.append(File(f"turned-{orientation}.tif", saved(colour, "TIFF", exif=turned(orientation)), True))
    return found


def hopeless() -> list[File]:
    """Files that hold no one picture."""
    first, second = (Image.fromarray(picture(seed)) for seed in (7, 8))
    several = {"save_all": True, "append_images": [second]}
    bomb, side = struct.pack("<I", BOMB), struct.pack("<H", BOMB)
    bitmap = b"BM" + bytes(8) + struct.pack("<II", 54, 40) + bomb + bomb + struct.pack("<HH", 1, 24) + bytes(24)
    tags = [(256, 4, BOMB), (257, 4, BOMB), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, BOMB)]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    names = {
        "bomb.png": png(BOMB, BOMB, 8, 2, b""),
        "bomb-deep.png": png(BOMB, BOMB, 16, 2, b""),
        "bomb.bmp": bitmap,
        "bomb.tif": b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + bytes(4),
        "bomb.ppm": f"P6 {BOMB} {BOMB} 255\n".encode(),
        "bomb.gif": b"GIF89a" + side * 2 + bytes(3) + b"," + bytes(4) + side * 2 + b"\0\2\0;",
        "text.png": b"Dear Sir or Madam,\nplease find enclosed my holiday picture.\n",
        "text.jpg": "\ufeffein Brief".encode(),
        "page.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "print.tif": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
        "empty.png": b"",
        "empty.jpg": b"",
        "zeros.png": bytes(4096),
        "zeros.jpg": bytes(4096),
        "moving.gif": saved(first, "GIF", **several),
        "moving.webp": saved(first, "WEBP", **several),
        "moving.png": saved(first, "PNG", **several),
        "pages.tif": saved(first, "TIFF", **several),
        "floats.tif": saved(first.convert("L").convert("F"), "TIFF"),
        "no-pixels.png": png(0, 0, 8, 2, b""),
        "signature.png": b"\x89PNG\r\n\x1a\n",
        "signature.jpg": b"\xff\xd8\xff",
        "signature.webp": b"RIFF\x00\x00\x00\x00WEBP",
        "short-rows.png": png(32, 24, 8, 2, bytes(100)),
        "short-deep-rows.png": png(32, 24, 16, 2, bytes(100)),
    }
    return [File(name, content, False) for name, content in names.items()]


def hostile_files() -> list[File]:
    """:data:`COUNT` files, always the same: odd ones, hopeless ones, ones cut short, ones with flipped bits."""
    found = odd_but_good() + hopeless()
    whole = [
        ("png", saved(Image.fromarray(picture(10, 60, 80)), "PNG")),
        ("jpg", saved(Image.fromarray(picture(11, 60, 80)), "JPEG")),
        ("webp", saved(Image.fromarray(picture(12, 60, 80)), "WEBP", lossless=True)),
        ("tif", saved(Image.fromarray(picture(13, 60, 80)), "TIFF", compression="tiff_lzw")),
        ("gif", saved(Image.fromarray(picture(14, 60, 80)).quantize(64), "GIF")),
        ("bmp", saved(Image.fromarray(picture(15, 60, 80)), "BMP")),
        ("ppm", saved(Image.fromarray(picture(16, 60, 80)), "PPM")),
    ]
    for kind, content in whole:
        for percent in (3, 10, 30, 50, 70):
            found.append(File(f"cut-{percent}.{kind}", content[: max(1, len(content) * percent // 100)], False))
    rng = np.random.default_rng(17)
    while len(found) < COUNT:
        kind, content = whole[len(found) % len(whole)]
        flipped = bytearray(content)
        for position in rng.integers(0, len(content), 1 + len(found) % 5):
            flipped[position] ^= 1 << int(rng.integers(8))
        found.append(File(f"flipped-{len(found)}.{kind}", bytes(flipped), None))
    return found


def write_all(folder: Path) -> list[File]:
    """The files, in `folder`."""
    folder.mkdir()
    files = hostile_files()
    for file in files:
        (folder / file.name).write_bytes(file.content)
    return files
