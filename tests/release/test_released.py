"""What `weights/` holds is what the card, the recorded scores and the comparison say of it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from instruct_ipt.data.degradations import degrade
from instruct_ipt.evaluation.protocol import first_protocol
from instruct_ipt.params import load
from instruct_ipt.release import arms as arms_module
from instruct_ipt.release import gallery, scores, side_by_side
from instruct_ipt.release.sets import degradation_of
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import find_weights
from instruct_ipt.tasks import TASKS
from tests.helpers import ROOT

WEIGHTS, DOCS = ROOT / "weights", ROOT / "docs/release"
PACKS = [WEIGHTS / f"{task}.safetensors" for task in TASKS]
# Damage of our own on clean test images: what a comparison with others' sets needs, and no real test set.
OURS = ("CBSD68-deblur", "CBSD68-derain", "CBSD68-dehaze")


@pytest.fixture(scope="module")
def recorded() -> pd.DataFrame:
    return scores.read_recorded(WEIGHTS)


@pytest.fixture(scope="module")
def compared() -> pd.DataFrame:
    return pd.read_csv(DOCS / "side_by_side.csv")


def size(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


def test_the_release_is_small_and_its_packs_a_quarter_of_the_backbone():
    assert size(*(path for path in WEIGHTS.rglob("*") if path.is_file())) <= 25e6
    assert size(*PACKS) <= size(WEIGHTS / "backbone.safetensors") / 4


def test_weights_are_stored_in_half_precision():
    for path in (WEIGHTS / "backbone.safetensors", *PACKS):
        with safe_open(path, framework="np") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert kinds == {"F16"}, path.name


def test_they_are_what_is_loaded_where_nothing_is_named(tmp_path, monkeypatch):
    """Beside the sources of a clone; an installed wheel has its own test."""
    monkeypatch.chdir(tmp_path)
    assert find_weights() == WEIGHTS


def test_the_packs_tell_the_damage_of_the_file_they_were_trained_with():
    assert degradation_of(WEIGHTS) == load(DOCS / "params.yaml").degradation


@pytest.mark.parametrize("task", TASKS)
def test_the_stored_weights_restore_what_they_were_trained_for(task):
    """Of a picture in no training set, damaged anew eight times: the share of the squared error that is left.

    Blur that it may have seen is the weak spot of this release; the recorded scores say how much is gained elsewhere.
    """
    from skimage.data import rocket

    clean = rocket()[40:296, 200:456].astype(np.float32) / 255
    degradation, restorer = load(DOCS / "params.yaml").degradation, Restorer.load(WEIGHTS, "cpu")
    errors = []
    for seed in range(8):
        given = np.clip(degrade(task, clean, np.random.default_rng(seed), degradation, 25.0), 0, 1)
        errors.append([float(np.mean((image - clean) ** 2)) for image in (given, restorer.restore(given, task))])
    before, after = np.transpose(errors)
    assert after.sum() < (0.98 if task == "deblur" else 0.2) * before.sum()
    assert (after < before).all()


def test_every_set_gains_on_the_mean(recorded):
    shown = recorded[recorded.protocol == recorded.dataset.map(first_protocol)]
    wide = shown.pivot(index=["task", "dataset"], columns="knowing", values="psnr")
    assert len(wide) == 11
    assert (wide.told > wide.input).all()


def test_the_card_and_the_page_show_the_recorded_numbers(recorded, compared):
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    assert scores.MARKS.around(scores.as_markdown(recorded)) in card
    share = size(*PACKS) / size(WEIGHTS / "backbone.safetensors")
    assert f"{size(*PACKS, WEIGHTS / 'backbone.safetensors') / 1e6:.2f} MB" in card and f"{share:.0%}" in card
    page = (ROOT / "docs/release.md").read_text(encoding="utf-8")
    assert side_by_side.MARKS.around(side_by_side.as_markdown(compared)) in page


def test_every_arm_had_the_same_steps_and_no_method_other_images(compared):
    arms = compared[compared.kind == "arm"]
    assert set(arms.method) == {"shared", "experts", "film", "frozen", "synchronous", "synthetic", *arms_module.GOES_ON}
    params = load(DOCS / "params.yaml")
    common = params.training.steps
    assert set(arms[~arms.method.isin(arms_module.GOES_ON)].steps) == {common}
    assert set(arms[arms.method == "release"].steps) == {common + params.release.steps}
    assert set(arms[arms.method == "finish"].steps) == {common + params.release.steps + params.finish.steps}
    assert (compared.groupby(["task", "dataset"]).images.nunique() == 1).all()
    # BM3D is slow, and need not be on every set.
    for _, rows in compared[compared.method != "BM3D"].groupby("task"):
        assert rows.groupby("dataset").method.agg(set).map(frozenset).nunique() == 1


def test_the_release_is_better_than_the_classical_methods(compared):
    """Each on its own task and every set of others; BM3D is shown and is no floor."""
    others = compared[(compared.kind == "classical") & (compared.method != "BM3D") & ~compared.dataset.isin(OURS)]
    assert set(others.task) == set(TASKS)
    release = compared[compared.method == "finish"].set_index("dataset").psnr
    assert (others.psnr < others.dataset.map(release)).all()


def test_the_images_have_the_recorded_means(recorded):
    found = scores.means(scores.read_images(DOCS / "per_image.csv"))
    assert len(found) == len(recorded) and not scores.differences(found, recorded)


def test_the_card_names_the_image_of_each_set_that_gained_least():
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    listed = pd.read_csv(ROOT / gallery.LIST, dtype=str)
    images = scores.read_images(DOCS / "per_image.csv")
    assert gallery.with_failures(listed, images, 25).equals(listed)
    images = images[
        (images.protocol == images.dataset.map(first_protocol))
        & ~images.dataset.isin(["CBSD68-sigma15", "CBSD68-sigma50"])
    ]
    images["dataset"] = images.dataset.str.partition("-sigma")[0]
    psnr = images.pivot(index=["task", "dataset", "image"], columns="knowing", values="psnr")
    for row in listed[listed.why == gallery.WORST].itertuples(index=False):
        found = psnr.loc[(row.task, row.dataset, row.name)]
        assert f"| {row.task} | {row.dataset} | {row.name} | {found.input:.2f} | {found.told:.2f} |" in card


def test_the_gallery_lists_what_went_worst_beside_what_its_rule_chose():
    listed = pd.read_csv(ROOT / gallery.LIST)
    counts = listed.why.value_counts()
    assert counts[gallery.BY_RULE] == 18 and counts[gallery.NO_TRUTH] == 6 and counts[gallery.WORST] == 9


def test_git_keeps_the_weights_and_none_of_the_pictures():
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {path.relative_to(ROOT).as_posix() for path in PACKS} <= set(tracked)
    assert not [name for name in tracked if name.startswith("gallery/")]
