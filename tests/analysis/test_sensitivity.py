"""The sensitivity search frees exactly what it says, and the selections keep to their budgets."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from instruct_ipt.analysis.sensitivity import (
    COLUMNS,
    bias_sizes,
    exact_search,
    free_group,
    random_selection,
    select_groups,
)
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared, new_backbone, selected_weights
from tests.helpers import smoke, stream

RULES = [RankRule("constant", 2), RankRule("proportional", 0.25), RankRule("full")]


@pytest.fixture
def shared():
    return build_shared("tiny", 0)


@pytest.mark.parametrize("group", ["ffn.in", "norm"])
def test_only_the_freed_group_changes_and_the_shared_network_stays(shared, group):
    params = smoke()
    before = {n: p.clone() for n, p in shared.backbone.named_parameters()}
    names = shared.backbone.weight_groups()[group]
    tuned, freed = free_group(shared, names, "derain", stream(), params.sensitivity, params.training)
    changed = {n for n, p in tuned.backbone.named_parameters() if not torch.equal(p, before[n])}
    assert changed and changed <= set(names)
    assert freed == sum(before[n].numel() for n in names)
    assert all(torch.equal(p, before[n]) for n, p in shared.backbone.named_parameters())


def score(model, task):
    return float(sum(p.detach().double().sum() for p in model.parameters()))


def test_the_search_covers_every_group_task_and_seed(shared):
    params, groups = smoke(), shared.backbone.weight_groups()
    settings = params.sensitivity.model_copy(update={"steps": 1, "batch": 1})
    done = []

    def advance(count, note):
        done.append(count)

    streams = {seed: stream(seed) for seed in (3, 5)}
    table = exact_search(shared, streams, score, settings, params.training, advance)
    assert list(table.columns) == COLUMNS and set(table.estimator) == {"exact"}
    keys = set(zip(table.seed, table.task, table.group, strict=True))
    assert keys == {(s, t, g) for s in streams for t in TASKS for g in groups} and len(table) == len(keys)
    assert done == list(range(1, len(table) + 1))
    first = table.iloc[0]
    assert first.score == pytest.approx(first.gain_db / first.freed_params * 1e5)
    # One seed alone gives its own rows, and another seed other numbers.
    alone = exact_search(shared, {5: stream(5)}, score, settings, params.training)
    pd.testing.assert_frame_equal(alone, table[table.seed == 5].reset_index(drop=True))
    assert (table[table.seed == 3].gain_db.to_numpy() != alone.gain_db.to_numpy()).all()


def test_a_killed_search_repeats_one_group_and_ends_with_the_same_rows(shared, tmp_path):
    params = smoke()
    settings = params.sensitivity.model_copy(update={"steps": 1, "batch": 1})
    whole = exact_search(shared, {5: stream(5)}, score, settings, params.training)
    counted = []

    def killing(done, note):
        counted.append(done)
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exact_search(shared, {5: stream(5)}, score, settings, params.training, killing, tmp_path)
    again = exact_search(shared, {5: stream(5)}, score, settings, params.training, killing, tmp_path)
    pd.testing.assert_frame_equal(again, whole)
    assert counted == list(range(1, len(whole) + 1))


def test_a_search_that_diverges_names_group_and_task(shared):
    params = smoke()
    settings = params.sensitivity.model_copy(update={"steps": 1, "batch": 1})
    first = next(iter(shared.backbone.weight_groups()))

    def diverged(model, task):
        return 1.0 if model is shared else math.nan

    with pytest.raises(InputError, match=rf"freeing {first} for denoise \(seed 5\).*not finite; lower sensitivity"):
        exact_search(shared, {5: stream(5)}, diverged, settings, params.training)


def table(gains: dict[str, tuple[float, int]], estimator: str = "exact", seed: int = 0) -> pd.DataFrame:
    rows = [[estimator, t, g, seed, gain, size, 0.0] for t in TASKS for g, (gain, size) in gains.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_selection_takes_the_best_groups_that_fit():
    gains = table({"a": (0.1, 50), "b": (0.5, 40), "c": (0.3, 70), "d": (0.2, 10), "e": (-0.1, 1)})
    assert select_groups(gains, 100, 1.0) == ["b", "d", "a"]
    assert select_groups(gains, 100, 0.4) == ["b"]


def test_selection_reads_the_exact_search_alone_and_averages_its_seeds():
    # Means over the two seeds: a 0.3, b 0.25. Each seed alone would put one of them far in front.
    seeds = [table({"a": (0.6, 50), "b": (0.1, 50)}), table({"a": (0.0, 50), "b": (0.4, 50)}, seed=1)]
    misleading = table({"a": (-9.0, 1), "b": (9.0, 1)}, "fisher")
    assert select_groups(pd.concat([misleading, *seeds]), 100, 1.0) == ["a", "b"]
    assert select_groups(pd.concat([misleading, *seeds]), 100, 0.5) == ["a"]
    assert select_groups(pd.concat([misleading, seeds[1]]), 100, 0.5) == ["b"]


def test_there_is_always_a_group():
    assert select_groups(table({"a": (-1.0, 50), "b": (-2.0, 5)}), 100, 0.5) == ["b"]


# ---- the random control ---------------------------------------------------------------------------------------------


def shapes(preset: str = "tiny") -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in new_backbone(preset, 0).named_parameters()}


def added(preset: str, names: list[str], rule: RankRule) -> int:
    """Counted from the model itself."""
    return modulate(new_backbone(preset, 0), TASKS, names, rule).added_parameters()


@pytest.mark.parametrize("rule", RULES)
def test_bias_sizes_are_those_of_the_modulated_network(rule):
    network = modulate(new_backbone("tiny", 0), TASKS, list(shapes()), rule)
    everything = shapes()
    counted = {name: sum(p.numel() for p in network.bias(name).parameters()) for name in network.selection()}
    state = torch.get_rng_state()
    assert bias_sizes(everything, len(TASKS), rule) == counted
    assert torch.equal(torch.get_rng_state(), state), "counting draws no random number"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("preset", "near"), [("tiny", 0.05), ("quick", 0.01)])
@pytest.mark.parametrize("groups", [["attention.qkv"], ["ffn.in", "ffn.out", "norm", "head"]])
def test_random_weights_add_as_many_parameters_as_the_selected_ones(preset, near, groups, rule):
    selected = selected_weights(new_backbone(preset, 0), groups)
    budget = added(preset, selected, rule)
    for seed in range(3):
        chosen = random_selection(shapes(preset), len(TASKS), rule, budget, seed)
        assert added(preset, chosen, rule) == pytest.approx(budget, rel=near)
        assert added(preset, chosen, rule) <= budget


def test_a_random_selection_is_decided_by_its_seed_and_excludes_nothing():
    rule, everything = RankRule("constant", 2), shapes()
    budget = sum(bias_sizes(everything, 5, rule).values()) // 2
    draws = [random_selection(everything, 5, rule, budget, seed) for seed in range(40)]
    assert draws == [random_selection(everything, 5, rule, budget, seed) for seed in range(40)]
    assert len({tuple(draw) for draw in draws}) == 40
    assert {name for draw in draws for name in draw} == set(everything)
    order = list(everything)
    assert all([order.index(name) for name in draw] == sorted(order.index(name) for name in draw) for draw in draws)


def test_large_weights_are_drawn_as_often_as_small_ones():
    """Filling the last bit of a budget with whatever still fits would draw the small weights every time."""
    rule, everything = RankRule("constant", 4), shapes("quick")
    sizes = bias_sizes(everything, 5, rule)
    budget = sum(sizes.values()) // 3
    draws = [set(random_selection(everything, 5, rule, budget, seed)) for seed in range(60)]
    ordered = sorted(sizes, key=sizes.__getitem__)
    small, large = ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]
    often = [sum(name in draw for draw in draws for name in half) / len(half) / 60 for half in (small, large)]
    assert often[0] == pytest.approx(often[1], rel=0.2), often


@pytest.mark.parametrize("budget", [1, 10**9])
def test_a_budget_that_no_set_can_meet_is_one_clear_line(budget):
    with pytest.raises(InputError, match="no set of weights adds .* within 5%.*sensitivity.budget") as caught:
        random_selection(shapes(), 5, RankRule("constant", 2), budget, 0)
    assert "\n" not in str(caught.value)
