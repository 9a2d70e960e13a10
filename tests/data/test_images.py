"""Every kind of image file comes in as 8-bit RGB, or is refused in one line without being decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from instruct_ipt.data.images import image_size, read_image, write_image
from instruct_ipt.errors import InputError

RAMP = np.arange(0, 256, 5, dtype=np.uint8).reshape(4, 13)


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def test_grey_is_replicated(tmp_path):
    Image.fromarray(RAMP).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), rgb(RAMP))


def test_one_bit_is_black_and_white(tmp_path):
    Image.fromarray(RAMP > 100).save(tmp_path / "bits.png")
    assert np.array_equal(read_image(tmp_path / "bits.png"), rgb(np.where(RAMP > 100, 255, 0).astype(np.uint8)))


def test_a_palette_is_looked_up_and_its_transparent_colour_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]
    image.save(tmp_path / "clear.png", transparency=0)
    assert read_image(tmp_path / "clear.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_alpha_is_laid_over_white(tmp_path):
    Image.fromarray(np.array([[[100, 0, 50, 0], [100, 0, 50, 255]]], np.uint8), "RGBA").save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").tolist() == [[[255, 255, 255], [100, 0, 50]]]


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_of_grey_are_rounded_to_eight(tmp_path, kind):
    deep = np.array([[0, 128, 129, 0x4000, 0xFFFF]], np.uint16)
    path = tmp_path / f"deep.{kind}"
    Image.fromarray(deep).save(path) if kind == "png" else tifffile.imwrite(path, deep)
    assert read_image(path)[0, :, 0].tolist() == [0, 0, 1, 64, 255]


def deep_png(path: Path, pixels: np.ndarray) -> None:
    """A 16-bit RGB PNG, which Pillow cannot write: uint16 (H, W, 3)."""
    height, width, _ = pixels.shape

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def test_sixteen_bits_of_colour_become_eight(tmp_path):
    deep_png(tmp_path / "deep.png", np.array([[[0, 0x4040, 0xFFFF], [257 * 7, 257 * 8, 257 * 9]]], np.uint16))
    assert read_image(tmp_path / "deep.png").tolist() == [[[0, 64, 255], [7, 8, 9]]]


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    assert (read_image(tmp_path / "print.jpg") > 250).all()


def test_the_size_is_read_from_the_header_alone(tmp_path):
    deep_png(tmp_path / "a.png", np.zeros((3, 5, 3), np.uint16))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:60])
    assert image_size(tmp_path / "cut.png") == (5, 3)


def test_a_header_that_promises_ten_billion_pixels_is_refused_before_decoding(tmp_path):
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    tail = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + tail)
    with pytest.raises(InputError, match="bomb.png has 100000 x 100000 pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_a_damaged_file_is_one_line(tmp_path, kind):
    path = tmp_path / f"cut.{kind}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(InputError, match=f"cannot read the image .*cut.{kind}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


def block(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_palette_behind_the_pixels_is_one_line(tmp_path):
    header = struct.pack(">IIBBBBB", 2, 1, 8, 3, 0, 0, 0)
    pixels = block(b"IDAT", zlib.compress(b"\0\0\1"))
    palette = block(b"PLTE", bytes(6)) + block(b"tRNS", b"\xff\0")
    content = block(b"IHDR", header) + pixels + palette + block(b"IEND", b"")
    (tmp_path / "bare.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(InputError, match="cannot read the image .*bare.png: AssertionError; give"):
        read_image(tmp_path / "bare.png")


def test_the_length_that_a_block_claims_is_not_set_aside(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(rgb(RAMP)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    place = content.index(b"IDAT")
    content[place - 4 : place] = struct.pack(">I", 2**31 - 1)
    (tmp_path / "long.png").write_bytes(content)
    tracemalloc.start()
    try:
        read_image(tmp_path / "long.png")
    except InputError as error:
        assert "long.png" in str(error)
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10_000_000


def test_a_format_that_would_start_another_program_is_no_picture(tmp_path):
    (tmp_path / "print.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    for look in (image_size, read_image):
        with pytest.raises(InputError, match="print.png: it is none of PNG, JPEG"):
            look(tmp_path / "print.png")


def test_odd_metadata_is_not_warned_of(tmp_path):
    Image.fromarray(rgb(RAMP)).save(tmp_path / "odd.tif", description="a" * 50)
    content = (tmp_path / "odd.tif").read_bytes()
    place = content.index(struct.pack("<HH", 270, 2))
    (tmp_path / "odd.tif").write_bytes(content[: place + 4] + b"\xff\xff\0\0" + content[place + 8 :])
    code = "import sys; from pathlib import Path; from instruct_ipt.data import images; "
    code += "print(images.read_image(Path(sys.argv[1])).shape)"
    command = [sys.executable, "-c", code, str(tmp_path / "odd.tif")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("(4, 13, 3)\n", "")


def test_writing_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    image = rgb(RAMP)
    write_image(tmp_path / "sub/a.png", image)
    first = (tmp_path / "sub/a.png").read_bytes()
    write_image(tmp_path / "sub/a.png", image)
    assert (tmp_path / "sub/a.png").read_bytes() == first and len(list((tmp_path / "sub").iterdir())) == 1
    assert np.array_equal(read_image(tmp_path / "sub/a.png"), image)
