"""What the settings of the ablation grid mean, and that methods are compared at equal size."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from instruct_ipt import params, runs
from instruct_ipt.data.stream import PatchStream
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import Modulated
from instruct_ipt.stages import reader_cell
from instruct_ipt.stages._cells import (
    LEAVES,
    Cell,
    cell_record,
    cells_of,
    find_cell,
    kind_of,
    meaning_of,
    reader_of,
    recipe_of,
    settings_of,
    task_set,
)
from instruct_ipt.stages.cell import build, of_equal_batch
from instruct_ipt.tasks import TASKS, split_level
from instruct_ipt.training.phases import counts_of

ROOT = Path(__file__).resolve().parents[2]
GROUPS = ["attention.qkv", "ffn.in"]
SIZED = ("film", "prompt", "gate", "adapter", "proportional")
NATURAL = ("shared", "full", "task_norm", "task_head")


@pytest.fixture(scope="module")
def study() -> params.Params:
    return params.load(profile="study")


def built(loaded: params.Params, study: str, setting: str, backbone: str = "quick", seed: int = 0):
    return build(asdict(recipe_of(loaded, Cell(study, setting, seed))), backbone, seed, GROUPS)


@pytest.mark.parametrize("tasks", ["five", "noise"])
@pytest.mark.parametrize("method", SIZED)
def test_every_method_with_a_size_is_as_large_as_the_constant_rank(study, tasks, method):
    reference = built(study, "adaptation", f"{tasks}-constant").added_parameters()
    assert built(study, "adaptation", f"{tasks}-{method}").added_parameters() == pytest.approx(reference, rel=0.1)


@pytest.mark.parametrize("method", NATURAL)
def test_the_others_have_their_natural_size_and_know_their_tasks(study, method):
    model = built(study, "adaptation", f"noise-{method}", "tiny")
    assert model.tasks == ("denoise-15", "denoise-25", "denoise-50")
    assert (model.added_parameters() == 0) == (method == "shared")


def test_full_biases_are_unfactored(study):
    model = built(study, "adaptation", "five-full", "tiny")
    weights = dict(model.backbone.named_parameters())
    assert model.added_parameters() == len(TASKS) * sum(weights[name].numel() for name in model.selection())


def test_random_weights_are_as_many_as_the_selected_ones_and_the_same_for_every_seed(study):
    selected = built(study, "sensitivity", "selected")
    draws = [built(study, "sensitivity", f"random-{k}", seed=seed) for k, seed in ((0, 0), (0, 1), (1, 0))]
    for draw in draws:
        assert isinstance(draw, Modulated)
        assert draw.added_parameters() == pytest.approx(selected.added_parameters(), rel=0.02)
    assert draws[0].selection() == draws[1].selection() != draws[2].selection()
    assert len(built(study, "sensitivity", "all").selection()) == len(list(selected.backbone.parameters()))


def test_a_setting_without_biases_does_not_depend_on_their_rank(study):
    other = study.model_copy(update={"modulation": study.modulation.model_copy(update={"value": 2})})
    for cell in (Cell("strategy", "shared", 0), Cell("rank", "shared", 0), Cell("adaptation", "five-experts", 0)):
        assert recipe_of(study, cell) == recipe_of(other, cell)
    assert recipe_of(study, Cell("strategy", "frozen", 0)) != recipe_of(other, Cell("strategy", "frozen", 0))


def test_every_profile_has_shared_and_biases_in_every_study():
    for profile in ("quick", "study", "paper"):
        loaded = params.load(profile=profile)
        for name, settings in settings_of(loaded).items():
            if name == "instruction":
                assert len(settings) >= 3 and loaded.ablations.instruction["usual"] == {}
                continue
            recipes = [recipe_of(loaded, Cell(name, setting, 0)) for setting in settings]
            biased = "synchronous" if name == "diffusion" else "modulation"
            assert len(settings) >= 3 and {"shared", biased} <= {recipe.method for recipe in recipes}, name


def test_only_cells_of_one_recipe_are_equal(study):
    """At `quick`, as the workflow's README says, 24 networks stand behind 30 cells that train one."""
    quick = params.load(profile="quick")
    trained = [cell for cell in cells_of(quick) if cell.study != "instruction"]
    meanings = {(str(meaning_of(quick, cell)), cell.seed) for cell in trained}
    recipes = {(str(recipe_of(quick, cell)), cell.seed) for cell in trained}
    assert (len(meanings), len(recipes), len(trained)) == (24, 24, 30)
    usual = {"rank": "constant-4", "strategy": "synchronous", "adaptation": "five-constant", "sensitivity": "selected"}
    assert len({recipe_of(quick, Cell(name, setting, 0)) for name, setting in usual.items()}) == 1
    assert recipe_of(quick, Cell("adaptation", "noise-shared", 0)) != recipe_of(quick, Cell("rank", "shared", 0))
    assert recipe_of(quick, Cell("diffusion", "shared", 0)) != recipe_of(quick, Cell("rank", "shared", 0))


def test_a_denoiser_cell_means_a_way_of_training_the_filling_tasks(study):
    recipes = {name: recipe_of(study, Cell("diffusion", name, 0)) for name in settings_of(study)["diffusion"]}
    assert list(recipes) == ["shared", "film", "frozen", "synchronous", "experts"]
    assert {name: recipe.strategy for name, recipe in recipes.items()} == METHODS
    assert all(recipe.tasks == FILL_TASKS and recipe.method == name for name, recipe in recipes.items())
    assert {recipe.rule for recipe in recipes.values()} == {("constant", float(study.diffusion.rank))}


def test_a_denoiser_cell_depends_on_its_own_parameters_and_on_no_selection(study, workspace):
    cells = {name: Cell(name, "shared", 0) for name in ("diffusion", "rank")}
    for leaf in LEAVES:
        leaf.parent.mkdir(parents=True, exist_ok=True)
        leaf.write_text("{}", encoding="utf-8")
    before = {name: cell_record(study, cell) for name, cell in cells.items()}
    assert list(before["diffusion"]["inputs"]) == ["data/prepared/manifest.json"]
    assert len(before["rank"]["inputs"]) == 2
    changes = {
        "diffusion": study.model_copy(update={"diffusion": study.diffusion.model_copy(update={"rank": 9})}),
        "rank": study.model_copy(update={"backbone": study.backbone.model_copy(update={"preset": "tiny"})}),
    }
    for changed, other in changes.items():
        for name, cell in cells.items():
            same = cell_record(other, cell)["params_digest"] == before[name]["params_digest"]
            assert same == (name != changed), (changed, name)


def test_a_reader_cell_is_made_with_what_its_setting_changes_and_stands_on_nothing(study, workspace):
    for leaf in LEAVES:
        leaf.parent.mkdir(parents=True, exist_ok=True)
        leaf.write_text("{}", encoding="utf-8")
    usual, few = (cell_record(study, Cell("instruction", name, 0)) for name in ("usual", "few_texts"))
    assert usual["inputs"] == {} and "backbone" not in usual["params"]
    section = study.instruction.model_dump(mode="json")
    assert usual["params"]["instruction"] == section
    assert few["params"]["instruction"] == section | {"fills": 1, "variants": 1}
    assert kind_of("instruction").module == "instruct_ipt.stages.reader_cell"


def test_a_reader_cell_shows_its_test_figures(study, tmp_path):
    few = reader_of(study, Cell("instruction", "few_texts", 0))
    facts = {"study": "instruction", "setting": "few_texts", "seed": 0}
    reader_cell.run(few, facts, tmp_path)
    figures = pd.read_csv(tmp_path / "figures.csv")
    assert set(figures.split) == {"validation", "test"}
    shown = figures[(figures.split == "test") & (figures.of == "all")].set_index("metric").value
    metrics = runs.cell_results(tmp_path).metrics
    assert metrics == pytest.approx({f"test/{name}": value for name, value in shown.items()}, abs=1e-5)
    assert 0.5 < metrics["test/right_task"] < 1, "few texts are read, but not all right"
    card = runs.cell_card(cell_record(study, Cell("instruction", "few_texts", 0)))
    assert (card.tags["setting"], card.tags["method"], card.tags["split"]) == ("few_texts", "ngram", "test")


def test_a_setting_of_a_reader_is_checked_as_the_section_is(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for right, wrong, said in (
        ("no_slips: {typos: 0.0}", "no_slips: {typo: 0.0}", "no_slips .*typo is no key of the section instruction"),
        ("no_slips: {typos: 0.0}", "no_slips: {typos: 2.0}", "no_slips .*typos: Input should be less than or equal"),
        ("no_slips: {typos: 0.0}", "No-slips: {typos: 0.0}", "No-slips.*pattern"),
    ):
        assert right in text
        path = tmp_path / "params.yaml"
        path.write_text(text.replace(right, wrong), encoding="utf-8")
        with pytest.raises(InputError, match=f"^[^\n]*{said}[^\n]*$"):
            params.load(path)


def test_a_cell_outside_the_grid_is_refused_with_what_is_in_it(study):
    assert len(set(cells_of(study))) == len(cells_of(study))
    with pytest.raises(InputError, match="is not in the grid of profile study; it has: settings .*five-film"):
        find_cell(study, "adaptation", "five-lora", 0)
    with pytest.raises(InputError, match="it has: rank, strategy, adaptation, sensitivity, task_gap, diffusion, instr"):
        find_cell(study, "nothing", "shared", 0)


@pytest.mark.parametrize("name", ["noise", "denoise+dehaze"])
def test_a_batch_of_fewer_tasks_holds_about_as_many_samples(study, name):
    training, tasks = study.training, task_set(study, name)
    five = sum(counts_of(training.task_weights, training.batch_per_task, TASKS).values())
    fewer = of_equal_batch(training, list(tasks))
    counts = counts_of(fewer.task_weights, fewer.batch_per_task, tasks)
    assert list(counts) == list(tasks) and len(set(counts.values())) == 1
    assert abs(sum(counts.values()) - five) <= len(tasks) / 2
    assert of_equal_batch(training, list(TASKS)) is training


def test_a_noise_level_is_a_task_of_its_own(study):
    assert split_level("denoise-15") == ("denoise", 15.0) and split_level("denoise") == ("denoise", None)
    assert split_level("night-2") == ("night-2", None)
    tasks = ("denoise-50", "denoise-15")
    image = np.full((64, 64, 3), 128, np.uint8)
    batch = PatchStream([image], study.degradation, 0, tasks=tasks).batch(0, 32, {"denoise-15": 4, "denoise-50": 4})
    assert batch.task.tolist() == [1] * 4 + [0] * 4
    sigma = (batch.input - batch.target).std(axis=(1, 2, 3)) * 255
    assert sigma[:4] == pytest.approx(15, rel=0.1) and sigma[4:] == pytest.approx(50, rel=0.1)


def test_a_fresh_rival_equals_its_backbone_for_any_tasks(study):
    model = built(study, "task_gap", "denoise+dehaze-film", "tiny")
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(model(x, torch.tensor([0, 1])), model.backbone(x))


def test_the_workflow_readme_counts_the_cells_of_each_study():
    text = (Path(__file__).parents[2] / "workflow" / "README.md").read_text(encoding="utf-8")
    profiles = [params.load(profile=name) for name in ("quick", "study")]
    for name in (*settings_of(profiles[0]), "all"):
        row = next(line for line in text.splitlines() if f"`snakemake -c2 {name}`" in line)
        cells = [len(cells_of(loaded, None if name == "all" else name)) for loaded in profiles]
        assert row.rstrip(" |").endswith(f"{cells[0]} / {cells[1]}"), row
