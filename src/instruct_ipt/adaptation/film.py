"""FiLM (Perez et al. 2018, arXiv 1709.07871): a task embedding scales and shifts the features after every block."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from instruct_ipt.modulation import TaskChoice, TaskModule, check_strength, task_mix


class SiteBackbone(Protocol):
    """A module that says where its features may be changed."""

    def adaptation_sites(self) -> Mapping[str, int]:
        """Module name -> channels C of its (N, H, W, C) output."""
        ...


class Film(TaskModule):
    """h * (1 + s * gamma) + s * beta after each site, with (gamma, beta) = Linear(embedding[task]) and strength s.

    The Linears start at zero: a fresh model equals its backbone. Samples of different tasks share one pass.

    Args:
        backbone: a module with `adaptation_sites()`; it is not copied, and nothing stays attached to it between calls.
        tasks: task names.
        hidden: width of the task embedding, >= 1.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], hidden: int) -> None:
        super().__init__(backbone, tasks)
        if hidden < 1:
            raise ValueError(f"hidden is {hidden}; allowed: an integer >= 1")
        self.embedding = nn.Parameter(torch.randn(len(tasks), hidden))
        self.sites = nn.ModuleDict(
            {_key(site): nn.Linear(hidden, 2 * channels) for site, channels in backbone.adaptation_sites().items()}
        )
        for layer in self.sites.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, task: TaskChoice, strength: float = 1.0) -> Tensor:
        """Restore x, (N, ...); soft task weights mix the embeddings, strength in [0, 1.5] scales gamma and beta."""
        mix = task_mix(task, self.tasks, len(x)).to(self.embedding)
        with self._attached(mix @ self.embedding, check_strength(strength)):
            return self.backbone(x)

    @contextlib.contextmanager
    def _attached(self, embedding: Tensor, strength: float) -> Iterator[None]:
        """Change the features of every site by `embedding`, (1 or N, hidden), for the time of one pass."""
        with contextlib.ExitStack() as stack:
            for site in self.backbone.adaptation_sites():
                hook = _hook(self.sites[_key(site)](embedding) * strength)
                stack.callback(self.backbone.get_submodule(site).register_forward_hook(hook).remove)
            yield


def _hook(scale_shift: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A forward hook that applies (1 or N, 2 C) scales and shifts to (N, H, W, C) features."""
    gamma, beta = scale_shift[:, None, None, :].chunk(2, dim=-1)
    return lambda module, inputs, features: features * (1 + gamma) + beta


def hidden_for_budget(backbone: SiteBackbone, tasks: Sequence[str], budget: int) -> int:
    """The embedding width (>= 1) with which `Film` adds as near as possible to `budget` parameters."""
    outputs = sum(2 * channels for channels in backbone.adaptation_sites().values())
    # added = hidden * (tasks + outputs) + outputs
    return max(1, round((budget - outputs) / (len(tasks) + outputs)))


def _key(site: str) -> str:
    """Module names hold no dots; the slash in front keeps clear of the names of `ModuleDict`'s own methods."""
    return "/" + site.replace(".", "/")
