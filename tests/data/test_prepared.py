"""`data/prepared`: what is written is what is read, and noise is the protocol's, not the disk's."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from instruct_ipt.data import prepared
from instruct_ipt.errors import InputError
from instruct_ipt.tasks import TASKS
from tests.helpers import images, smoke


@pytest.fixture
def root(tmp_path):
    clean = dict(zip(("one", "two"), images(), strict=True))
    prepared.write_split(tmp_path, "test", clean, smoke().degradation)
    return tmp_path


def test_pairs_come_back_with_their_targets(root):
    for task in TASKS[1:]:
        found = list(prepared.pairs(root, "test", task, smoke().degradation))
        assert [(p.name, p.dataset) for p in found] == [("one", "bundled"), ("two", "bundled")]
        for pair, clean in zip(found, images(), strict=True):
            assert np.array_equal(prepared.to_bytes(pair.target), clean)
            assert pair.input.shape == pair.target.shape and not np.array_equal(pair.input, pair.target)


def test_each_noise_level_is_a_set_of_its_own_with_the_right_strength(root):
    found = list(prepared.pairs(root, "test", "denoise", smoke().degradation))
    assert [p.dataset for p in found] == [f"bundled-sigma{s}" for s in (15, 15, 25, 25, 50, 50)]
    for pair in found:
        sigma = float(pair.dataset.removeprefix("bundled-sigma"))
        assert np.std(pair.input - pair.target) * 255 == pytest.approx(sigma, rel=0.05)
    assert min(p.input.min() for p in found) < 0, "noise must not be clipped under protocol rgb"


def test_the_same_files_twice(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    clean = dict(zip(("two", "one"), reversed(images()), strict=True))
    prepared.write_split(other, "test", clean, smoke().degradation)

    def digest(folder):
        files = sorted(folder.rglob("*.png"))
        return [(f.relative_to(folder), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files]

    assert digest(root) == digest(other) and len(digest(root)) == 10


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="dvc repro prepare"):
        prepared.training_images(tmp_path)
