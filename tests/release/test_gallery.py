"""The gallery shows what its list names, and the list was made without looking at a result."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.protocol import OF_SET
from instruct_ipt.release import gallery
from instruct_ipt.release.sets import degradation_of, indexed_images
from instruct_ipt.tasks import TASKS
from tests import warm

from . import places


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return places.make(tmp_path_factory.mktemp("gallery"))


def ipt(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.ipt("gallery", *arguments, cwd=place)


def scored() -> pd.DataFrame:
    """Scores of two images: `b` loses, and `a` is the worst of all in another protocol."""
    rows = [
        ["derain", "Rain100L", image, protocol, knowing, psnr, 0.9]
        for protocol, gains in (("rgb", {"a": 2.0, "b": -1.0}), ("y-limited", {"a": -9.0, "b": 3.0}))
        for image, gain in gains.items()
        for knowing, psnr in (("input", 20.0), ("told", 20.0 + gain), ("guessed", 19.0))
    ]
    return pd.DataFrame(rows, columns=["task", "dataset", "image", "protocol", "knowing", "psnr", "ssim"])


def test_the_list_has_every_set_and_all_that_has_no_ground_truth(place, monkeypatch):
    monkeypatch.chdir(place)
    table = gallery.choose(indexed_images(degradation_of(Path("weights"))))
    assert list(dict.fromkeys(table.task)) == list(TASKS)
    per_set = table[table.why == gallery.BY_RULE].groupby(["task", "dataset"]).size()
    assert per_set.max() == gallery.PER_SET and ("derain", "Rain100L") in per_set.index
    assert set(table[table.why == gallery.NO_TRUTH].dataset) == {"Snow_real_nogt"}


def test_what_went_worst_is_added_and_says_so():
    listed = pd.DataFrame([["derain", "Rain100L", "a", gallery.BY_RULE]], columns=gallery.COLUMNS)
    table = gallery.with_failures(listed, scored(), 25)
    assert table.values.tolist() == [
        ["derain", "Rain100L", "a", gallery.BY_RULE],
        ["derain", "Rain100L", "b", gallery.WORST],
    ]
    assert gallery.with_failures(table, scored(), 25).equals(table)


def test_of_the_levels_of_noise_the_one_that_is_shown_counts():
    """`x` gains less than `y` at 15 and on the mean, and more at 25."""
    images = pd.concat(
        [
            pd.DataFrame(
                [["denoise", f"CBSD68-sigma{level}", name, "rgb", knowing, psnr, 0.9]],
                columns=scored().columns,
            )
            for level, gains in ((15, {"x": 1.0, "y": 9.0}), (25, {"x": 5.0, "y": 4.0}))
            for name, gain in gains.items()
            for knowing, psnr in (("input", 20.0), ("told", 20.0 + gain))
        ],
        ignore_index=True,
    )
    table = gallery.with_failures(pd.DataFrame(columns=gallery.COLUMNS), images, 25)
    assert table.values.tolist() == [["denoise", "CBSD68", "y", gallery.WORST]]


def test_the_page_shows_before_after_and_truth(place):
    chosen = ipt(place, "--choose")
    assert chosen.returncode == 0, chosen.stderr
    done = ipt(place)
    assert done.returncode == 0, done.stderr
    page = (place / "gallery/index.html").read_text(encoding="utf-8")
    told = " ".join(page.split())
    assert all(f"(of {name} by <code>{protocol}</code>)" in told for name, protocol in OF_SET.items())
    listed = pd.read_csv(place / gallery.LIST, dtype=str)
    for row in listed.itertuples(index=False):
        file = f"{row.task}/{row.dataset}{'-sigma25' if row.task == 'denoise' else ''}-{row.name}.png"
        assert f'src="{file}"' in page
        parts = 2 if row.why == gallery.NO_TRUTH else 3
        with Image.open(place / "gallery" / file) as picture:
            assert picture.width > 72 * parts
    rain = listed.query("task == 'derain'").iloc[0]
    strip = np.asarray(Image.open(place / f"gallery/derain/{rain.dataset}-{rain['name']}.png"))
    source = place / "data/raw/Rain100L"
    given = next(source.glob(f"input/{rain['name']}.*"))
    truth = next(source.glob(f"target/{rain['name']}.*"))
    assert np.array_equal(strip[:, :72], np.asarray(Image.open(given)))
    assert np.array_equal(strip[:, -72:], np.asarray(Image.open(truth)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "task,dataset,name,why\nderain,Rain100L,nobody,chosen by its name\n",
            "names Rain100L nobody, which is not there",
        ),
        ("a,b\n", "is damaged"),
        (None, "--choose` writes it"),
    ],
)
def test_a_list_that_cannot_be_shown_is_refused(place, tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(place)
    monkeypatch.setattr(gallery, "LIST", tmp_path / "gallery.csv")
    if content is not None:
        gallery.LIST.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        gallery.render(Path("weights"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        ("a,b\n1,2\n", "is damaged"),
        ("task,dataset,image,protocol,knowing,psnr,ssim\n", "no score"),
    ],
)
def test_scores_of_images_that_cannot_be_read_are_one_line(place, content, words):
    (place / "bad.csv").unlink(missing_ok=True)
    if content is not None:
        (place / "bad.csv").write_text(content, encoding="utf-8")
    done = ipt(place, "--choose", "--images", "bad.csv")
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    done = ipt(place, "--images", "bad.csv")
    assert done.returncode == 2 and "it needs --choose" in done.stderr
