"""The cheap estimators against closed forms, brute force and scipy; their cost against passes that were counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import distance
from torch import nn

from instruct_ipt.adaptation import Shared
from instruct_ipt.analysis import estimators
from instruct_ipt.analysis.sensitivity import COLUMNS, exact_search, pixel_passes
from instruct_ipt.params import BackboneParams, PatchPhase
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared
from tests.helpers import smoke, stream

SETTINGS = SimpleNamespace(batches=2, batch=3)
GROWING = [PatchPhase(share=0.5, size=16), PatchPhase(share=0.5, size=24)]
L1_ONLY = SimpleNamespace(patches=GROWING, loss=SimpleNamespace(l1=1.0, frequency=0.0))


class Affine(nn.Module):
    """gain * image + offset: two weight groups of one parameter, whose gradients are known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.1]))
        self.offset = nn.Parameter(torch.tensor([-0.02]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.gain * image + self.offset

    def weight_groups(self) -> dict[str, list[str]]:
        return {"gain": ["gain"], "offset": ["offset"]}


def affine_gradients(task: str, seed: int = 0) -> np.ndarray:
    """(samples, 2) by hand: the derivative of mean |g x + o - y| is the mean of sign * x, and of sign."""
    rows = []
    for step, patch in enumerate((16, 24)):
        batch = stream(seed).batch(step, patch, {task: SETTINGS.batch})
        for given, target in zip(batch.input.astype(np.float64), batch.target, strict=True):
            sign = np.sign(1.1 * given - 0.02 - target)
            rows.append([(sign * given).mean(), sign.mean()])
    return np.array(rows)


@pytest.mark.parametrize("task", TASKS)
def test_fisher_is_the_mean_square_of_the_samples_gradients(task):
    """Per-sample gradients: squaring the batch's gradient instead gives something else, which is told apart."""
    found = estimators.task_gradients(Shared(Affine(), TASKS), task, stream(), SETTINGS, L1_ONLY)
    rows = affine_gradients(task)
    expected = (rows**2).mean(axis=0)
    assert [found.fisher["gain"], found.fisher["offset"]] == pytest.approx(expected, rel=1e-3)
    of_batches = (rows.mean(axis=0) ** 2).tolist()
    assert of_batches != pytest.approx(expected, rel=1e-3)
    assert [found.mean["gain"].item(), found.mean["offset"].item()] == pytest.approx(rows.mean(axis=0), rel=1e-3)


@pytest.mark.parametrize("kind", ["ipt", "naf"])
def test_the_mean_gradient_is_that_of_the_batch_and_nothing_else_is_touched(kind):
    """On real networks, by an ordinary backward pass over the whole batch in float64."""
    params, shared = smoke(), build_shared(BackboneParams(preset="tiny", kind=kind, checkpoint=False), 0)
    weights = params.training.loss
    before = [p.clone() for p in shared.parameters()]
    settings = SimpleNamespace(batches=1, batch=4)
    found = estimators.task_gradients(shared, "desnow", stream(), settings, params.training)
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(shared.parameters(), before, strict=True))
    batch = stream().batch(0, params.training.patches[0].size, {"desnow": 4})
    given, target = (torch.from_numpy(a).permute(0, 3, 1, 2).double() for a in (batch.input, batch.target))
    double = shared.double()
    difference = double(given, "desnow") - target
    spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho"))
    (weights.l1 * difference.abs().mean() + weights.frequency * spectrum.abs().mean()).backward()
    named = dict(double.backbone.named_parameters())
    for group, names in double.backbone.weight_groups().items():
        expected = torch.cat([named[name].grad.flatten() for name in names])
        assert torch.norm(found.mean[group] - expected) < 1e-3 * torch.norm(expected), group
        assert found.fisher[group] >= float((found.mean[group] ** 2).sum()), "Jensen's inequality"


def test_cosines_are_scipys():
    rng = np.random.default_rng(0)
    sizes = {"a": 3, "b": 50}
    vectors = [{g: torch.from_numpy(rng.normal(size=n)).float() for g, n in sizes.items()} for _ in range(4)]
    found = estimators.cosine_matrices(vectors)
    whole = [torch.cat(list(v.values())) for v in vectors]
    for i in range(4):
        for j in range(4):
            for group in sizes:
                expected = 1 - distance.cosine(vectors[i][group].double(), vectors[j][group].double())
                assert found[group][i, j] == pytest.approx(expected, abs=1e-9)
            expected = 1 - distance.cosine(whole[i].double(), whole[j].double())
            assert found["all"][i, j] == pytest.approx(expected, abs=1e-9)


def test_a_gradient_of_zero_agrees_and_disagrees_with_nothing():
    found = estimators.cosine_matrices([{"a": torch.zeros(3)}, {"a": torch.ones(3)}])
    assert found["a"] == pytest.approx(np.array([[0, 0], [0, 1]]))
    assert estimators.conflict_scores(found["a"]) == pytest.approx([1, 1])


def test_conflict_scores_by_hand():
    cosines = np.array([[1.0, 0.5, -1.0], [0.5, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    assert estimators.conflict_scores(cosines) == pytest.approx([1.25, 0.75, 1.5])
    assert estimators.conflict_scores(np.ones((5, 5))) == pytest.approx(np.zeros(5))


def test_estimates_have_a_row_for_everything_and_the_conflict_matrix_is_a_mean_over_seeds():
    shared = Shared(Affine(), TASKS)
    table, conflict = estimators.estimate(shared, {0: stream(0), 4: stream(4)}, SETTINGS, L1_ONLY)
    assert list(table.columns) == COLUMNS and table.gain_db.isna().all() and (table.freed_params == 1).all()
    keys = set(zip(table.estimator, table.task, table.group, table.seed, strict=True))
    names = ("fisher", "conflict")
    assert keys == {(e, t, g, s) for e in names for t in TASKS for g in ("gain", "offset") for s in (0, 4)}
    assert len(table) == len(keys)
    assert list(conflict.columns) == ["task_a", "task_b", "group", "cosine"]
    assert len(conflict) == len(TASKS) ** 2 * 3
    # One parameter per group: cosines are signs. The whole network: by hand from the two parameters.
    by_hand = []
    for seed in (0, 4):
        means = np.array([affine_gradients(task, seed).mean(axis=0) for task in TASKS])
        unit = means / np.linalg.norm(means, axis=1, keepdims=True)
        by_hand.append({"gain": np.sign(np.outer(means[:, 0], means[:, 0])), "all": unit @ unit.T})
    for group in ("gain", "all"):
        found = conflict[conflict.group == group].pivot(index="task_a", columns="task_b", values="cosine")
        expected = np.mean([matrices[group] for matrices in by_hand], axis=0)
        np.testing.assert_allclose(found.loc[list(TASKS), list(TASKS)], expected, atol=1e-3)
    rows = table[(table.estimator == "conflict") & (table.group == "gain") & (table.seed == 4)].set_index("task").score
    expected = 1 - (by_hand[1]["gain"].sum(axis=1) - 1) / (len(TASKS) - 1)
    assert rows.loc[list(TASKS)].tolist() == pytest.approx(expected)


def test_estimates_are_repeatable():
    params, shared = smoke(), build_shared("tiny", 0)
    first, second = (estimators.estimate(shared, {0: stream()}, params.sensitivity, params.training) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert first[1].cosine.between(-1 - 1e-9, 1 + 1e-9).all()


# ---- agreement and cost ---------------------------------------------------------------------------------------------


def ranked(exact, fisher, conflict, seed: int = 0, task: str = "denoise") -> pd.DataFrame:
    rows = [["exact", task, f"g{i}", seed, gain, 10, 0.0] for i, gain in enumerate(exact)]
    for name, scores in (("fisher", fisher), ("conflict", conflict)):
        rows += [[name, task, f"g{i}", seed, np.nan, 10, score] for i, score in enumerate(scores)]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_agreement_is_the_correlation_of_ranks_averaged_over_seeds():
    rng = np.random.default_rng(1)
    draws = {(s, t): rng.normal(size=(3, 8)) for s in (0, 1) for t in TASKS}
    table = pd.concat([ranked(*draw, seed=s, task=t) for (s, t), draw in draws.items()])
    found = estimators.agreement(table, searched=1000, estimated=100).set_index(["estimator", "task"])
    means = {t: (draws[0, t] + draws[1, t]) / 2 for t in TASKS}

    def spearman(a, b):  # Pearson's coefficient of the ranks; no ties here
        return np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1]

    for place, name in ((1, "fisher"), (2, "conflict")):
        for task in TASKS:
            assert found.loc[(name, task), "spearman"] == pytest.approx(spearman(means[task][0], means[task][place]))
        pooled = [np.concatenate([means[t][row] for t in TASKS]) for row in (0, place)]
        assert found.loc[(name, "all"), "spearman"] == pytest.approx(spearman(*pooled))
    assert (found.n_groups == [8, 8, 8, 8, 8, 40] * 2).all()


def test_agreement_of_the_same_and_of_the_opposite_order():
    found = estimators.agreement(ranked([1, 2, 3, 4], [10, 20, 30, 99], [4, 3, 2, 1]), 10, 10).set_index("estimator")
    assert found.loc["fisher", "spearman"].tolist() == pytest.approx([1, 1])
    assert found.loc["conflict", "spearman"].tolist() == pytest.approx([-1, -1])


class Counter:
    """Counts the pixels that pass forward through the backbone while gradients are recorded; deep copies share it."""

    def __init__(self, backbone: nn.Module) -> None:
        self.pixels = 0
        backbone.register_forward_hook(self)

    def __call__(self, module, inputs, output) -> None:
        if torch.is_grad_enabled():
            self.pixels += inputs[0].shape[0] * inputs[0].shape[2] * inputs[0].shape[3]

    def __deepcopy__(self, memo):
        return self

    def taken(self) -> int:
        taken, self.pixels = self.pixels, 0
        return taken


def first_weight(model, task) -> float:
    return float(next(model.parameters()).detach().flatten()[0])


def test_cost_is_what_really_passes_through_the_network():
    """Patches that grow, two seeds: the counts in the table against those of a hook on the network."""
    params = smoke()
    settings = params.sensitivity.model_copy(update={"steps": 3, "batches": 2, "batch": 1})
    training = params.training.model_copy(update={"patches": GROWING})
    shared = build_shared("tiny", 0)
    counter = Counter(shared.backbone)
    streams = {seed: stream(seed) for seed in (0, 1)}
    exact = exact_search(shared, streams, first_weight, settings, training)
    searched = counter.taken()
    estimates, _ = estimators.estimate(shared, streams, settings, training)
    estimated = counter.taken()
    costs = [pixel_passes(count, settings.batch, GROWING) for count in (settings.steps, settings.batches)]
    assert costs == [16**2 + 16**2 + 24**2, 16**2 + 24**2]
    found = estimators.agreement(pd.concat([exact, estimates]), *costs).set_index(["estimator", "task"])
    for name in estimators.ESTIMATORS:
        row = found.loc[name, "all"]
        assert (row.passes, row.passes_exact) == (estimated, searched)
        assert row.times_cheaper == pytest.approx(searched / estimated)
    for task in TASKS:
        assert found.loc[("fisher", task), "passes"] == estimated / len(TASKS)
        assert found.loc[("conflict", task), "passes"] == estimated
        assert found.loc[("fisher", task), "passes_exact"] == searched / len(TASKS)
