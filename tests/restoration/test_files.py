"""Files: every format there and back with what belongs to it, 16 bits as 16 bits, and nothing half written."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from instruct_ipt.errors import InputError
from instruct_ipt.restoration.files import encode, read, read_header, side_by_side, write

from . import hostile

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    """Smooth values, so that lossy formats stay near."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    plane = np.stack([np.sin(x / 9 + c) * np.cos(y / 7 + c) * 0.4 + 0.5 for c in range((shape + (1,))[2])], axis=-1)
    top = np.iinfo(dtype).max
    found = (plane * top).astype(dtype)
    return found if len(shape) == 3 else found[:, :, 0]


def exif(orientation: int = 6) -> bytes:
    block = Image.Exif()
    block[274], block[271], block[33432] = orientation, "Maker", "Somebody"
    block.get_ifd(0x8769)[33434] = 0.01
    return block.tobytes()


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_exif_and_resolution_survive_every_format(format):
    content = saved(
        Image.fromarray(pixels(40, 60, 3)), format, icc_profile=PROFILE, exif=exif(), dpi=(300, 300), quality=95
    )
    picture = read(content)
    assert picture.orientation == 6 and picture.upright().shape == (60, 40, 3)
    for target in ("PNG", "JPEG", "WEBP", "TIFF"):
        content = encode(picture, target)
        with Image.open(io.BytesIO(content)) as again:
            tags = again.getexif()
            # Pillow turns a TIFF when it decodes it.
            stored = tifffile.imread(io.BytesIO(content)) if target == "TIFF" else np.asarray(again)
            assert (again.format, again.mode, stored.shape) == (target, "RGB", (40, 60, 3))
            assert again.info["icc_profile"] == PROFILE
            assert (tags[274], tags[271], tags[33432]) == (6, "Maker", "Somebody")
            assert tags.get_ifd(0x8769)[33434] == pytest.approx(0.01)
            assert np.abs(stored.astype(int) - pixels(40, 60, 3)).mean() < 3
            if format != "WEBP" and target != "WEBP":
                assert again.info["dpi"] == pytest.approx((300, 300), abs=1)


@pytest.mark.parametrize(
    ("format", "channels"), [*(("PNG", c) for c in (1, 2, 3, 4)), *(("TIFF", c) for c in (1, 3, 4))]
)
def test_sixteen_bits_are_read_and_written_whole(format, channels):
    """Held against libraries of others: tifffile, and the PNG's own bytes unfiltered by hand."""
    deep = pixels(31, 23, channels, dtype="uint16")
    deep = deep[:, :, 0] if channels == 1 else deep
    source = tiff16(deep) if format == "TIFF" else png16(deep)
    picture = read(source)
    assert picture.pixels.dtype == np.uint16 and np.array_equal(picture.pixels, deep)
    again = encode(picture, format)
    found = tifffile.imread(io.BytesIO(again)) if format == "TIFF" else unfiltered(again, channels)
    assert np.array_equal(found, deep)
    other = encode(picture, "PNG" if format == "TIFF" else "TIFF")
    assert np.array_equal(unfiltered(other, channels) if format == "TIFF" else tifffile.imread(io.BytesIO(other)), deep)


def tiff16(deep: np.ndarray) -> bytes:
    stream = io.BytesIO()
    channels = deep.shape[2] if deep.ndim == 3 else 1
    alpha = ["unassalpha"] if channels in (2, 4) else None
    photometric = "rgb" if channels > 2 else "minisblack"
    tifffile.imwrite(stream, deep, photometric=photometric, planarconfig="contig" if channels > 1 else None,
                     extrasamples=alpha, byteorder=">")  # fmt: skip
    return stream.getvalue()


def block(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(deep: np.ndarray, *more: bytes) -> bytes:
    """A PNG written by hand: rows without a filter."""
    height, width = deep.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[deep.shape[2] if deep.ndim == 3 else 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")


def unfiltered(content: bytes, channels: int) -> np.ndarray:
    """The values of a 16-bit PNG, decoded as its specification says."""
    position, data, size, kinds = 8, b"", (0, 0), []
    while position < len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        body = content[position + 8 : position + 8 + length]
        kinds.append(kind)
        if kind == b"IHDR":
            size, depth = struct.unpack(">II", body[:8]), body[8]
            assert depth == 16
        data += body if kind == b"IDAT" else b""
        position += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"
    width, height = size
    step = 2 * channels
    raw, rows = zlib.decompress(data), []
    above = bytearray(width * step)
    for y in range(height):
        start = y * (width * step + 1)
        rule, row = raw[start], bytearray(raw[start + 1 : start + 1 + width * step])
        for i in range(len(row)):
            a, b, c = (row[i - step] if i >= step else 0), above[i], (above[i - step] if i >= step else 0)
            p = a + b - c
            nearest = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
            row[i] = (row[i] + [0, a, b, (a + b) // 2, nearest][rule]) % 256
        rows.append(bytes(row))
        above = row
    found = np.frombuffer(b"".join(rows), ">u2").astype(np.uint16).reshape(height, width, channels)
    return found[:, :, 0] if channels == 1 else found


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_colour_keeps_profile_and_orientation(format):
    deep = pixels(31, 23, 3, dtype="uint16")
    profile = block(b"iCCP", b"x\0\0" + zlib.compress(PROFILE))
    exposure = block(b"eXIf", exif(8)[6:])
    picture = read(png16(deep, profile, block(b"pHYs", struct.pack(">IIB", 11811, 11811, 1)), exposure))
    assert picture.orientation == 8 and picture.icc == PROFILE and picture.dpi == pytest.approx((300, 300), abs=0.1)
    again = read(encode(picture, format))
    assert again.orientation == 8 and again.icc == PROFILE and again.dpi == pytest.approx((300, 300), abs=0.1)
    with Image.open(io.BytesIO(encode(picture, format))) as image:
        assert image.getexif()[271] == "Maker"
        if format == "PNG":
            assert image.getexif().get_ifd(0x8769)[33434] == pytest.approx(0.01)


def test_separate_planes_and_compression_of_a_deep_tiff_are_read():
    deep = pixels(31, 23, 3, dtype="uint16")
    for compression in (None, "lzw", "zlib"):
        stream = io.BytesIO()
        tifffile.imwrite(
            stream, deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate", compression=compression
        )
        assert np.array_equal(read(stream.getvalue()).pixels, deep), compression


def test_depth_is_rounded_where_the_format_holds_eight_bits():
    deep = pixels(40, 60, 3, dtype="uint16")
    with Image.open(io.BytesIO(encode(read(png16(deep)), "JPEG"))) as image:
        assert np.abs(np.asarray(image).astype(float) - deep / 257.0).mean() < 2


def test_jpeg_is_written_at_full_colour_resolution():
    content = encode(read(saved(Image.fromarray(pixels(40, 60, 3)), "PNG")), "JPEG")
    with Image.open(io.BytesIO(content)) as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3
        reference = Image.open(io.BytesIO(saved(Image.fromarray(pixels(40, 60, 3)), "JPEG", quality=95)))
        assert image.quantization == reference.quantization


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_written_as_it_was(format):
    given = pixels(40, 60, 4)
    given[:20, :, 3] = 0
    picture = read(saved(Image.fromarray(given), "PNG"))
    with Image.open(io.BytesIO(encode(picture, format))) as image:
        again = np.asarray(image)
    assert np.array_equal(again[..., 3], given[..., 3])
    assert np.abs(again[..., :3].astype(int) - given[..., :3]).mean() < 3
    with pytest.raises(InputError, match="JPEG cannot hold its transparency"):
        encode(picture, "JPEG")


def test_cmyk_goes_through_its_profile_or_without(tmp_path):
    colour = Image.fromarray(pixels(20, 30, 3))
    for profile in (None, b"no profile"):
        options = {"icc_profile": profile} if profile else {}
        for content in (
            saved(colour.convert("CMYK"), "JPEG", quality=95, **options),
            saved(colour.convert("CMYK"), "TIFF", **options),
        ):
            picture = read(content)
            assert picture.mode == "RGB" and picture.icc is None
            assert np.abs(picture.pixels.astype(int) - pixels(20, 30, 3)).mean() < 6


def test_a_phone_s_jpeg_with_a_second_picture_is_its_first():
    first, second = Image.fromarray(pixels(20, 30, 3)), Image.new("RGB", (10, 10))
    content = saved(first, "MPO", save_all=True, append_images=[second])
    assert read_header(content).format == "JPEG" and read(content).pixels.shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"some text", "no PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no PNG, JPEG"),
        (png16(pixels(8, 8, 3, dtype="uint16"))[:-30], "damaged"),
        (b"P6 30000 30000 255\n", "30000 x 30000 pixels; at most 100,000,000"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(content, words):
    with pytest.raises(InputError, match=words) as refusal:
        read(content)
    assert "\n" not in str(refusal.value)


def test_a_tiff_that_promises_a_million_planes_is_refused_before_they_are_made():
    tags = {"photometric": "rgb", "compression": "zlib", "extratags": [(65000, 4, 1, 1_000_000, True)]}
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels(20, 30, 3, dtype="uint16"), **tags)
    # tifffile does not write the tag of the depth, so a private one is renamed.
    depth, private = (struct.pack("<HHI", tag, 4, 1) for tag in (32997, 65000))
    tracemalloc.start()
    with pytest.raises(InputError, match=r"shape \(1000000, 20, 30, 3\)"):
        read(stream.getvalue().replace(private, depth))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_a_file_says_the_same_by_its_name_and_as_bytes(tmp_path):
    """Of a strip that is shorter than the picture, Pillow once read what lay behind it, and once nothing."""
    content = saved(Image.fromarray(pixels(20, 30, 4), "CMYK"), "TIFF")
    place = content.index(struct.pack("<H", 278)) + 8
    content = content[:place] + struct.pack("<I", 2) + content[place + 4 :]
    (tmp_path / "a.tif").write_bytes(content)
    assert np.array_equal(read(tmp_path / "a.tif").pixels, read(content).pixels)


def test_what_is_no_file_is_refused(tmp_path):
    for path, words in ((tmp_path / "none.png", "no such file"), (tmp_path, "not a file")):
        with pytest.raises(InputError, match=words):
            read(path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new" / "a.png"
    write(path, b"one", force=False)
    with pytest.raises(InputError, match=r"a\.png exists; give --force"):
        write(path, b"two", force=False)
    assert path.read_bytes() == b"one"
    write(path, b"two", force=True)
    assert path.read_bytes() == b"two"
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="a.png cannot be written: the disk is full; make room"):
        write(path, b"three", force=True)
    assert path.read_bytes() == b"two" and [p.name for p in path.parent.iterdir()] == ["a.png"]


def test_before_and_after_stand_side_by_side():
    before, after = pixels(20, 30, 4), pixels(20, 30, 4)
    after[..., :3] = 255 - after[..., :3]
    after[..., 3] = before[..., 3] = 255
    with Image.open(io.BytesIO(side_by_side(before, after))) as image:
        both = np.asarray(image).astype(int)
    assert both.shape == (20, 68, 3)
    assert np.abs(both[:, :30] - before[..., :3]).mean() < 4 and np.abs(both[:, 38:] - after[..., :3]).mean() < 4
    assert both[:, 32:36].min() > 240
    assert (
        np.asarray(
            Image.open(io.BytesIO(side_by_side(pixels(9, 9, dtype="uint16"), pixels(9, 9, dtype="uint16"))))
        ).ndim
        == 3
    )


def test_a_small_png_does_not_fill_the_memory_with_its_texts():
    megabyte = zlib.compress(bytes(2**20 - 1), 9)
    texts = [hostile.block(b"zTXt", b"%d\0\0" % number + megabyte) for number in range(63)]
    content = hostile.png(1, 1, 8, 0, b"\0\0", *texts)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="damaged: Too much memory used in text chunks"):
            read_header(content)
        assert len(content) < 100_000 and tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()
    assert read_header(hostile.png(1, 1, 8, 0, b"\0\0", *texts[:2])).width == 1
