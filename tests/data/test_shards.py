"""Shards give back the pixels that went in, from any process, and refuse to be half there."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from instruct_ipt.data.shards import Shards, ShardWriter
from instruct_ipt.errors import InputError
from tests.helpers import images


def write(folder, shard_bytes=20_000):
    with ShardWriter(folder, shard_bytes) as shards:
        for i, image in enumerate(images(4)):
            shards.add_clean(f"c{i}", "set", image)
        shards.add_pair("p", "rain", "derain", images(seed=1)[0], images(seed=2)[0])
        shards.add_mask("m", "snow", images(seed=3)[0])
    return Shards(folder)


def test_every_pixel_comes_back_over_several_files(tmp_path):
    shards = write(tmp_path)
    assert len(list(tmp_path.glob("*.bin"))) > 1
    assert all(np.array_equal(a, b) for a, b in zip(shards.clean(), images(4), strict=True))
    ((given, target),) = shards.pairs("derain")
    assert np.array_equal(given, images(seed=1)[0]) and np.array_equal(target, images(seed=2)[0])
    assert np.array_equal(shards.masks()[0], images(seed=3)[0])
    assert len(shards.pairs("dehaze")) == 0 and shards.clean().sizes == [(48, 48)] * 4


def test_they_travel_to_another_process_as_paths(tmp_path):
    found = write(tmp_path).clean()
    data = pickle.dumps(found)
    assert len(data) < 4000 and np.array_equal(pickle.loads(data)[2], found[2])


def test_the_same_images_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_no_file_exceeds_its_size_unless_one_image_does(tmp_path):
    write(tmp_path / "a", shard_bytes=2 * 48 * 48 * 3)
    assert {file.stat().st_size for file in (tmp_path / "a").glob("*.bin")} == {2 * 48 * 48 * 3, 48 * 48 * 3}
    write(tmp_path / "b", shard_bytes=100)
    assert len(list((tmp_path / "b").glob("*.bin"))) == 7


def test_views_are_read_only_and_map_each_file_once(tmp_path):
    clean = write(tmp_path).clean()
    assert not clean[0].flags.writeable and clean[0].base is not None
    assert np.shares_memory(clean[0], clean[0])


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path) as shards:
        shards.add_clean("one", "set", images()[0])
        raise RuntimeError("power cut")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="index.csv does not exist; `dvc repro prepare`"):
        Shards(tmp_path)


def test_shards_are_never_overwritten(tmp_path):
    write(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match="holds shards already"):
        write(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_shard_cut_short_is_named(tmp_path):
    write(tmp_path)
    file = tmp_path / "shard-000.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"shard-000.bin is missing or cut short.*prepare"):
        Shards(tmp_path)


def test_a_pair_of_two_sizes_is_refused(tmp_path):
    with pytest.raises(InputError, match="rain/odd: .* differ in size"), ShardWriter(tmp_path) as shards:
        shards.add_pair("odd", "rain", "derain", images()[0], images()[0][:-1])


def test_a_damaged_index_is_named(tmp_path):
    write(tmp_path)
    index = tmp_path / "index.csv"
    for text in (index.read_text().replace("offset", "place", 1), index.read_text().replace("48", "wide")):
        index.write_text(text)
        with pytest.raises(InputError, match=r"index.csv is damaged; .*prepare"):
            Shards(tmp_path)


def test_only_eight_bit_colour_is_taken(tmp_path):
    with (
        pytest.raises(InputError, match=r"set/x: float64 of shape \(4, 4\); give uint8"),
        ShardWriter(tmp_path) as shards,
    ):
        shards.add_clean("x", "set", np.zeros((4, 4)))
