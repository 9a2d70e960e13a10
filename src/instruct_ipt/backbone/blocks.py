"""The transformer block, after IPT-V2 (Tu et al. 2024, arXiv 2404.00633).

Public of that block are its three sub-layers and their order: focal context self-attention (FCSA: channel attention
inside shifted windows), global grid self-attention (GGSA: spatial attention over tokens gathered on a grid), and the
locally enhanced feed-forward with re-parameterised depthwise branches (Rep-LeFFN). Sizes, normalisation and padding
rules are our own choice, and each docstring says which.

Every feature map here is (N, H, W, C) float, contiguous. With channels last a pointwise convolution is a plain Linear
and layer norm needs no transposition; the one depthwise convolution sees the same memory as an NCHW tensor in
channels-last format.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-6
_MAX_LOGIT_SCALE = math.log(100.0)


def _own_channels(x: Tensor, heads: int) -> Tensor:
    """(B, M, C) -> (B, heads * M, C): a copy of the tokens per head that keeps the channels of this head only."""
    if heads == 1:
        return x
    mask = torch.eye(heads, dtype=x.dtype, device=x.device).repeat_interleave(x.shape[-1] // heads, dim=1)
    return (x[:, None] * mask[:, None]).flatten(1, 2)


def _in_half_precision(x: Tensor) -> bool:
    """Whether products with `x` are rounded to 16 bits, of its own or of autocast."""
    kind = x.device.type
    return x.element_size() < 4 or (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind))


class FocalContextSelfAttention(nn.Module):
    """Channel self-attention inside w x w windows (FCSA): (N, H, W, C) -> (N, H, W, C).

    Inside a window of L = w * w tokens and for each head of d channels, the d x d map
    softmax(t * q^T k / (|q_i| |k_j|)) mixes the channels of v. Norms run over the L tokens, with 1e-6 added to their
    squares; t is a learnable temperature per head. This is the transposed attention of Restormer (Zamir et al. 2022,
    arXiv 2111.09881), here per window.

    Such a map depends on the tokens X, (L, C), through the Gram matrix G = X^T X alone: q^T k = Wq G Wk^T and
    |q_i|^2 = (Wq G Wq^T)_ii; and what it makes of them is X times one C x C matrix, (Wp A Wv)^T. So q, k and v are
    never formed: two products read the tokens, and everything else is as small as a window's map. That is cheaper as
    long as a window has more tokens than channels; elsewhere, and under autocast, whose bf16 would feel the squares,
    the textbook form runs.

    Shifted layers move the window borders by w // 2 and pad with zero tokens instead of rolling the map cyclically. A
    zero token adds nothing to q^T k nor to the norms, so border windows see exactly the pixels they hold; a roll would
    mix opposite edges of the image in one window and need a mask. The same holds for the padding up to a multiple of w.
    This is why `qkv` has no additive bias. Along an axis no longer than w there is one window, not shifted. Window
    size, shift rule and temperature are our own choice.

    Args:
        channels: C, a multiple of `heads`.
        heads: number of heads.
        window: w, even and >= 2.
        shifted: whether the window borders are moved by w // 2.
    """

    def __init__(self, channels: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.shift = window // 2 if shifted else 0
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        (tall, top, bottom), (wide, left, right) = self._cut(height), self._cut(width)
        padded = bool(top or bottom or left or right)
        if padded:
            x = F.pad(x, (0, 0, left, right, top, bottom))
        rows, columns = x.shape[1] // tall, x.shape[2] // wide
        windows = x.reshape(n, rows, tall, columns, wide, channels).transpose(2, 3).reshape(-1, tall * wide, channels)
        by_gram = channels <= tall * wide and not _in_half_precision(x)
        mixed = self._attend_by_gram(windows) if by_gram else self._attend(windows)
        x = mixed.view(n, rows, columns, tall, wide, channels).transpose(2, 3)
        x = x.reshape(n, rows * tall, columns * wide, channels)
        return x[:, top : top + height, left : left + width] if padded else x

    def _cut(self, side: int) -> tuple[int, int, int]:
        """Side of the windows along an axis of `side` pixels, and the padding before and behind them."""
        if side <= self.window:
            return side, 0, 0
        return self.window, self.shift, -(side + self.shift) % self.window

    def _attend(self, windows: Tensor) -> Tensor:
        """Channel attention and projection of (B, L, C) windows -> (B, L, C), as one reads it in a textbook."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(windows).chunk(3, dim=-1))
        # Normalising the small map instead of q and k saves passes over all tokens.
        q_unit, k_unit = ((t.square().sum(dim=2) + _EPS).rsqrt() for t in (q, k))
        cosine = (q.transpose(2, 3) @ k) * (q_unit[..., None] * self.temperature) * k_unit[..., None, :]
        return self.proj((v @ cosine.softmax(dim=-1).transpose(2, 3)).transpose(1, 2).flatten(2))

    def _attend_by_gram(self, windows: Tensor) -> Tensor:
        """The same, by two products with the tokens and a few with (B, C, C) maps."""
        channels = windows.shape[-1]
        both, value = self.qkv.weight.split((2 * channels, channels))
        mapped = F.linear(windows.transpose(1, 2) @ windows, both)  # (B, C, 2 C): G Wq^T and G Wk^T
        units = ((mapped * both.t()).sum(dim=1).clamp(min=0) + _EPS).rsqrt()
        q_unit, k_unit = units.chunk(2, dim=-1)
        cosine = F.linear(mapped[..., :channels].transpose(1, 2), both.chunk(2)[1])
        cosine = cosine * q_unit[..., None] * k_unit[:, None]
        cosine = cosine.unflatten(1, (self.heads, -1)) * self.temperature
        if self.heads > 1:
            own = torch.eye(self.heads, dtype=torch.bool, device=windows.device)
            own = own.repeat_interleave(channels // self.heads, dim=1)[:, None]
            cosine = cosine.masked_fill(~own, -math.inf)
        values = F.linear(cosine.softmax(dim=-1).flatten(1, 2), value.t())
        return torch.baddbmm(self.proj.bias, windows, F.linear(values.transpose(1, 2), self.proj.weight))


def spread(size: int, most: int, device: torch.device | None = None) -> Tensor:
    """min(size, most) indices out of range(size), int64 (K,), evenly spaced: all of them when there are no more."""
    count = min(size, most)
    return (2 * torch.arange(count, device=device) + 1) * size // (2 * count)


def replicate_pad(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column of an (N, H, W, C) map until it is (N, height, width, C)."""
    if height > x.shape[1]:
        x = torch.cat([x, x[:, -1:].expand(-1, height - x.shape[1], -1, -1)], dim=1)
    if width > x.shape[2]:
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, width - x.shape[2], -1)], dim=2)
    return x


class GlobalGridSelfAttention(nn.Module):
    """Spatial self-attention over tokens gathered on a grid (GGSA): (N, H, W, C) -> (N, H, W, C).

    The map is cut in stride x stride windows; one token of the same offset from each window forms a group, and
    attention runs inside a group. A map of at most stride * grid pixels per axis, such as a training patch, is attended
    in full. On a larger one all tokens of a group ask and grid x grid of them, evenly spread over the map, answer: the
    cost stays linear in the pixels, every pixel sees the whole image, and neighbours are answered by neighbours, so
    that no border between parts of the image can show. Pixels missing for whole windows repeat the border features;
    they take part as ordinary tokens, without a mask.

    The keys are normalised, and a learnable scale per head multiplies the logits: log scale starting at log 10, capped
    at log 100, as in the cosine attention of U-DiT (Tian et al. 2024, arXiv 2405.02730). The queries are not: they come
    from a layer norm. So the logits of a token x are x times the matrix Wq^T k of its group, and with few answering
    tokens that, and Wp v in the place of v, saves the products with Wq and Wp for all tokens: only the answering ones
    are ever projected. Where they are many, the textbook form runs. Stride, grid and the rule for large maps are our
    own choice.

    Args:
        channels: C, a multiple of `heads`.
        heads: number of heads.
        stride: distance in pixels between the tokens of a group, >= 1.
        grid: most tokens of a group per axis that answer, >= 1.
    """

    def __init__(self, channels: int, heads: int, stride: int, grid: int) -> None:
        super().__init__()
        self.heads, self.stride, self.grid = heads, stride, grid
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.logit_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10.0)))

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        s, rows, columns = self.stride, -(-height // self.stride), -(-width // self.stride)
        x = replicate_pad(x, rows * s, columns * s)
        grids = x.reshape(n, rows, s, columns, s, channels).permute(0, 2, 4, 1, 3, 5)
        tokens = grids.reshape(-1, rows * columns, channels)
        answering = tokens
        if max(rows, columns) > self.grid:
            down, across = (spread(size, self.grid, x.device) for size in (rows, columns))
            answering = grids[:, :, :, down[:, None], across].reshape(len(tokens), -1, channels)
        few = answering.shape[1] * (self.heads - 1) < channels
        attend = self._attend_to_few if few else self._attend
        mixed = attend(tokens, answering).view(n, s, s, rows, columns, channels)
        x = mixed.permute(0, 3, 1, 4, 2, 5)
        return x.reshape(n, rows * s, columns * s, channels)[:, :height, :width]

    def _scaled(self, keys: Tensor) -> Tensor:
        """Keys (B, heads, M, d), at unit length times the scale of their head."""
        scale = self.logit_scale.clamp(max=_MAX_LOGIT_SCALE).exp()
        return keys * ((keys.square().sum(dim=-1, keepdim=True) + _EPS).rsqrt() * scale)

    def _attend(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Attention of (B, L, C) tokens on (B, M, C) tokens, and the projection -> (B, L, C)."""
        channels = asking.shape[-1]
        weights = self.qkv.weight.split((channels, 2 * channels))
        parts = F.linear(asking, weights[0]), *F.linear(answering, weights[1]).chunk(2, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, self._scaled(k), v, scale=channels**-0.5)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _attend_to_few(self, asking: Tensor, answering: Tensor) -> Tensor:
        """The same, with the projections of the queries and of the result moved to the M tokens that answer."""
        length, channels = asking.shape[1:]
        query, both = self.qkv.weight.split((channels, 2 * channels))
        k, v = F.linear(answering, both).chunk(2, dim=-1)
        k = self._scaled(k.unflatten(-1, (self.heads, -1)).transpose(1, 2)).transpose(1, 2).flatten(2)
        k, v = _own_channels(k, self.heads), _own_channels(v, self.heads)
        keys, values = F.linear(k, query.t()), F.linear(v, self.proj.weight)
        logits = (channels**-0.5 * asking) @ keys.transpose(1, 2)
        weights = logits.unflatten(-1, (self.heads, -1)).softmax(dim=-1).flatten(2)
        return torch.baddbmm(self.proj.bias, weights, values)


class RepDepthwise(nn.Module):
    """Depthwise k x k convolution with parallel smaller ones and an identity, zero padding: (N, H, W, C) -> the same.

    The parallel branches have k - 2, k - 4, ... 1 pixels; U-DiT (Tian et al. 2024, arXiv 2405.02730) has k = 5. All are
    linear, so they are summed as kernels, not as feature maps: training too pays for one convolution. `fold()` keeps
    the summed kernel as the only one. No additive bias: the Linear that follows has one, which can do the same.

    Args:
        channels: C.
        kernel: k, odd.
    """

    def __init__(self, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel, kernel))
        sizes = range(kernel - 2, 0, -2)
        self.branches = nn.ParameterList(nn.Parameter(torch.empty(channels, 1, size, size)) for size in sizes)
        self.folded = False
        for weight in (self.weight, *self.branches):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def kernel(self) -> Tensor:
        """The merged (C, 1, k, k) kernel: the largest, the others padded to its size, and a one at the centre."""
        if self.folded:
            return self.weight
        # From the smallest to the largest, each padded by one pixel to the size of the next.
        merged: Tensor | float = 1.0
        for weight in reversed(self.branches):
            merged = weight + (merged if isinstance(merged, float) else F.pad(merged, (1, 1, 1, 1)))
        return self.weight + (F.pad(merged, (1, 1, 1, 1)) if isinstance(merged, Tensor) else merged)

    def forward(self, x: Tensor) -> Tensor:
        image, padding = x.permute(0, 3, 1, 2), self.weight.shape[-1] // 2
        return F.conv2d(image, self.kernel(), padding=padding, groups=x.shape[-1]).permute(0, 2, 3, 1)

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the branches by their merged kernel. Doing it twice changes nothing."""
        self.weight = nn.Parameter(self.kernel().clone(), requires_grad=self.weight.requires_grad)
        self.branches, self.folded = nn.ParameterList(), True


class LocallyEnhancedFeedForward(nn.Module):
    """Rep-LeFFN: Linear -> re-parameterised depthwise -> gate -> Linear, (N, H, W, C) -> (N, H, W, C).

    The gate multiplies the two halves of the hidden channels, as in NAFNet (Chen et al. 2022, arXiv 2204.04676) and,
    with a GELU on one half, in Restormer. It is our own choice: U-DiT has a GELU before the depthwise layer instead.

    Args:
        channels: C.
        hidden: channels between the first Linear and the gate, even.
        kernel: side of the depthwise kernel, odd.
    """

    def __init__(self, channels: int, hidden: int, kernel: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = RepDepthwise(hidden, kernel)
        self.reduce = nn.Linear(hidden // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.depthwise(self.expand(x)).chunk(2, dim=-1)
        return self.reduce(first * second)


class TransformerBlock(nn.Module):
    """x + FCSA(norm(x)), then + GGSA(norm(x)), then + Rep-LeFFN(norm(x)): (N, H, W, C) -> (N, H, W, C)."""

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        hidden: int,
        kernel: int,
        window: int,
        shifted: bool,
        stride: int,
        grid: int,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.local = FocalContextSelfAttention(channels, heads, window, shifted)
        self.norm2 = nn.LayerNorm(channels)
        self.grid = GlobalGridSelfAttention(channels, heads, stride, grid)
        self.norm3 = nn.LayerNorm(channels)
        self.ffn = LocallyEnhancedFeedForward(channels, hidden, kernel)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local(self.norm1(x))
        x = x + self.grid(self.norm2(x))
        return x + self.ffn(self.norm3(x))
