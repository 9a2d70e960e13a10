"""Scores of a release are computed again from its files, and compared with the recorded ones."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.images import read_image, to_float
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.params import DegradationParams
from instruct_ipt.release import scores
from instruct_ipt.release.sets import degradation_of
from instruct_ipt.restoration import Restorer
from instruct_ipt.tasks import TASKS
from tests import warm
from tests.helpers import smoke

from . import places


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return places.make(tmp_path_factory.mktemp("scores"))


@pytest.fixture(scope="module")
def found(place: Path) -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return scores.compute(Path("weights"))


def ipt(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.ipt("scores", *arguments, cwd=place)


def test_every_test_set_of_the_level_is_scored(found):
    assert set(found.task) == set(TASKS)
    protocols = found.groupby("dataset").protocol.agg(set)
    assert protocols.pop("Levin09") == {"rgb", "rgb-shift", "y-limited"}
    assert set(map(frozenset, protocols)) == {frozenset({"rgb", "y-limited"})}
    sets = set(found.dataset)
    assert {"CBSD68-sigma15", "CBSD68-sigma25", "CBSD68-sigma50", "CBSD68-snow", "Rain100L", "Levin09"} <= sets
    assert {"GoPro_test", "GoPro_test_crops256", "REDS_test", "SOTS_indoor_test", "SOTS_outdoor_test"} <= sets
    assert not any("train" in name or "nogt" in name for name in sets)


def test_a_score_is_that_of_the_restorer_on_the_file(place, found):
    """The whole way again, by other means: the file, the noise of its name, the folded network, the protocol."""
    path = sorted((place / "data/raw/CBSD68").iterdir())[0]
    clean = to_float(read_image(path))
    noisy = degrade_named("denoise", clean, path.stem, smoke().degradation, 25)
    network = Restorer.load(place / "weights", "cpu").network("denoise")
    with torch.inference_mode():
        output = network(torch.from_numpy(noisy).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    expected = PROTOCOLS["rgb"].score(output, clean)
    row = found.query("dataset == 'CBSD68-sigma25' and protocol == 'rgb' and knowing == 'told'").set_index("image")
    assert (row.psnr[path.stem], row.ssim[path.stem]) == pytest.approx(expected, abs=1e-5)


def test_who_has_to_guess_gets_what_was_guessed(place, found):
    """The estimator of this release takes everything for rain: right for rain, and the same as rain elsewhere."""
    rain = found.query("task == 'derain' and protocol == 'rgb'").pivot(index="image", columns="knowing", values="psnr")
    assert np.allclose(rain.told, rain.guessed)
    haze = found.query("task == 'dehaze' and protocol == 'rgb'").pivot_table(
        index=["dataset", "image"], columns="knowing", values="psnr"
    )
    assert (haze.told != haze.guessed).all()


def test_the_table_has_means_per_set(found):
    table = scores.means(found).set_index(scores.KEYS)
    rows = found.query("task == 'derain' and protocol == 'y-limited' and knowing == 'input'")
    entry = table.loc[("derain", "Rain100L", "y-limited", "input")]
    assert entry.psnr == pytest.approx(rows.psnr.mean(), abs=1e-4) and entry.images == len(rows)


def test_recorded_scores_are_found_again_and_others_are_named(place, found):
    recorded = ipt(place, "--record", "--images", "all.csv")
    assert recorded.returncode == 0, recorded.stderr
    assert pd.read_csv(place / "all.csv").psnr.to_numpy() == pytest.approx(found.psnr.to_numpy(), abs=1e-4)
    card = (place / "weights/README.md").read_text(encoding="utf-8")
    assert card.startswith("# Card\n\nBefore.") and card.endswith("After.\n") and "| denoise | CBSD68-sigma15 |" in card
    again = ipt(place)
    assert again.returncode == 0 and "differs" not in again.stdout and ", 0 differences" in again.stdout, again.stdout
    scores.record(place / "weights", scores.means(found))
    assert (place / "weights/README.md").read_text(encoding="utf-8") == card
    path = place / "weights/scores.csv"
    table = pd.read_csv(path)
    row = table.index[(table.dataset == "Rain100L") & (table.knowing == "told") & (table.protocol == "rgb")][0]
    table.loc[row, "psnr"] += 0.03
    table.to_csv(path, index=False)
    wrong = ipt(place)
    assert wrong.returncode == 1
    assert [line for line in wrong.stdout.splitlines() if line.startswith("differs")] == [
        f"differs: derain Rain100L rgb told: psnr {table.psnr[row] - 0.03:.4f}, recorded {table.psnr[row]:.4f}"
    ]


def table(**change: float) -> pd.DataFrame:
    row = {"task": "derain", "dataset": "A", "protocol": "rgb", "knowing": "told", "images": 2, "psnr": 30, "ssim": 0.9}
    return pd.DataFrame([row | change])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"psnr": 30.0199}, None),
        ({"psnr": 30.021}, "psnr 30.0210, recorded 30.0000"),
        ({"psnr": float("nan")}, "psnr nan"),
        ({"ssim": 0.8985}, "ssim 0.8985"),
        ({"images": 3}, "3 images, recorded are 2"),
        ({"dataset": "B"}, "recorded, and not found"),
    ],
)
def test_what_counts_as_another_score(change, words):
    lines = scores.differences(table(**change), table())
    assert (not lines) if words is None else any(words in line for line in lines)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist.*ipt scores --record"), ("a,b\n1,2\n", "is damaged"), ("", "is damaged")],
)
def test_scores_that_cannot_be_read_are_refused(tmp_path, content, words):
    if content is not None:
        (tmp_path / "scores.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        scores.read_recorded(tmp_path)


def test_a_card_without_an_end_is_left_alone(found, tmp_path):
    text = places.CARD.replace("<!-- end of scores -->", "")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="end of scores"):
        scores.record(tmp_path, scores.means(found))
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == text and not (tmp_path / "scores.csv").exists()


def test_such_a_card_is_named_before_anything_is_scored(place, tmp_path, monkeypatch):
    copy = shutil.copytree(place / "weights", tmp_path / "weights")
    (copy / "README.md").write_text(places.CARD.replace("<!-- end of scores -->", ""), encoding="utf-8")
    for path in copy.glob("*.safetensors"):
        path.write_bytes(b"no network")
    done = ipt(place, "--record", "--weights", str(copy))
    assert done.returncode == 2 and "has no block between" in done.stderr


def test_the_damage_is_the_one_the_packs_tell(place, tmp_path):
    told = degradation_of(place / "weights")
    assert isinstance(told, DegradationParams) and told == smoke().degradation
    with pytest.raises(InputError, match="denoise.safetensors is missing"):
        degradation_of(tmp_path)


def test_images_that_were_not_fetched_are_named(tmp_path, monkeypatch):
    here = places.make(tmp_path)
    monkeypatch.chdir(here)
    for path in (here / "data/raw/Rain100L").rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="Rain100L.*ipt data fetch --set Rain100L"):
        scores.compute(Path("weights"))
