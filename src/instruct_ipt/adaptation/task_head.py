"""Task head and tail, after IPT (Chen et al. 2021, arXiv 2012.00364): each task has its own first and last layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from .sites import FeatureAdaptation


class TaskConv(nn.Module):
    """What each of T tasks adds to the weight and bias of one convolution, in full; starts at zero."""

    def __init__(self, tasks: int, layer: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(tasks, *layer.weight.shape))
        self.bias = nn.Parameter(torch.zeros(tasks, len(layer.weight)))

    def hook(self, mix: Tensor, strength: float) -> Callable[[nn.Conv2d, tuple[Tensor, ...], Tensor], Tensor]:
        """A forward hook y -> y + strength * convolution of the layer's input by the task's part, weights (1 or N, T).

        One convolution per distinct row on the samples of that row: together they cost what one on the batch costs.
        """
        rows, group = torch.unique(strength * mix, dim=0, return_inverse=True)
        weights, biases = (torch.tensordot(rows.to(p), p, dims=1) for p in (self.weight, self.bias))

        def part(layer: nn.Conv2d, x: Tensor, row: int) -> Tensor:
            settings = layer.stride, layer.padding, layer.dilation, layer.groups
            return F.conv2d(x, weights[row], biases[row], *settings)

        def hook(layer: nn.Conv2d, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            if len(rows) == 1:
                return y + part(layer, inputs[0], 0)
            members = [torch.nonzero(group == row).flatten().to(y.device) for row in range(len(rows))]
            parts = [part(layer, inputs[0][m], row) for row, m in enumerate(members)]
            return y + torch.cat(parts)[torch.argsort(torch.cat(members))]

        return hook


class TaskHead(FeatureAdaptation):
    """The first and the last convolution with weights W + s * bias[task], with strength s.

    Differs from the source, where a head is a convolution and two residual blocks: here head and tail are the
    backbone's, one convolution each, and every task's is an increment on a common one, so that it can start as the
    backbone. There is no size to choose: T times the parameters of these layers.

    Args:
        backbone: a module whose `weight_groups()` name the parameters of zero-padded `nn.Conv2d` layers with a bias
            under `head` and `tail`.
        tasks: task names.

    Raises:
        ValueError: one of these layers is something else.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str]) -> None:
        groups = backbone.weight_groups()
        names = dict.fromkeys(name.rpartition(".")[0] for name in (*groups["head"], *groups["tail"]))
        layers = {name: _checked(name, backbone.get_submodule(name)) for name in names}
        super().__init__(backbone, tasks, {name: TaskConv(len(tasks), layer) for name, layer in layers.items()})

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        for module, conv in self.parts():
            yield module.register_forward_hook(conv.hook(mix, strength))


def _checked(name: str, layer: nn.Module) -> nn.Conv2d:
    """Return `layer`; ValueError unless it is a convolution that `TaskConv` can stand beside."""
    if not isinstance(layer, nn.Conv2d) or layer.bias is None or layer.padding_mode != "zeros":
        raise ValueError(f"{name} is {layer}; a task head needs a zero-padded Conv2d with a bias there")
    return layer
