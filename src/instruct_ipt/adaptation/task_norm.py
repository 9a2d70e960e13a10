"""Task norm (Bilen and Vedaldi 2017, arXiv 1701.07275): each task has its own scale and shift after normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .sites import FeatureAdaptation


class TaskAffine(nn.Module):
    """A scale and a shift (T, C) for each of T tasks, beside those of the layer; both start at zero."""

    def __init__(self, tasks: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(tasks, channels))
        self.shift = nn.Parameter(torch.zeros(tasks, channels))

    def hook(self, mix: Tensor, strength: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """A forward hook y -> y * (1 + strength * scale) + strength * shift, for task weights (1 or N, T)."""
        mix = strength * mix.to(self.scale)
        factor, shift = 1 + mix @ self.scale, mix @ self.shift

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            shape = (len(factor), *(1,) * (y.ndim - 2), -1)
            return torch.addcmul(shift.view(shape), y, factor.view(shape))

        return hook


class TaskNorm(FeatureAdaptation):
    """y * (1 + s * scale[task]) + s * shift[task] on the output y of each normalisation layer, with strength s.

    With w, b the layer's own, a task has the scale w (1 + scale) and the shift b (1 + scale) + shift: any pair, unless
    w is 0. Differs from the source: the layers are those of the backbone (layer norm, for one), not batch norm, so
    there are no statistics to keep per task. There is no size to choose: 2 T C parameters per layer.

    Args:
        backbone: a module whose `weight_groups()["norm"]` holds the 1-D `weight` of each normalisation layer; the
            outputs of these layers are (N, ..., C).
        tasks: task names.

    Raises:
        ValueError: the backbone has no such layer.
    """

    def __init__(self, backbone: nn.Module, tasks: Sequence[str]) -> None:
        norms = [name.removesuffix(".weight") for name in backbone.weight_groups()["norm"] if name.endswith(".weight")]
        if not norms:
            raise ValueError("the backbone has no normalisation layer with a weight; task norm has nothing to adapt")
        channels = {name: backbone.get_parameter(f"{name}.weight").numel() for name in norms}
        super().__init__(backbone, tasks, {name: TaskAffine(len(tasks), c) for name, c in channels.items()})

    def attach(self, mix: Tensor, strength: float) -> Iterator[RemovableHandle]:
        for module, affine in self.parts():
            yield module.register_forward_hook(affine.hook(mix, strength))
