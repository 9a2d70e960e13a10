"""W + bias[t]: run any module with the weights of a task, or write them in."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .bias import TaskBias, TaskRows, task_bias
from .interface import TaskChoice, TaskModule, check_strength, task_mix
from .mixed import Groups, proves_exact, run_at_once, run_in_turn
from .rank import RankRule


class Modulated(TaskModule):
    """A backbone with a task bias on each selected weight. A fresh one equals its backbone bit for bit, for every task.

    The backbone module is kept as it is, under `backbone`; its forward takes one batch (N, ...) and returns one. Build
    with `modulate`.

    Attributes:
        backbone: the module whose weights are modulated.
        tasks: task names, in the order of the stacked biases.
        biases: `TaskBias` modules; read them by parameter name with `bias`.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str], biases: dict[str, TaskBias]) -> None:
        super().__init__(backbone, tasks)
        self.biases = nn.ModuleDict({_key(name): bias for name, bias in biases.items()})
        self._names = tuple(biases)
        # Where each modulated parameter hangs: asking a large network for all its names takes a millisecond.
        self._owners = {name: _owner(backbone, name) for name in biases}
        self._unfolded: dict[str, Tensor] = {}
        self._folded: tuple[float, ...] | None = None
        self._proofs: dict[tuple[tuple[int, ...], bool], bool] = {}

    def selection(self) -> tuple[str, ...]:
        """Names of the modulated parameters of the backbone, in the backbone's order."""
        return self._names

    def bias(self, name: str) -> TaskBias:
        """The task bias of the backbone's parameter `name`."""
        return self.biases[_key(name)]

    def _weights(self) -> dict[str, nn.Parameter]:
        """The modulated parameters of the backbone, by name."""
        return {name: getattr(module, leaf) for name, (module, leaf) in self._owners.items()}

    def forward(self, x: Tensor, task: TaskChoice, strength: float = 1.0) -> Tensor:
        """Run x, (N, ...), with the weights of `task` (see `TaskChoice`); strength in [0, 1.5] scales the biases.

        Samples are grouped by distinct task weights. One pass serves all groups where that is proven exact for this
        network and input shape (see `one_pass`); elsewhere each group has a pass of its own.

        Raises:
            KeyError: unknown task.
            ValueError: strength out of range, wrong shape of `task`, or another task than the one folded in.
        """
        mix = task_mix(task, self.tasks, len(x)) * check_strength(strength)
        # Negated, so that a batch of all tasks has its groups in the order of the stacked biases.
        rows, group, counts = torch.unique(-mix, dim=0, return_inverse=True, return_counts=True)
        rows = -rows
        if self._folded is not None:
            return self._run_folded(x, rows)
        stacks = self._stacks(rows)
        if len(rows) == 1:
            single = {name: stack[0] for name, stack in stacks.items()}
            # No selected weight is tied to another (`modulate`), and looking for ties takes as long as some layers.
            return functional_call(self.backbone, single, (x,), tie_weights=False)
        order = torch.argsort(group, stable=True).to(x.device)
        x, groups = x[order], Groups.of(counts.tolist(), x.device)
        run = run_at_once if self.one_pass(x, groups) else run_in_turn
        return run(self.backbone, stacks, x, groups)[torch.argsort(order)]

    def one_pass(self, x: Tensor, groups: Groups) -> bool:
        """Whether one pass over x, (N, ...), sorted by group, is exact. Proven once per shape of x, then remembered.

        The proof costs one pass over x and one in turn, without gradient, and leaves no trace in buffers or random
        numbers.
        """
        key = (tuple(x.shape), self.training)
        if key not in self._proofs:
            self._proofs[key] = proves_exact(self.backbone, self._names, x.detach(), groups)
        return self._proofs[key]

    def _run_folded(self, x: Tensor, rows: Tensor) -> Tensor:
        if len(rows) != 1 or tuple(rows[0].tolist()) != self._folded:
            raise ValueError("another task or strength is folded into the weights; call unfold_() before choosing one")
        return self.backbone(x)

    def _stacks(self, mix: Tensor) -> dict[str, Tensor]:
        """Parameter name -> weight plus bias for each of the G rows (G, T) of task weights, (G, *shape)."""
        weights = self._weights()
        rows = TaskRows.of(mix, weights[self._names[0]])
        # Sums of weights are exact under autocast too; the layers themselves cast what they take.
        with torch.autocast(rows.mix.device.type, enabled=False):
            return {name: self.bias(name).add_to(weights[name], rows) for name in self._names}

    @torch.no_grad()
    def fold(self, task: TaskChoice, strength: float = 1.0) -> nn.Module:
        """A copy of the backbone with `task` written into its weights: no parameter and no operation added.

        Soft weights (1, T) fold a mixture of tasks.
        """
        mix = task_mix(task, self.tasks, 1) * check_strength(strength)
        self.require_unfolded()
        folded = copy.deepcopy(self.backbone)
        weights = self._weights()
        rows = TaskRows.of(mix, weights[self._names[0]])
        for name, weight in weights.items():
            self.bias(name).write(folded.get_parameter(name), weight, rows)
        return folded

    @torch.no_grad()
    def fold_(self, task: TaskChoice, strength: float = 1.0) -> None:
        """Write the biases of `task` into the backbone's own weights; until `unfold_` only this task can be run.

        Doing it again replaces the task, always starting from the original weights.
        """
        mix = task_mix(task, self.tasks, 1) * check_strength(strength)
        weights = self._weights()
        if self._folded is None:
            self._unfolded = {name: weight.clone() for name, weight in weights.items()}
        rows = TaskRows.of(mix, weights[self._names[0]])
        for name, weight in weights.items():
            self.bias(name).write(weight, self._unfolded[name], rows)
        self._folded = tuple(mix[0].tolist())

    @torch.no_grad()
    def unfold_(self) -> None:
        """Restore the weights from before `fold_`, bit for bit. Without a folded task nothing happens."""
        weights = self._weights()
        for name, original in self._unfolded.items():
            weights[name].copy_(original)
        self._unfolded, self._folded = {}, None

    def require_unfolded(self) -> None:
        """ValueError while a task is folded into the backbone's own weights."""
        if self._folded is not None:
            raise ValueError("a task is folded into the weights; call unfold_() first")


def modulate(
    model: nn.Module,
    tasks: Sequence[str],
    select: Iterable[str],
    rank_rule: RankRule,
    generator: torch.Generator | None = None,
) -> Modulated:
    """Attach a task bias to each selected parameter of `model`, which may be any module and is not copied.

    Args:
        model: its forward takes one batch and returns one.
        tasks: task names, distinct, at least one.
        select: parameter names as in `model.named_parameters()`; repeats count once.
        rank_rule: rank of the matrices; vectors and depthwise kernels always carry a full increment.
        generator: source of the random start; None is torch's global one.

    Raises:
        ValueError: no task, repeated task, empty or unknown selection, a parameter that is tied to another, not of
            floating point, or not initialised yet; the message names it.
    """
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks are {list(tasks)}; expected distinct names, at least one")
    chosen = set(select)
    if not chosen:
        raise ValueError("the selection is empty; name at least one parameter to modulate")
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if unknown := sorted(chosen - parameters.keys()):
        raise ValueError(f"the model has no parameter {', '.join(unknown)}; take names from named_parameters()")
    _check_supported(parameters, chosen)
    # The backbone's order, not the caller's: the random start must not depend on the order of a selection.
    names = [name for name in parameters if name in chosen]
    return Modulated(model, tasks, {n: task_bias(parameters[n], len(tasks), rank_rule, generator) for n in names})


def _check_supported(parameters: dict[str, nn.Parameter], chosen: set[str]) -> None:
    """ValueError for a chosen parameter that cannot carry a bias."""
    owners: dict[int, list[str]] = {}
    for name, parameter in parameters.items():
        owners.setdefault(id(parameter), []).append(name)
    for name in sorted(chosen):
        weight = parameters[name]
        if len(owners[id(weight)]) > 1:
            raise ValueError(f"parameter {name} is tied to others: {', '.join(owners[id(weight)])}; leave it out")
        if isinstance(weight, nn.parameter.UninitializedTensorMixin):
            raise ValueError(f"parameter {name} has no shape yet; run the model once first")
        if not weight.is_floating_point() or not weight.numel():
            raise ValueError(f"parameter {name} is {weight.dtype} of shape {tuple(weight.shape)}; cannot carry a bias")


def _owner(backbone: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that a parameter hangs on, and its name there."""
    path, _, leaf = name.rpartition(".")
    return backbone.get_submodule(path), leaf


def _key(name: str) -> str:
    """Parameter name -> module name: a module name has no dots, and the slash in front keeps clear of method names."""
    return "/" + name.replace(".", "/")
