"""The training loss."""

from __future__ import annotations

import torch
from torch import Tensor

# Keeps the logarithm from caring for what nobody sees: an error of two grey levels. Without it the samples that are
# nearly perfect from the start take over, and the network learns to leave everything as it is.
_LEAST = (2 / 255) ** 2


def restoration_loss(output: Tensor, target: Tensor, l1: float, frequency: float, psnr: float = 0.0) -> Tensor:
    """``l1`` * mean |output - target| + ``frequency`` * mean |F(output) - F(target)| + ``psnr`` * mean log MSE.

    F is the orthonormal 2-D real FFT per channel; the absolute value is taken of real and imaginary part. The frequency
    term follows MIMO-UNet (Cho et al., ICCV 2021) and is common in deblurring.

    The last term is the natural logarithm of each sample's mean squared error, the negative of its PSNR up to a factor
    (the loss of HINet, Chen et al., CVPRW 2021, and of NAFNet, Chen et al., ECCV 2022): a dB lost on a nearly sharp
    image weighs as much as one on a blurred image, of which the other terms take no notice.

    Args:
        output, target: float (N, 3, H, W).
        l1, frequency, psnr: weights >= 0.

    Returns:
        Scalar.
    """
    # F is linear: one transform of the difference instead of two transforms.
    difference = output - target
    loss = l1 * difference.abs().mean()
    if frequency or psnr:
        # There is no transform in half precision, and no room for a squared error.
        difference = difference.to(torch.promote_types(difference.dtype, torch.float32))
    if frequency:
        spectrum = torch.view_as_real(torch.fft.rfft2(difference, norm="ortho"))
        loss = loss + frequency * spectrum.abs().mean()
    if psnr:
        loss = loss + psnr * (difference.square().mean(dim=(1, 2, 3)) + _LEAST).log().mean()
    return loss
