"""Do two clean images show the same scene? A perceptual comparison that finds copies which no checksum finds.

A fingerprint is the low-frequency cosine spectrum of the grey image, squeezed to a square, without its mean, each
coefficient weighted by its frequency. The weight undoes the 1/f fall of natural images (Field, J. Opt. Soc. Am. A
4(12), 1987): without it, unrelated photographs with a bright sky over dark ground correlate by up to 0.95. In this
spectrum mirroring is a change of signs and a quarter turn a transposition with one, so that all eight symmetries of the
square cost one matrix product each. The fingerprint also holds the spectra of 18 windows of 95 % and 90 % of the sides,
so that a cut image meets its whole.

Measured on 644 training and 189 test images of ten public sets, 250 of the 833 altered in each way; smallest similarity
(the 24 images that Rain100L shares with CBSD68 are all found, at 0.997 or more):

    unrelated training and test images, largest of 121,716 pairs              0.68
    threshold                                                                 0.75
    resized by 0.5 to 1.5, squeezed by 0.8, grey, JPEG quality 30 and 10      0.97
    mirrored, rotated by 90 and 180 degrees                                   1.00
    gamma 1.8 and darker; less contrast                                       0.94
    brightness x 1.3 + 20, clipped (0.94 for 98 % of the images)              0.78
    cut to 95 %, anywhere; the same, resized by 0.6, quality 30, rotated      0.93
    cut to 90 %, anywhere; the same, resized by 0.6, quality 30, transposed   0.82
    cut to 90 % on one side only                                              0.77

Not found: cuts to less than about 85 % (of those, 86 % of the images are found), rotations by other angles, added
borders, negatives. Another view of a scene may be found (three of Rain800 are, at 0.86 to 0.90) or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from instruct_ipt.data.images import read_image

THRESHOLD = 0.75  # between the most alike of unrelated images, 0.68, and the least alike of altered ones, 0.77
FLAT = 1.0  # standard deviation, grey levels of 255: below it a picture is empty, and its spectrum is noise
_ORDER = 12  # frequencies kept along each axis
_GRID = 32  # pixels a side that a window is sampled with
_THUMBNAIL = 128  # pixels a side from which the windows are cut
_CUTS = (0.95, 0.9)
_BLOCK = 2**24  # similarities held at once: 64 MiB
# (transposed, rows mirrored, columns mirrored) -> the same as mirroring left to right, then quarter turns
_SYMMETRIES = {
    (False, False, False): (False, 0),
    (True, True, False): (False, 1),
    (False, True, True): (False, 2),
    (True, False, True): (False, 3),
    (False, False, True): (True, 0),
    (True, True, True): (True, 3),
    (False, True, False): (True, 2),
    (True, False, False): (True, 1),
}


@dataclass(frozen=True)
class Match:
    """Two images that show the same scene.

    Attributes:
        first, second: their keys.
        similarity: correlation of the two spectra, at most 1.
        mirrored, turns: what makes the second like the first: mirrored left to right, then turned by quarters,
            counter-clockwise.
        cut: a window of one is more like the other than the whole.
    """

    first: str
    second: str
    similarity: float
    mirrored: bool
    turns: int
    cut: bool

    @property
    def how(self) -> str:
        """`mirrored, turned by 90°, cut`, or as much of it as holds; empty for a plain copy."""
        said = ((self.mirrored, "mirrored"), (self.turns, f"turned by {90 * self.turns}°"), (self.cut, "cut"))
        return ", ".join(text for holds, text in said if holds)


def fingerprint(image: np.ndarray) -> np.ndarray:
    """What :func:`overlaps` compares: float32 (19, 144), one row for the image and one for each window of it.

    Rows have unit norm; those of a flat picture (see :data:`FLAT`) are zero and match nothing.

    Args:
        image: uint8 (H, W, 3).
    """
    from scipy.fft import dctn

    thumbnail = Image.fromarray(image).convert("L").resize((_THUMBNAIL,) * 2, Image.Resampling.BILINEAR, None, 2.0)
    exact = thumbnail.convert("F")
    cuts = [np.asarray(exact.resize((_GRID,) * 2, Image.Resampling.BILINEAR, box)) for box in _windows()]
    spectra = dctn(np.stack(cuts), axes=(1, 2), norm="ortho")
    contrast = np.sqrt(np.square(spectra).sum((1, 2)) - np.square(spectra[:, 0, 0])) / _GRID
    weighted = (spectra[:, :_ORDER, :_ORDER] * np.hypot(*np.indices((_ORDER, _ORDER)))).reshape(len(cuts), -1)
    norm = np.linalg.norm(weighted, axis=1, keepdims=True)
    return np.where(contrast[:, None] < FLAT, 0.0, weighted / np.maximum(norm, 1e-6)).astype(np.float32)


def fingerprint_file(path: Path, half: bool = False) -> np.ndarray:
    """:func:`fingerprint` of a file, of its left half if ``half``.

    Raises:
        InputError: as :func:`instruct_ipt.data.images.read_image`.
    """
    image = read_image(path)
    return fingerprint(image[:, : image.shape[1] // 2] if half else image)


def overlaps(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], threshold: float = THRESHOLD
) -> list[Match]:
    """Every pair of an image of ``first`` and one of ``second`` at least ``threshold`` alike, most alike first.

    Args:
        first, second: key -> :func:`fingerprint`.
        threshold: similarity in (0, 1] from which two images count as the same scene.
    """
    if not first or not second:
        return []
    left, right, found = list(first), list(second), []
    prints = np.stack(list(second.values()))
    step = max(1, _BLOCK // (prints.shape[0] * prints.shape[1]))
    for start in range(0, len(left), step):
        keys = left[start : start + step]
        best, how = _most_alike(np.stack([first[key] for key in keys]), prints)
        for row, column in zip(*np.nonzero(best >= threshold), strict=True):
            mirrored, turns, cut = _HOW[how[row, column]]
            found.append(Match(keys[row], right[column], float(best[row, column]), mirrored, turns, cut))
    return sorted(found, key=lambda match: (-match.similarity, match.first, match.second))


_HOW = [(*symmetry, cut) for symmetry in _SYMMETRIES.values() for cut in (False, True)]


def _windows() -> Iterator[tuple[float, float, float, float]]:
    """(left, upper, right, lower) in pixels of the thumbnail: the whole, then 3 x 3 places of every cut."""
    yield (0.0, 0.0, _THUMBNAIL, _THUMBNAIL)
    for cut in _CUTS:
        for x, y in product(np.linspace(0, (1 - cut) * _THUMBNAIL, 3).tolist(), repeat=2):
            yield (x, y, x + cut * _THUMBNAIL, y + cut * _THUMBNAIL)


def _most_alike(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A, W, K) and (B, W, K) -> the largest similarity (A, B) over symmetries and windows, and its place in _HOW.

    Windows are compared with whole images only: two of them together would find no cut that one does not.
    """
    best = np.full((len(first), len(second)), -1.0, np.float32)
    how = np.zeros(best.shape, np.intp)
    for number, turned in enumerate(_turned(second)):
        whole = first[:, 0] @ turned[:, 0].T
        there = (first[:, 0] @ turned[:, 1:].reshape(-1, turned.shape[2]).T).reshape(*best.shape, -1).max(2)
        back = (first[:, 1:].reshape(-1, first.shape[2]) @ turned[:, 0].T).reshape(len(first), -1, len(second)).max(1)
        for cut, similarity in enumerate((whole, np.maximum(there, back))):
            how[similarity > best] = 2 * number + cut
            np.maximum(best, similarity, out=best)
    return best, how


def _turned(prints: np.ndarray) -> Iterator[np.ndarray]:
    """Fingerprints (B, W, K) of the images under each of _SYMMETRIES: transposed first, then mirrored."""
    sign = (-1.0) ** np.arange(_ORDER, dtype=np.float32)
    square = prints.reshape(-1, _ORDER, _ORDER)
    for transposed, rows, columns in _SYMMETRIES:
        turned = square.swapaxes(1, 2) if transposed else square
        signs = (sign[:, None] if rows else 1) * (sign if columns else np.ones_like(sign))
        yield np.ascontiguousarray(turned * signs).reshape(prints.shape)
