"""The stream of batches is a function of (seed, step) alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from instruct_ipt.data.shards import Shards, ShardWriter
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


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_worker_processes_change_nothing(tmp_path, workers):
    with ShardWriter(tmp_path) as shards:
        for i, image in enumerate(images(3)):
            shards.add_clean(f"{i}", "set", image)
        shards.add_pair("p", "set", "derain", *images(2, seed=5))
    found = Shards(tmp_path)
    made = PatchStream(found.clean(), smoke().degradation, 3, {"derain": found.pairs("derain")})
    plan = [(step, 32, COUNTS) for step in range(4, 9)]
    ahead = list(prefetch(made, plan, workers))
    assert len(ahead) == 5 and all(same(batch, made.batch(*item)) for batch, item in zip(ahead, plan, strict=True))


def test_a_consumer_may_stop_early():
    batches = prefetch(stream(), [(step, 32, COUNTS) for step in range(50)], workers=1)
    next(batches)
    batches.close()


def test_a_killed_worker_is_one_line_that_says_what_to_do():
    class Deadly(PatchStream):
        def batch(self, *_):
            import os
            import signal

            os.kill(os.getpid(), signal.SIGKILL)

    deadly = Deadly(images(), smoke().degradation, 0)
    with pytest.raises(InputError, match="training.workers"):
        list(prefetch(deadly, [(0, 32, COUNTS)] * 3, workers=1))


def test_without_real_pairs_the_stream_is_what_it_always_was():
    """Digest of batches 0 and 5 before real pairs existed: recorded results stay reproducible."""
    total = hashlib.sha256()
    for step in (0, 5):
        batch = stream().batch(step, 32, COUNTS)
        total.update(np.rint(batch.input * 1e4).astype(np.int32).tobytes())
        total.update(batch.target.tobytes())
    assert total.hexdigest() == "88a5ee1e535f5f3e581f8d6c67b4a790669822326448dfd9dadf93f7e0ad23fe"


def coded_pair(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair whose pixels say where they are: input = (y, x, 0), target = (y, x, 255)."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.dstack([y, x, np.zeros_like(y)]), np.dstack([y, x, np.full_like(y, 255)])


@pytest.mark.parametrize("shape", [(60, 80), (20, 80)])
def test_input_and_target_are_cropped_and_turned_alike(shape):
    real = PatchStream(images(), smoke().degradation, 0, {"derain": [coded_pair(*shape)]}, real_share=1.0)
    batch = real.batch(0, 32, {"derain": 16})
    assert np.array_equal(batch.input[..., :2], batch.target[..., :2])
    assert (batch.input[..., 2] == 0).all() and (batch.target[..., 2] == 1).all()
    corners = {tuple(np.rint(patch[0, 0, :2] * 255).astype(int)) for patch in batch.input}
    assert len(corners) > 4, "windows differ"


def test_real_pairs_come_as_often_as_they_should():
    real = PatchStream(images(), smoke().degradation, 0, {"derain": [coded_pair(40, 40)]}, real_share=0.25)
    batch = real.batch(0, 16, {"derain": 400, "dehaze": 5})
    share = (batch.target[:400, ..., 2] == 1).all(axis=(1, 2)).mean()
    assert 0.18 < share < 0.32
    assert np.array_equal(batch.input[400:], stream().batch(0, 16, {"dehaze": 5}).input), "others are not disturbed"


def test_real_masks_add_flakes_to_snow_and_to_nothing_else():
    mask = np.zeros((40, 40, 3), np.uint8)
    mask[::4, ::4] = 255
    snowy = PatchStream(images(), smoke().degradation, 0, masks=[mask])
    plain, masked = stream().batch(0, 32, COUNTS), snowy.batch(0, 32, COUNTS)
    changed = [not np.array_equal(a, b) for a, b in zip(plain.input, masked.input, strict=True)]
    assert changed[0:-2] == [False] * 8 and changed[-2]
    assert np.array_equal(plain.target[:9], masked.target[:9])


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
