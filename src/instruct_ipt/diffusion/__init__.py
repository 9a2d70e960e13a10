"""The method on diffusion denoisers: one network fills in what is missing of a picture (docs/diffusion.md)."""

from __future__ import annotations

FILL_TASKS: tuple[str, ...] = ("inpaint", "outpaint", "upscale")
"""The tasks in the order of their biases. `upscale` (x4) knows no pixel exactly: it is the wide gap among them."""

METHODS: dict[str, str] = {
    "shared": "shared",
    "film": "synchronous",
    "frozen": "frozen",
    "synchronous": "synchronous",
    "experts": "experts",
}
"""Method -> how it is trained (`training.phases.phases_of`; experts need a network each)."""
