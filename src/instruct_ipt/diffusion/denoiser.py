"""The denoiser: `diffusers.UNet2DModel` between two pixel shuffles, in presets by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.diffusion.fill import PLANES
from instruct_ipt.diffusion.schedule import likely_picture, signal, signal_at, velocity_of

if TYPE_CHECKING:
    from diffusers import UNet2DModel


@dataclass(frozen=True)
class Preset:
    """Size of a denoiser.

    Attributes:
        widths: channels per level of the U-Net.
        attention: whether a level has self-attention.
        layers: residual blocks per level.
        patch: side of the px blocks that become channels at the entry.
    """

    widths: tuple[int, ...]
    attention: tuple[bool, ...]
    layers: int
    patch: int


PRESETS: dict[str, Preset] = {
    "tiny": Preset((16, 32), (False, True), 1, 2),
    "quick": Preset((32, 64, 96), (False, False, True), 1, 4),
    "study": Preset((96, 192, 288, 384), (False, False, True, True), 2, 2),
}
"""`tiny` for tests, `quick` for a CPU, `study` for one GPU."""

# What diffusers calls the linear layers of a module that attends.
_PROJECTIONS = {"to_q", "to_k", "to_v", "to_out"}


class Denoiser(nn.Module):
    """A U-Net that guesses the picture under the noise and says so as a velocity v (`schedule.velocity_of`).

    A small network has no room to carry the noise of every pixel to its output, which v holds; a photograph needs far
    less (Li and He 2025, arXiv 2511.13720). So the U-Net makes the picture, as a difference to what is known and was
    carried into the rest (`fill.carried`), and v follows from it. Nor has it to be shown noise beyond measure: it sees
    `schedule.likely_picture`, which holds the same.

    Args:
        unet: takes (N, 7 patch^2, H / patch, W / patch) and a time per sample, and gives 3 patch^2 planes.
        patch: side of the px blocks that become channels.
    """

    def __init__(self, unet: UNet2DModel, patch: int) -> None:
        super().__init__()
        self.unet, self.patch = unet, patch
        self.register_buffer("signal", signal(), persistent=False)

    @property
    def multiple(self) -> int:
        """Sides of a picture have to be multiples of this many px."""
        return self.patch * 2 ** (len(self.unet.config["block_out_channels"]) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """x, (N, 8, H, W) of `fill.packed` -> v, (N, 3, H, W)."""
        noisy, carried, missing, time = x[:, :3], x[:, 3:6], x[:, 6:7], x[:, PLANES - 1, 0, 0]
        a = signal_at(self.signal, time.float())
        likely = carried + missing * (likely_picture(noisy, carried, a) - carried)
        planes = F.pixel_unshuffle(torch.cat([likely, carried, missing], dim=1), self.patch)
        (found,) = self.unet(planes, time, return_dict=False)
        return velocity_of(carried.float() + F.pixel_shuffle(found, self.patch).float(), noisy.float(), a)

    def weight_groups(self) -> dict[str, list[str]]:
        """Kind of weight -> parameter names, see `weights_of`."""
        return weights_of(self)

    def adaptation_sites(self) -> dict[str, int]:
        """Residual block -> its channels C, in network order; each gives (N, C, H, W)."""
        blocks = ((name, module) for name, module in self.named_modules() if type(module).__name__ == "ResnetBlock2D")
        return {name: module.out_channels for name, module in blocks}


def build_denoiser(preset: str) -> Denoiser:
    """A fresh denoiser; the last convolution starts at zero, so that its first guess is `fill.carried`.

    Raises:
        KeyError: no such preset.
    """
    from diffusers import UNet2DModel

    size = PRESETS[preset]
    down = tuple("AttnDownBlock2D" if attends else "DownBlock2D" for attends in size.attention)
    up = tuple("AttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(size.attention))
    unet = UNet2DModel(
        in_channels=(PLANES - 1) * size.patch**2,
        out_channels=3 * size.patch**2,
        block_out_channels=size.widths,
        down_block_types=down,
        up_block_types=up,
        layers_per_block=size.layers,
        attention_head_dim=16,
        norm_num_groups=8,
    )
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return Denoiser(unet, size.patch)


def weights_of(network: nn.Module) -> dict[str, list[str]]:
    """The weights of any denoiser that carry task biases, by kind: ``attention`` and ``convolution``.

    Attention: the projections of every module that attends.
    Convolution: every convolution inside the network, but not the first and the last, which speak the language of
    pixels. Time, class and text embeddings carry none.
    """
    attention, convolution = [], []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) and not _PROJECTIONS.isdisjoint(name.split(".")):
            attention.append(f"{name}.weight")
        elif isinstance(module, nn.Conv2d) and not name.endswith(("conv_in", "conv_out", "pos_embed.proj")):
            convolution.append(f"{name}.weight")
    return {"attention": attention, "convolution": convolution}
