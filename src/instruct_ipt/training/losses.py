"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor


def restoration_loss(output: Tensor, target: Tensor, l1: float, frequency: float) -> Tensor:
    """``l1`` * mean |output - target| + ``frequency`` * mean |F(output) - F(target)|.

    F is the orthonormal 2-D real FFT per channel; the absolute value is taken of real and imaginary part. The frequency
    term follows MIMO-UNet (Cho et al., ICCV 2021) and is common in deblurring.

    Args:
        output, target: float (N, 3, H, W).
        l1, frequency: weights >= 0.

    Returns:
        Scalar.
    """
    loss = l1 * (output - target).abs().mean()
    if frequency:
        # F is linear: one transform of the difference instead of two transforms.
        difference = output - target
        # There is no transform in half precision.
        at_least_single = difference.to(torch.promote_types(difference.dtype, torch.float32))
        spectrum = torch.view_as_real(torch.fft.rfft2(at_least_single, norm="ortho"))
        loss = loss + frequency * spectrum.abs().mean()
    return loss
