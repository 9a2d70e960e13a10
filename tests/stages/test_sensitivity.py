"""`ipt sensitivity`: its three tables and its selection, on networks that nobody trained."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from instruct_ipt.analysis.estimators import AGREEMENT_COLUMNS, CONFLICT_COLUMNS
from instruct_ipt.analysis.sensitivity import COLUMNS, select_groups
from instruct_ipt.stages import sensitivity
from instruct_ipt.tasks import TASKS
from tests.stages import analysed

SEARCH = {"seeds": [0, 2], "steps": 1, "batches": 1, "batch": 1, "budget": 0.7}


@pytest.fixture
def shared(workspace):
    analysed.prepared()
    return analysed.shared_network()


def run(out: str, **keys) -> tuple[dict[str, pd.DataFrame], dict, analysed.Tracker]:
    context = analysed.context(analysed.settings(sensitivity=SEARCH | keys), Path(out))
    sensitivity.run(context)
    names = ("sensitivity", "task_conflict", "sensitivity_agreement")
    tables = {name: pd.read_csv(Path(out) / f"results/{name}.csv") for name in names}
    return tables, json.loads((Path(out) / "models/selection.json").read_text(encoding="utf-8")), context.tracker


def test_tables_selection_and_seconds(shared):
    tables, selection, tracker = run("out")
    groups = shared.backbone.weight_groups()
    table = tables["sensitivity"]
    assert list(table.columns) == COLUMNS
    sizes = {g: sum(dict(shared.backbone.named_parameters())[n].numel() for n in names) for g, names in groups.items()}
    assert (table.freed_params == table.group.map(sizes)).all()
    for estimator in ("exact", "fisher", "conflict"):
        rows = table[table.estimator == estimator]
        keys = set(zip(rows.task, rows.group, rows.seed, strict=True))
        assert keys == {(t, g, s) for t in TASKS for g in groups for s in (0, 2)} and len(rows) == len(keys)
        per_seed = [rows[rows.seed == seed].score.tolist() for seed in (0, 2)]
        assert per_seed[0] != per_seed[1], "each seed has a stream of its own"
        assert rows.gain_db.isna().all() == (estimator != "exact") and rows.score.notna().all()
    assert (table[table.estimator == "fisher"].score > 0).all(), "small numbers keep their digits in the file"
    assert table[table.estimator == "conflict"].score.between(0, 2).all()
    budget = SEARCH["budget"] * sum(sizes.values())
    assert selection["groups"] == select_groups(table, sum(sizes.values()), SEARCH["budget"])
    assert sum(sizes[g] for g in selection["groups"]) <= budget and selection["chosen_by"] == "sensitivity search"

    conflict = tables["task_conflict"]
    assert list(conflict.columns) == CONFLICT_COLUMNS and set(conflict.group) == {*groups, "all"}
    for _, rows in conflict.groupby("group"):
        square = rows.pivot(index="task_a", columns="task_b", values="cosine").loc[list(TASKS), list(TASKS)].to_numpy()
        assert square == pytest.approx(square.T) and square.diagonal() == pytest.approx(1)

    agreement = tables["sensitivity_agreement"]
    assert list(agreement.columns) == AGREEMENT_COLUMNS and agreement.spearman.between(-1, 1).all()
    pooled = agreement[agreement.task == "all"]
    assert pooled.estimator.tolist() == ["fisher", "conflict"] and (pooled.n_groups == len(TASKS) * len(groups)).all()
    # One step per group against one batch: ten groups, ten times as many pixels.
    assert pooled.times_cheaper.tolist() == [len(groups)] * 2
    assert pooled.passes.tolist() == [len(SEARCH["seeds"]) * len(TASKS) * 32**2] * 2
    assert set(tracker.seen) == {"seconds/exact", "seconds/estimators"} and min(tracker.seen.values()) > 0


def test_the_same_bytes_twice_and_a_selection_by_hand(shared):
    run("one", seeds=[0])
    _, selection, _ = run("two", seeds=[0], groups=["norm", "tail"])
    for file in sorted(Path("one/results").iterdir()):
        assert file.read_bytes() == (Path("two/results") / file.name).read_bytes(), file.name
    assert selection["groups"] == ["norm", "tail"] and selection["chosen_by"] == "params.yaml: sensitivity.groups"
