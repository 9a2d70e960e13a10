"""torch.compile of a folded and of a modulated network gives what they give without it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from instruct_ipt.modulation import Modulated, RankRule, modulate

TASKS = ("denoise", "derain", "desnow")
HAS_COMPILER = shutil.which(os.environ.get("CXX", "g++")) and Path(sysconfig.get_path("include"), "Python.h").is_file()
pytestmark = pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler and Python's headers")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Modulated]:
    """A tiny network; what is compiled lies in the test's own folder, and no worker processes stay behind."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.manual_seed(0)
    depthwise, norm = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.GroupNorm(2, 6)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.GELU(), depthwise, norm, nn.Conv2d(6, 3, 1))
    names = [name for name, _ in network.named_parameters()]
    modulated = modulate(network, TASKS, names, RankRule("constant", 2))
    with torch.no_grad():
        for parameter in modulated.bias_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    torch._dynamo.reset()
    with torch._inductor.config.patch(compile_threads=1):
        yield modulated
    torch._dynamo.reset()


@torch.no_grad()
def test_a_folded_network_compiles_in_one_graph(model: Modulated) -> None:
    x = torch.rand(4, 3, 12, 12)
    compiled = torch.compile(model.fold("derain"), dynamic=False, fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x, "derain"), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_modulated_network_compiles_for_one_task_and_for_a_mixed_batch(model: Modulated) -> None:
    x, index = torch.rand(4, 3, 12, 12), torch.tensor([0, 2, 0, 1])
    # What is traced, not what code is made of it, depends on the choice of a task: no C++ compiler is waited for.
    compiled = torch.compile(model, dynamic=False, backend="aot_eager")
    single, mixed = model(x, "derain"), model(x, index)
    assert not torch.allclose(single, mixed, atol=1e-2)
    torch.testing.assert_close(compiled(x, "derain"), single, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(compiled(x, index), mixed, rtol=1e-5, atol=1e-5)
