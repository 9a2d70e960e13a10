"""The guess from the image: unseen scenes are recognised, any size works, a kept estimator guesses the same."""

from __future__ import annotations

import numpy as np
import pytest

from instruct_ipt.data.degradations import degrade
from instruct_ipt.errors import InputError
from instruct_ipt.instruction.estimator import CLASSES, CLEAN, Estimator, features
from instruct_ipt.tasks import TASKS
from tests.helpers import smoke


def scene(seed: int, size: int = 64) -> np.ndarray:
    """A cheap stand-in for a photograph: overlapping rectangles of random colours, float32 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), 0.5, np.float32)
    for _ in range(60):
        y, x, h, w = rng.integers(0, size, 2).tolist() + rng.integers(4, size // 2, 2).tolist()
        image[y : y + h, x : x + w] = rng.uniform(0, 0.8, 3)
    return image


def damaged(task: str, seed: int) -> np.ndarray:
    image = scene(seed)
    return image if task == CLEAN else degrade(task, image, np.random.default_rng(seed), smoke().degradation)


@pytest.fixture(scope="module")
def estimator() -> Estimator:
    rows = [features(damaged(name, seed)) for name in CLASSES for seed in range(25)]
    return Estimator.fit(np.array(rows), np.repeat(np.arange(len(CLASSES)), 25), 0.3, 64)


@pytest.mark.parametrize("task", CLASSES)
def test_unseen_scenes_are_recognised(estimator, task):
    found = [CLASSES[int(np.argmax(estimator.probabilities(damaged(task, seed))))] for seed in range(100, 112)]
    assert found.count(task) >= 8, found


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 9), (64, 64), (200, 130), (500, 90)])
def test_any_size_gives_convex_weights(estimator, shape):
    image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    guess = estimator(image)
    assert tuple(guess.weights) == TASKS and sum(guess.weights.values()) == pytest.approx(1)
    assert all(weight == 0 or weight >= 0.1 for weight in guess.weights.values()) and 0 <= guess.clean <= 1


def test_black_white_and_noise_out_of_range_are_finite():
    for image in (np.zeros((64, 64, 3)), np.ones((64, 64, 3)), np.random.default_rng(0).normal(0.5, 1, (64, 64, 3))):
        assert np.isfinite(features(image)).all()


def test_a_kept_estimator_guesses_the_same(estimator, tmp_path):
    estimator.save(tmp_path)
    again = Estimator.load(tmp_path)
    for task in CLASSES:
        np.testing.assert_array_equal(estimator.probabilities(damaged(task, 7)), again.probabilities(damaged(task, 7)))
    (tmp_path / "estimator.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="damaged estimator; `ipt estimator`"):
        Estimator.load(tmp_path)
    with pytest.raises(InputError, match="holds no estimator"):
        Estimator.load(tmp_path / "none")
