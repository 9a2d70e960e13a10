"""Do two images show the same scene? Small normalised thumbnails, compared in all eight symmetries of the square.

A thumbnail of 16 x 24 luminances, without mean and contrast, survives scaling, recompression and changes of brightness;
turning and mirroring is tried out. Correlation above :data:`THRESHOLD` is called an overlap. Not found: crops that
leave out more than about a tenth of a side, and the same scene from another viewpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from instruct_ipt.errors import InputError

SIZE = (24, 16)  # width and height of the thumbnail in px
THRESHOLD = 0.95  # smallest correlation that is called the same scene
_SYMMETRIES = 8


@dataclass(frozen=True)
class Match:
    """Two images that show the same scene.

    Attributes:
        first, second: their names.
        similarity: correlation of the thumbnails in [-1, 1].
        mirrored, turns: how the second lies: mirrored first, then turned by quarter turns counter-clockwise.
    """

    first: str
    second: str
    similarity: float
    mirrored: bool
    turns: int


def fingerprint(image: np.ndarray) -> np.ndarray:
    """Thumbnails of all eight symmetries, float32 (8, 384), each of mean 0 and length 1 (0 for a flat image).

    Args:
        image: uint8 (H, W, 3).
    """
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    forms = [np.rot90(base, k) for base in (grey, grey[:, ::-1]) for k in range(4)]
    # A quarter turn changes the aspect: the thumbnail is taken of the turned image, not turned itself.
    small = np.stack([np.asarray(Image.fromarray(form).resize(SIZE, Image.Resampling.BOX)).ravel() for form in forms])
    small = small - small.mean(axis=1, keepdims=True)
    return (small / np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-3)).astype(np.float32)


def fingerprint_file(path: Path, half: bool = False) -> np.ndarray:
    """:func:`fingerprint` of a file, of its left half if ``half``; large JPEG files are decoded at a lower resolution.

    Raises:
        InputError: the file is no image.
    """
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (SIZE[0] * 16, SIZE[1] * 16))
            image = np.asarray(opened.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"cannot read the image {path}: {error}; fetch it again") from error
    return fingerprint(image[:, : image.shape[1] // 2] if half else image)


def overlaps(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], threshold: float = THRESHOLD
) -> list[Match]:
    """Pairs of images, one of each group, that show the same scene; the most alike first.

    Args:
        first, second: name -> fingerprint.
        threshold: smallest correlation that counts.
    """
    if not first or not second:
        return []
    names, others = list(first), list(second)
    flat = np.stack([first[name][0] for name in names])
    found: list[Match] = []
    for symmetry in range(_SYMMETRIES):
        similarity = flat @ np.stack([second[name][symmetry] for name in others]).T
        for row, column in zip(*np.nonzero(similarity >= threshold), strict=True):
            value = float(similarity[row, column])
            found.append(Match(names[row], others[column], value, symmetry >= 4, symmetry % 4))
    best: dict[tuple[str, str], Match] = {}
    for match in sorted(found, key=lambda m: -m.similarity):
        best.setdefault((match.first, match.second), match)
    return list(best.values())
