"""`ipt data verify` finds what was planted, and `ipt data add` lets nothing in that it would find."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from instruct_ipt.data.catalogue import FACTS, DataSet, Entry, Fact, Pattern, load_catalogue, scenes, select
from instruct_ipt.data.custom import add, remove
from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.images import read_image, write_image
from instruct_ipt.data.overlap import THRESHOLD, fingerprint, overlaps
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.data.verify import verify
from instruct_ipt.errors import InputError
from tests.data.sets import REAL, needs_real, small_catalogue

HOME = Path(__file__).parents[2] / "data/catalogue"


def recompressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


DISGUISES = {
    "same": lambda im: im,
    "half the size": lambda im: im.resize((im.width // 2, im.height // 2), Image.Resampling.BICUBIC),
    "larger, other aspect": lambda im: im.resize((im.width * 3 // 2, im.height), Image.Resampling.BICUBIC),
    "recompressed": recompressed,
    "mirrored": ImageOps.mirror,
    "upside down": lambda im: im.rotate(180),
    "quarter turn": lambda im: im.rotate(90, expand=True),
    "mirrored and turned": lambda im: ImageOps.mirror(im).rotate(270, expand=True),
    "darker": lambda im: im.point(lambda v: v * 0.6),
    "border cut": lambda im: im.crop((im.width // 40, im.height // 40, im.width * 39 // 40, im.height * 39 // 40)),
    "small, recompressed, mirrored": lambda im: ImageOps.mirror(recompressed(im.resize((160, 120)))),
}


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    """The bundled photographs, each scene once."""
    return {p.name: read_image(locate(p)) for p in BUNDLED if p.name != "motorcycle_right"}


@pytest.fixture(scope="module")
def fingerprints(photographs):
    return {key: fingerprint(image) for key, image in photographs.items()}


@pytest.mark.parametrize("name", DISGUISES)
def test_a_disguised_photograph_is_recognised_and_no_other(name, photographs, fingerprints):
    for key in ("coffee", "china", "chelsea"):
        hidden = np.asarray(DISGUISES[name](Image.fromarray(photographs[key])).convert("RGB"))
        found = overlaps({"hidden": fingerprint(hidden)}, fingerprints)
        assert [m.second for m in found] == [key] and found[0].similarity > THRESHOLD


def test_flat_images_are_like_nothing():
    flat = fingerprint(np.full((40, 60, 3), 128, np.uint8))
    assert overlaps({"a": flat}, {"b": flat}) == []


@pytest.fixture
def sets(tmp_path):
    folder, mirror = small_catalogue(tmp_path)
    return select(load_catalogue(folder), "benchmark"), mirror


def problems(sets, mirror) -> list[str]:
    return [f"{f.dataset} {f.file} {f.problem}" for f in verify(sets, mirror).findings]


def test_an_untouched_level_is_well(sets):
    report = verify(*sets)
    assert report.ok and min(report.compared) > 0
    assert report.lines()[-1].startswith("scenes compared:") and "overlaps between splits: 0" in report.lines()[-1]


def test_a_flipped_bit_is_caught_and_named(sets):
    members, mirror = sets
    path = next((mirror / "CBSD68").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (found,) = problems(members, mirror)
    assert path.name in found and "checksum differs: expected" in found


def test_a_missing_and_a_short_file_are_named(sets):
    members, mirror = sets
    one, other = sorted((mirror / "CBSD68").iterdir())
    one.unlink()
    other.write_bytes(other.read_bytes()[:-9])
    first, second = problems(members, mirror)
    assert one.name in first and "is missing" in first
    assert other.name in second and "bytes, expected" in second


@pytest.mark.parametrize("disguise", ["same", "half the size", "recompressed", "mirrored", "upside down"])
def test_a_test_scene_planted_among_the_training_images_is_found(tmp_path, sets, disguise):
    members, mirror = sets
    test = read_image(next(iter(sorted((mirror / "Rain100L/target").iterdir()))))
    (tmp_path / "mine").mkdir()
    DISGUISES[disguise](Image.fromarray(test)).save(tmp_path / "mine/planted.png")
    shutil.copytree(HOME, tmp_path / "c2", ignore=shutil.ignore_patterns("custom"))
    mine = add("mine", "denoise", None, tmp_path / "mine", catalogue=tmp_path / "c2", raw=tmp_path / "nothing")
    found = problems([*members, mine], mirror)
    assert len(found) == 1 and "mine/planted (train) shows the scene of Rain100L/" in found[0]
    with pytest.raises(InputError, match="shows the scene of Rain100L/.*nothing was registered"):
        add("again", "denoise", None, tmp_path / "mine", catalogue=tmp_path / "catalogue", raw=mirror)
    assert "again" not in load_catalogue(tmp_path / "catalogue")


def test_a_set_behind_a_form_says_what_is_missing_and_where_it_goes(tmp_path):
    report = verify(select(load_catalogue(HOME), None, ("GoPro",)), tmp_path)
    assert not report.ok and "data/raw/GoPro/train" in report.lines()[1] and "size unverified" in report.lines()[1]


def test_of_a_set_that_is_not_there_one_line_says_how_much_and_how_to_get_it(sets, tmp_path):
    members, _ = sets
    found = problems(members, tmp_path / "empty")
    assert len(found) == len(members)
    (line,) = [f for f in found if f.startswith("CBSD68 ")]
    assert "nothing is there, 2 files (" in line and line.endswith("run `ipt data fetch --set CBSD68`")


def by_pattern(tmp_path, files: int | str | None = None, **options) -> DataSet:
    """A set without checksums, placed by hand: pairs `in/<n>.png`, `out/<n>.png` below raw/hand."""
    for i in range(3):
        for part in ("in", "out"):
            image = (dead_leaves(np.random.default_rng(i), 40) * 255).astype(np.uint8)
            write_image(tmp_path / f"raw/hand/{part}/{i}.png", image)
    patterns = tuple(
        Pattern("train", part, f"{place}/*.png", r"(\d+)\.png$") for part, place in (("input", "in"), ("target", "out"))
    )
    facts = {name: Fact() for name in FACTS} | {"files": Fact(files, "https://example.org" if files else None)}
    return DataSet("hand", "paper", "Hand", "derain", "paired", "a set", facts, patterns=patterns, **options)


def test_a_truncated_image_without_checksum_is_named(tmp_path):
    dataset = by_pattern(tmp_path, by_hand="Ask for it.")
    path = tmp_path / "raw/hand/in/1.png"
    path.write_bytes(path.read_bytes()[:-200])
    (found,) = problems([dataset], tmp_path / "raw")
    assert "hand/in/1.png cannot read the image" in found and found.endswith("place it again: Ask for it.")


def test_a_pair_of_two_sizes_is_named(tmp_path):
    dataset = by_pattern(tmp_path)
    write_image(tmp_path / "raw/hand/in/2.png", np.zeros((40, 38, 3), np.uint8))
    (found,) = problems([dataset], tmp_path / "raw")
    assert "hand/in/2.png is 38x40, its target 2.png is 40x40 pixels" in found


@pytest.mark.parametrize(
    ("files", "said"), [(6, None), ("3 pairs", None), (8, "holds 6 of 8 "), ("4 pairs", "holds 3 of 4 pairs ")]
)
def test_a_set_with_fewer_images_than_its_publication_says_so(tmp_path, files, said):
    found = problems([by_pattern(tmp_path, files)], tmp_path / "raw")
    assert said in found[0] if said else not found


def test_a_kept_archive_must_match_the_checksum_of_its_first_download(tmp_path):
    archive = Entry("hand/all.zip", "https://example.org/all.zip", None, None, "train", "aux")
    dataset = by_pattern(tmp_path, archives=(archive,))
    (tmp_path / "raw/hand/all.zip").write_bytes(b"other bytes")
    (tmp_path / "lock.json").write_text(json.dumps({"hand/all.zip": {"sha256": "0" * 64, "bytes": 11}}))
    (found,) = verify([dataset], tmp_path / "raw", tmp_path / "lock.json").findings
    assert found.file.endswith("all.zip") and "checksum differs: expected 000" in found.problem


def test_an_image_of_too_many_pixels_is_named_before_it_is_decoded(tmp_path, monkeypatch):
    dataset = by_pattern(tmp_path)
    monkeypatch.setattr("instruct_ipt.data.images.MAX_PIXELS", 1599)
    found = problems([dataset], tmp_path / "raw")
    assert len(found) == 6 and all("has 40 x 40 pixels; at most 1,599" in line for line in found)


def test_scenes_that_two_test_sets_share_are_counted_and_no_fault(tmp_path, sets):
    members, mirror = sets
    test = next(d for d in members if d.name == "CBSD68")
    (mirror / "twin").mkdir()
    paths = [shutil.copy(mirror / e.path, mirror / "twin") for e in test.entries]
    entries = tuple(replace(e, path=f"twin/{Path(p).name}") for e, p in zip(test.entries, paths, strict=True))
    report = verify([test, replace(test, name="twin", entries=entries)], mirror)
    assert report.ok and report.shared_tests == len(entries)


@needs_real
def test_the_real_level_has_no_overlap_between_splits_and_the_known_one_between_test_sets():
    report = verify(select(load_catalogue(HOME), "benchmark"), REAL)
    assert report.ok and report.shared_tests == 24, report.lines()


# ---- sets of one's own ----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A catalogue and a folder with twelve pairs."""
    shutil.copytree(HOME, tmp_path / "catalogue", ignore=shutil.ignore_patterns("custom"))
    for i in range(12):
        clean = (dead_leaves(np.random.default_rng(100 + i), 40) * 255).astype(np.uint8)
        for part, image, kind in (("clean", clean, "png"), ("rainy", clean // 2 + 99, "jpg")):
            (tmp_path / part).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / part / f"img{i}.{kind}")
    return tmp_path


def register(own, name="mine", **options):
    settings = {"split": "train", "catalogue": own / "catalogue", "raw": own / "raw"} | options
    return add(name, settings.pop("task", "derain"), own / "rainy", own / "clean", **settings)


def test_a_folder_of_pairs_is_registered_with_a_tenth_held_out(own):
    made = register(own)
    assert load_catalogue(own / "catalogue")["mine"] == made
    found = scenes(made, own / "raw")
    held = [s.name for s in found if s.split == "validation"]
    assert len(found) == 12 and 1 <= len(held) <= 4 and all(s.input and s.target for s in found)
    assert verify([made], own / "raw").ok


def test_the_split_of_a_scene_does_not_depend_on_the_others(own):
    before = {s.name: s.split for s in scenes(register(own), own)}
    remove("mine", own / "catalogue")
    dropped = next(name for name, split in before.items() if split == "train")
    (own / "clean" / f"{dropped}.png").unlink()
    (own / "rainy" / f"{dropped}.jpg").unlink()
    after = {s.name: s.split for s in scenes(register(own), own)}
    assert after == {name: split for name, split in before.items() if name != dropped}


WRONG = {
    "task": (lambda own: register(own, task="dehaaze"), "--task 'dehaaze' does not exist; allowed: denoise"),
    "split": (lambda own: register(own, split="dev"), "--split 'dev' does not exist"),
    "name": (lambda own: register(own, name="my set"), "only letters, digits"),
    "taken": (lambda own: register(own, name="CBSD68"), "is taken"),
    "lonely": (lambda own: (own / "clean/img3.png").unlink() or register(own), "img3.jpg has no partner"),
    "size": (
        lambda own: Image.new("RGB", (9, 9)).save(own / "clean/img3.png") or register(own),
        "img3.jpg: is 40x40, its target img3.png is 9x9 pixels",
    ),
    "damaged": (
        lambda own: (own / "clean/img3.png").write_bytes((own / "clean/img3.png").read_bytes()[:300]) and register(own),
        "cannot read the image .*img3.png",
    ),
    "twice": (lambda own: shutil.copy(own / "rainy/img3.jpg", own / "clean/img3.jpg") and register(own), "one name"),
    "empty": (lambda own: shutil.rmtree(own / "clean") or (own / "clean").mkdir() or register(own), "holds no image"),
    "absent": (lambda own: shutil.rmtree(own / "clean") or register(own), "is not a folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_folder_is_one_line_and_nothing_is_registered(own, case):
    act, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        act(own)
    assert "\n" not in str(caught.value)
    assert not list((own / "catalogue").glob("custom/*"))


def test_a_set_can_be_forgotten(own):
    register(own)
    remove("mine", own / "catalogue")
    assert "mine" not in load_catalogue(own / "catalogue") and (own / "clean/img3.png").exists()
    with pytest.raises(InputError, match="is not registered"):
        remove("mine", own / "catalogue")
