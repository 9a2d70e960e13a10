"""What to remove: a task wins over an instruction, and that over a guess from the image."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from instruct_ipt import params
from instruct_ipt.errors import InputError
from instruct_ipt.instruction import Estimate
from instruct_ipt.instruction.fitting import fit
from instruct_ipt.restoration import Choice, Guides, Restorer
from instruct_ipt.tasks import TASKS
from tests import warm

from . import hostile, nets

ROOT = Path(__file__).resolve().parents[2]
RAIN_AND_NOISE = {"denoise": 0.5, "deblur": 0.0, "derain": 0.5, "dehaze": 0.0, "desnow": 0.0}


def forbidden(_: object) -> object:
    raise AssertionError("was asked although something better was said")


def told(weights: dict[str, float] = RAIN_AND_NOISE, strength: float = 0.6, clean: float = 0.1) -> Restorer:
    """A restorer whose reader and estimator always say the same."""
    reading = SimpleNamespace(weights=weights, strength=strength)
    guides = Guides(reader=lambda _: reading, estimator=lambda _: Estimate(weights, clean))
    return Restorer(nets.tiny(), "cpu", guides)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return hostile.picture(3)


def test_an_instruction_gives_weights_and_strength(image):
    restorer = told()
    assert restorer.choose(image, instruction="the rain and the grain") == Choice(RAIN_AND_NOISE, 0.6, "instruction")
    expected = nets.tiny_restorer().restore(image, RAIN_AND_NOISE, 0.6)
    assert np.array_equal(restorer.restore(image, instruction="the rain and the grain"), expected)
    assert not np.array_equal(expected, nets.tiny_restorer().restore(image, "derain"))


def test_a_strength_that_is_given_wins_over_the_sentence(image):
    assert told().choose(image, strength=1.2, instruction="slightly").strength == 1.2
    assert told().choose(image, strength=0.0, instruction="slightly").strength == 0.0


def test_a_task_wins_over_a_sentence_and_both_over_a_guess(image):
    guides = Guides(reader=forbidden, estimator=forbidden)  # type: ignore[arg-type]
    chosen = Restorer(nets.tiny(), "cpu", guides).choose(image, "derain", instruction="remove the snow")
    assert chosen.source == "task" and chosen.weights["derain"] == 1 and chosen.strength == 1
    guides = Guides(reader=told()._guides.reader, estimator=forbidden)  # type: ignore[arg-type]
    assert Restorer(nets.tiny(), "cpu", guides).choose(image, instruction="x").source == "instruction"


def test_without_a_word_the_damage_is_guessed(image):
    restorer = told(strength=0.6)
    assert restorer.choose(image) == Choice(RAIN_AND_NOISE, 1.0, "image")
    assert np.array_equal(restorer.restore(image), nets.tiny_restorer().restore(image, RAIN_AND_NOISE))


@pytest.mark.parametrize("given", ["grey16", "rgba", "torch"])
def test_the_estimator_sees_three_channels_from_0_to_1(image, given):
    """Whatever the image is held in, alpha left out."""
    deep = image[..., 0].astype(np.uint16) * 257
    forms = {
        "grey16": (deep, np.repeat(deep[..., None] / np.float32(65535), 3, axis=2)),
        "rgba": (np.dstack([image, image[..., :1]]), image / np.float32(255)),
        "torch": (torch.from_numpy(image).permute(2, 0, 1), image / np.float32(255)),
    }
    seen: list[np.ndarray] = []
    guides = Guides(estimator=lambda x: seen.append(x) or Estimate(RAIN_AND_NOISE, 0.0))  # type: ignore[func-returns-value]
    Restorer(nets.tiny(), "cpu", guides).guess(forms[given][0])
    assert seen[0].dtype == np.float32
    np.testing.assert_allclose(seen[0], forms[given][1], atol=1e-6)


def test_what_seems_undamaged_or_is_a_batch_is_not_touched(image):
    with pytest.raises(InputError, match=r"seems undamaged \(probability 0.90\).*name a task: denoise"):
        told(clean=0.9).restore(image)
    with pytest.raises(InputError, match="batch is not guessed"):
        told().restore(torch.zeros(2, 3, 8, 8))


def test_a_network_of_fewer_tasks_does_what_it_can(image, tmp_path):
    nets.write_release(tmp_path)
    for task in ("denoise", "dehaze", "desnow"):
        (tmp_path / f"{task}.safetensors").unlink()
    few = Restorer.load(tmp_path, "cpu")
    few._guides = told()._guides
    assert few.guess(image).weights == {"deblur": 0.0, "derain": 1.0}
    with pytest.raises(InputError, match="unknown task 'denoise'; known tasks: deblur, derain"):
        few.read("the rain and the grain")
    few._guides = told(RAIN_AND_NOISE | {"denoise": 1.0, "derain": 0.0})._guides
    with pytest.raises(InputError, match="none of deblur, derain"):
        few.guess(image)


def test_without_guides_a_task_has_to_be_named(image):
    with pytest.raises(InputError, match="no estimator .*; or name a task: denoise"):
        nets.tiny_restorer().restore(image)
    with pytest.raises(InputError, match="no reader .*; or name a task: denoise"):
        nets.tiny_restorer().restore(image, instruction="remove the rain")


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release with a reader of few texts, and an estimator that takes everything for rain."""
    folder = tmp_path_factory.mktemp("guided")
    nets.write_release(folder)
    configuration = params.load(ROOT / "params.yaml", "smoke")
    small = configuration.instruction.model_copy(update={"fills": 1, "variants": 1})
    fit(small, configuration.seed)[0].save(folder / "instruction")
    nets.rainy_everywhere(folder / "estimator")
    return folder


def ipt(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return warm.ipt("restore", *arguments)


def test_the_command_line_says_what_it_understood(guided, tmp_path, image):
    Image.fromarray(image).save(tmp_path / "a.png")
    done = ipt(tmp_path / "a.png", "-o", tmp_path / "b.png", "-i", "remove the rain", "--weights", guided)
    assert done.returncode == 0 and "understood: derain 1.00, strength 1" in done.stderr, done.stderr
    expected = Restorer.load(guided, "cpu").restore(image, "derain")
    assert np.abs(np.asarray(Image.open(tmp_path / "b.png")).astype(int) - expected).max() <= 1
    refused = ipt(tmp_path / "a.png", "-o", tmp_path / "c.png", "-i", "make it black and white", "--weights", guided)
    assert refused.returncode == 2 and refused.stderr.startswith("ipt: ") and refused.stderr.count("\n") == 1
    assert "noise, blur, rain, haze or snow" in refused.stderr and not (tmp_path / "c.png").exists()


def test_the_command_line_shows_its_guess(guided, tmp_path, image):
    for name in ("a.png", "b.png"):
        Image.fromarray(image).save(tmp_path / name)
    one = ipt(tmp_path / "a.png", "-o", tmp_path / "out.png", "--weights", guided)
    assert one.returncode == 0 and "(guessed: derain 1.00, strength 1)" in one.stderr, one.stderr
    two = ipt(tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "out", "--json", "--weights", guided)
    assert two.stderr.count("guessed: derain") == 2 and two.stdout.count('"guess": "derain 1.00, strength 1"') == 2


def test_guides_beside_the_weights_are_found(guided):
    restorer = Restorer.load(guided, "cpu")
    assert restorer.read("remove the rain").weights == dict.fromkeys(TASKS, 0.0) | {"derain": 1.0}
    assert restorer.guess(hostile.picture(0)) == Choice(dict.fromkeys(TASKS, 0.0) | {"derain": 1.0}, 1.0, "image")
