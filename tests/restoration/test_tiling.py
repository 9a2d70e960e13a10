"""Tiles cover an image once, agree with the whole image where they can, and leave no seam where they cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_ipt.errors import InputError
from instruct_ipt.restoration import OVERLAP
from instruct_ipt.restoration.tiling import Span, blend, spans

from .nets import Global, Local, Plain, restorer, tiny_restorer


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 3000), st.integers(2, 80), st.integers(1, 128), st.integers(0, 300))
def test_every_pixel_is_said_once_by_tiles_that_saw_its_surroundings(length, overlap, period, more):
    tile = overlap + period + more
    found = spans(length, tile, overlap, period)
    total = np.zeros(length)
    for span in found:
        assert 0 <= span.start <= span.first < span.last <= span.stop <= length
        assert span.stop - span.start <= tile and span.start % period == 0
        assert span.first == 0 or span.first - span.start >= overlap // 4
        assert span.last == length or span.stop - span.last >= overlap // 4
        total[span.first : span.last] += span.weight
        assert span.weight.min() > 0
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert all(after.first > before.first for before, after in zip(found, found[1:], strict=False))
    # No pixel hears three tiles: a band may be given away as soon as the next row of tiles begins.
    assert all(third.first >= first.last for first, third in zip(found, found[2:], strict=False))


def test_bands_are_the_weighted_sum_of_all_tiles():
    rng = np.random.default_rng(0)
    rows, columns = spans(211, 96, 32, 8), spans(150, 96, 32, 8)
    said = {(r.first, c.first): rng.random((2, r.last - r.first, c.last - c.first, 3)) for r in rows for c in columns}
    expected = np.zeros((2, 211, 150, 3))
    for r in rows:
        for c in columns:
            weight = (r.weight[:, None] * c.weight)[None, ..., None]
            expected[:, r.first : r.last, c.first : c.last] += said[r.first, c.first] * weight
    position = 0
    for first, band in blend(rows, columns, lambda r, c: said[r.first, c.first].astype(np.float32)):
        assert first == position
        np.testing.assert_allclose(band, expected[:, first : first + band.shape[1]], atol=1e-6)
        position += band.shape[1]
    assert position == 211


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


@pytest.mark.parametrize(("height", "width"), [(300, 233), (97, 400), (260, 130)])
def test_a_network_that_looks_no_further_than_a_quarter_overlap_is_equal_on_tiles(height, width):
    given = image(height, width)
    near, far = restorer(Local(OVERLAP // 4)), restorer(Local(OVERLAP // 2 + 8))
    for model, equal in ((near, True), (far, False)):
        whole, tiled = (model.restore(given, "derain", tile=tile) for tile in (0, 96))
        assert model.tiles(height, width, 96) > 1
        assert np.allclose(whole, tiled, rtol=0, atol=1e-5) == equal


def gradient_at_ramps(restored: np.ndarray, columns: list[Span]) -> float:
    """Mean step between neighbouring columns where one tile fades into the next, over that everywhere else."""
    steps = np.abs(np.diff(restored.mean(axis=2), axis=1)).mean(axis=0)
    ramp = np.zeros(len(steps), bool)
    for before, after in zip(columns, columns[1:], strict=False):
        ramp[after.first - 1 : before.last] = True
    return steps[ramp].mean() / steps[~ramp].mean()


def test_no_seam_shows_where_tiles_disagree():
    """Steps across borders are within 2 % of those inside tiles; a hard cut between the same tiles is far outside."""
    rng = np.random.default_rng(1)
    slope = np.linspace(0.1, 0.6, 1200)
    given = (slope[None, :, None] + rng.normal(0, 0.03, (900, 1200, 1))).clip(0, 1).astype(np.float32)
    model, tile = restorer(Global()), 300
    columns = spans(1200, tile, OVERLAP, 1)
    assert abs(gradient_at_ramps(model.restore(given, "dehaze", tile=tile), columns) - 1) < 0.02
    hard = given.copy()
    middles = [0, *((b.last + a.first) // 2 for b, a in zip(columns, columns[1:], strict=False)), 1200]
    for span, first, last in zip(columns, middles, middles[1:], strict=False):
        hard[:, first:last] += 0.3 * given[:, span.start : span.stop].mean()
    steps = np.abs(np.diff(hard.mean(axis=2), axis=1)).mean(axis=0)
    cuts = np.array(middles[1:-1]) - 1
    assert steps[cuts].mean() / np.delete(steps, cuts).mean() > 1.1


def test_the_whole_image_in_one_tile_is_the_plain_network():
    model = tiny_restorer()
    given = image(70, 45)
    network = model._model.fold("denoise").fold()
    with torch.inference_mode():
        expected = network(torch.from_numpy(given).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(model.restore(given, "denoise"), expected.clip(0, 1), atol=1e-6)


def test_a_tile_too_small_is_refused_naming_the_least():
    model = tiny_restorer()
    with pytest.raises(InputError, match=f"at least {model.min_tile} pixels"):
        model.restore(image(20, 20), "denoise", tile=model.min_tile - 1)
    model.restore(image(120, 90), "denoise", tile=model.min_tile)


def test_tiles_lie_on_the_windows_of_the_network():
    """A period of the tiny transformer: windows of 4 features at the second of two levels behind a stem of 2."""
    assert tiny_restorer().min_tile == OVERLAP + 4 * 2 * 2


def test_memory_does_not_grow_with_the_height_of_the_image():
    """Of floats, only one band is held: the rows of one row of tiles."""
    rows, columns = spans(5000, 96, 32, 8), spans(20, 96, 32, 8)
    bands = [len(b[0]) for _, b in blend(rows, columns, lambda r, c: np.ones((1, r.last - r.first, 20, 1), np.float32))]
    assert sum(bands) == 5000 and max(bands) <= 96


def test_progress_counts_tiles():
    seen: list[tuple[int, int]] = []
    model = restorer(Plain())
    model.restore(image(200, 150), "desnow", tile=96, progress=lambda done, total: seen.append((done, total)))
    total = model.tiles(200, 150, 96)
    assert seen == [(i + 1, total) for i in range(total)] and total > 4
