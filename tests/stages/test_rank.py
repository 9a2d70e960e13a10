"""`ipt rank`: what it writes about increments that are known, against numpy and against the networks themselves."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from instruct_ipt.adaptation import Shared
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.paths import PREPARED
from instruct_ipt.stages import rank
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import new_backbone
from tests.helpers import smoke
from tests.stages import analysed

GROUPS = ["ffn.in", "ffn.depthwise", "head"]


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    """A working directory, the networks in it, and the tables of the stage; to be read only."""
    folder = tmp_path_factory.mktemp("rank")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        analysed.prepared()
        networks = (analysed.shared_network(), *analysed.increments(GROUPS))
        return folder, networks, run()


@pytest.fixture
def networks(analysis, monkeypatch):
    """The networks, in that working directory."""
    monkeypatch.chdir(analysis[0])
    return analysis[1]


@pytest.fixture
def tables(analysis) -> dict[str, pd.DataFrame]:
    return analysis[2]


def run() -> dict[str, pd.DataFrame]:
    rank.run(analysed.context(analysed.settings(rank={"constant": [2, 4]})))
    return {name: pd.read_csv(Path(f"out/results/{name}.csv")) for name in rank.COLUMNS}


def matrices(networks, source: str, task: str) -> dict[str, np.ndarray]:
    """Parameter name -> increment as a float64 matrix, of weights that are no vector and not depthwise."""
    shared, full, experts = networks
    if source == "bias":
        increments = {name: full.bias(name).delta(TASKS.index(task)) for name in full.selection()}
    else:
        tuned = dict(experts[task].backbone.named_parameters())
        increments = {name: tuned[name] - base for name, base in shared.backbone.named_parameters()}
    found = {name: value.detach().double().flatten(1).numpy() for name, value in increments.items() if value.ndim > 1}
    return {name: m for name, m in found.items() if min(m.shape) > 1 and "depthwise" not in name}


def test_spectra_are_numpys_and_layers_stand_in_network_order(networks, tables):
    depth, order = networks[0].backbone.stage_depths(), [n for n, _ in networks[0].backbone.named_parameters()]
    for name, columns in rank.COLUMNS.items():
        assert list(tables[name].columns) == columns
    for source in ("bias", "expert"):
        for task in TASKS:
            expected = matrices(networks, source, task)
            effective = tables["rank_effective"].query("source == @source and task == @task").set_index("layer")
            energy = tables["rank_energy"].query("source == @source and task == @task")
            assert effective.index.tolist() == [n for n in order if n in expected] == energy.layer.unique().tolist()
            for layer, rows in energy.groupby("layer"):
                m = expected[layer]
                eigenvalues = np.clip(np.linalg.eigvalsh(m.T @ m)[::-1][: min(m.shape)], 0, None)
                curve = np.cumsum(eigenvalues) / eigenvalues.sum()
                np.testing.assert_allclose(rows.cumulative_energy, curve, atol=1e-6)
                assert rows["rank"].tolist() == list(range(1, min(m.shape) + 1))
                shares = np.sqrt(eigenvalues) / np.sqrt(eigenvalues).sum()
                row = effective.loc[layer]
                assert row.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
                assert (row.full_rank, row.stage_depth) == (min(m.shape), depth[layer])
                assert curve[row.rank90 - 1] >= 0.90 > (curve[row.rank90 - 2] if row.rank90 > 1 else 0)
                assert curve[row.rank99 - 1] >= 0.99 > (curve[row.rank99 - 2] if row.rank99 > 1 else 0)


def test_psnr_and_size_of_each_rule_are_those_of_networks(networks, tables):
    """`full` scores as the networks themselves do, and `params` are those of what `modulate` builds by the rule."""
    shared, full, experts = networks
    table = tables["rank_strategy"]
    validation = Validation(PREPARED, smoke().degradation)
    whole = table[table.rule == "full"].set_index(["source", "task"]).psnr
    for task in TASKS:
        assert whole["bias", task] == pytest.approx(validation(full, [task])[task], abs=1e-4)
        assert whole["expert", task] == pytest.approx(validation(experts[task], [task])[task], abs=1e-4)
        untouched = validation(Shared(shared.backbone, TASKS), [task])[task]
        assert abs(whole["expert", task] - untouched) > 0.01, "the increments are large enough to be seen"
    cut = table[table.rule != "full"]
    for source, rows in table.groupby("source"):
        names = list(matrices(networks, source, "denoise"))
        assert rows.groupby("rule").size().to_dict() == {"full": 5, "constant": 10, "proportional": 10}
        for row in cut[cut.source == source].drop_duplicates(["rule", "value"]).itertuples():
            value = int(row.value) if row.rule == "constant" else row.value
            network = modulate(new_backbone("tiny", 0), TASKS, names, RankRule(row.rule, value))
            assert row.params * len(TASKS) == network.added_parameters()


def cut_by_projection(networks, source: str, task: str, value: int) -> Shared:
    """The network of a task with each matrix of its increment projected on its leading directions, by eigenvectors."""
    _, full, experts = networks
    network = Shared(full.fold(task) if source == "bias" else copy.deepcopy(experts[task].backbone), TASKS)
    weights = dict(network.backbone.named_parameters())
    for name, m in matrices(networks, source, task).items():
        _, vectors = np.linalg.eigh(m.T @ m)
        leading = vectors[:, -min(value, min(m.shape)) :]
        lost = m - m @ leading @ leading.T
        weights[name].data -= torch.from_numpy(lost).view(weights[name].shape).float()
    return network


@pytest.mark.parametrize("source", ["bias", "expert"])
def test_psnr_at_a_rank_is_that_of_the_leading_directions(networks, tables, source):
    """Increments that no rank rule can cut (vectors, depthwise kernels) stay whole."""
    table = tables["rank_strategy"].set_index(["source", "rule", "value", "task"]).psnr
    validation = Validation(PREPARED, smoke().degradation)
    for task in TASKS:
        expected = validation(cut_by_projection(networks, source, task, 2), [task])[task]
        assert table[source, "constant", 2, task] == pytest.approx(expected, abs=1e-4)
        assert abs(table[source, "constant", 2, task] - table.xs("full", level="rule")[source, np.nan, task]) > 1e-3


def test_a_selection_without_a_matrix_is_one_clear_line(workspace):
    analysed.prepared()
    analysed.shared_network()
    analysed.increments(["norm"])
    with pytest.raises(InputError, match="selection.json: none of the selected weights.*sensitivity.groups"):
        run()
