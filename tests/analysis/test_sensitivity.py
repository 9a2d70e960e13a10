"""The sensitivity search frees exactly what it says, and the selection keeps to its budget."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from instruct_ipt.analysis.sensitivity import COLUMNS, exact_search, free_group, select_groups
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared
from tests.helpers import smoke, stream


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


def test_the_search_covers_every_group_and_task_and_is_repeatable(shared):
    params = smoke()

    def score(model, task):
        return float(sum(p.detach().double().sum() for p in model.parameters()))

    run = [exact_search(shared, stream(), score, params.sensitivity, params.training, seed=3) for _ in range(2)]
    pd.testing.assert_frame_equal(*run)
    assert list(run[0].columns) == COLUMNS and set(run[0].seed) == {3}
    assert len(run[0]) == len(TASKS) * len(shared.backbone.weight_groups())
    first = run[0].iloc[0]
    assert first.score == pytest.approx(first.gain_db / first.freed_params * 1e5)


def table(gains: dict[str, tuple[float, int]]) -> pd.DataFrame:
    rows = [["exact", t, g, 0, gain, size, 0.0] for t in TASKS for g, (gain, size) in gains.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_selection_takes_the_best_groups_that_fit():
    gains = table({"a": (0.1, 50), "b": (0.5, 40), "c": (0.3, 70), "d": (0.2, 10), "e": (-0.1, 1)})
    assert select_groups(gains, 100, 1.0) == ["b", "d", "a"]
    assert select_groups(gains, 100, 0.4) == ["b"]


def test_there_is_always_a_group():
    assert select_groups(table({"a": (-1.0, 50), "b": (-2.0, 5)}), 100, 0.5) == ["b"]
