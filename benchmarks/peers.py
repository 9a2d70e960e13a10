"""Networks as people would write them from the papers, for comparison of speed, and what PEFT needs to adapt ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.backbone import FocalContextSelfAttention, GlobalGridSelfAttention


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of an (N, C, H, W) map, as both papers' public code writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=1, correction=0, keepdim=True)
        return (x - mean) / torch.sqrt(variance + 1e-6) * self.weight + self.bias


class PlainNafBlock(nn.Module):
    """NAFNet's block (Chen et al. 2022, arXiv 2204.04676): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm1, self.norm2 = LayerNorm2d(channels), LayerNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv4 = nn.Conv2d(channels, wide, 1)
        self.conv5 = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.conv2(self.conv1(self.norm1(x))).chunk(2, dim=1)
        y = a * b
        x = x + self.conv3(y * self.attention(y)) * self.beta
        a, b = self.conv4(self.norm2(x)).chunk(2, dim=1)
        return x + self.conv5(a * b) * self.gamma


class ChannelAttention(nn.Module):
    """Restormer's transposed attention (Zamir et al. 2022, arXiv 2111.09881), MDTA, over the whole map."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.depthwise = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.out = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = (t.reshape(n, self.heads, -1, h * w) for t in self.depthwise(self.qkv(x)).chunk(3, dim=1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        weights = (q @ k.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.out((weights @ v).reshape(n, c, h, w))


class GatedFeedForward(nn.Module):
    """Restormer's gated feed-forward, GDFN, with the published expansion 2.66."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = int(channels * 2.66)
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.depthwise = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.reduce = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.depthwise(self.expand(x)).chunk(2, dim=1)
        return self.reduce(F.gelu(a) * b)


class RestormerBlock(nn.Module):
    """x + MDTA(norm(x)), then + GDFN(norm(x)): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = LayerNorm2d(channels), ChannelAttention(channels, heads)
        self.norm2, self.ffn = LayerNorm2d(channels), GatedFeedForward(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class PlainNafNet(nn.Module):
    """NAFNet with a pixel-unshuffle stem: (N, 3, H, W) -> (N, 3, H, W); sides are multiples of the total stride.

    Args:
        width: channels at level 0; doubled at every level below.
        depths: blocks per stage in network order.
        stem: stride of the stem, 1 or 2.
    """

    def __init__(self, width: int, depths: tuple[int, ...], stem: int) -> None:
        super().__init__()
        bottom = len(depths) // 2
        sizes = [width * 2 ** min(i, len(depths) - 1 - i) for i in range(len(depths))]
        self.stem, self.bottom = stem, bottom
        self.head = nn.Conv2d(3 * stem**2, width, 3, padding=1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(PlainNafBlock(c) for _ in range(d))) for c, d in zip(sizes, depths, strict=True)
        )
        self.downs = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in sizes[:bottom])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * c, 4 * c, 1, bias=False), nn.PixelShuffle(2)) for c in sizes[bottom + 1 :]
        )
        self.tail = nn.Conv2d(width, 3 * stem**2, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(F.pixel_unshuffle(image, self.stem))
        skips = []
        for stage, down in zip(self.stages, self.downs, strict=False):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.stages[self.bottom](x)
        for stage, up in zip(self.stages[self.bottom + 1 :], self.ups, strict=True):
            x = stage(up(x) + skips.pop())
        return image + F.pixel_shuffle(self.tail(x), self.stem)


class PlainRestormer(nn.Module):
    """Restormer: (N, 3, H, W) -> (N, 3, H, W); sides are multiples of 8. Full resolution, as published.

    Its decoder's last level keeps 2 * width channels, and refinement blocks follow it.

    Args:
        width: channels at level 0; doubled at every level below.
        depths: blocks of the four levels, going down.
        heads: attention heads of the four levels.
        refinement: blocks at the end.
    """

    def __init__(
        self, width: int, depths: tuple[int, int, int, int], heads: tuple[int, int, int, int], refinement: int
    ) -> None:
        super().__init__()
        c = [width * 2**level for level in range(4)]

        def stage(channels: int, level: int, blocks: int) -> nn.Sequential:
            return nn.Sequential(*(RestormerBlock(channels, heads[level]) for _ in range(blocks)))

        def conv(inputs: int, outputs: int, kernel: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

        self.head = conv(3, width, 3)
        self.encoder = nn.ModuleList(stage(c[i], i, depths[i]) for i in range(3))
        self.downs = nn.ModuleList(nn.Sequential(conv(c[i], c[i] // 2, 3), nn.PixelUnshuffle(2)) for i in range(3))
        self.middle = stage(c[3], 3, depths[3])
        self.ups = nn.ModuleList(nn.Sequential(conv(c[i], 2 * c[i], 3), nn.PixelShuffle(2)) for i in (3, 2, 1))
        self.fuses = nn.ModuleList([conv(2 * c[2], c[2], 1), conv(2 * c[1], c[1], 1), nn.Identity()])
        self.decoder = nn.ModuleList([stage(c[2], 2, depths[2]), stage(c[1], 1, depths[1]), stage(c[1], 0, depths[0])])
        self.refinement = stage(c[1], 0, refinement)
        self.tail = conv(c[1], 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(image)
        skips = []
        for stage, down in zip(self.encoder, self.downs, strict=True):
            skips.append(stage(x))
            x = down(skips[-1])
        x = self.middle(x)
        for up, fuse, stage in zip(self.ups, self.fuses, self.decoder, strict=True):
            x = stage(fuse(torch.cat([up(x), skips.pop()], dim=1)))
        return image + self.tail(self.refinement(x))


class UnfoldedDepthwise(nn.Module):
    """Depthwise branches and identity, as separate convolutions whose outputs are summed: (N, H, W, C) -> the same.

    Args:
        weights: the (C, 1, k, k) kernels.
    """

    def __init__(self, *weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(weight.detach().clone()) for weight in weights)

    def forward(self, x: Tensor) -> Tensor:
        image = x.permute(0, 3, 1, 2)
        channels = x.shape[-1]
        total = image
        for weight in self.weights:
            total = total + F.conv2d(image, weight, padding=weight.shape[-1] // 2, groups=channels)
        return total.permute(0, 2, 3, 1)


class _CalledFocal(FocalContextSelfAttention):
    def _attend_by_gram(self, windows: Tensor) -> Tensor:
        return self._attend(windows)


class _CalledGrid(GlobalGridSelfAttention):
    def _attend(self, asking: Tensor, answering: Tensor) -> Tensor:
        q, k, v = self.qkv(asking).chunk(3, dim=-1)
        if answering is not asking:
            _, k, v = self.qkv(answering).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, self._scaled(k), v, scale=asking.shape[-1] ** -0.5)
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def _attend_to_few(self, asking: Tensor, answering: Tensor) -> Tensor:
        return self._attend(asking, answering)


def call_projections(backbone: nn.Module) -> nn.Module:
    """Give the attention of our transformer its textbook form, in place: the same function, but its layers are called.

    PEFT replaces a layer's forward, and so has no hold on a weight that is only read.
    """
    called = {FocalContextSelfAttention: _CalledFocal, GlobalGridSelfAttention: _CalledGrid}
    for module in backbone.modules():
        module.__class__ = called.get(type(module), type(module))
    return backbone


def lend_names(model: nn.Module, layers: list[str]) -> Callable[[Tensor, list[str]], Tensor]:
    """Run a PEFT model with `adapter_names` although rows of its `layers` may be windows or tokens of a sample.

    PEFT hands the names on to its layers by hooks like these, but refuses a layer that sees more rows than names.
    """

    def run(x: Tensor, names: list[str]) -> Tensor:
        def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict) -> tuple[tuple[Tensor, ...], dict]:
            rows = len(args[0]) // len(names)
            return args, {**kwargs, "adapter_names": [name for name in names for _ in range(rows)]}

        base = model.get_base_model()
        hooks = [base.get_submodule(name).register_forward_pre_hook(before, with_kwargs=True) for name in layers]
        try:
            return base(x)
        finally:
            for hook in hooks:
                hook.remove()

    return run
