"""The stream of batches is a function of (seed, step) alone, whoever makes them and whatever they are made of."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.shards import Shards, ShardWriter
from instruct_ipt.data.stream import (
    ENLARGED,
    MILDER,
    SOFTENED,
    Batch,
    PatchStream,
    _died,
    enlarge,
    prefetch,
    shrink,
    soften,
)
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


def from_shards(folder: Path) -> PatchStream:
    """A stream of clean images, real rain and a snow mask, all read from shards."""
    with ShardWriter(folder) as shards:
        for i, image in enumerate(images(3)):
            shards.add_clean(f"{i}", "set", image)
        shards.add_pair("p", "set", "derain", *images(2, seed=5))
        shards.add_mask("m", "set", images(1, seed=6)[0])
    found = Shards(folder)
    return PatchStream(found.clean(), smoke().degradation, 3, {"derain": found.pairs("derain")}, found.masks())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_number_of_workers_changes_nothing_also_when_resumed_at_step_4(tmp_path, workers):
    made = from_shards(tmp_path)
    plan = [(step, 32, COUNTS) for step in range(9)]
    random_state = torch.get_rng_state()
    ahead = list(prefetch(made, plan[4:], workers))
    assert torch.equal(torch.get_rng_state(), random_state), "nor does it move torch's own generator"
    assert len(ahead) == 5
    assert all(same(batch, made.batch(*item)) for batch, item in zip(ahead, plan[4:], strict=True))


def test_workers_that_are_spawned_map_the_shards_themselves(tmp_path):
    """On other systems, and in later Pythons, a worker inherits nothing: all that it needs must be picklable."""
    made, plan = from_shards(tmp_path), [(0, 32, COUNTS), (1, 32, COUNTS)]
    method = torch.multiprocessing.get_start_method()
    try:
        torch.multiprocessing.set_start_method("spawn", force=True)
        ahead = list(prefetch(made, plan, workers=1))
    finally:
        torch.multiprocessing.set_start_method(method, force=True)
    assert all(same(batch, made.batch(*item)) for batch, item in zip(ahead, plan, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_consumer_may_stop_early_and_no_process_stays(workers):
    batches = prefetch(stream(), [(step, 32, COUNTS) for step in range(50)], workers)
    assert same(next(batches), stream().batch(0, 32, COUNTS))
    assert len(multiprocessing.active_children()) == workers
    batches.close()
    assert not multiprocessing.active_children()


class Threads(PatchStream):
    """Tells the number of torch threads instead of a batch."""

    def batch(self, *_) -> Batch:
        return Batch(*[np.array(torch.get_num_threads())] * 3)


def test_a_worker_computes_on_one_thread():
    torch.set_num_threads(2)
    try:
        (told,) = prefetch(Threads(images(), smoke().degradation, 0), [(0, 32, COUNTS)], workers=1)
    finally:
        torch.set_num_threads(1)
    assert told.input == 1


class Deadly(PatchStream):
    """Its process is killed as the kernel kills one when memory runs out."""

    def batch(self, *_) -> Batch:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_killed_worker_is_one_line_that_says_what_to_do(monkeypatch):
    # How often torch looks after its workers: every 5 s it says itself, and the test would wait for that.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    deadly = Deadly(images(), smoke().degradation, 0)
    with pytest.raises(InputError, match=r"memory .* ran out; lower training.workers in params.yaml") as caught:
        list(prefetch(deadly, [(0, 32, COUNTS)] * 3, workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "died"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (ConnectionRefusedError(111, "Connection refused"), True),
        (EOFError(), True),
        (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), True),
        (RuntimeError("another"), False),
        (EOFError("Caught EOFError in DataLoader worker process 0."), False),
        (FileNotFoundError(2, "No such file"), False),
    ],
)
def test_a_worker_may_die_while_it_hands_a_batch_over(error, died):
    assert _died(error) is died


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_arrives_as_it_is(workers):
    rain_only = PatchStream([], smoke().degradation, 0, {"derain": [coded_pair(40, 40)]})
    with pytest.raises(InputError) as caught:
        list(prefetch(rain_only, [(0, 32, {"dehaze": 1})], workers))
    assert str(caught.value).startswith("data/prepared/train has neither clean images nor pairs for dehaze; `ipt data")


def test_without_real_pairs_the_stream_is_what_it_always_was():
    """Batch 5 as it was before real pairs existed, but for blur: recorded results stay reproducible.

    Targets bit for bit; inputs by their means, since the last bit of a sine is the processor's own. Blur changed
    last when its patches began to be softened, its milder ones to be milder still, and its kernel's middle to be a
    moment of the exposure.
    """
    batch = stream().batch(5, 32, COUNTS)
    targets = "318fb7d71f810cf195670fab66f31d9325fa80f015a40289dd77fe3d62a56605"
    assert hashlib.sha256(batch.target.tobytes()).hexdigest() == targets
    means = [0.5542728, 0.5178984, 0.5665393, 0.4918961, 0.5527413, 0.5321927, 0.698232, 0.636322, 0.545996, 0.5802855]
    assert batch.input.mean((1, 2, 3), dtype=np.float64) == pytest.approx(means, abs=1e-6)


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


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_real_pairs_come_as_often_as_they_should(share):
    real = PatchStream(images(), smoke().degradation, 0, {"derain": [coded_pair(40, 40)]}, real_share=share)
    batch = real.batch(0, 16, {"derain": 400, "dehaze": 5})
    found = (batch.target[:400, ..., 2] == 1).all(axis=(1, 2)).mean()
    assert abs(found - share) <= 3 * np.sqrt(share * (1 - share) / 400), "three standard deviations"
    assert np.array_equal(batch.input[400:], stream().batch(0, 16, {"dehaze": 5}).input), "others are not disturbed"


def test_each_damage_may_have_a_share_of_real_pairs_of_its_own():
    pairs = {task: [coded_pair(40, 40)] for task in ("derain", "dehaze")}
    alike = PatchStream(images(), smoke().degradation, 0, pairs, real_share=0.75)
    shares = dict.fromkeys(TASKS, 0.75) | {"dehaze": 0.1}
    own = PatchStream(images(), smoke().degradation, 0, pairs, real_share=shares)
    batch, same = (stream.batch(0, 16, {"derain": 20, "dehaze": 400}) for stream in (own, alike))
    assert np.array_equal(batch.input[:20], same.input[:20]), "the other damage is not disturbed"
    found = (batch.target[20:, ..., 2] == 1).all(axis=(1, 2)).mean()
    assert abs(found - 0.1) <= 3 * np.sqrt(0.1 * 0.9 / 400)


def test_all_eight_symmetries_of_a_real_pair_occur_and_no_colour_moves():
    real = PatchStream(images(), smoke().degradation, 0, {"derain": [coded_pair(32, 32)]}, real_share=1.0)
    batch = real.batch(0, 32, {"derain": 200})
    given, _ = coded_pair(32, 32)
    turned = [np.rot90(g, k) for g in (given, given[:, ::-1]) for k in range(4)]
    found = np.rint(batch.input * 255).astype(np.uint8)
    counts = [sum(np.array_equal(patch, t) for patch in found) for t in turned]
    assert min(counts) > 5 and sum(counts) == 200


def sides(batch: Batch) -> list[int]:
    """How far apart the pixels of each patch of coded pairs lie in the photograph: how much it was shrunk."""
    steps = np.rint(np.abs(np.diff(batch.target[..., :2] * 255, axis=1)).max(axis=(1, 2, 3)))
    return steps.astype(int).tolist()


def test_haze_is_learnt_from_shrunk_photographs_too_and_from_no_more_than_they_hold():
    """Pairs whose red and green are where a pixel lies: means of f x f of them are f apart."""
    pairs = {task: [coded_pair(100, 140)] for task in ("dehaze", "derain")}
    real = PatchStream(images(), smoke().degradation, 0, pairs, real_share=1.0)
    hazy = real.batch(0, 32, {"dehaze": 200})
    assert set(sides(hazy)) == {1, 2, 3}, "four times 32 px are more than 100"
    np.testing.assert_allclose(hazy.input[..., :2], hazy.target[..., :2], atol=1e-6)
    assert (hazy.target[..., 2] == 1).all()
    assert set(sides(real.batch(0, 32, {"derain": 50}))) == {1}, "a streak has a width of its own"
    assert set(sides(real.batch(0, 112, {"dehaze": 4}))) == {1}, "a patch larger than the photograph"


def test_half_of_the_real_haze_is_made_milder_and_nothing_else_is():
    """Input 0 and target 255 in blue: what stands there is the share of the clear photograph."""
    pairs = {task: [coded_pair(64, 64)] for task in ("dehaze", "derain")}
    real = PatchStream(images(), smoke().degradation, 0, pairs, real_share=1.0)
    clear = real.batch(0, 16, {"dehaze": 400}).input[..., 2].mean(axis=(1, 2))
    assert abs((clear > 0).mean() - 0.5) <= 3 * np.sqrt(0.25 / 400), "three standard deviations"
    milder = clear[clear > 0]
    assert 0 < milder.min() < 0.1 and 0.7 < milder.max() <= 0.8
    assert (real.batch(0, 16, {"derain": 50}).input[..., 2] == 0).all()


def test_blur_is_learnt_from_enlarged_photographs_too():
    """Red and green say where a pixel lies: enlarged f times, neighbours lie 1 / f apart."""
    pairs = {task: [coded_pair(100, 140)] for task in ("deblur", "derain")}
    real = PatchStream(images(), smoke().degradation, 0, pairs, real_share=1.0)
    batch = real.batch(0, 64, {"deblur": 200, "derain": 20})
    inner = batch.target[:, 8:-8, 8:-8, 0] * 255  # away from the border, where softening bends a ramp
    spans = np.ptp(inner, axis=(1, 2))
    blurred, rainy = spans[:200], spans[200:]
    assert set(rainy) == {47.0}
    large = blurred[blurred < 46]
    assert abs(len(large) / 200 - 0.5) <= 3 * np.sqrt(0.25 / 200)
    assert 47 / ENLARGED["deblur"] - 1 <= large.min() < 30 and large.max() > 42
    np.testing.assert_allclose(batch.input[:200, ..., :2], batch.target[:200, ..., :2], atol=1e-6)


def test_blur_is_learnt_through_soft_lenses_too(monkeypatch):
    """Stripes of two pixels, sharp and blurred alike: what is left of their contrast says how soft the lens was."""
    monkeypatch.setattr("instruct_ipt.data.stream.ENLARGED", {})
    stripes = np.broadcast_to((np.arange(64) // 2 % 2 * 255).astype(np.uint8)[:, None, None], (64, 64, 3))
    pairs = {task: [(stripes, stripes)] for task in ("deblur", "derain")}
    batch = PatchStream([], smoke().degradation, 0, pairs).batch(0, 32, {"deblur": 400, "derain": 20})
    np.testing.assert_array_equal(batch.input, batch.target)
    contrast = batch.target[:, 8:-8, 8:-8].std(axis=(1, 2, 3)) / batch.target[-1].std()
    soft = contrast[:400][contrast[:400] < 0.999]
    assert (contrast[400:] > 0.999).all()
    spread = 3 * np.sqrt(0.25 / 400)
    assert 0.4 - spread < len(soft) / 400 < 0.5 + spread, "half, less what is too weak to change a byte"
    wave = np.exp(-((SOFTENED["deblur"] * np.pi / 2) ** 2) / 2)  # what a Gaussian leaves of a wave of four pixels
    assert soft.min() == pytest.approx(wave, abs=0.03) and soft.max() > 0.95


def test_a_softened_image_is_that_of_a_soft_lens():
    """A Gaussian damps a wave by exp(-(deviation * frequency)^2 / 2) and leaves constant colours alone."""
    y = np.arange(120)
    wave = np.broadcast_to((127.5 + 120 * np.sin(2 * np.pi * y / 8))[:, None, None], (120, 40, 3))
    found = soften(np.rint(wave).astype(np.uint8), 1.2)[20:-20].astype(float)
    expected = 127.5 + 120 * np.exp(-((1.2 * 2 * np.pi / 8) ** 2) / 2) * np.sin(2 * np.pi * y / 8)
    assert found.shape == (80, 40, 3)
    np.testing.assert_allclose(found, np.broadcast_to(expected[20:-20, None, None], found.shape), atol=1.1)


def test_half_of_all_blur_is_made_milder_down_to_none():
    """Real pairs: input 0 and target 255 in blue, so that what stands there is the share of the sharp photograph."""
    real = PatchStream(images(), smoke().degradation, 0, {"deblur": [coded_pair(64, 64)]}, real_share=1.0)
    sharp = real.batch(0, 16, {"deblur": 400}).input[..., 2].mean(axis=(1, 2))
    assert abs((sharp > 0).mean() - 0.5) <= 3 * np.sqrt(0.25 / 400), "three standard deviations"
    milder = 1 - sharp[sharp > 0]
    assert milder.min() < 0.01 and milder.max() > 0.95
    assert 0.18 < np.median(milder) < 0.32, "a square: half of them keep less than a quarter"


def test_our_own_blur_is_made_milder_too(monkeypatch):
    """The same samples, once with all of their blur: what is left of it is one share of it per sample."""
    batches = {}
    for least, power in ((0.0, 2), (0.0, 1), (1.0, 1)):
        how = MILDER["deblur"]._replace(often=1, least=least, power=power)
        monkeypatch.setattr("instruct_ipt.data.stream.MILDER", {"deblur": how})
        batches[least, power] = stream().batch(0, 32, {"deblur": 8})
    targets = [batch.target for batch in batches.values()]
    assert np.array_equal(targets[0], targets[1]) and np.array_equal(targets[0], targets[2])
    left, even, whole = (batch.input - batch.target for batch in batches.values())
    shares, roots = ((part * whole).sum((1, 2, 3)) / (whole**2).sum((1, 2, 3)) for part in (left, even))
    np.testing.assert_allclose(left, shares[:, None, None, None] * whole, atol=1e-5)
    np.testing.assert_allclose(shares, roots**2, atol=1e-4)
    assert MILDER["deblur"].power == 2
    assert 0 <= shares.min() < 0.2 and 0.5 < shares.max() <= 1


def test_an_enlarged_image_is_that_of_bicubic_interpolation():
    """Of a smooth picture any good interpolation is the function itself."""
    y, x = (np.mgrid[:40, :40] + 0.5) / 40
    wide = (np.mgrid[:60, :60] + 0.5) / 60

    def picture(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return np.rint(255 * np.dstack([y, x, 0.5 + 0.4 * np.sin(4 * y) * np.cos(3 * x)])).astype(np.uint8)

    found = enlarge(picture(y, x), 60).astype(int)
    assert found.shape == (60, 60, 3) and np.abs(found - picture(*wide))[3:-3, 3:-3].max() <= 2


def test_a_shrunk_image_is_the_means_of_its_squares():
    image = images(1)[0][:30, :24]
    brute = [[image[3 * y : 3 * y + 3, 3 * x : 3 * x + 3].mean(axis=(0, 1)) for x in range(8)] for y in range(10)]
    np.testing.assert_allclose(shrink(image, 3), brute, atol=0.5 + 1e-4)


def test_a_task_of_ones_own_lives_by_its_pairs():
    tasks, pairs = (*TASKS, "lowlight"), {"lowlight": [coded_pair(40, 40)]}
    own = PatchStream(images(), smoke().degradation, 0, pairs, real_share=0.1, tasks=tasks)
    batch = own.batch(0, 32, {"lowlight": 8, "dehaze": 1})
    assert batch.task.tolist() == [5] * 8 + [3] and (batch.target[:8, ..., 2] == 1).all()
    with pytest.raises(InputError, match="there is no pair for lowlight.*`ipt data add NAME --task lowlight"):
        PatchStream(images(), smoke().degradation, 0, tasks=tasks).batch(0, 32, {"lowlight": 1})


def test_pairs_serve_without_any_clean_image():
    rain = PatchStream([], smoke().degradation, 0, {"derain": [coded_pair(40, 40)]}, real_share=0.1)
    assert (rain.batch(0, 32, {"derain": 8}).target[..., 2] == 1).all()


def test_real_masks_add_flakes_to_snow_and_to_nothing_else():
    mask = np.zeros((40, 40, 3), np.uint8)
    mask[::4, ::4] = 255
    snowy = PatchStream(images(), smoke().degradation, 0, masks=[mask])
    plain, masked = stream().batch(0, 32, COUNTS), snowy.batch(0, 32, COUNTS)
    changed = [not np.array_equal(a, b) for a, b in zip(plain.input, masked.input, strict=True)]
    assert changed == [False] * 8 + [True] * 2
    assert np.array_equal(plain.target[:9], masked.target[:9])


@pytest.mark.parametrize("shape", [(1, 1), (30, 50), (90, 20)])
def test_a_real_mask_is_laid_over_the_drawn_flakes_whatever_the_sizes(shape):
    """Against snow whose mask hides nothing (opacity adds up to the drawn one), and all (a white picture)."""
    settings, clean = smoke().degradation, np.full((*shape, 3), 0.2, np.float32)
    black, white = (np.full((45, 64, 3), level, np.uint8) for level in (0, 255))
    drawn, empty, full = (
        degrade_named("desnow", clean, "a", settings.model_copy(update={"desnow": calm(settings)}), masks=masks)
        for masks in ((), [black], [white])
    )
    assert np.array_equal(drawn, empty)
    assert np.allclose(full, drawn + (1 - drawn) * 255 / 256, atol=1e-6)


def calm(settings):
    """Snow without a veil, whose two random numbers come after those of the mask."""
    return settings.desnow.model_copy(update={"veil": [0.0, 0.0]})


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
