"""docs/method.md: every file, symbol and test that it names is there, and its gradients are the true ones."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.modulation import LowRankBias, RankRule, modulate
from instruct_ipt.training.losses import restoration_loss

PAGE = Path(__file__).resolve().parent.parent / "docs" / "method.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = re.findall(r"\[`([\w.]+)`\]\(([^)]+)\)", TEXT)
ROWS = [line for line in TEXT.splitlines() if line.startswith("| ") and "](../" in line]


def symbols(path: Path) -> set[str]:
    """Functions and classes at the top of a file, and methods as `Class.method`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_every_linked_file_has_the_linked_symbol_or_test():
    assert len(LINKS) > 40
    for symbol, target in LINKS:
        path = (PAGE.parent / target).resolve()
        assert path.is_file(), target
        assert symbol in symbols(path), f"{target} has no {symbol}"


def test_every_line_of_the_tables_names_code_and_a_test_of_it():
    assert len(ROWS) > 20
    for row in ROWS:
        what, code, test = (cell.strip() for cell in row.strip("|").split("|"))
        assert what and "](../src/instruct_ipt/" in code and "](../tests/" in test, row
        assert all(name.startswith("test_") for name in re.findall(r"\[`(\w+)`\]", test)), row


@pytest.mark.parametrize("number", [1, 2, 3])
def test_each_of_the_three_equations_has_code_and_a_test(number):
    section = TEXT.partition(f"\n## Equation {number}:")[2].partition("\n## ")[0]
    assert section.count("```math") >= 1
    assert "](../src/" in section and "](../tests/" in section


def test_the_page_says_whose_equations_they_are_before_the_first():
    before = TEXT.partition("## Equation 1")[0]
    assert "our reconstruction" in before and "not the paper's text" in before


def test_other_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("http") or (PAGE.parent / target).exists(), target
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in TEXT.splitlines()
                if line.startswith("#")}  # fmt: skip
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def case() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A modulated linear layer, and samples of tasks 0, 2, 0 with targets, all float64."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(5, 4, bias=False).double()
    model = modulate(layer, ["a", "b", "c"], ["weight"], RankRule("constant", 2), generator)
    x, target = (torch.randn(3, side, dtype=torch.float64, generator=generator) for side in (5, 4))
    return model, torch.tensor([0, 2, 0]), x, target


@pytest.mark.parametrize("fresh", [True, False])
def test_gradients_are_those_that_the_page_gives(fresh):
    model, tasks, x, target = case()
    bias = model.bias("weight")
    assert isinstance(bias, LowRankBias)
    if not fresh:
        with torch.no_grad():
            bias.up.normal_(generator=torch.Generator().manual_seed(1))
    up, down = bias.up.detach(), bias.down.detach()
    (model(x, tasks) - target).square().sum().backward()
    total = torch.zeros(4, 5, dtype=torch.float64)
    for task in range(3):
        # G_t: the gradient of the task's own loss at its own weights, by hand: 2 (W_t x - target) x^T, summed.
        mine = tasks == task
        weight = model.backbone.weight.detach() + up[task] @ down[task]
        gradient = 2 * (F.linear(x[mine], weight) - target[mine]).T @ x[mine]
        torch.testing.assert_close(bias.up.grad[task], gradient @ down[task].T)
        torch.testing.assert_close(bias.down.grad[task], up[task].T @ gradient)
        total += gradient
    torch.testing.assert_close(model.backbone.weight.grad, total)
    assert bool(bias.up.grad[0].any()) and bool(bias.down.grad[0].any()) is not fresh


def test_the_loss_of_a_batch_weighs_tasks_by_their_samples():
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.rand(5, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    tasks = torch.tensor([0, 0, 0, 1, 2])
    whole = restoration_loss(output, target, 1.0, 0.05)
    parts = [restoration_loss(output[tasks == t], target[tasks == t], 1.0, 0.05) for t in range(3)]
    torch.testing.assert_close(whole, 3 / 5 * parts[0] + 1 / 5 * parts[1] + 1 / 5 * parts[2])
