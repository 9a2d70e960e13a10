"""Rank analysis against eigenvalues of B^T B in float64, closed forms, brute force, and networks of `modulate`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from instruct_ipt.analysis import rank
from instruct_ipt.analysis.rank import Decomposition
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import new_backbone

SHAPES = [(24, 24), (48, 16), (16, 144), (64, 64)]


def matrix(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, columns))


def constant(value: int) -> RankRule:
    return RankRule("constant", value)


# ---- energy and effective rank --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_cumulative_energy_agrees_with_the_eigenvalues_of_the_gram_matrix(shape):
    """The squares of the singular values of B are the eigenvalues of B^T B: another algorithm altogether."""
    m = matrix(*shape)
    eigenvalues = np.linalg.eigvalsh(m.T @ m)[::-1][: min(shape)]
    np.testing.assert_allclose(
        Decomposition.of(m).cumulative_energy(), np.cumsum(eigenvalues) / np.trace(m.T @ m), rtol=1e-10
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_cumulative_energy_is_what_the_best_approximation_keeps(shape):
    m = matrix(*shape)
    svd = Decomposition.of(m)
    total = np.sum(m**2)
    kept = [np.sum(svd.truncate(r) ** 2) / total for r in range(1, min(shape) + 1)]
    np.testing.assert_allclose(svd.cumulative_energy(), kept, rtol=1e-12)
    lost = [1 - np.sum((m - svd.truncate(r)) ** 2) / total for r in range(1, min(shape) + 1)]
    np.testing.assert_allclose(svd.cumulative_energy(), lost, rtol=1e-10)
    assert svd.shape == shape and svd.full_rank == min(shape)


def test_a_matrix_of_rank_two_is_held_by_two_directions():
    m = matrix(20, 2) @ matrix(2, 30, seed=1)
    svd = Decomposition.of(m)
    curve = svd.cumulative_energy()
    assert curve[0] < 1 - 1e-6 and curve[1] == pytest.approx(1)
    np.testing.assert_allclose(svd.truncate(2), m, atol=1e-12)
    assert svd.rank_at(0.99) <= 2 and 1 < svd.effective_rank() <= 2 + 1e-6


def with_values(values: list[float]) -> Decomposition:
    """A matrix with these singular values and random singular vectors."""
    n = len(values)
    left, right = (np.linalg.qr(matrix(n, n, seed))[0] for seed in (1, 2))
    return Decomposition.of(left @ np.diag(values) @ right)


def test_effective_rank_in_closed_form():
    assert with_values([3.0] * 7).effective_rank() == pytest.approx(7)
    assert with_values([5.0, 0.0, 0.0]).effective_rank() == pytest.approx(1, abs=1e-9)
    # p = (1/2, 1/4, 1/4): the entropy is 1.5 bits.
    assert with_values([2.0, 1.0, 1.0]).effective_rank() == pytest.approx(2**1.5)
    # Scale does not matter.
    assert with_values([2e-9, 1e-9, 1e-9]).effective_rank() == pytest.approx(2**1.5)


def test_rank_at_an_energy():
    svd = with_values([3.0, 1.0, 0.5, 0.1])  # energies 9, 1, 0.25, 0.01 of 10.26
    assert [svd.rank_at(e) for e in (0.87, 0.90, 0.97, 0.98, 0.999, 0.9999)] == [1, 2, 2, 3, 3, 4]


def test_a_zero_matrix_is_held_by_any_rank_and_needs_none():
    svd = Decomposition.of(np.zeros((3, 5)))
    assert svd.cumulative_energy().tolist() == [1, 1, 1]
    assert (svd.effective_rank(), svd.rank_at(0.9)) == (0, 0)


def test_truncating_at_full_rank_gives_the_matrix_back():
    m = matrix(13, 29)
    np.testing.assert_allclose(Decomposition.of(m).truncate(13), m, atol=1e-12)


# ---- rules at equal parameters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 2, 4, 8, 16])
def test_the_matched_share_is_the_nearest_of_a_fine_grid(value):
    share = rank.matching_share(SHAPES, value)
    target = rank.factor_parameters(SHAPES, rank.ranks_of(SHAPES, constant(value)))

    def distance(s: float) -> int:
        ranks = rank.ranks_of(SHAPES, RankRule("proportional", s))
        return abs(rank.factor_parameters(SHAPES, ranks) - target)

    assert distance(share) <= min(distance(s) for s in np.linspace(1e-4, 1, 4001))


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 64)), min_size=1, max_size=8), st.integers(1, 80))
def test_ranks_are_always_possible(shapes, value):
    for rule in (constant(value), RankRule("proportional", min(1.0, value / 80)), RankRule("full")):
        assert all(1 <= r <= min(shape) for r, shape in zip(rank.ranks_of(shapes, rule), shapes, strict=True))
    # Two factors by hand: r * rows + columns * r.
    assert rank.factor_parameters(shapes, [1] * len(shapes)) == sum(a + b for a, b in shapes)


def matrices_of(backbone: nn.Module) -> dict[str, tuple[int, int]]:
    return {n: tuple(w.flatten(1).shape) for n, w in backbone.named_parameters() if rank.is_matrix(w)}


@pytest.mark.parametrize("preset", ["tiny", "quick"])
def test_paired_rules_build_models_of_nearly_equal_size(preset):
    """Counted from the parameters of the networks that `modulate` builds by both rules."""
    found = matrices_of(new_backbone(preset, 0))
    shapes, constants = list(found.values()), [1, 2, 4, 8]
    full, *rules = rank.matched_rules(shapes, constants)
    assert full == RankRule("full") and [r.value for r in rules[::2]] == constants
    for fixed, share in zip(rules[::2], rules[1::2], strict=True):
        assert (fixed.kind, share.kind) == ("constant", "proportional")
        built = [modulate(new_backbone(preset, 0), TASKS, found, rule).added_parameters() for rule in (fixed, share)]
        # Whole ranks leave a gap: one step of the share moves many layers at once in a small network.
        assert built[1] == pytest.approx(built[0], rel=0.1)
        for rule, size in zip((fixed, share), built, strict=True):
            assert size == len(TASKS) * rank.factor_parameters(shapes, rank.ranks_of(shapes, rule))


def test_what_counts_as_a_matrix():
    """What a rank rule can cut is exactly what `modulate` gives two factors of a rank above one."""
    backbone = new_backbone("tiny", 0)
    everything = [name for name, _ in backbone.named_parameters()]
    network = modulate(backbone, TASKS, everything, constant(2))
    assert set(matrices_of(backbone)) == {n for n in everything if getattr(network.bias(n), "rank", 1) > 1}


# ---- truncated increments back in the network -----------------------------------------------------------------------


@pytest.fixture
def shared_and_expert() -> tuple[nn.Module, nn.Module]:
    shared = new_backbone("tiny", 0)
    expert = copy.deepcopy(shared)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in expert.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return shared, expert


def truncated(shared: nn.Module, expert: nn.Module, rule: RankRule) -> nn.Module:
    """The expert with the delta of every matrix cut by ``rule``, convolutions on the flattened kernel."""
    increments = {
        name: (tuned - base).detach()
        for (name, base), tuned in zip(shared.named_parameters(), expert.parameters(), strict=True)
    }
    shapes = matrices_of(shared)
    cut = {n: rank.decompose(increments[n]).truncate(rule.rank(*shape)) for n, shape in shapes.items()}
    return rank.with_increments(shared, increments, cut)


@torch.no_grad()
def test_an_expert_delta_at_full_rank_gives_back_the_experts_outputs(shared_and_expert):
    shared, expert = shared_and_expert
    image = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(2))
    before = shared(image)
    expected = expert(image)
    again = truncated(shared, expert, RankRule("full"))(image)
    torch.testing.assert_close(again, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(shared(image), before), "the shared network stays as it was"
    # Nearer with every rank, and far from both ends at rank 1: the tolerance above is not a loose one.
    errors = [float((truncated(shared, expert, constant(r))(image) - expected).abs().mean()) for r in (1, 4, 8, 16)]
    assert errors[0] > 1e-3 and errors == sorted(errors, reverse=True)


def test_without_a_cut_the_increments_are_added_as_they_are(shared_and_expert):
    shared, expert = shared_and_expert
    increments = {n: torch.full_like(w, 0.25) for n, w in shared.named_parameters()}
    moved = rank.with_increments(shared, increments, {})
    for (name, old), new in zip(shared.named_parameters(), moved.parameters(), strict=True):
        assert torch.equal(new, old + 0.25), name
    cut = rank.with_increments(shared, increments, {"head.weight": np.zeros((12, 108))})
    assert torch.equal(cut.head.weight, shared.head.weight)
    assert torch.equal(cut.tail.weight, shared.tail.weight + 0.25)
