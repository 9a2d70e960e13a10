"""A small CNN with the interface of a backbone, whose forward can also be told what to do around a module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Around = Callable[[str, Callable[[Tensor], Tensor], Tensor], Tensor]
"""(module name, the module, its input) -> what stands for its output."""


class Block(nn.Module):
    """x + Linear(gelu(depthwise 3x3(layer norm(x)))), (N, H, W, C) -> (N, H, W, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(F.gelu(self.mix(self.norm(x).permute(0, 3, 1, 2))).permute(0, 2, 3, 1))


class SmallCnn(nn.Module):
    """Two levels, (N, 3, H, W) -> (N, 3, H, W), any size; grey (N, 1, H, W) stays grey."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.encoder = Block(8)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.middle = nn.Sequential(Block(12), Block(12))
        self.up = nn.Linear(12, 8)
        self.decoder = Block(8)
        self.tail = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, image: Tensor, around: Around = lambda name, module, x: module(x)) -> Tensor:
        def run(name: str, x: Tensor) -> Tensor:
            return around(name, self.get_submodule(name), x)

        colour = image.expand(-1, 3, -1, -1)
        skip = run("encoder", run("head", colour).permute(0, 2, 3, 1))
        x = self.down(skip.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = self.up(run("middle.1", run("middle.0", x))).permute(0, 3, 1, 2)
        x = run("decoder", skip + F.interpolate(x, skip.shape[1:3]).permute(0, 2, 3, 1))
        restored = colour + run("tail", x.permute(0, 3, 1, 2))
        return restored.mean(1, keepdim=True) if image.shape[1] == 1 else restored

    def adaptation_sites(self) -> dict[str, int]:
        return {"encoder": 8, "middle.0": 12, "middle.1": 12, "decoder": 8}

    def weight_groups(self) -> dict[str, list[str]]:
        names = [name for name, _ in self.named_parameters()]
        return {group: [n for n in names if f".{group}." in f".{n}"] for group in ("norm", "head", "tail")}


def filled(model: nn.Module, seed: int = 1, everything: bool = False) -> nn.Module:
    """The same model with random numbers in every task parameter, or in all, so that nothing is at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters() if everything else model.bias_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model
