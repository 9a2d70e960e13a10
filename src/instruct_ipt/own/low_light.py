"""A sixth degradation, the worked example of docs/own-task.md: too little light, then a small JPEG."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

STOPS = (2.0, 3.0)
"""By how many stops (halvings of the light) an image is darker."""
ELECTRONS = 2000.0
"""That a pixel collects at full light and value 1; shot noise follows from it."""
READ_NOISE = 4.0
"""Standard deviation of the sensor's own noise, in electrons."""
QUALITY = (30, 70)
"""Of the JPEG."""
_GAMMA = 2.2


def low_light(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A dark, noisy, compressed version of an image.

    The light is cut in linear values, electrons are counted (Poisson) and read (Gaussian), the display curve is put
    back without brightening, and the result is stored as a JPEG with halved colour resolution.

    Args:
        image: float32 (H, W, 3) in [0, 1].
        rng: source of every random number.

    Returns:
        float32 (H, W, 3) in [0, 1].
    """
    light = image.astype(np.float64) ** _GAMMA * 2.0 ** -rng.uniform(*STOPS)
    electrons = rng.poisson(light * ELECTRONS) + READ_NOISE * rng.standard_normal(image.shape)
    shown = np.clip(electrons / ELECTRONS, 0.0, 1.0) ** (1 / _GAMMA)
    file = io.BytesIO()
    stored = Image.fromarray(np.rint(shown * 255.0).astype(np.uint8))
    stored.save(file, format="JPEG", quality=int(rng.integers(QUALITY[0], QUALITY[1] + 1)), subsampling="4:2:0")
    return np.asarray(Image.open(file), np.float32) / np.float32(255.0)
