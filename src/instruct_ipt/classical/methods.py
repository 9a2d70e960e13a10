"""The methods, with the settings that validation chooses from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from typing import Any

from . import blur, haze, noise, streaks
from .choice import Method


def _grid(**values: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Every combination of the values."""
    return [dict(zip(values, found, strict=True)) for found in product(*values.values())]


def has_bm3d() -> bool:
    """Whether the package `bm3d` is installed; a folder of that name is no package."""
    found = find_spec("bm3d")
    return found is not None and found.origin is not None


def available() -> list[Method]:
    """The methods by task; BM3D is among them where the package `bm3d` is installed."""
    methods = [
        Method("non-local means", "denoise", noise.nl_means, _grid(strength=(0.2, 0.3, 0.4, 0.6, 0.8))),
        Method("wavelet", "denoise", noise.wavelet, _grid(wavelet=("db1", "db2", "sym4", "bior2.2"))),
        Method("total variation", "denoise", noise.total_variation, _grid(weight=(0.6, 0.9, 1.2, 1.6))),
        Method("Richardson-Lucy", "deblur", blur.lucy, _grid(width=(0.5, 0.7, 1.0, 1.5, 2.0), steps=(3, 10, 30))),
        Method("unsupervised Wiener", "deblur", blur.wiener, _grid(width=(0.4, 0.5, 0.7, 1.0, 1.5))),
        Method("opening", "derain", streaks.opened_across, _grid(width=(3, 5, 9, 15), limit=(0.1, 0.2, 0.4))),
        Method(
            "dark channel prior", "dehaze", haze.dark_channel_prior, _grid(removed=(0.2, 0.35, 0.5, 0.65, 0.8, 0.95))
        ),
        # Crops for validation show little of a haze: the share of its authors stands beside what is chosen there.
        Method("dark channel prior as published", "dehaze", haze.dark_channel_prior, _grid(removed=(0.95,))),
        Method("median", "desnow", streaks.median, _grid(size=(3, 5, 7, 9, 13, 17))),
        Method(
            "opening", "desnow", streaks.opened_across, _grid(width=(9, 15, 25, 41), limit=(0.2, 0.4, 0.6, 0.8, 1.0))
        ),
    ]
    if has_bm3d():
        methods.insert(3, Method("BM3D", "denoise", noise.bm3d))
    return methods
