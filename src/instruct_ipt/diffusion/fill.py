"""What a denoiser is asked to fill in: the tasks, what is known of a picture, and how both enter the network.

A network takes one tensor, (N, 8, H, W), and gives one, so that whatever can modulate a restoration network can
modulate a denoiser too. The planes: noisy picture (3), known picture (3, carried smoothly into what is missing), mask
(1 where it is missing), and the time of the noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from instruct_ipt.diffusion.masks import mask

SCALE = 4
PLANES = 8


@dataclass(frozen=True)
class Fill:
    """A picture with missing pixels.

    Attributes:
        known: float32 (H, W, 3) in [0, 1]; 0.5 where a pixel is missing. For ``upscale``: the coarse picture at full
            size, each of its pixels a block of :data:`SCALE` x :data:`SCALE`.
        missing: bool (H, W); True everywhere for ``upscale``.
    """

    known: np.ndarray
    missing: np.ndarray

    def complete(self, guess: np.ndarray, reach: float = 3.0) -> np.ndarray:
        """``guess`` of the whole picture, float (H, W, 3), with every known pixel as it was, bit for bit.

        The guess is off by some shade also where the truth is known. Along the border that error is taken over into the
        missing side and fades there over ``reach`` px, so that no seam shows; the known side is never touched.
        """
        if self.missing.all() or not self.missing.any():
            return np.where(self.missing[..., None], guess, self.known).astype(np.float32)
        depth = ndimage.distance_transform_edt(self.missing)
        beside = ~self.missing & ndimage.binary_dilation(self.missing, iterations=2)
        error = np.where(beside[..., None], self.known - guess, 0.0)
        spread = ndimage.gaussian_filter(error, (reach, reach, 0))
        weight = ndimage.gaussian_filter(beside.astype(np.float64), reach)[..., None]
        fading = np.exp(-0.5 * (depth / reach) ** 2)[..., None]
        mended = np.clip(guess + fading * spread / np.maximum(weight, 1e-6), 0.0, 1.0)
        return np.where(self.missing[..., None], mended, self.known).astype(np.float32)


def ask(
    task: str, picture: np.ndarray, rng: np.random.Generator, share: dict[str, Any], kind: str | None = None
) -> Fill:
    """Take pixels away from a picture.

    Args:
        task: of `FILL_TASKS`.
        picture: float32 (H, W, 3) in [0, 1]; sides divisible by :data:`SCALE`.
        rng: draws the mask.
        share: task -> (least, largest) missing share of the area.
        kind: kind of mask, see `masks.MASKS`; None draws one.
    """
    if task == "upscale":
        return Fill(coarse(picture), np.ones(picture.shape[:2], dtype=bool))
    missing = mask(task, rng, picture.shape[:2], tuple(share[task]), kind)
    return Fill(np.where(missing[..., None], np.float32(0.5), picture).astype(np.float32), missing)


def coarse(picture: np.ndarray) -> np.ndarray:
    """Means over blocks of :data:`SCALE` px, rounded to 8 bits as a small picture would hold them, at full size."""
    height, width = picture.shape[0] // SCALE, picture.shape[1] // SCALE
    small = picture.reshape(height, SCALE, width, SCALE, 3).mean(axis=(1, 3), dtype=np.float64)
    small = (np.rint(small * 255) / 255).astype(np.float32)
    return small.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def condition(fills: Sequence[Fill]) -> Tensor:
    """The planes that do not change while sampling, (N, 4, H, W): known picture in [-1, 1], `carried`, and mask."""
    known = torch.from_numpy(np.stack([fill.known for fill in fills]) * 2 - 1).permute(0, 3, 1, 2)
    missing = torch.from_numpy(np.stack([fill.missing for fill in fills])[:, None].astype(np.float32))
    return torch.cat([carried(known, missing), missing], dim=1)


def carried(known: Tensor, missing: Tensor) -> Tensor:
    """A picture whose missing pixels continue the known ones smoothly, (N, 3, H, W); known pixels as they are.

    It goes down a pyramid of means of what is known, and back up, at each level taking from the coarser one as much as
    is missing (pull-push; Gortler et al. 1996). So a network need not learn which shades fit where. Where nothing is
    known exactly, as for ``upscale``, the coarse picture is made smooth instead.

    Args:
        known: (N, 3, H, W); any value where a pixel is missing, but for ``upscale``, see `Fill`.
        missing: (N, 1, H, W), 1 where a pixel is missing.
    """
    weight = 1 - missing
    pyramid = [(known * weight, weight)]
    while max(pyramid[-1][1].shape[2:]) > 1:
        pyramid.append(tuple(F.avg_pool2d(part, 2, ceil_mode=True) for part in pyramid[-1]))
    found = pyramid[-1][0] / pyramid[-1][1].clamp(min=1e-6)
    for value, share in reversed(pyramid[:-1]):
        coarser = F.interpolate(found, share.shape[2:], mode="bilinear", align_corners=False)
        found = value + (1 - share) * coarser
    smooth = F.interpolate(F.avg_pool2d(known, SCALE), known.shape[2:], mode="bilinear", align_corners=False)
    nothing = missing.amin(dim=(2, 3), keepdim=True) == 1
    return torch.where(nothing, smooth, torch.where(missing == 1, found, known))


def with_carried(x: Tensor) -> Tensor:
    """What a network takes, (N, 8, H, W), from the same with known pixels alone: they are `carried`."""
    return torch.cat([x[:, :3], carried(x[:, 3:6], x[:, 6:7]), x[:, 6:]], dim=1)


def packed(noisy: Tensor, given: Tensor, time: Tensor) -> Tensor:
    """What a network takes, (N, 8, H, W).

    Args:
        noisy: (N, 3, H, W), the picture of [-1, 1] under noise.
        given: (N, 4, H, W) of `condition`.
        time: (N,) step of the noise, may be fractional.
    """
    plane = time.to(noisy).view(-1, 1, 1, 1).expand(-1, 1, *noisy.shape[2:])
    return torch.cat([noisy, given, plane], dim=1)
