"""Networks for these tests: of this package but tiny, or so plain that one knows what they do."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.backbone import NafConfig, build_backbone
from instruct_ipt.instruction import Estimator
from instruct_ipt.instruction.estimator import CLASSES, features
from instruct_ipt.modulation import Modulated, RankRule, modulate, save_release
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import describe_architecture
from instruct_ipt.tasks import TASKS


def tiny(kind: str = "ipt", seed: int = 0) -> Modulated:
    """The tiny backbone with a random bias for each task on the attention and the norms."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_backbone("tiny", kind)
        groups = backbone.weight_groups()
        names = [name for group in ("attention.qkv", "norm") for name in groups[group]]
        model = modulate(backbone, TASKS, names, RankRule("constant", 2))
        with torch.no_grad():
            for parameter in model.bias_parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def write_release(folder: Path, kind: str = "ipt") -> Modulated:
    """A release of :func:`tiny` in `folder`."""
    model = tiny(kind)
    save_release(model, folder, architecture=describe_architecture(model.backbone))
    return model


def rainy_everywhere(folder: Path) -> None:
    """An estimator that takes everything for rain."""
    count = len(features(np.zeros((32, 32, 3))))
    bias = np.where(np.array(CLASSES) == "derain", 9.0, 0.0)
    arrays = (np.zeros(count), np.ones(count), np.zeros((len(CLASSES), count)), bias)
    Estimator(*(array.astype(np.float32) for array in arrays), 32).save(folder)


class Plain(nn.Module):
    """What a restorer asks of a backbone. One parameter, so that something can be modulated."""

    config = NafConfig(width=1, depths=(1,), stem_stride=1)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 1))
        self.calls: list[tuple[int, ...]] = []

    def fold(self) -> Plain:
        """Nothing to fold."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x, (N, C, H, W), plus a correction."""
        return x + self.correction(x)

    def correction(self, x: Tensor) -> Tensor:
        """What is added to x, (N, C, H, W): nothing."""
        return torch.zeros_like(x)


class Local(Plain):
    """Adds what it sees within `radius` pixels: a mean, minus the pixel itself."""

    def __init__(self, radius: int) -> None:
        super().__init__()
        self.radius = radius

    def correction(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W): the difference to a box filter of 2 * radius + 1 pixels, zero-padded."""
        side, pad = 2 * self.radius + 1, self.radius
        return F.avg_pool2d(F.avg_pool2d(x, (side, 1), 1, (pad, 0)), (1, side), 1, (0, pad)) - x


class Global(Plain):
    """Adds a share of the mean of all that it is given: every tile is told something else."""

    def correction(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W): three tenths of the mean."""
        return (0.3 * x.mean(dim=(1, 2, 3), keepdim=True)).expand_as(x)


class Upright(Plain):
    """Adds more at the bottom than at the top: it shows which way a picture was given."""

    def correction(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W): a ramp down the rows."""
        return torch.linspace(0, 0.2, x.shape[2])[:, None].expand_as(x)


def restorer(backbone: nn.Module) -> Restorer:
    """A restorer around a plain network, with tasks that change nothing in it."""
    return Restorer(modulate(backbone, TASKS, ["scale"], RankRule("constant", 1)), "cpu")


@functools.cache
def tiny_restorer() -> Restorer:
    """A restorer around :func:`tiny`."""
    return Restorer(tiny(), "cpu")
