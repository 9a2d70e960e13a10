"""The frozen rules of a benchmark. A number without its protocol means nothing, so the name stands beside each one.

What every protocol here shares: noise is seeded by the image's name (``degrade_named``), never by its place in a list;
an output is clipped to [0, 1]; PSNR and SSIM are computed in float64, image by image, and then averaged; SSIM is
averaged over the positions where its window fits. What each rule amounts to in dB is measured in docs/protocols.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from instruct_ipt.errors import InputError
from instruct_ipt.provenance import digest

# Weights of gamma-encoded R, G, B in luma (ITU-R BT.601). Times 219 they are MATLAB's 65.481, 128.553 and 24.966.
_BT601 = np.array([0.299, 0.587, 0.114])

# Arguments of scikit-image's structural_similarity: its own default, and the window of Wang et al. (IEEE TIP 2004).
_SSIM: dict[str, dict[str, Any]] = {
    "uniform-7": {"win_size": 7, "use_sample_covariance": True},
    "gaussian-11": {"win_size": 11, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
}

# The rules of this module that no field states. They count in the digest: change the code, change the words.
_SHARED = {
    "noise_seed": "sha256 of seed 0, task, image name and level",
    "crop": "centred, before restoration",
    "clip": "output to [0, 1]",
    "ssim_region": "where the window fits",
    "arithmetic": "float64",
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a test image is made noisy, cropped and scored.

    Attributes:
        name: the name that stands beside every number.
        noise_clip: whether a noisy input is clipped to [0, 1].
        noise_bits: bits that a noisy input is truncated to (the fraction is cut off, not rounded); None: not at all.
        multiple: input and target are cropped, centred, to a multiple of this many px before restoration; 1: not.
        output: ``round`` scores output and target as 8-bit files would hold them, ``none`` as they are.
        colour: ``rgb`` in [0, 1], or ``y``, luma on the scale 0..255.
        luma_range: luma of black and of white, on that scale; for ``y`` only.
        luma_bits: 8 rounds luma to whole numbers, None does not; for ``y`` only.
        border: px cut from each side before scoring.
        max_shift: px that the output may lie beside the target, at most ``border``: the best of all shifts by quarters
            of a px is scored, the output interpolated bilinearly; 0: none.
        ssim: window of SSIM: ``uniform-7`` (7x7, sample covariance) or ``gaussian-11`` (11x11, sigma 1.5, population
            covariance).
        description: one sentence for captions.
    """

    name: str
    noise_clip: bool
    noise_bits: Literal[8] | None
    multiple: int = 1
    output: Literal["none", "round"]
    colour: Literal["rgb", "y"]
    luma_range: tuple[int, int] = (16, 235)
    luma_bits: Literal[8] | None = None
    border: int = 0
    max_shift: int = 0
    ssim: Literal["uniform-7", "gaussian-11"]
    description: str

    @property
    def data_range(self) -> float:
        """The peak of PSNR and the L of SSIM: 1 for ``rgb``, 255 for ``y``, whatever the range of luma."""
        return 1.0 if self.colour == "rgb" else 255.0

    @property
    def input_rule(self) -> tuple[Any, ...]:
        """What decides the networks' input: protocols that agree in it can share one restoration."""
        return (self.noise_clip, self.noise_bits, self.multiple)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of all rules, the shared ones too; the wording of the description does not count."""
        rules = dataclasses.asdict(self) | _SHARED | {"data_range": self.data_range, "ssim_arguments": _SSIM[self.ssim]}
        del rules["description"]
        if not self.max_shift:  # a rule that came later: the others keep their digest
            del rules["max_shift"]
        return digest(rules)

    def noisy(self, image: np.ndarray) -> np.ndarray:
        """A noisy image, float32 (H, W, 3) of any range, as this protocol hands it to a network."""
        if self.noise_clip:
            image = np.clip(image, 0.0, 1.0)
        if self.noise_bits:
            levels = 2**self.noise_bits - 1
            image = np.floor(image * levels) / levels
        return image

    def prepare(self, given: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Input and target (H, W, 3), both cropped to the same window; an odd remainder loses more at bottom and right.

        Raises:
            InputError: the image is smaller than the multiple.
        """
        height, width = target.shape[:2]
        if min(height, width) < self.multiple:
            raise InputError(
                f"protocol {self.name} crops to multiples of {self.multiple} px and an image is {width} x {height}; "
                "leave that image out, or the protocol (`evaluation.protocols` in params.yaml)"
            )
        top, left = height % self.multiple // 2, width % self.multiple // 2
        high, wide = height // self.multiple * self.multiple, width // self.multiple * self.multiple
        window = np.s_[top : top + high, left : left + wide]
        return given[window], target[window]

    def score(self, output: np.ndarray, target: np.ndarray) -> tuple[float, float]:
        """PSNR in dB and SSIM of ``output`` against ``target``, by scikit-image.

        Args:
            output: float (H, W, 3), or grey as (H, W) or (H, W, 1); values outside [0, 1] are clipped.
            target: the same shape, in [0, 1].

        Returns:
            PSNR (infinite when equal) and SSIM (Wang et al. 2004; for ``rgb`` the mean over channels).

        Raises:
            InputError: the image, less its border, is smaller than the window of SSIM.
        """
        from skimage.metrics import peak_signal_noise_ratio, structural_similarity

        truth, shown = self._compared(target, self.border), self._compared(output, self.border - self.max_shift)
        side = _SSIM[self.ssim]["win_size"]
        if min(truth.shape[:2]) < side:
            raise InputError(
                f"protocol {self.name} takes SSIM in windows of {side} x {side} px, border {self.border}, and an image "
                f"is {target.shape[1]} x {target.shape[0]}; leave that image out, or give a larger one"
            )
        if self.max_shift:
            shown = nearest_shift(shown, truth)
        axis = 2 if self.colour == "rgb" else None
        with np.errstate(divide="ignore"):  # equal images: infinite, as documented
            psnr = peak_signal_noise_ratio(truth, shown, data_range=self.data_range)
        ssim = structural_similarity(truth, shown, data_range=self.data_range, channel_axis=axis, **_SSIM[self.ssim])
        return float(psnr), float(ssim)

    def _compared(self, image: np.ndarray, border: int) -> np.ndarray:
        """What is compared, less a border: float64, (H, W, 3) in [0, 1] for ``rgb``, (H, W) in 0..255 for ``y``."""
        image = _as_rgb(image)
        height, width = image.shape[:2]
        inner = image[border : height - border, border : width - border]
        values = np.clip(inner.astype(np.float64), 0.0, 1.0)
        if self.output == "round":
            values = np.rint(values * 255.0) / 255.0
        if self.colour == "rgb":
            return values
        y = luma(values, *self.luma_range)
        return np.rint(y) if self.luma_bits else y


# Phases of a shift within one px, per axis.
_PHASES = 4


def nearest_shift(wide: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The window of ``wide`` that is nearest to ``target`` in the mean square, over all shifts by quarters of a px.

    Between whole px ``wide`` is interpolated bilinearly. Levin et al. (CVPR 2009) score so, because blind deconvolution
    leaves open where an image lies; with the border they cut, 15 px, and the shift they allow, 5 px.

    Args:
        wide: float64 (H + 2 n, W + 2 n) or (H + 2 n, W + 2 n, C), the target's place with n px around it.
        target: float64 (H, W) or (H, W, C).

    Returns:
        float64 of the target's shape.
    """
    height, width = target.shape[:2]
    found = []
    for down, right in product(range(_PHASES), repeat=2):
        moved = _between(_between(wide, down / _PHASES, 0), right / _PHASES, 1)
        errors = _squared_errors(moved, target)
        top, left = np.unravel_index(errors.argmin(), errors.shape)
        found.append((errors[top, left], moved[top : top + height, left : left + width]))
    return min(found, key=lambda item: item[0])[1]


def _between(image: np.ndarray, part: float, axis: int) -> np.ndarray:
    """The image ``part`` of a px further along an axis, one px shorter there; as it is for 0."""
    if not part:
        return image
    first, second = (np.take(image, range(k, image.shape[axis] - 1 + k), axis) for k in (0, 1))
    return (1.0 - part) * first + part * second


def _squared_errors(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Sum of squared differences between the target and each window of its size; float64."""
    from scipy.signal import correlate

    planes = [(part[..., None] if part.ndim == 2 else part) for part in (image, target)]
    errors: np.ndarray | float = 0.0
    for seen, truth in zip(*(np.moveaxis(part, 2, 0) for part in planes), strict=True):
        squares = correlate(seen**2, np.ones_like(truth), mode="valid", method="fft")
        errors = errors + squares - 2.0 * correlate(seen, truth, mode="valid", method="fft") + np.sum(truth**2)
    return np.asarray(errors)


def luma(image: np.ndarray, black: float = 16.0, white: float = 235.0) -> np.ndarray:
    """Luma Y of gamma-encoded RGB (ITU-R BT.601): float64 (H, W, 3) in [0, 1] -> (H, W) in [black, white].

    With the limited range 16..235 it is Y of MATLAB's and scikit-image's ``rgb2ycbcr``, not rounded.
    """
    return black + (white - black) * (image @ _BT601)


def _as_rgb(image: np.ndarray) -> np.ndarray:
    """(H, W) and (H, W, 1) replicated to (H, W, 3); RGB as it is."""
    image = image[..., None] if image.ndim == 2 else image
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


_RGB = Protocol(
    name="rgb",
    noise_clip=False,
    noise_bits=None,
    output="none",
    colour="rgb",
    ssim="uniform-7",
    description=(
        "PSNR and SSIM on RGB in [0, 1] (scikit-image, 7x7 uniform SSIM window), no border crop, output clipped "
        "and not quantised, Gaussian noise not clipped and seeded by image name"
    ),
)

# The all-in-one papers' rules, after the public evaluation code of PromptIR (va1shn9v/PromptIR: test.py,
# utils/val_utils.py, utils/dataset_utils.py, utils/image_utils.py). Ours differs: there one global seed runs through
# the files in the order that the file system lists them, and scores are computed in float32.
_RGB_CROP16 = dataclasses.replace(
    _RGB,
    name="rgb-crop16",
    noise_clip=True,
    noise_bits=8,
    multiple=16,
    description=(
        "PSNR and SSIM on RGB in [0, 1] (scikit-image, 7x7 uniform SSIM window), images cropped to multiples of 16 px "
        "before restoration, output clipped and not quantised, noisy input clipped and truncated to 8 bits, noise "
        "seeded by image name"
    ),
)

# The deraining papers' rules, after the public evaluation code of Restormer (swz30/Restormer: Deraining/test.py saves
# 8-bit files, Deraining/evaluate_PSNR_SSIM.m scores them) and of BasicSR (XPixelGroup/BasicSR: basicsr/metrics). The
# two differ: MATLAB's rgb2ycbcr rounds the luma of an 8-bit image to whole numbers, BasicSR does not. Ours does not,
# `luma_bits=8` does. MATLAB takes a one-channel file as luma as it is; ours replicates grey to RGB first.
_Y_LIMITED = dataclasses.replace(
    _RGB,
    name="y-limited",
    output="round",
    colour="y",
    ssim="gaussian-11",
    description=(
        "PSNR (peak 255) and SSIM (11x11 Gaussian window, sigma 1.5, where it fits) on BT.601 luma in the limited "
        "range 16 to 235, no border crop, output rounded to 8 bits, Gaussian noise not clipped and seeded by image name"
    ),
)

# The rules of Levin et al. (CVPR 2009), after their public `comp_upto_shift.m`, on the PSNR of `rgb`: what a blind
# deconvolution returns may lie beside the truth, and the photographs of that set do from the start, by up to 5 px.
_RGB_SHIFT = dataclasses.replace(
    _RGB,
    name="rgb-shift",
    border=15,
    max_shift=5,
    description=(
        "PSNR and SSIM on RGB in [0, 1] (scikit-image, 7x7 uniform SSIM window), 15 px of border cut, after the best "
        "shift by at most 5 px in quarters of a px, output clipped and not quantised"
    ),
)

PROTOCOLS: dict[str, Protocol] = {protocol.name: protocol for protocol in (_RGB, _RGB_CROP16, _RGB_SHIFT, _Y_LIMITED)}
# Set -> the protocol its published scores follow, which is computed beside those that are asked for.
OF_SET: Mapping[str, str] = MappingProxyType({"Levin09": _RGB_SHIFT.name})


def first_protocol(dataset: str) -> str:
    """The name of the protocol that tables show of a set."""
    return OF_SET.get(dataset, _RGB.name)


def psnr(output: np.ndarray, target: np.ndarray) -> float:
    """PSNR in dB of one image (H, W, 3) as protocol `rgb` scores it, without the cost of SSIM."""
    error = np.mean((np.clip(output, 0.0, 1.0).astype(np.float64) - target) ** 2)
    return float(-10.0 * np.log10(max(error, 1e-12)))
