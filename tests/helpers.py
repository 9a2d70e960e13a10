"""Small things that several tests need."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from instruct_ipt import params
from instruct_ipt.data.stream import PatchStream

ROOT = Path(__file__).resolve().parent.parent


def smoke() -> params.Params:
    """The repository's parameters at profile smoke."""
    return params.load(ROOT / "params.yaml", "smoke")


def put_params(folder: Path, profile: str = "smoke") -> None:
    """The repository's params.yaml in ``folder``, at ``profile``."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(text.replace("profile: quick", f"profile: {profile}", 1), encoding="utf-8")


def images(count: int = 2, size: int = 48, seed: int = 0) -> list[np.ndarray]:
    """Smooth colour images, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 6, 6, 3))
    return [np.kron(c, np.ones((size // 6, size // 6, 1))).__mul__(255).astype(np.uint8) for c in coarse]


def stream(seed: int = 0) -> PatchStream:
    """A stream of patches of :func:`images`."""
    return PatchStream(images(), smoke().degradation, seed)
