"""The sixth degradation: dark, noisy, compressed; a function of the generator alone."""

from __future__ import annotations

import numpy as np
import pytest

from instruct_ipt.own.damage import Damage, load_damage
from instruct_ipt.own.low_light import STOPS, low_light

IMAGE = np.linspace(0.05, 1, 48 * 64 * 3, dtype=np.float32).reshape(48, 64, 3)


def test_it_keeps_its_promise_and_is_loaded_by_name():
    damage = load_damage("instruct_ipt.own.low_light:low_light")
    for shape in ((1, 1, 3), (7, 33, 3), (48, 64, 3)):
        assert damage(np.ones(shape, np.float32), np.random.default_rng(0)).shape == shape
    first, second = (damage(IMAGE, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, damage(IMAGE, np.random.default_rng(6)))
    assert np.array_equal(damage.named(IMAGE, "a"), damage.named(IMAGE, "a"))
    assert not np.array_equal(damage.named(IMAGE, "a"), damage.named(IMAGE, "b"))


def test_light_falls_by_the_stated_stops():
    """A grey wall, whose mean neither noise nor JPEG moves much."""
    wall = np.full((128, 128, 3), 0.8, np.float32)
    stops = [np.log2((0.8 / low_light(wall, np.random.default_rng(seed)).mean()) ** 2.2) for seed in range(20)]
    assert STOPS[0] - 0.1 < min(stops) and max(stops) < STOPS[1] + 0.1 and max(stops) - min(stops) > 0.4


def test_the_image_that_a_damage_gets_is_a_copy():
    def spoil(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        image[:] = 0
        return image

    image = np.ones((4, 4, 3), np.float32)
    assert Damage("x:spoil", spoil)(image, np.random.default_rng(0)).max() == 0 and image.min() == 1


@pytest.mark.parametrize("name", ["", "x", ":f", "x:", "instruct_ipt.own.low_light:STOPS"])
def test_what_is_no_function_is_refused(name):
    with pytest.raises(ValueError, match="--degradation"):
        load_damage(name)
