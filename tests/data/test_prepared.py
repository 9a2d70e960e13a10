"""`data/prepared`: what is written is what is read, and noise is the protocol's, not the disk's."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from instruct_ipt.data import prepared
from instruct_ipt.data.catalogue import Scene
from instruct_ipt.data.images import read_image, to_bytes, write_image
from instruct_ipt.data.shards import ShardWriter
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.tasks import TASKS
from tests.helpers import images, smoke


def build(root, clean):
    index = prepared.Index(root, root)
    index.add_damaged("test", "bundled", clean, smoke().degradation)
    index.write()
    return root


@pytest.fixture
def root(tmp_path):
    return build(tmp_path, dict(zip(("one", "two"), images(), strict=True)))


def test_pairs_come_back_with_their_targets(root):
    for task in TASKS[1:]:
        found = list(prepared.pairs(root, "test", task, smoke().degradation))
        assert [(p.name, p.dataset) for p in found] == [("one", "bundled"), ("two", "bundled")]
        for pair, clean in zip(found, images(), strict=True):
            assert np.array_equal(to_bytes(pair.target), clean)
            assert pair.input.shape == pair.target.shape and not np.array_equal(pair.input, pair.target)


def test_each_noise_level_is_a_set_of_its_own_with_the_right_strength(root):
    found = list(prepared.pairs(root, "test", "denoise", smoke().degradation))
    assert [p.dataset for p in found] == [f"bundled-sigma{s}" for s in (15, 15, 25, 25, 50, 50)]
    for pair in found:
        sigma = float(pair.dataset.removeprefix("bundled-sigma"))
        assert np.std(pair.input - pair.target) * 255 == pytest.approx(sigma, rel=0.05)
    assert min(p.input.min() for p in found) < 0, "noise must not be clipped under protocol rgb"


def test_the_protocol_may_clip_the_noise(root):
    rule = PROTOCOLS["rgb-crop16"].noisy
    for pair in prepared.pairs(root, "test", "denoise", smoke().degradation, noise=rule):
        levels = pair.input * 255
        assert pair.input.min() >= 0 and np.allclose(levels, np.rint(levels), atol=1e-4)


def test_the_same_files_twice(root, tmp_path_factory):
    other = build(tmp_path_factory.mktemp("other"), dict(zip(("two", "one"), reversed(images()), strict=True)))

    def digest(folder):
        files = sorted(folder.rglob("*.png"))
        return [(f.relative_to(folder), hashlib.sha256(f.read_bytes()).hexdigest()) for f in files]

    assert digest(root) == digest(other) and len(digest(root)) == 10


def test_only_the_asked_pairs_are_made(root):
    wanted = {("denoise", "bundled-sigma25", "two"), ("derain", "bundled", "one")}
    found = [
        (p.task, p.dataset, p.name)
        for task in TASKS
        for p in prepared.pairs(root, "test", task, smoke().degradation, only=wanted)
    ]
    assert set(found) == wanted and len(found) == 2


@pytest.fixture
def fetched(tmp_path):
    """An index over fetched files: a pair, a side-by-side image and a picture without ground truth."""
    raw, home = tmp_path / "raw", tmp_path / "prepared"
    given, target, real = images(3)
    write_image(raw / "A/input/x.png", given)
    write_image(raw / "A/target/x.png", target)
    write_image(raw / "B/y.png", np.concatenate([target, given], axis=1))
    write_image(raw / "C/z.png", real)
    home.mkdir()
    index = prepared.Index(home, home)
    index.add_scene(Scene("A", "deblur", "x", "test", "paired", raw / "A/input/x.png", raw / "A/target/x.png"))
    index.add_scene(Scene("B", "derain", "y", "test", "both", raw / "B/y.png", raw / "B/y.png"))
    index.add_scene(Scene("C", "desnow", "z", "test", "picture", raw / "C/z.png", None))
    index.write()
    return home


def test_fetched_files_are_used_where_they_lie(fetched):
    given, target, real = images(3)
    for task in ("deblur", "derain"):
        (pair,) = prepared.pairs(fetched, "test", task, smoke().degradation)
        assert np.array_equal(to_bytes(pair.input), given) and np.array_equal(to_bytes(pair.target), target)
    ((row, picture),) = prepared.pictures(fetched)
    assert row.dataset == "C" and np.array_equal(to_bytes(picture), real)
    assert [p.name for p in fetched.iterdir()] == ["index.csv"], "nothing was copied"


def test_a_picture_without_ground_truth_is_no_pair(fetched):
    with pytest.raises(InputError, match="no test image for desnow"):
        list(prepared.pairs(fetched, "test", "desnow", smoke().degradation))


def test_the_index_changes_with_the_content_of_the_files(fetched):
    rows = prepared.read_index(fetched)
    raw = fetched.parent / "raw/A/target/x.png"
    write_image(raw, 255 - read_image(raw))
    again = prepared.Index(fetched, fetched)
    again.add_scene(Scene("A", "deblur", "x", "test", "paired", raw.parents[1] / "input/x.png", raw))
    assert again.rows[0].sha256 != rows[0].sha256 and again.rows[0].target == rows[0].target == "../raw/A/target/x.png"


def test_a_missing_file_is_named(fetched):
    (fetched.parent / "raw/A/input/x.png").unlink()
    with pytest.raises(InputError, match=r"raw/A/input/x.png is missing"):
        list(prepared.pairs(fetched, "test", "deblur", smoke().degradation))


def test_two_images_of_one_name_are_refused(tmp_path):
    index = prepared.Index(tmp_path, tmp_path)
    for image in images(2):
        index.add_pair("test", "derain", "set", "same", image, image)
    with pytest.raises(InputError, match="data set set: two test images are called same"):
        index.write()


def test_the_training_stream_uses_real_pairs_where_there_are_any(tmp_path):
    with ShardWriter(tmp_path / "train") as shards:
        shards.add_clean("c", "set", images()[0])
        shards.add_pair("p", "set", "derain", np.zeros((48, 48, 3), np.uint8), np.full((48, 48, 3), 255, np.uint8))
    batch = prepared.training_stream(tmp_path, smoke().degradation, 0, 1.0).batch(0, 32, {"derain": 2, "dehaze": 2})
    assert (batch.input[:2] == 0).all() and (batch.target[:2] == 1).all() and (batch.target[2:] < 1).any()


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="prepare"):
        prepared.training_stream(tmp_path, smoke().degradation, 0, 0.5)
    with pytest.raises(InputError, match="dvc repro prepare"):
        list(prepared.pairs(tmp_path, "test", "derain", smoke().degradation))
