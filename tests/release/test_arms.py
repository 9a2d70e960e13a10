"""The arms share one schedule, the release goes on from one of them, and the table has all of them and the classics."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from instruct_ipt import params as params_module
from instruct_ipt import runs
from instruct_ipt.errors import InputError
from instruct_ipt.pipeline import run_stage
from instruct_ipt.release import arms, side_by_side
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import write_release
from instruct_ipt.stages import cell
from instruct_ipt.stages.cell import build
from instruct_ipt.tasks import TASKS
from tests import warm

from . import places

GROUPS = ["attention.qkv", "norm"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared small benchmark level, at profile smoke, with few steps."""
    folder = places.make(tmp_path_factory.mktemp("arms"))
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values |= {"profile": "smoke"}
    values["data"]["level"] = "benchmark"
    values["sensitivity"]["groups"] = GROUPS
    values["profiles"]["smoke"]["training"] |= {"steps": 4, "validate_every": 2, "checkpoint_every": 2}
    values["release"] = {
        "steps": 3,
        "learning_rate": {"backbone": 0.001, "biases": 0.001},
        "patches": [{"share": 1.0, "size": 40}],
    }
    values["finish"] |= {"steps": 2, "patches": [{"share": 1.0, "size": 32}]}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    shutil.rmtree(folder / "weights")
    shutil.move(folder / "data/raw", folder / "mirror")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("IPT_MIRROR", "mirror")
        run_stage("fetch")
        run_stage("prepare")
    return folder


@pytest.fixture(scope="module")
def trained(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in arms.COMMON:
            assert arms.train(name) == Path("models/release") / name
    return place


def ipt(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.ipt(*arguments, cwd=place)


def facts(place: Path, name: str) -> dict:
    return json.loads((place / "models/release" / name / "metrics.json").read_text(encoding="utf-8"))


def test_all_arms_are_trained_for_the_same_number_of_steps(trained):
    assert {name: facts(trained, name)["steps"] for name in arms.COMMON} == dict.fromkeys(arms.COMMON, 4)
    sizes = {name: facts(trained, name)["params_total"] for name in arms.COMMON}
    assert sizes["frozen"] == sizes["synchronous"] and sizes["experts"] == 5 * sizes["shared"]
    assert sizes["film"] - sizes["shared"] == pytest.approx(sizes["synchronous"] - sizes["shared"], rel=0.3)


def test_an_arm_stands_on_the_selected_groups_and_not_on_how_they_were_found(trained):
    record = json.loads((trained / "models/release/frozen/provenance.json").read_text(encoding="utf-8"))
    assert record["params"]["sensitivity"] == {"groups": GROUPS}


def test_the_synthetic_arm_saw_no_real_pair(trained, monkeypatch):
    monkeypatch.chdir(trained)
    configuration = params_module.load()
    assert arms.settings_of(configuration, "synthetic").real_share == 0
    histories = {
        name: pd.read_csv(trained / f"models/release/{name}/history.csv").query("step == 2").set_index("task")
        for name in ("synchronous", "synthetic")
    }
    assert (histories["synchronous"].loss != histories["synthetic"].loss)["derain"]


def test_the_frozen_arm_trains_half_of_the_steps_without_biases(trained):
    """Two steps each, with a schedule of its own: the rates at the ends of both are equal, as they are nowhere else."""
    rates = {
        name: pd.read_csv(trained / f"models/release/{name}/history.csv").groupby("step").lr.first()
        for name in ("frozen", "synchronous")
    }
    assert facts(trained, "frozen")["strategy"] == "frozen"
    assert rates["frozen"][2] == rates["frozen"][4]
    assert rates["synchronous"][2] != rates["synchronous"][4]


def test_the_release_goes_on_from_the_synchronous_arm(trained, monkeypatch):
    monkeypatch.chdir(trained)
    missing = trained / "models/release/synchronous"
    away = missing.with_name("away")
    missing.rename(away)
    try:
        with pytest.raises(InputError, match="`ipt arm synchronous` makes it"):
            arms.train("release")
    finally:
        away.rename(missing)
    done = ipt(trained, "arm", "release")
    assert done.returncode == 0 and done.stdout.strip() == "models/release/release", done.stderr
    assert facts(trained, "release")["steps"] == 3 and arms.steps_of(params_module.load(), "release") == 4 + 3
    record = json.loads((trained / "models/release/release/provenance.json").read_text(encoding="utf-8"))
    assert "models/release/synchronous/weights.safetensors" in record["inputs"]
    assert record["params"]["release"]["patches"] == [{"share": 1.0, "size": 40}]
    # Nearer to where it started than to a fresh network.
    start, end = (load_file(f"models/release/{name}/weights.safetensors") for name in ("synchronous", "release"))
    configuration = params_module.load()
    fresh = build(vars(arms.recipe_of(configuration, "release")), configuration.backbone, 0, GROUPS).state_dict()
    moved, away = (sum(float((end[n] - other[n]).square().sum()) for n in end) for other in (start, fresh))
    assert 0 < moved < away


def test_the_finish_goes_on_from_the_release_with_samples_and_a_loss_of_its_own(trained, monkeypatch):
    monkeypatch.chdir(trained)
    arms.train("release")
    arms.train("finish")
    configuration = params_module.load()
    assert facts(trained, "finish")["steps"] == 2 and arms.steps_of(configuration, "finish") == 4 + 3 + 2
    record = json.loads((trained / "models/release/finish/provenance.json").read_text(encoding="utf-8"))
    assert "models/release/release/weights.safetensors" in record["inputs"]
    assert {"training", "finish"} <= record["params"].keys() and "release" not in record["params"]
    settings = arms.settings_of(configuration, "finish")
    assert settings.loss.psnr > 0 and settings.task_weights["deblur"] == configuration.finish.task_weights["deblur"]
    assert arms.load(configuration, "finish")["derain"] is not None
    start, end = (load_file(f"models/release/{name}/weights.safetensors") for name in ("release", "finish"))
    assert any(not torch.equal(start[name], end[name]) for name in start)


def test_who_goes_on_draws_samples_of_his_own(trained, monkeypatch):
    monkeypatch.chdir(trained)
    configuration = params_module.load()
    seeds, shares = [], []

    def stream(*arguments: Any, **named: Any) -> Any:
        seeds.append(arguments[2])
        shares.append(arguments[3])
        raise InterruptedError

    monkeypatch.setattr("instruct_ipt.stages.cell.training_stream", stream)
    for name in ("shared", "synchronous", "release", "finish"):
        with pytest.raises(InterruptedError):
            cell.train(arms.job_of(configuration, name, trained / "unused", tracker=None))
    assert seeds[0] == seeds[1] == configuration.seed
    assert len(set(seeds[1:])) == 3
    assert shares == [configuration.training.real_share] * 3 + [configuration.finish.real_share]


def test_a_release_of_an_arm_restores(trained, monkeypatch):
    monkeypatch.chdir(trained)
    write_release(Path("models/release/synchronous"), Path("out"), half=True)
    restorer = Restorer.load("out", "cpu")
    assert restorer.tasks == TASKS
    loaded = arms.load(params_module.load(), "synchronous")
    x = torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        expected = loaded["derain"](x, "derain")
        assert torch.allclose(restorer.network("derain")(x), expected, atol=2e-3)


def test_the_store_shows_the_arms(trained, monkeypatch):
    monkeypatch.chdir(trained)
    found = {card.name: (card, results) for card, results in runs.finished() if card.study == "release"}
    assert set(arms.COMMON) <= set(found)
    card, results = found["film"]
    assert card.experiment == "instruct-ipt/smoke/release" and card.tags["method"] == "film"
    assert results.metrics["steps"] == 4 and len(results.weights) == 1
    assert len(found["experts"][1].weights) == len(TASKS)


@pytest.fixture(scope="module")
def compared(trained: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A place where all but the arm `shared` were compared, in `table.csv` and `page.md`; and what was said."""
    away = (trained / "models/release/shared").rename(trained / "models/shared")
    marks = side_by_side.MARKS
    (trained / "page.md").write_text(f"Before.\n{marks.begin}\n{marks.end}\nAfter.\n", encoding="utf-8")
    done = ipt(trained, "side-by-side", "-o", "table.csv", "--page", "page.md")
    assert done.returncode == 0, done.stderr
    away.rename(trained / "models/release/shared")
    return trained, done


def test_side_by_side_has_every_arm_and_the_classics(compared):
    trained, done = compared
    assert "`ipt arm shared` trains it" in done.stderr
    table = pd.read_csv(trained / "table.csv")
    rain = table.query("task == 'derain'")
    assert {"input", "experts", "film", "frozen", "synchronous", "opening"} <= set(rain.method)
    assert "shared" not in set(table.method)
    once = rain.drop_duplicates("method").set_index("method")
    assert set(once.steps[["film", "opening"]]) == {4, 0}
    assert json.loads(once.setting["opening"]).keys() == {"width", "limit"}
    assert (table[table.method == "synchronous"].time_ratio == 1).all()
    assert table[table.kind == "classical"].time_ratio.gt(0).all()
    assert set(rain.dataset) == {"Rain100L", "CBSD68-derain"}
    images = rain.drop_duplicates("dataset").set_index("dataset").images
    heading = f"| derain | steps | Rain100L ({images.Rain100L}) | CBSD68-derain ({images['CBSD68-derain']}) |"
    assert heading in done.stdout
    marks = side_by_side.MARKS
    shown = side_by_side.as_markdown(table)
    page = (trained / "page.md").read_text(encoding="utf-8")
    assert page == f"Before.\n{marks.begin}\n{shown}{marks.end}\nAfter.\n"


def test_names_and_states_that_cannot_be_are_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(InputError, match="no arm 'best'; allowed: shared, experts, film"):
        arms.train("best")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(InputError, match="one process"):
        arms.train("shared")


def test_a_method_can_be_scored_later_and_takes_its_place(compared):
    """What was not asked for stays as it is; a method that misses on a set has an empty cell there."""
    trained, _ = compared
    before = pd.read_csv(trained / "table.csv")
    rest = before[before.method != "experts"]
    rest.to_csv(trained / "later.csv", index=False)
    words = ("side-by-side", "-o", "later.csv", "--page", "none.md", "--method", "experts", "--dataset", "Rain100L")
    done = ipt(trained, *words)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(trained / "later.csv")
    assert len(found) == len(rest) + 1
    keys = ["task", "dataset", "method"]
    both = found.merge(before, on=keys)
    assert len(both) == len(found) and (both.psnr_x == both.psnr_y).all()
    rain = list(found.query("dataset == 'Rain100L'").method)
    assert rain == [name for name in before.query("dataset == 'Rain100L'").method], "in its old place"
    assert "| experts | 4 | " in done.stdout and " |  | " in done.stdout
    wrong = ipt(trained, "side-by-side", "-o", "later.csv", "--dataset", "Rain100L", "--dataset", "CBSD68")
    assert wrong.returncode == 2 and "--dataset 'CBSD68': there is none; known: CBSD68-deblur, " in wrong.stderr
    wrong = ipt(trained, "side-by-side", "-o", "later.csv", "--method", "experts", "--method", "none")
    assert wrong.returncode == 2 and "--method 'none': there is none; known: " in wrong.stderr


def test_rows_on_other_damage_are_not_put_together(compared):
    """The damage of `params.yaml` has changed since the table was written: so has the damaged image itself."""
    trained, _ = compared
    before = pd.read_csv(trained / "table.csv")
    moved = before.psnr + (before.dataset == "CBSD68-snow") * (before.method == "input") * 0.01
    before.assign(psnr=moved).to_csv(trained / "moved.csv", index=False)
    text = (trained / "moved.csv").read_text(encoding="utf-8")
    words = ("side-by-side", "-o", "moved.csv", "--page", "none.md", "--method", "opening")
    done = ipt(trained, *words, "--dataset", "CBSD68-snow")
    assert done.returncode == 2 and "CBSD68-snow: the input has" in done.stderr
    assert (trained / "moved.csv").read_text(encoding="utf-8") == text
    done = ipt(trained, *words, "--dataset", "Rain100L")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("asked", [("side-by-side", "-o", "other.csv"), ("arm", "release")])
def test_an_arm_of_other_parameters_is_named(trained, asked):
    path = trained / "params.yaml"
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    values["profiles"]["smoke"]["training"]["steps"] += 1
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    try:
        done = ipt(trained, *asked)
    finally:
        path.write_text(text, encoding="utf-8")
    assert done.returncode == 2 and "was trained otherwise: training.steps was 4, is 5; `ipt arm " in done.stderr
    assert not (trained / "other.csv").exists()


def test_a_damaged_table_is_one_line(trained):
    (trained / "damaged.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    done = ipt(trained, "side-by-side", "-o", "damaged.csv", "--page", "none.md", "--method", "opening")
    assert done.returncode == 2 and "damaged.csv is damaged" in done.stderr
