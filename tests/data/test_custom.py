"""`ipt data add`: layouts, splits that keep a scene on one side, and the refusal of test images in disguise."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.data.catalogue import load_catalogue, scenes
from instruct_ipt.data.custom import add
from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.images import read_image, write_image
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.data.verify import verify
from instruct_ipt.errors import InputError
from tests.data.sets import ROOT


@pytest.fixture
def here(tmp_path):
    """(arguments for `add`, a folder): a catalogue of the real sets, of which none is on disk."""
    shutil.copytree(ROOT / "data/catalogue", tmp_path / "catalogue", ignore=shutil.ignore_patterns("custom"))
    return {"catalogue": tmp_path / "catalogue", "raw": tmp_path / "raw"}, tmp_path


def scene(seed: int, size: int = 48) -> np.ndarray:
    return (dead_leaves(np.random.default_rng(seed), size) * 255).astype(np.uint8)


def test_side_by_side_images_are_registered_from_one_folder(here):
    options, folder = here
    for i in range(3):
        write_image(folder / f"mine/{i}.png", np.concatenate([scene(i), scene(i) // 2], axis=1))
    made = add("mine", "derain", None, folder / "mine", side_by_side=True, **options)
    assert load_catalogue(options["catalogue"])["mine"] == made
    assert all(s.layout == "both" and s.input == s.target for s in scenes(made, options["raw"]))
    write_image(folder / "mine/odd.png", scene(9)[:, :47])
    with pytest.raises(InputError, match=r"odd.png: is 47 pixels wide.*even width.*nothing was registered"):
        add("other", "derain", None, folder / "mine", side_by_side=True, **options)


def test_scenes_that_look_alike_stay_on_one_side(here):
    options, folder = here
    for clip in range(6):
        for frame in range(4):
            shifted = Image.fromarray(scene(clip, 96)).crop((frame, 0, frame + 90, 96))
            write_image(folder / f"mine/clip{clip}-{frame}.png", np.asarray(shifted))
    made = add("mine", "denoise", None, folder / "mine", **options)
    sides = {clip: {e.split for e in made.entries if e.stem.startswith(f"clip{clip}-")} for clip in range(6)}
    assert all(len(side) == 1 for side in sides.values())
    assert {"train"} in sides.values() and {"validation"} in sides.values()
    assert verify([made], options["raw"]).ok


def test_one_scene_alone_is_for_training(here):
    options, folder = here
    write_image(folder / "mine/only.png", scene(0))
    assert [e.split for e in add("mine", "denoise", None, folder / "mine", **options).entries] == ["train"]


def test_a_bundled_test_photograph_is_refused_for_training_and_welcome_as_a_test(here):
    options, folder = here
    coffee = Image.fromarray(read_image(locate(next(p for p in BUNDLED if p.name == "coffee"))))
    (folder / "mine").mkdir()
    coffee.resize((300, 200)).rotate(180).save(folder / "mine/cup.jpg", quality=40)
    with pytest.raises(
        InputError, match=r"mine/cup|cup shows the scene of bundled/coffee \(test\).*turned by 180"
    ) as e:
        add("mine", "denoise", None, folder / "mine", **options)
    assert "\n" not in str(e.value) and "mine" not in load_catalogue(options["catalogue"])
    assert add("mine", "denoise", None, folder / "mine", split="test", **options).entries[0].split == "test"


def test_a_test_set_that_was_registered_guards_against_later_ones(here):
    options, folder = here
    for i in range(3):
        write_image(folder / f"held/{i}.png", scene(i, 96))
        write_image(folder / f"mine/{i}.png", scene(10 + i, 96))
    add("held", "denoise", None, folder / "held", split="test", **options)
    write_image(folder / "mine/sly.png", scene(2, 96)[::-1])
    with pytest.raises(
        InputError, match=r"sly shows the scene of held/2 \(test\), similarity 1.000, mirrored, turned by"
    ):
        add("mine", "denoise", None, folder / "mine", **options)
    (folder / "mine/sly.png").unlink()
    assert len(add("mine", "denoise", None, folder / "mine", **options).entries) == 3


def test_one_folder_cannot_be_input_and_target(here):
    options, folder = here
    write_image(folder / "mine/0.png", scene(0))
    with pytest.raises(InputError, match="two folders"):
        add("mine", "denoise", folder / "mine", folder / "mine", **options)
