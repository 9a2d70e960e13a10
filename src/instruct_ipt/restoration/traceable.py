"""The same network without decisions in Python, so that what is recorded of one run holds for every size of image.

Tracing notes the operations of one run. Sums and products of sizes are noted too, but an `if` on a size is not: its
branch is frozen. Here windows are always padded to their full size (zero tokens change nothing in channel attention),
sides are always padded, by nothing where nothing is missing, and tokens are always gathered. Equal to the original
within rounding; the tests hold it to that. The arithmetic of attention is that of the layers themselves.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.backbone import FocalContextSelfAttention, GlobalGridSelfAttention, TransformerBlock, UShape

Side = int | Tensor
"""A number of pixels: an int, or a Tensor () while a run is recorded."""


def _least(a: Side, b: Side) -> Tensor:
    return torch.minimum(torch.as_tensor(a), torch.as_tensor(b))


class _Focal(nn.Module):
    """`FocalContextSelfAttention`: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, layer: FocalContextSelfAttention) -> None:
        super().__init__()
        self.layer = layer
        by_gram = layer.qkv.in_features <= layer.window**2
        self._attend = layer._attend_by_gram if by_gram else layer._attend

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        side = self.layer.window
        (top, bottom), (left, right) = self._missing(height), self._missing(width)
        x = F.pad(x, (0, 0, left, right, top, bottom))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        x = x.reshape(n, rows, side, columns, side, channels).transpose(2, 3)
        x = self._attend(x.reshape(n * rows * columns, side * side, channels))
        x = x.reshape(n, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(n, rows * side, columns * side, channels)[:, top : top + height, left : left + width]

    def _missing(self, length: Side) -> tuple[Side, Side]:
        """Padding before and behind an axis; windows are shifted where there is more than one."""
        side, shift = self.layer.window, self.layer.shift
        before: Side = _least(shift, shift * (length // (side + 1))) if shift else 0
        return before, -(length + before) % side


class _Grid(nn.Module):
    """`GlobalGridSelfAttention`: (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, layer: GlobalGridSelfAttention) -> None:
        super().__init__()
        self.layer = layer
        few = layer.grid**2 * (layer.heads - 1) < layer.qkv.in_features
        self._attend = layer._attend_to_few if few else layer._attend

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        s = self.layer.stride
        rows, columns = (height + s - 1) // s, (width + s - 1) // s
        x = x.index_select(1, _repeating(rows * s, height)).index_select(2, _repeating(columns * s, width))
        grids = x.reshape(n, rows, s, columns, s, channels).permute(0, 2, 4, 1, 3, 5)
        tokens = grids.reshape(n * s * s, rows * columns, channels)
        down, across = self._spread(rows), self._spread(columns)
        answering = grids.index_select(3, down).index_select(4, across)
        answering = answering.reshape(n * s * s, down.shape[0] * across.shape[0], channels)
        x = self._attend(tokens, answering).reshape(n, s, s, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(n, rows * s, columns * s, channels)[:, :height, :width]

    def _spread(self, size: Side) -> Tensor:
        """Indices of the rows or columns that answer, int64 (min(size, grid),)."""
        count = _least(size, self.layer.grid)
        return (2 * torch.arange(count) + 1) * size // (2 * count)


def _repeating(count: Side, length: Side) -> Tensor:
    """0, 1, ... length - 1, length - 1, ...: int64 (count,)."""
    return torch.minimum(torch.arange(count), torch.as_tensor(length - 1))


class Traceable(nn.Module):
    """A folded network as a tracer needs it: float32 (N, 3, H, W) -> (N, 3, H, W), not clipped; any H, W >= 1.

    Args:
        network: a backbone of this package, for inference; it is copied.
    """

    def __init__(self, network: UShape) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        for block in self.network.modules():
            if isinstance(block, TransformerBlock):
                block.local, block.grid = _Focal(block.local), _Grid(block.grid)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        multiple = self.network.config.multiple
        padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        return image + self.network._residual(padded)[..., :height, :width]
