"""One pass over a batch of several tasks: only what touches a modulated weight looks at the tasks.

Samples are sorted by task once, at the entry. Inside, a modulated weight is a `TaskWeight`: it carries the weights of
all G groups of samples and answers torch's functions itself (`__torch_function__`): a Linear becomes one product per
group that writes into one output, a convolution or norm runs group by group on views, a factor is spread over its
samples, and sums of weights (a re-parameterised kernel, a chunk of stacked projections) are worked out once per group.
Everything else in the network sees the whole batch as it would without tasks.

It is exact as long as activations keep the samples along their first axis, in order (windows, tokens or heads of one
sample may follow each other there). A network is not asked to promise that: `Modulated` proves it against the loop over
groups, and runs the loop where the proof fails or a function is not known (`NotUnderstoodError`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten


class NotUnderstoodError(Exception):
    """A modulated weight met a function whose effect on a mixed batch is not known."""


@dataclass(frozen=True)
class Groups:
    """How N samples, sorted by group, fall into G groups.

    B blocks of equal size fill the groups, the largest that do: five equal groups are five blocks.

    Attributes:
        counts: samples per group, each >= 1.
        blocks: int64 (B,), the group of each block, ascending.
    """

    counts: tuple[int, ...]
    blocks: Tensor

    @classmethod
    def of(cls, counts: Sequence[int], device: torch.device) -> Groups:
        """From the samples per group."""
        size = math.gcd(*counts)
        group = torch.arange(len(counts), device=device)
        return cls(tuple(counts), group.repeat_interleave(torch.tensor(counts, device=device) // size))

    @property
    def samples(self) -> int:
        """N."""
        return sum(self.counts)

    def rows(self, data: Tensor) -> list[int]:
        """Rows of `data`, (N * k, ...), per group; NotUnderstoodError unless N divides its first axis."""
        if data.ndim == 0 or data.shape[0] % self.samples:
            raise NotUnderstoodError(f"activations of shape {tuple(data.shape)} do not hold {self.samples} samples")
        return [count * (data.shape[0] // self.samples) for count in self.counts]


class TaskWeight(Tensor):
    """A weight that differs between the groups of a batch; to the network it looks like the shared weight.

    Attributes:
        stack: (G, *shape), the weight of each group.
        groups: which samples use which.
    """

    stack: Tensor
    groups: Groups

    @classmethod
    def of(cls, stack: Tensor, groups: Groups) -> TaskWeight:
        """From (G, *shape) weights; gradients flow to `stack`."""
        weight = Tensor._make_subclass(cls, stack.detach()[0])
        weight.stack, weight.groups = stack, groups
        return weight

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTS:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        groups = next((a.groups for a in (*args, *kwargs.values()) if isinstance(a, TaskWeight)), None)
        if groups is None:
            raise NotUnderstoodError(f"a modulated weight is in a list given to {getattr(func, '__name__', func)}")
        if func is F.linear:
            return _linear(groups, *args, **kwargs)
        if func in _MATMUL and isinstance(args[1], TaskWeight) and args[1].stack.ndim == 3:
            return _linear(groups, args[0], args[1].t())
        if func is torch.baddbmm and not kwargs and not any(isinstance(arg, TaskWeight) for arg in args[1:]):
            return func(_per_row(groups, args[0], args[1]), *args[1:])
        if func in _LAYERS and not isinstance(args[0], TaskWeight):
            return _per_group(groups, func, *args, **kwargs)
        if func in _ELEMENTWISE and any(_is_data(arg, args) for arg in args):
            return _spread(groups, func, *args, **kwargs)
        if func in _CUTS and len(args) == 2 and not kwargs.get("dim"):
            return tuple(cls.of(part, groups) for part in func(args[0].stack, args[1], 1))
        return _weights_only(groups, func, args, kwargs)


_FACTS = {
    *(getattr(Tensor, name).__get__ for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad")),
    *(getattr(Tensor, name).__get__ for name in ("is_cuda", "is_sparse", "is_quantized", "is_meta", "is_mkldnn")),
    *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.__len__, Tensor.__repr__),
}
"""What is the same for all groups."""

_LAYERS = {
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
    *(F.layer_norm, F.group_norm, F.rms_norm, torch.prelu),
}
"""Functions (activations, weight, ...) -> activations that take samples one by one."""

_MATMUL = {torch.matmul, Tensor.matmul, Tensor.__matmul__}

_ELEMENTWISE = {
    *(torch.add, torch.sub, torch.mul, torch.div, torch.addcmul, torch.lerp),
    *(Tensor.add, Tensor.sub, Tensor.mul, Tensor.div, Tensor.__rsub__, Tensor.__rdiv__),
}
"""Functions of operands that broadcast."""

_TRAILING = {F.pad, torch.exp, Tensor.exp, torch.clamp, Tensor.clamp, torch.square, Tensor.square}
"""Functions of one weight that leave an axis in front of it alone. `torch.vmap` knows far more, but takes 0.2 ms."""

_CUTS = {torch.chunk, Tensor.chunk, torch.split, Tensor.split}
"""Functions (weight, pieces, dim=0) -> parts of it."""


def _is_data(operand: object, operands: tuple[Any, ...]) -> bool:
    """Whether an operand holds samples: it has an axis that the weight beside it lacks, or only of length 1."""
    if isinstance(operand, TaskWeight) or not isinstance(operand, Tensor) or operand.ndim == 0:
        return False
    # The stack's own shape: asking a TaskWeight for its own goes through __torch_function__, which takes its time.
    weight = next(o for o in operands if isinstance(o, TaskWeight))
    ndim = weight.stack.ndim - 1
    return operand.ndim > ndim or (
        operand.ndim == ndim and weight.stack.shape[1] == 1 and operand.shape[0] == weight.groups.samples
    )


def _stack(value: Any, groups: Groups) -> Any:
    """(G, *shape) of a weight, whether it differs between groups or not; None stays None."""
    if value is None or isinstance(value, TaskWeight):
        return value if value is None else value.stack
    return value.expand(len(groups.counts), *value.shape)


def _linear(groups: Groups, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear on (N * k, ..., in) with a weight, a bias or both that differ between groups."""
    if isinstance(input, TaskWeight):
        raise NotUnderstoodError("a modulated weight is the input of a linear layer")
    rows = groups.rows(input)
    operands = [input, _stack(weight, groups), _stack(bias, groups)]
    device = input.device.type
    if not torch.is_autocast_enabled(device):
        return _products(rows, *operands)
    operands = [o if o is None else o.to(torch.get_autocast_dtype(device)) for o in operands]
    with torch.autocast(device, enabled=False):
        return _products(rows, *operands)


def _products(rows: list[int], x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(rows, ..., in), (G, out, in), (G, out) -> (rows, ..., out), the first axis cut into `rows` per group."""
    tokens = x.reshape(-1, x.shape[-1])
    if len(set(rows)) == 1:
        blocks, columns = tokens.view(len(rows), -1, x.shape[-1]), weight.transpose(1, 2)
        result = torch.bmm(blocks, columns) if bias is None else torch.baddbmm(bias[:, None], blocks, columns)
    else:
        per_row = len(tokens) // x.shape[0]
        result = _GroupedLinear.apply(tokens, weight, bias, [count * per_row for count in rows])
    return result.view(*x.shape[:-1], weight.shape[1])


class _GroupedLinear(torch.autograd.Function):
    """Rows of unequal groups, each times its own matrix, with no copy of activations on the way in, out or back."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor | None, rows: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rows = rows
        out = x.new_empty(len(x), weight.shape[1])
        for g, (part, into) in enumerate(zip(x.split(rows), out.split(rows), strict=True)):
            if bias is None:
                torch.mm(part, weight[g].t(), out=into)
            else:
                torch.addmm(bias[g], part, weight[g].t(), out=into)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        parts = grad.contiguous().split(ctx.rows)
        grad_x, grad_weight = torch.empty_like(x), weight.new_empty(weight.shape)
        for g, (part, own, into) in enumerate(zip(parts, x.split(ctx.rows), grad_x.split(ctx.rows), strict=True)):
            if needs_x:
                torch.mm(part, weight[g], out=into)
            if needs_weight:
                torch.mm(part.t(), own, out=grad_weight[g])
        grad_bias = torch.stack([part.sum(0) for part in parts]) if needs_bias else None
        return grad_x if needs_x else None, grad_weight if needs_weight else None, grad_bias, None


def _per_group(groups: Groups, func: Callable[..., Tensor], data: Tensor, /, *args: Any, **kwargs: Any) -> Tensor:
    """`func` on the samples of each group with its weights, joined in one batch."""
    operands = (*args, *kwargs.values())
    # Unbound at once: an index per group would cost a step of its own in the backward pass.
    own = [o.stack.unbind() if isinstance(o, TaskWeight) else [o] * len(groups.counts) for o in operands]
    results = []
    for part, *values in zip(data.split(groups.rows(data)), *own, strict=True):
        named = dict(zip(kwargs, values[len(args) :], strict=True))
        results.append(func(part, *values[: len(args)], **named))
    return torch.cat(results)


def _spread(groups: Groups, func: Callable[..., Tensor], /, *args: Any, **kwargs: Any) -> Tensor:
    """An elementwise function of activations (N * k, ...) and weights that broadcast to them."""
    ndim = max(arg.ndim for arg in args if _is_data(arg, args))
    blocks = groups.blocks

    def view(operand: Any) -> Any:
        if isinstance(operand, TaskWeight):
            stack = operand.stack if len(operand.stack) == len(blocks) else operand.stack[blocks]
            return stack.reshape(len(blocks), *[1] * (ndim - stack.ndim + 1), *stack.shape[1:])
        return operand.unflatten(0, (len(blocks), -1)) if _is_data(operand, args) else operand

    return func(*map(view, args), **kwargs).flatten(0, 1)


def _per_row(groups: Groups, weight: TaskWeight, data: Tensor) -> Tensor:
    """A weight (columns) as what is added to each of the matrices (N * k, ...) of its group: (N * k, 1, columns)."""
    stack, rows = weight.stack, groups.rows(data)
    if stack.ndim != 2:
        raise NotUnderstoodError(f"a modulated weight of shape {tuple(weight.shape)} is added to a batch of products")
    repeats: int | Tensor = rows[0] if len(set(rows)) == 1 else torch.tensor(rows, device=data.device)
    return stack.repeat_interleave(repeats, dim=0, output_size=len(data))[:, None]


def _weights_only(groups: Groups, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function of weights alone: the same for each group."""
    name = getattr(func, "__name__", "")
    in_place = name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))
    operands = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, Tensor)]
    largest = max(operand.stack.ndim - 1 for operand in operands if isinstance(operand, TaskWeight))
    if in_place or any(not isinstance(operand, TaskWeight) and operand.ndim > largest for operand in operands):
        raise NotUnderstoodError(f"a modulated weight is an argument of {name or func}")
    try:
        result = _on_stacks(func, largest, args, kwargs)
    except (RuntimeError, ValueError) as error:
        raise NotUnderstoodError(f"a modulated weight is an argument of {name or func}: {error}") from error
    if isinstance(result, Tensor):
        return TaskWeight.of(result, groups)
    return tree_map_only(Tensor, lambda stack: TaskWeight.of(stack, groups), result)


def _on_stacks(func: Callable[..., Any], ndim: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`func` on every group at once; `ndim` is the largest number of axes among its weights."""
    if func in _TRAILING:
        return func(args[0].stack, *args[1:], **kwargs)
    if func in _ELEMENTWISE:
        return func(*(_aligned(arg, ndim) for arg in args), **kwargs)
    if func in (torch.t, Tensor.t) and ndim == 2:
        return args[0].stack.transpose(1, 2)
    leaves, spec = tree_flatten((args, kwargs))

    def one(*weights: Tensor) -> Any:
        queue = iter(weights)
        filled = [next(queue) if isinstance(leaf, TaskWeight) else leaf for leaf in leaves]
        own_args, own_kwargs = tree_unflatten(filled, spec)
        return func(*own_args, **own_kwargs)

    return torch.vmap(one)(*(leaf.stack for leaf in leaves if isinstance(leaf, TaskWeight)))


def _aligned(operand: Any, ndim: int) -> Any:
    """The stack of a weight with axes of length 1 behind the first, so that it broadcasts as the weight would."""
    if not isinstance(operand, TaskWeight):
        return operand
    stack = operand.stack
    return stack.reshape(len(stack), *[1] * (ndim - stack.ndim + 1), *stack.shape[1:])


def run_at_once(
    backbone: nn.Module,
    stacks: Mapping[str, Tensor],
    x: Tensor,
    groups: Groups,
    buffers: Mapping[str, Tensor] = MappingProxyType({}),
) -> Tensor:
    """One pass over x, (N, ...), sorted by group.

    Args:
        backbone: takes and returns one batch.
        stacks: parameter name -> (G, *shape) weights.
        x: (N, ...).
        groups: how the samples fall into G groups.
        buffers: stand in for buffers of the backbone.

    Raises:
        NotUnderstoodError: a stacked weight is used in a way that is not known.
    """
    weights = {name: TaskWeight.of(stack, groups) for name, stack in stacks.items()}
    output = functional_call(backbone, weights | dict(buffers), (x,), tie_weights=False)
    if isinstance(output, TaskWeight):
        raise NotUnderstoodError("activations were taken for weights")
    return output


def run_in_turn(
    backbone: nn.Module,
    stacks: Mapping[str, Tensor],
    x: Tensor,
    groups: Groups,
    buffers: Mapping[str, Tensor] = MappingProxyType({}),
) -> Tensor:
    """The same over x, (N, ...), with one pass per group: what `run_at_once` has to equal."""
    parts = x.split(groups.counts)
    weights = [dict(zip(stacks, members, strict=True)) for members in zip(*stacks.values(), strict=True)]
    pairs = zip(weights, parts, strict=True)
    return torch.cat([functional_call(backbone, w | dict(buffers), (part,), tie_weights=False) for w, part in pairs])


@torch.no_grad()
def proves_exact(backbone: nn.Module, names: Sequence[str], x: Tensor, groups: Groups) -> bool:
    """Whether one pass over x, (N, ...), equals a pass per group, tried with weights that differ much between groups.

    A network whose samples see each other (batch statistics), which draws random numbers (dropout) or moves the samples
    to another axis fails, and so does one that uses a weight in a way that is not known.
    """
    parameters, generator = dict(backbone.named_parameters()), torch.Generator().manual_seed(0)
    stacks = {name: _scattered(parameters[name], len(groups.counts), generator) for name in names}
    outputs = []
    for run in (run_in_turn, run_at_once):
        buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
        with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.autocast(x.device.type, enabled=False):
            try:
                outputs.append(run(backbone, stacks, x, groups, buffers))
            except (NotUnderstoodError, RuntimeError):
                return False
    tolerance = torch.finfo(outputs[0].dtype).eps ** 0.6 * float(outputs[0].abs().max())
    return outputs[0].shape == outputs[1].shape and float((outputs[0] - outputs[1]).abs().max()) <= tolerance


def _scattered(weight: Tensor, groups: int, generator: torch.Generator) -> Tensor:
    """(G, *shape): the weight, moved by half of its own size in a random direction for each group."""
    noise = torch.randn(groups, *weight.shape, generator=generator).to(weight)
    return weight + 0.5 * (weight.square().mean().sqrt() + 1e-2) * noise
