"""Masks are seeded, and as large as they should be."""

from __future__ import annotations

import numpy as np
import pytest

from instruct_ipt.diffusion.masks import MASKS, mask

from .denoisers import SHARE

EVERY = [(task, kind) for task, kinds in MASKS.items() for kind in kinds]


@pytest.mark.parametrize(("task", "kind"), EVERY)
def test_the_missing_share_lies_within_its_range(task, kind):
    shares = [mask(task, np.random.default_rng(seed), (64, 64), SHARE[task], kind).mean() for seed in range(60)]
    low, high = SHARE[task]
    assert low <= min(shares) and max(shares) <= high
    assert max(shares) - min(shares) > 0.6 * (high - low)


@pytest.mark.parametrize(("task", "kind"), EVERY)
def test_a_mask_follows_from_its_seed_alone(task, kind):
    def draw(seed):
        return mask(task, np.random.default_rng(seed), (48, 64), SHARE[task], kind)

    assert draw(3).shape == (48, 64) and draw(3).dtype == bool
    assert np.array_equal(draw(3), draw(3))
    assert any(not np.array_equal(draw(3), draw(seed)) for seed in range(4, 8))


@pytest.mark.parametrize(("task", "kind"), EVERY)
def test_a_larger_share_is_the_same_drawing_thicker(task, kind):
    thin, thick = (mask(task, np.random.default_rng(5), (64, 64), (s, s), kind) for s in (0.25, 0.5))
    assert not (thin & ~thick).any()


def test_outpainting_keeps_a_rectangle():
    for seed in range(20):
        known = ~mask("outpaint", np.random.default_rng(seed), (64, 64), SHARE["outpaint"])
        rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
        assert known[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()


def test_unknown_names_are_refused():
    with pytest.raises(KeyError):
        mask("upscale", np.random.default_rng(0), (32, 32), (0.1, 0.2))
    with pytest.raises(KeyError):
        mask("inpaint", np.random.default_rng(0), (32, 32), (0.1, 0.2), "stars")
