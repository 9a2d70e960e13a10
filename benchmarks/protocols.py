"""What each rule of a protocol amounts to, in dB, on the bundled colour photographs: writes docs/protocols.csv.

    python benchmarks/protocols.py

Each row changes one rule of a protocol and nothing else. Outputs of three kinds are scored, because the size of an
effect depends on the error: `coloured` and `grey` are the photograph with an error of standard deviation 3.6 / 255,
independent per channel or the same in all three; `restored` is what total-variation denoising makes of noise of
sigma 25. Takes one to three minutes on one core.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from skimage.restoration import denoise_tv_chambolle

from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.images import read_image, to_float
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.evaluation.protocol import PROTOCOLS, Protocol

TABLE = Path(__file__).parents[1] / "docs" / "protocols.csv"
SIGMAS = (15, 25, 50)  # noise levels in 1/255
RGB, Y = PROTOCOLS["rgb"], PROTOCOLS["y-limited"]
UNROUNDED_Y = replace(Y, output="none")

# effect -> the rules before and after
SCORING: dict[str, tuple[Protocol, Protocol]] = {
    "output rounded to 8 bits": (RGB, replace(RGB, output="round")),
    "crop to a multiple of 16 px": (RGB, replace(RGB, multiple=16)),
    "4 px of border cut": (RGB, replace(RGB, border=4)),
    "SSIM window Gaussian 11, not uniform 7": (RGB, replace(RGB, ssim="gaussian-11")),
    "luma 16..235 instead of RGB": (RGB, replace(RGB, colour="y")),
    "luma 0..255 instead of 16..235": (UNROUNDED_Y, replace(UNROUNDED_Y, luma_range=(0, 255))),
    "luma rounded to whole numbers": (Y, replace(Y, luma_bits=8)),
    "y-limited instead of rgb": (RGB, Y),
}
INPUTS: dict[str, tuple[Protocol, Protocol]] = {
    "noisy input clipped": (RGB, replace(RGB, noise_clip=True)),
    "noisy input clipped and truncated to 8 bits": (RGB, replace(RGB, noise_clip=True, noise_bits=8)),
}
COLUMNS = (
    "effect", "output", "images", "psnr", "psnr_change", "psnr_change_min", "psnr_change_max", "ssim", "ssim_change",
)  # fmt: skip


def noise(image: np.ndarray, name: str, sigma: float) -> np.ndarray:
    """``image`` with the noise that the pipeline gives it, unclipped."""
    return degrade_named("denoise", image, name, None, sigma)


def outputs(clean: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Kind of error -> an image with it, float32 (H, W, 3)."""
    coloured = noise(clean, name, 3.6)
    return {
        "coloured": coloured,
        "grey": clean + (coloured - clean)[..., :1],
        "restored": denoise_tv_chambolle(noise(clean, name, 25), weight=0.1, channel_axis=2).astype(np.float32),
    }


def score(protocol: Protocol, image: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM after the protocol's crop."""
    return protocol.score(*protocol.prepare(image, clean))


def input_score(protocol: Protocol, image: np.ndarray, clean: np.ndarray) -> tuple[float, float]:
    """PSNR of what the network receives, values outside [0, 1] counted as they are; no SSIM."""
    error = protocol.noisy(image).astype(np.float64) - clean
    return float(-10 * np.log10(np.mean(error**2))), float("nan")


Measured = Callable[[Protocol, np.ndarray, np.ndarray], tuple[float, float]]
Change = tuple[float, float, float, float]


def change(measure: Measured, rules: tuple[Protocol, Protocol], image: np.ndarray, clean: np.ndarray) -> Change:
    """PSNR, its change from the first rules to the second, SSIM, its change."""
    (psnr, ssim), (psnr_after, ssim_after) = (measure(protocol, image, clean) for protocol in rules)
    return psnr, psnr_after - psnr, ssim, ssim_after - ssim


def changes(photographs: dict[str, np.ndarray]) -> Iterator[tuple[str, str, list[Change]]]:
    """(effect, kind of output, the changes on each photograph)."""
    made = {name: outputs(clean, name) for name, clean in photographs.items()}
    for effect, rules in SCORING.items():
        for kind in ("coloured", "grey", "restored"):
            yield effect, kind, [change(score, rules, made[name][kind], clean) for name, clean in photographs.items()]
    for effect, rules in INPUTS.items():
        for sigma in SIGMAS:
            found = [change(input_score, rules, noise(c, name, sigma), c) for name, c in photographs.items()]
            yield effect, f"input, sigma {sigma}", found


def row(effect: str, kind: str, found: list[Change]) -> dict[str, str | int]:
    """One line of the table: means over the images, and the range of the change in PSNR."""
    psnr, change, ssim, ssim_change = np.array(found).T
    values = (psnr.mean(), change.mean(), change.min(), change.max(), ssim.mean(), ssim_change.mean())
    texts = ["" if np.isnan(v) else f"{v:z.{d}f}" for v, d in zip(values, (2, 3, 3, 3, 4, 4), strict=True)]
    return dict(zip(COLUMNS, [effect, kind, len(found), *texts], strict=True))


def main() -> None:
    """Measure and write the table."""
    photographs = {p.name: to_float(read_image(locate(p))) for p in BUNDLED if not p.grey}
    temporary = TABLE.with_name(f".{TABLE.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row(*found) for found in changes(photographs))
    os.replace(temporary, TABLE)


if __name__ == "__main__":
    main()
