"""The report on synthetic result files, for the tests that read it and for those that open it in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fixtures
import numpy as np
from PIL import Image

from instruct_ipt import params
from instruct_ipt.report.curves import figure_training
from instruct_ipt.report.page import write_page
from instruct_ipt.report.tables import write_tables
from instruct_ipt.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ("fig_training", "data_degradations")
# Two pictures per slider of restoration; of each filling what was given, the passes and the photograph.
PICTURES = 2 * len(TASKS) + len(fixtures.FILL_TASKS) * (fixtures.PASSES + 2) + len(FIGURES)


def plain_params(profile: str = "quick") -> dict[str, Any]:
    """Every section of the repository's parameters as plain values."""
    values = params.restrict(params.load(ROOT / "params.yaml", profile), params.SECTIONS)
    del values["profile"]
    return values


def write_prepared(folder: Path) -> None:
    """`data/prepared` as far as the page reads it: two photographs for tests, one for validation, five for training."""
    (folder / "train").mkdir(parents=True)
    train = [f"photo-{i},bundled,,clean" for i in range(3)] + [f"leaf-{i},leaves,,clean" for i in range(2)]
    scored = [
        f"{split},{task},bundled,{name},paired"
        for split, names in (("validation", ["c"]), ("test", ["a", "b"]))
        for task in ("denoise", "derain")
        for name in names
    ]
    (folder / "train/index.csv").write_text("\n".join(["name,dataset,task,kind", *train, ""]), encoding="utf-8")
    (folder / "index.csv").write_text("\n".join(["split,task,dataset,name,layout", *scored, ""]), encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps({"index.csv": "1", "train/index.csv": "2"}), encoding="utf-8")


def write_root(root: Path) -> Path:
    """Every file that the page shows below ``root``, then the page; returns ``root``."""
    fixtures.write_all(root)
    write_prepared(root / "data/prepared")
    figure_training(fixtures.histories(), root / "figures")
    # A bitmap without a drawing, too large to be embedded as it is.
    noise = np.random.default_rng(0).integers(0, 256, (700, 1400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "figures/data_degradations.png")
    write_tables(root, root / "tables")
    write_page(root, root / "report/index.html", plain_params())
    return root
