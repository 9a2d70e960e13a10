"""The catalogue says what stands where, and refuses to say anything doubtful."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from instruct_ipt.data.catalogue import (
    FACTS,
    DataSet,
    Entry,
    Fact,
    load_catalogue,
    scenes,
    select,
    write_custom,
)
from instruct_ipt.errors import InputError
from tests.data.sets import REAL, small_catalogue

HOME = Path(__file__).parents[2] / "data/catalogue"


@pytest.fixture(scope="module")
def catalogue():
    return load_catalogue(HOME)


def test_the_levels_hold_the_sets_of_the_study(catalogue):
    names = {level: {d.name for d in select(catalogue, level)} for level in ("benchmark", "paper")}
    assert {"BSD400_clean", "Rain800_train", "REDS_train", "CBSD68", "Rain100L", "GoPro_test", "Levin09"} <= names[
        "benchmark"
    ]
    assert {"BSD400", "WED", "DIV2K", "GoPro", "Rain13K", "RESIDE_OTS", "RESIDE_SOTS", "CSD", "Snow100K"} <= names[
        "paper"
    ]


def test_every_benchmark_file_is_pinned_to_a_commit_and_has_a_checksum(catalogue):
    for dataset in select(catalogue, "benchmark"):
        assert dataset.entries and not dataset.by_hand
        for entry in dataset.entries:
            owner, repo, commit = entry.url.removeprefix("https://raw.githubusercontent.com/").split("/")[:3]
            assert owner and repo and len(commit) == 40 and int(commit, 16)
            assert entry.sha256 and entry.bytes and entry.width and entry.height
            assert entry.path.split("/")[0] == dataset.name


def test_every_fact_of_the_paper_level_is_sourced_or_unverified(catalogue):
    for dataset in select(catalogue, "paper"):
        assert set(dataset.facts) == set(FACTS)
        for fact in dataset.facts.values():
            assert fact.verified or fact == Fact()
            assert fact.source is None or fact.source.startswith("https://")
        assert dataset.by_hand or dataset.archives


def test_no_file_is_in_two_splits(catalogue):
    splits = defaultdict(set)
    for dataset in select(catalogue, "benchmark"):
        for entry in dataset.entries:
            splits[entry.sha256].add(entry.split)
    assert [found for found in splits.values() if len(found) > 1] == []


def test_rooms_sequences_and_masks_stay_on_one_side(catalogue):
    side = defaultdict(set)
    for entry in catalogue["REDS_train"].entries:
        side[entry.stem.split("_")[0]].add(entry.split)
    assert sorted(map(len, side.values())) == [1] * 4 and {"validation"} in side.values()
    held = {e.stem.split("_")[0] for e in catalogue["SOTS_indoor_train"].entries if e.split == "validation"}
    assert held == {"1425", "1426", "1427", "1429"}
    assert Counter(e.split for e in catalogue["Snow100K_masks"].entries) == {"train": 2, "test": 1}


def test_scenes_pair_by_stem_whatever_the_extension(tmp_path):
    folder, mirror = small_catalogue(tmp_path)
    small = load_catalogue(folder)
    for name, expected in {"Rain100L": 2, "SOTS_outdoor_train": 3, "Rain800_train": 5, "CBSD68": 2}.items():
        found = scenes(small[name], mirror)
        assert len(found) == expected and [s.split for s in found] == sorted(
            (s.split for s in found), key="train validation test".index
        )
        assert all(s.target and s.target.is_file() and (s.input is None) == (s.layout == "clean") for s in found)
    assert all(s.input and s.target is None for s in scenes(small["Snow_real_nogt"], mirror))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def test_patterns_find_folders_and_hazy_images_may_share_a_clean_one(catalogue, tmp_path):
    raw = tmp_path / "raw/RESIDE_OTS"
    for name in ("synthetic/0011_0.8_0.04.jpg", "synthetic/0011_1_0.2.jpg", "synthetic/0020_1_0.2.jpg"):
        picture(raw / name)
    for name in ("original/0011.jpg", "original/0020.jpg"):
        picture(raw / name)
    found = scenes(catalogue["RESIDE_OTS"], tmp_path / "raw")
    assert [(s.split, s.target.name) for s in found] == [
        ("train", "0011.jpg"), ("train", "0011.jpg"), ("validation", "0020.jpg"),
    ]  # fmt: skip
    assert len({s.name for s in found}) == 3


def test_gopro_sequences_are_split_by_recording(catalogue, tmp_path):
    for sequence in ("train/GOPR0374_11_00", "train/GOPR0372_07_00", "test/GOPR0384_11_00"):
        for kind in ("blur", "sharp"):
            picture(tmp_path / "GoPro" / sequence / kind / "000001.png")
    found = {s.name: s.split for s in scenes(catalogue["GoPro"], tmp_path)}
    assert found == {
        "GOPR0372_07_00-000001": "train", "GOPR0374_11_00-000001": "validation", "GOPR0384_11_00-000001": "test",
    }  # fmt: skip


def test_an_absent_set_says_how_to_get_it(catalogue, tmp_path):
    with pytest.raises(InputError, match="data set GoPro: no image found .* data/raw/GoPro/train"):
        scenes(catalogue["GoPro"], tmp_path)


def test_a_lonely_input_is_named():
    entry = Entry("X/input/a.png", None, None, None, "train", "input")
    made = DataSet("X", "custom", "X", "derain", "paired", "n", {f: Fact() for f in FACTS}, (entry,))
    with pytest.raises(InputError, match="data set X: a .* lacks its target"):
        scenes(made, Path())


def test_a_registered_set_comes_back_as_it_was(tmp_path):
    shutil.copytree(HOME, tmp_path / "catalogue", ignore=shutil.ignore_patterns("custom"))
    entry = Entry("in/a b.png", None, "a" * 64, 7, "validation", "input", 3, 4)
    made = DataSet(
        "mine", "custom", "Mine", "derain", "paired", "a note: with a colon", {f: Fact() for f in FACTS},
        (entry, dataclasses.replace(entry, path="out/a b.png", part="target")), folder="/some/where",
    )  # fmt: skip
    write_custom(made, tmp_path / "catalogue")
    assert load_catalogue(tmp_path / "catalogue")["mine"] == made


def test_a_name_or_level_that_does_not_exist_lists_what_does(catalogue):
    with pytest.raises(InputError, match="'CBSD86' is not in the catalogue; it has: .*CBSD68"):
        select(catalogue, None, ("CBSD86",))
    with pytest.raises(InputError, match="allowed: bundled, benchmark, paper, custom"):
        select(catalogue, "everything")


BROKEN = {
    "benchmark.yaml": {
        "task: denoise": ("task: denoize", "BSD400_clean: task: is 'denoize'; allowed: denoise"),
        "layout: clean": ("layot: clean", "BSD400_clean: layot: is not a known key"),
        "BSD400_clean:": ("BSD 400:", "BSD 400: name: only letters"),
        "  title: Color BSD68": ("  title: [", "is not valid YAML"),
        "      source: counted": ("      sorce: counted", "sorce: is not a known key"),
    },
    "benchmark.csv": {
        "BSD400_clean/100007.jpg": ("../100007.jpg", "BSD400_clean: ../100007.jpg: path: must be relative"),
        "464449ec": ("zzz449ec", "sha256: 'zzz449ec.* is not 64 hexadecimal digits"),
        "train,target,https": ("trian,target,https", "split: 'trian'; allowed: train, validation, test"),
        "https://raw": ("ftp://raw", "url: 'ftp://raw.* is not an http address"),
        "BSD400_clean/100039.jpg": ("BSD400_clean/100007.jpg", "BSD400_clean/100007.jpg is listed twice"),
        "set,path": ("set,paths", "columns must be set, path"),
        "CBSD68,": ("CBSD86,", "set CBSD86 is not described in benchmark.yaml"),
    },
}  # fmt: skip


@pytest.mark.parametrize(("file", "old"), [(file, old) for file, cases in BROKEN.items() for old in cases])
def test_whatever_is_wrong_is_one_line_with_file_set_and_key(tmp_path, file, old):
    shutil.copytree(HOME, tmp_path / "c", ignore=shutil.ignore_patterns("custom"))
    new, message = BROKEN[file][old]
    text = (tmp_path / "c" / file).read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "c" / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        load_catalogue(tmp_path / "c")
    assert "\n" not in str(caught.value) and file.split(".")[0] in str(caught.value)


def test_held_out_photographs_are_alone_of_their_stock_cd(catalogue):
    names = [(e.stem, e.split) for e in (*catalogue["BSD400_clean"].entries, *catalogue["CBSD68"].entries)]
    sharing = Counter(int(stem) // 1000 for stem, _ in names)
    held = [stem for stem, split in names if split == "validation"]
    assert len(held) == 8 and all(sharing[int(stem) // 1000] == 1 for stem in held)


def test_the_files_are_those_of_the_mirror(catalogue):
    if REAL is None or not (REAL / "manifest.csv").is_file():
        pytest.skip("IPT_TEST_MIRROR names no mirror with a manifest.csv")
    listed = {entry.path: entry for dataset in select(catalogue, "benchmark") for entry in dataset.entries}
    with (REAL / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert listed.keys() == rows.keys()
    for path, row in rows.items():
        repo, _, place = row["source"].partition("@")
        address = f"https://raw.githubusercontent.com/{repo}/{quote(place.replace(':', '/', 1))}"
        entry = listed[path]
        assert (entry.sha256, entry.url, entry.bytes) == (row["sha256"], address, (REAL / path).stat().st_size)
        assert (entry.split == "test") == (row["role"] == "test") or entry.part == "mask"


def test_a_description_that_stands_twice_is_refused(tmp_path):
    shutil.copytree(HOME, tmp_path / "c", ignore=shutil.ignore_patterns("custom"))
    with (tmp_path / "c/paper.yaml").open("a", encoding="utf-8") as stream:
        stream.write("WED:\n  title: again\n")
    with pytest.raises(InputError, match="paper.yaml: .*'WED' stands twice"):
        load_catalogue(tmp_path / "c")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("glob: DIV2K_train_HR/**", "glob: ../DIV2K_train_HR/**", "DIV2K: patterns.glob: .* must not leave"),
        ("bytes: 3530603713", "bytes: 3.5 GB", "DIV2K: bytes: is '3.5 GB', which is not a number"),
        ("key: ([^/]+)\\.png$", "key: ([^/]+\\.png$", "DIV2K: patterns.key: .* no regular expression"),
    ],
)  # fmt: skip
def test_a_doubtful_archive_or_pattern_is_refused(tmp_path, old, new, message):
    shutil.copytree(HOME, tmp_path / "c", ignore=shutil.ignore_patterns("custom"))
    text = (tmp_path / "c/paper.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "c/paper.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_catalogue(tmp_path / "c")


def test_a_count_that_is_no_number_is_refused(tmp_path):
    shutil.copytree(HOME, tmp_path / "c", ignore=shutil.ignore_patterns("custom"))
    text = (tmp_path / "c/benchmark.csv").read_text(encoding="utf-8")
    (tmp_path / "c/benchmark.csv").write_text(text.replace(",481,321,", ",481px,321,", 1), encoding="utf-8")
    with pytest.raises(InputError, match="width: '481px' is not a whole number"):
        load_catalogue(tmp_path / "c")


def test_the_subsets_of_the_snow_test_set_may_repeat_names(catalogue, tmp_path):
    home = tmp_path / "Snow100K/Snow100K-testset/media/overlapping/test"
    for subset in "SML":
        for kind in ("synthetic", "gt"):
            picture(home / f"Snow100K-{subset}" / kind / "a_00001.jpg")
    found = scenes(catalogue["Snow100K"], tmp_path)
    assert [s.name for s in found] == ["Snow100K-L-a_00001", "Snow100K-M-a_00001", "Snow100K-S-a_00001"]
    assert all(s.input.parents[1] == s.target.parents[1] for s in found)


def test_two_images_of_one_name_are_refused(catalogue, tmp_path):
    for name in ("a/x_1.png", "b/x_1.jpg"):
        picture(tmp_path / "BSD400" / name)
    with pytest.raises(InputError, match="data set BSD400: .*x_1.jpg and .*x_1.png are both target 'x_1' of train"):
        scenes(catalogue["BSD400"], tmp_path)


def test_an_image_that_two_patterns_put_into_two_splits_is_refused(catalogue, tmp_path):
    picture(tmp_path / "WED/x.png")
    wed = catalogue["WED"]
    twice = dataclasses.replace(wed, patterns=(*wed.patterns, dataclasses.replace(wed.patterns[0], split="test")))
    with pytest.raises(InputError, match="x.png is in train and in test"):
        scenes(twice, tmp_path)


def test_a_benchmark_set_that_is_not_there_says_how_to_get_it(catalogue, tmp_path):
    with pytest.raises(InputError, match="`ipt data fetch --set CBSD68` brings it"):
        scenes(catalogue["CBSD68"], tmp_path)
