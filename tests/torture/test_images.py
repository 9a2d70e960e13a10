"""No bytes called a picture make the readers of pictures crash, hang, swell or speak in riddles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from instruct_ipt.data import images
from instruct_ipt.restoration.files import encode, read, read_header
from instruct_ipt.web.work import about

from .child import DONE, MIB, Answer, Child, sound
from .headers import blocks, extreme
from .mutations import BYTES
from .originals import originals

PIXELS = 1_000_000
"""The readers' limit while they are tried here: what a lying header can cost grows with it."""
ASKED, GROWN = 768 * MIB, 192 * MIB
"""Memory beyond what the imports take: most that may be asked for, and most that may be used."""


def load(path: Path) -> str:
    """What the loader of training data makes of a file."""
    images.MAX_PIXELS = PIXELS
    image = images.read_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and 0 < image.size <= 3 * PIXELS
    return f"{image.dtype} {image.shape}"


def open_and_write(path: Path) -> str:
    """What `ipt restore` and the web page do to a file but for the restoring itself."""
    images.MAX_PIXELS = PIXELS
    with about("photo"):
        content = path.read_bytes()
        header, picture = read_header(content), read(content)
        same = read(path)
    height, width = picture.pixels.shape[:2]
    assert np.array_equal(same.pixels, picture.pixels)
    assert (header.width, header.height) in ((width, height), (height, width))
    assert picture.pixels.dtype in (np.uint8, np.uint16) and picture.pixels.ndim in (2, 3)
    assert picture.pixels.ndim == 2 or picture.pixels.shape[2] in (2, 3, 4)
    with about("photo"):
        encode(picture, header.format)
    return f"{picture.pixels.dtype} {picture.pixels.shape}"


def mutated(count: int, seed: int) -> list[tuple[str, bytes]]:
    """The originals themselves, then ``count`` mutations of them, always the same."""
    whole = originals()
    names, contents = list(whole), list(whole.values())
    found = list(whole.items())
    for index in range(count):
        rng, name = np.random.default_rng([seed, index]), names[index % len(names)]
        change = (*BYTES, extreme, extreme, extreme, blocks)[int(rng.integers(len(BYTES) + 4))]
        found.append((f"{index}-{change.__name__.strip('_')}-{name}", change(rng, whole[name], contents)))
    return found


def without_libtiff(answer: Answer) -> Answer:
    """The answer without lines such as `ZIPDecode: ZLib error`: libtiff, inside Pillow, prints them past Python."""
    own = [line for line in answer.printed.splitlines() if "Warning" in line or ".py" in line or "Traceback" in line]
    return replace(answer, printed="\n".join(own))


@pytest.mark.parametrize("reader", [load, open_and_write])
def test_mutated_pictures(reader, many, tally, tmp_path):
    """Mutated pictures are decoded or refused in one line, within bounds of time and memory."""
    wrong: list[str] = []
    named = "photo" if reader is open_and_write else str(tmp_path)
    with Child(f"{__name__}:{reader.__name__}", tmp_path, ASKED) as child:
        for name, content in mutated(many(150, 2400), seed=11):
            path = tmp_path / name
            path.write_bytes(content)
            answer = without_libtiff(child.ask(path))
            path.unlink()
            problem = sound(answer, named) or ("memory" in answer.text and answer.text)
            if problem or answer.grown > GROWN:
                wrong.append(f"{name}: {problem or f'grew by {answer.grown // MIB} MiB'}")
            tally.add("inputs")
            tally.add("decoded" if answer.outcome == DONE else "refused")
    assert not wrong, "\n".join(wrong)
