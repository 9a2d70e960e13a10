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


def _heads(tokens: Tensor, weight: Tensor, heads: int) -> Tensor:
    """Tokens (B, L, C) through a weight (C, C), split in heads: (B, heads, L, C / heads)."""
    return F.linear(tokens, weight).unflatten(-1, (heads, -1)).transpose(1, 2)


class FocalContextSelfAttention(nn.Module):
    """Channel self-attention inside w x w windows (FCSA): (N, H, W, C) -> (N, H, W, C).

    Inside a window of L = w * w tokens and for each head of d channels, the d x d map
    softmax(t * q^T k / (|q_i| |k_j|)) mixes the channels of v. Norms run over the L tokens, with 1e-6 added to their
    squares; t is a learnable temperature per head. This is the transposed attention of Restormer (Zamir et al. 2022,
    arXiv 2111.09881), here per window.

    Shifted layers move the window borders by w // 2 and pad with zero tokens instead of rolling the map cyclically. A
    zero token adds nothing to q^T k nor to the norms, so border windows see exactly the pixels they hold; a roll would
    mix opposite edges of the image in one window and need a mask. The same holds for the padding up to a multiple of w.
    This is why `qkv` has no additive bias. Window size, shift rule and temperature are our own choice.

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
        self.folded = False
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.proj = nn.Linear(channels, channels)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        w, top = self.window, self.shift
        bottom, right = -(height + top) % w, -(width + top) % w
        padded = bool(top or bottom or right)
        if padded:
            x = F.pad(x, (0, 0, top, right, top, bottom))
        rows, columns = x.shape[1] // w, x.shape[2] // w
        windows = x.reshape(n, rows, w, columns, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        # Measured: below this width the maps of a window are so much smaller than its tokens that this way wins.
        small = self.folded and 2 * channels <= w * w
        mixed = self._attend_by_gram(windows) if small else self.proj(self._attend(windows))
        x = mixed.view(n, rows, columns, w, w, channels).transpose(2, 3).reshape(n, rows * w, columns * w, channels)
        return x[:, top : top + height, top : top + width] if padded else x

    def _attend(self, windows: Tensor) -> Tensor:
        """Channel attention of (B, L, C) windows -> (B, L, C)."""
        b, length, channels = windows.shape
        # Three products and not one: splitting one result makes the backward pass join three gradients in a copy.
        q, k, v = (_heads(windows, weight, self.heads) for weight in self.qkv.weight.chunk(3))
        # Normalising the small map instead of q and k saves passes over all tokens.
        q_unit, k_unit = ((t.square().sum(dim=2) + _EPS).rsqrt() for t in (q, k))
        cosine = (q.transpose(2, 3) @ k) * (q_unit[..., None] * self.temperature) * k_unit[..., None, :]
        return (v @ cosine.softmax(dim=-1).transpose(2, 3)).transpose(1, 2).reshape(b, length, channels)

    def _attend_by_gram(self, windows: Tensor) -> Tensor:
        """proj(_attend(windows)) without q, k or v: all of it is one map per window, made from the map x^T x.

        With G = x^T x of a window: q^T k = Wq G Wk^T, |q_i|^2 = (Wq G Wq^T)_ii, and proj(v A^T) = x (Wp A Wv)^T. Reads
        the tokens twice and writes them once. For inference only: G squares the spread of the features, which bf16
        training would feel.
        """
        b, _, channels = windows.shape
        depth = channels // self.heads
        weight = self.qkv.weight
        mapped = F.linear(windows.transpose(1, 2) @ windows, weight[: 2 * channels])
        squares = (mapped * weight[: 2 * channels].T).sum(dim=1).clamp(min=0)
        q_unit, k_unit = (squares + _EPS).rsqrt().view(b, 2, self.heads, depth).unbind(1)
        wk, wv = (weight[i * channels : (i + 1) * channels].view(self.heads, depth, channels) for i in (1, 2))
        q = mapped[..., :channels].view(b, channels, self.heads, depth).permute(0, 2, 3, 1)
        cosine = (q @ wk.transpose(1, 2)) * (q_unit[..., None] * self.temperature) * k_unit[..., None, :]
        values = (cosine.softmax(dim=-1) @ wv).view(b, channels, channels)
        return torch.baddbmm(self.proj.bias, windows, F.linear(values.transpose(1, 2), self.proj.weight))

    def fold(self) -> None:
        """Choose the form that is faster for inference. No parameter changes."""
        self.folded = True


def spread(size: int, most: int, device: torch.device | None = None) -> Tensor:
    """At most `most` indices out of range(size), int64 and evenly spaced: all of them when there are no more."""
    count = min(size, most)
    return (2 * torch.arange(count, device=device) + 1) * size // (2 * count)


def replicate_pad(x: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column of an (N, H, W, C) map until it is (N, height, width, C)."""
    if height > x.shape[1]:
        x = torch.cat([x, x[:, -1:].expand(-1, height - x.shape[1], -1, -1)], dim=1)
    if width > x.shape[2]:
        x = torch.cat([x, x[:, :, -1:].expand(-1, -1, width - x.shape[2], -1)], dim=2)
    return x


def _inverse_rms(x: Tensor) -> Tensor:
    """1 / root mean square of the vectors (..., d) -> (..., 1). One pass, where `F.rms_norm` takes three on a CPU."""
    return (torch.linalg.vector_norm(x, dim=-1, keepdim=True).square() / x.shape[-1] + _EPS).rsqrt()


class GlobalGridSelfAttention(nn.Module):
    """Spatial self-attention over tokens gathered on a grid (GGSA): (N, H, W, C) -> (N, H, W, C).

    The map is cut in stride x stride windows; one token of the same offset from each window forms a group, and
    attention runs inside a group. A map of at most stride * grid pixels per axis, such as a training patch, is attended
    in full. On a larger one all tokens of a group ask and grid x grid of them, evenly spread over the map, answer: the
    cost stays linear in the pixels, every pixel sees the whole image, and neighbours are answered by neighbours, so
    that no border between parts of the image can show. Pixels missing for whole windows repeat the border features;
    they take part as ordinary tokens, without a mask.

    Cosine attention with a learnable logit scale per head, log scale starting at log 10 and capped at log 100, as in
    U-DiT (Tian et al. 2024, arXiv 2405.02730). Stride, grid and the rule for large maps are our own choice.

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
        mixed = self._attend(tokens, answering).view(n, s, s, rows, columns, channels)
        x = mixed.permute(0, 3, 1, 4, 2, 5)
        return x.reshape(n, rows * s, columns * s, channels)[:, :height, :width]

    def _attend(self, asking: Tensor, answering: Tensor) -> Tensor:
        """Cosine attention of (B, L, C) tokens on (B, M, C) tokens, and the projection -> (B, L, C)."""
        queries, keys, values = self.qkv.weight.chunk(3)
        q, k, v = (_heads(*pair, self.heads) for pair in ((asking, queries), (answering, keys), (answering, values)))
        scale = self.logit_scale.clamp(max=_MAX_LOGIT_SCALE).exp()
        q, k = q * (_inverse_rms(q) * scale), k * _inverse_rms(k)
        # With one head the few values can be projected before they are mixed: weights that sum to 1 keep the bias.
        v = self.proj(v) if self.heads == 1 else v
        # The vectors have the length sqrt(depth), hence the scale.
        mixed = F.scaled_dot_product_attention(q, k, v, scale=1 / q.shape[-1]).transpose(1, 2).flatten(2)
        return mixed if self.heads == 1 else self.proj(mixed)


class RepDepthwise(nn.Module):
    """Depthwise 5x5 convolution with parallel 3x3, 1x1 and identity branches, zero padding: (N, H, W, C) -> the same.

    The branches are linear, so they are summed as kernels, not as feature maps: training too pays for one convolution.
    `fold()` keeps the summed kernel as the only one. No additive bias: the Linear that follows has one, which can do
    the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 5, 5))
        self.weight3: nn.Parameter | None = nn.Parameter(torch.empty(channels, 1, 3, 3))
        self.weight1: nn.Parameter | None = nn.Parameter(torch.empty(channels, 1, 1, 1))
        for branch in (self.weight, self.weight3, self.weight1):
            nn.init.kaiming_uniform_(branch, a=math.sqrt(5))

    @property
    def folded(self) -> bool:
        """Whether only the merged kernel is left."""
        return self.weight3 is None

    def kernel(self) -> Tensor:
        """The merged (C, 1, 5, 5) kernel: w5 + pad(w3) + pad(w1) + delta."""
        if self.weight3 is None or self.weight1 is None:
            return self.weight
        # The identity branch is a one at the centre; it joins the 1x1 branch.
        return self.weight + F.pad(self.weight3 + F.pad(self.weight1 + 1.0, (1, 1, 1, 1)), (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        image = x.permute(0, 3, 1, 2)
        return F.conv2d(image, self.kernel(), padding=2, groups=x.shape[-1]).permute(0, 2, 3, 1)

    @torch.no_grad()
    def fold(self) -> None:
        """Replace the branches by their merged kernel. Doing it twice changes nothing."""
        self.weight = nn.Parameter(self.kernel().clone(), requires_grad=self.weight.requires_grad)
        self.weight3 = self.weight1 = None


class LocallyEnhancedFeedForward(nn.Module):
    """Rep-LeFFN: Linear -> GELU -> re-parameterised depthwise 5x5 -> Linear, (N, H, W, C) -> (N, H, W, C).

    Args:
        channels: C.
        hidden: channels between the two Linears.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.depthwise = RepDepthwise(hidden)
        self.reduce = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.depthwise(F.gelu(self.expand(x))))


class TransformerBlock(nn.Module):
    """x + FCSA(norm(x)), then + GGSA(norm(x)), then + Rep-LeFFN(norm(x)): (N, H, W, C) -> (N, H, W, C)."""

    def __init__(
        self, channels: int, *, heads: int, hidden: int, window: int, shifted: bool, stride: int, grid: int
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.local = FocalContextSelfAttention(channels, heads, window, shifted)
        self.norm2 = nn.LayerNorm(channels)
        self.grid = GlobalGridSelfAttention(channels, heads, stride, grid)
        self.norm3 = nn.LayerNorm(channels)
        self.ffn = LocallyEnhancedFeedForward(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.local(self.norm1(x))
        x = x + self.grid(self.norm2(x))
        return x + self.ffn(self.norm3(x))
