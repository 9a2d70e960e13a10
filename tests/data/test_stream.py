"""The stream of batches is a function of (seed, step) alone."""

from __future__ import annotations

import numpy as np
import pytest

from instruct_ipt.data.stream import PatchStream, prefetch
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS
from tests.helpers import images, smoke, stream

COUNTS = dict.fromkeys(TASKS, 2)


def same(a, b) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("input", "target", "task"))


def test_a_batch_depends_on_seed_and_step_and_nothing_before():
    fresh, used = stream(), stream()
    for step in range(3):
        used.batch(step, 32, COUNTS)
    assert same(fresh.batch(7, 32, COUNTS), used.batch(7, 32, COUNTS))
    assert not same(fresh.batch(7, 32, COUNTS), fresh.batch(8, 32, COUNTS))
    assert not same(fresh.batch(7, 32, COUNTS), stream(seed=1).batch(7, 32, COUNTS))


def test_a_tasks_samples_do_not_depend_on_which_other_tasks_are_in_the_batch():
    alone = stream().batch(3, 32, {"derain": 2})
    mixed = stream().batch(3, 32, COUNTS)
    assert np.array_equal(alone.input, mixed.input[mixed.task == TASKS.index("derain")])


def test_prefetching_changes_nothing():
    plan = [(step, 32, COUNTS) for step in range(5)]
    ahead = list(prefetch(stream(), plan))
    assert len(ahead) == 5 and all(same(batch, stream().batch(*item)) for batch, item in zip(ahead, plan, strict=True))


def test_shapes_types_ranges_and_order():
    batch = stream().batch(0, 32, {"denoise": 1, "desnow": 3})
    assert batch.input.shape == batch.target.shape == (4, 32, 32, 3)
    assert batch.input.dtype == batch.target.dtype == np.float32
    assert batch.task.tolist() == [0, 4, 4, 4]
    assert batch.target.min() >= 0 and batch.target.max() <= 1


def test_images_smaller_than_the_patch_are_mirrored_to_size():
    small = PatchStream(images(size=12), smoke().degradation, 0)
    assert small.batch(0, 32, {"dehaze": 2}).target.shape == (2, 32, 32, 3)


def test_no_image_is_an_error_that_says_what_to_do():
    with pytest.raises(InputError, match="dvc repro prepare"):
        PatchStream([], smoke().degradation, 0)
