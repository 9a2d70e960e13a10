"""Fields of image headers, to be set to what no honest writer would say."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63)
_PNG = 8  # bytes of the signature


@dataclass(frozen=True)
class Field:
    """A number in a header: where it begins, its bytes, and their order, `big` or `little`."""

    begin: int
    length: int
    order: str


def extreme(rng: np.random.Generator, content: bytes, others: object) -> bytes:
    """One to three fields of the header set to extreme values; the checksums of a PNG are made good again."""
    found, data = fields(content), bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        field = found[int(rng.integers(len(found)))]
        value = EXTREMES[int(rng.integers(len(EXTREMES)))] % 256**field.length
        data[field.begin : field.begin + field.length] = value.to_bytes(field.length, field.order)  # type: ignore[arg-type]
    return _checksums(bytes(data)) if content.startswith(b"\x89PNG") else bytes(data)


def blocks(rng: np.random.Generator, content: bytes, others: object) -> bytes:
    """Whole blocks of the format doubled, dropped or exchanged; of a TIFF, entries of its first directory."""
    found = _parts(content)
    parts = [content[begin:end] for begin, end in found]
    one, other = (int(n) for n in rng.integers(len(parts), size=2))
    if (what := int(rng.integers(3))) == 0:
        parts.insert(other, parts[one])
    elif what == 1:
        parts.pop(one)
    else:
        parts[one], parts[other] = parts[other], parts[one]
    return content[: found[0][0]] + b"".join(parts) + content[found[-1][1] :]


def fields(content: bytes) -> list[Field]:
    """The numbers of a PNG's, JPEG's, TIFF's or WebP's blocks: lengths, sizes, depths, kinds, counts, places."""
    kind = _kind(content)
    if kind == "PNG":
        found = [Field(begin, 4, "big") for begin, _ in _parts(content)]
        return [*found, *(Field(16 + n, 4, "big") for n in (0, 4)), *(Field(24 + n, 1, "big") for n in range(5))]
    if kind == "JPEG":
        found = [Field(begin + 2, 2, "big") for begin, _ in _parts(content)]
        frames = [begin for begin, _ in _parts(content) if content[begin + 1] in (0xC0, 0xC2)]
        sizes = [Field(b + at, n, "big") for b in frames for at, n in ((4, 1), (5, 2), (7, 2), (9, 1), (11, 1))]
        return found + sizes * 5
    if kind == "WEBP":
        found = [Field(begin + 4, 4, "little") for begin, _ in _parts(content)]
        inside = [Field(begin + 8 + n, 3, "little") for begin, _ in _parts(content) for n in (0, 4, 6, 7)]
        return [Field(4, 4, "little"), *found, *inside]
    return list(_of_tiff(content))


def _of_tiff(content: bytes) -> Iterator[Field]:
    order, big = ("little" if content[:2] == b"II" else "big"), _big(content)
    wide = 8 if big else 4
    yield Field(8 if big else 4, wide, order)
    for begin, _ in _parts(content):
        yield from (Field(begin, 2, order), Field(begin + 2, 2, order), Field(begin + 4, wide, order))
        yield Field(begin + 4 + wide, 4, order)
        yield Field(begin + 4 + wide, 2, order)


def _kind(content: bytes) -> str:
    starts = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WEBP"}
    return next((kind for start, kind in starts.items() if content.startswith(start)), "TIFF")


def _big(content: bytes) -> bool:
    """Whether a TIFF has fields of 64 bits."""
    return 43 in content[2:4]


def _parts(content: bytes) -> list[tuple[int, int]]:
    """(begin, end) of a PNG's blocks, the segments before a JPEG's pixels, a WebP's chunks, a TIFF's entries."""
    kind = _kind(content)
    if kind == "TIFF":
        return _entries(content)
    found, begin = [], {"PNG": _PNG, "JPEG": 2, "WEBP": 12}[kind]
    while begin + 8 <= len(content):
        if kind == "PNG":
            end = begin + 12 + struct.unpack_from(">I", content, begin)[0]
        elif kind == "WEBP":
            end = begin + 8 + struct.unpack_from("<I", content, begin + 4)[0]
            end += end % 2
        else:
            end = begin + 2 + struct.unpack_from(">H", content, begin + 2)[0]
        found.append((begin, end))
        if kind == "JPEG" and content[begin + 1] == 0xDA:
            break
        begin = end
    return found


def _entries(content: bytes) -> list[tuple[int, int]]:
    order = "<" if content[:2] == b"II" else ">"
    place, count, size = (("Q", 8), "Q", 20) if _big(content) else (("I", 4), "H", 12)
    (begin,) = struct.unpack_from(order + place[0], content, place[1])
    (number,) = struct.unpack_from(order + count, content, begin)
    begin += struct.calcsize(count)
    return [(begin + size * n, begin + size * (n + 1)) for n in range(number)]


def _checksums(content: bytes) -> bytes:
    """A PNG whose blocks have the checksums of their content, as far as its lengths lead."""
    data, begin = bytearray(content), _PNG
    while begin + 12 <= len(data):
        end = begin + 8 + int.from_bytes(data[begin : begin + 4], "big")
        if end + 4 > len(data):
            break
        data[end : end + 4] = struct.pack(">I", zlib.crc32(data[begin + 4 : end]))
        begin = end + 4
    return bytes(data)
