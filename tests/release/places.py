"""A working directory with a small benchmark level and a release, as `ipt scores` finds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from instruct_ipt.modulation import save_release
from instruct_ipt.restoration.weights import describe_architecture
from tests.data.sets import small_catalogue
from tests.helpers import ROOT, smoke
from tests.restoration import nets

CARD = "# Card\n\nBefore.\n\n<!-- scores: written by `ipt scores --record` -->\n<!-- end of scores -->\n\nAfter.\n"


def make(folder: Path, dtype: torch.dtype | None = torch.float16) -> Path:
    """Catalogue, fetched images, params.yaml and `weights/` in ``folder``; returns the folder."""
    catalogue, mirror = small_catalogue(folder / "made")
    (folder / "data").mkdir()
    shutil.move(catalogue, folder / "data/catalogue")
    shutil.move(mirror, folder / "data/raw")
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    model, configuration = nets.tiny(), smoke().model_dump(mode="json")
    save_release(
        model,
        folder / "weights",
        degradation={task: configuration["degradation"][task] for task in model.tasks},
        architecture=describe_architecture(model.backbone),
        dtype=dtype,
    )
    nets.rainy_everywhere(folder / "weights/estimator")
    (folder / "weights/README.md").write_text(CARD, encoding="utf-8")
    return folder
