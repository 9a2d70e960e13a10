"""Images of any size: overlapping tiles, blended without a seam, one band of the image at a time.

Along each axis the tiles overlap, and in the middle of each overlap lies a ramp on which one tile fades into the next.
What a tile says outside its ramps is dropped: near its border it has not seen all that the whole image would have shown
it. At every pixel the weights sum to one, so that nothing has to be divided by anything. Rows of the image are finished
from the top: of the blended floats only one band, the rows of one row of tiles, is ever held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the image.

    Attributes:
        start, stop: what the network sees.
        first, last: where the tile has a say; within [start, stop].
        weight: its share there, float32 (last - first,), in (0, 1].
    """

    start: int
    stop: int
    first: int
    last: int
    weight: np.ndarray

    @property
    def said(self) -> slice:
        """The pixels of [first, last), counted from `start`."""
        return slice(self.first - self.start, self.last - self.start)


def spans(length: int, tile: int, overlap: int, period: int) -> list[Span]:
    """Cut an axis of `length` pixels into tiles of at most `tile` that overlap by at least `overlap`.

    Tiles start at multiples of `period`, so that windows and grids inside the network lie as they do in the whole
    image. At least the first and last `overlap / 4` pixels of an overlap are dropped: a network that looks no further
    than that gives what it gives on the whole image.

    Args:
        length: >= 1.
        tile: >= overlap + period, or >= length.
        overlap: >= 2.
        period: >= 1.
    """
    if length <= tile:
        return [Span(0, length, 0, length, np.ones(length, np.float32))]
    last = -(-(length - tile) // period)
    count = -(-last // ((tile - overlap) // period))
    starts = [last * i // count * period for i in range(count + 1)]
    stops = [min(start + tile, length) for start in starts]
    centres = [(start + stop) // 2 for start, stop in zip(starts[1:], stops[:-1], strict=True)]
    # No wider than the distance of two ramps, so that no pixel hears three tiles.
    fade = min([overlap // 2, *(after - before for before, after in zip(centres, centres[1:], strict=False))])
    ramps = [centre - fade // 2 for centre in centres]
    rise = (np.arange(fade, dtype=np.float32) + np.float32(0.5)) / np.float32(fade)
    found = []
    for index, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        first = ramps[index - 1] if index else 0
        end = ramps[index] + fade if index < count else length
        weight = np.ones(end - first, np.float32)
        if index:
            weight[:fade] = rise
        if index < count:
            weight[-fade:] = 1 - rise
        found.append(Span(start, stop, first, end, weight))
    return found


def blend(
    rows: Sequence[Span], columns: Sequence[Span], answer: Callable[[Span, Span], np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """The weighted sum of all tiles, as bands from the top: the first row of each, and float32 (N, rows, W, C).

    Args:
        rows: tiles of the vertical axis.
        columns: tiles of the horizontal axis, up to the width W.
        answer: what a tile says where it has a say, float32 (N, row.last - row.first, column.last - column.first, C).
    """
    width, carried = columns[-1].last, None
    for index, row in enumerate(rows):
        band = None
        for column in columns:
            said = answer(row, column)
            if band is None:
                band = np.zeros((len(said), row.last - row.first, width, said.shape[-1]), np.float32)
            band[:, :, column.first : column.last] += said * (row.weight[:, None] * column.weight)[..., None]
        if carried is not None:
            band[:, : carried.shape[1]] += carried
        done = rows[index + 1].first - row.first if index + 1 < len(rows) else row.last - row.first
        yield row.first, band[:, :done]
        carried = band[:, done:].copy()
