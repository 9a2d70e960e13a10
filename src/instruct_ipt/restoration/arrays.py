"""Whatever holds an image, seen as one array, and the result put back into the same form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from instruct_ipt.errors import InputError

from .pictures import from_pil, to_pil

_RANGES = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0, "float64": 1.0}
_TENSORS = (torch.uint8, torch.float32, torch.float64)
_SLACK = 1e-3
"""How far floats may lie outside of [0, 1], as they do after resampling; the result is clipped."""


@dataclass(frozen=True)
class Adopted:
    """An image ready to be restored.

    Attributes:
        colour: its grey or RGB values, (N, H, W, C) with C = 1 or 3, of the image's own type; a view.
        finish: takes restored values of the same shape and type, gives an image of the form that came in.
    """

    colour: np.ndarray
    finish: Callable[[np.ndarray], Any]

    @property
    def top(self) -> float:
        """The value that stands for 1."""
        return _RANGES[self.colour.dtype.name]


def adopt(image: Any) -> Adopted:
    """See `Restorer.restore` for what is taken.

    Raises:
        InputError: another type, shape or dtype; floats outside of [0, 1]; an empty image.
    """
    if isinstance(image, Image.Image):
        return _adopt_pil(image)
    if isinstance(image, np.ndarray):
        return _adopt_numpy(image)
    if isinstance(image, Tensor):
        return _adopt_torch(image)
    raise InputError(f"a {type(image).__name__} is no image; give a numpy array, a Pillow image or a torch tensor")


def _adopt_pil(image: Image.Image) -> Adopted:
    picture = from_pil(image)
    upright = _adopt_numpy(picture.upright())
    return Adopted(upright.colour, lambda values: to_pil(picture.with_upright(upright.finish(values))))


def _adopt_numpy(image: np.ndarray) -> Adopted:
    if image.ndim == 2:
        return Adopted(_checked(image[None, :, :, None]), lambda values: values[0, :, :, 0])
    if image.ndim != 3:
        raise InputError(f"the array has shape {image.shape}; give (H, W) or (H, W, C)")
    channels = _colours(image.shape[2])
    alpha = image[:, :, channels:]
    return Adopted(
        _checked(image[None, :, :, :channels]),
        lambda values: np.concatenate([values[0], alpha], axis=2) if alpha.size else values[0],
    )


def _adopt_torch(image: Tensor) -> Adopted:
    if image.dtype not in _TENSORS:
        raise InputError(f"the tensor is {image.dtype}; give uint8, or float32 or float64 in [0, 1]")
    if image.ndim not in (3, 4):
        raise InputError(f"the tensor has shape {tuple(image.shape)}; give (C, H, W) or (N, C, H, W)")
    batch = image.detach() if image.ndim == 4 else image.detach()[None]
    channels = _colours(batch.shape[1])

    def finish(values: np.ndarray) -> Tensor:
        restored = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2))).to(image.device)
        whole = torch.cat([restored, batch[:, channels:]], dim=1)
        return whole if image.ndim == 4 else whole[0]

    return Adopted(_checked(batch[:, :channels].cpu().numpy().transpose(0, 2, 3, 1)), finish)


def _colours(channels: int) -> int:
    """How many of the channels are not alpha."""
    if not 1 <= channels <= 4:
        raise InputError(f"the image has {channels} channels; give 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA)")
    return 1 if channels < 3 else 3


def _checked(colour: np.ndarray) -> np.ndarray:
    """`colour` unless its type or its values cannot be."""
    if colour.dtype.name not in _RANGES:
        raise InputError(f"the image is {colour.dtype}; give uint8, uint16, or float32 or float64 in [0, 1]")
    if not colour.size:
        raise InputError(f"the image has shape {colour.shape[1:]}: it is empty")
    if colour.dtype.kind == "f":
        low, high = float(colour.min()), float(colour.max())
        if not (low >= -_SLACK and high <= 1 + _SLACK):
            raise InputError(f"the image's values go from {low:g} to {high:g}; give floats in [0, 1]")
    return colour
