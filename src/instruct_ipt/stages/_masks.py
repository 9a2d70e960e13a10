"""The masks that the contact sheet shows: every kind on windows of test photographs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from instruct_ipt.data.images import to_bytes, to_float
from instruct_ipt.diffusion.masks import MASKS, mask
from instruct_ipt.diffusion.windows import window

_COLUMNS = 6


def shown_masks(
    photographs: Sequence[tuple[str, np.ndarray]], diffusion: Any
) -> tuple[list[tuple[str, np.ndarray]], dict[str, list[np.ndarray]]]:
    """Six windows, and for each kind of mask one per window; the missing share grows from left to right.

    Args:
        photographs: (name, float32 (H, W, 3) in [0, 1]).
        diffusion: section of the parameters.
    """
    pictures = []
    for number in range(_COLUMNS):
        name, picture = photographs[number % len(photographs)]
        rng = np.random.default_rng([number, *name.encode()])
        pictures.append((name, to_float(window(to_bytes(picture), rng, diffusion.size))))
    shares = diffusion.share.model_dump()
    found = {}
    for task, kinds in MASKS.items():
        low, high = shares[task]
        for kind in kinds:
            wanted = np.linspace(low, high, _COLUMNS)
            found[f"{task}: {kind}"] = [
                mask(task, np.random.default_rng([n, *kind.encode()]), (diffusion.size,) * 2, (share, share), kind)
                for n, share in enumerate(wanted)
            ]
    return pictures, found
