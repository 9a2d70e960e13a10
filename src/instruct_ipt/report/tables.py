"""All tables of the study, from result files."""

from __future__ import annotations

from pathlib import Path

from instruct_ipt.report.benchmark_tables import (
    DETAILS,
    detail,
    images_per_set,
    read_benchmark,
    read_images,
    snow_note,
    table04,
)
from instruct_ipt.report.diffusion_tables import table11
from instruct_ipt.report.figure2 import rank_budgets
from instruct_ipt.report.heatmaps import selected_groups
from instruct_ipt.report.study_tables import (
    read_cell_images,
    read_cells,
    table01,
    table02,
    table03,
    table09,
    table10,
    table10b,
    table10c,
)
from instruct_ipt.report.table import write_table

__all__ = ["images_per_set", "read_benchmark", "snow_note", "write_tables"]


def write_tables(root: Path, out_dir: Path, validation_images: int | None = None) -> None:
    """Write ``table01`` to ``table11``, ``table10b`` and ``table10c`` as ``.csv``, ``.md`` and ``.tex`` to ``out_dir``.

    Args:
        root: folder that holds `results/`, `ablations/` and `models/selection.json`. Of the ablation cells only those
            of the benchmark's profile are used.
        out_dir: folder to write to; it is made.
        validation_images: number of validation images per task, for the captions; None leaves it out.

    Raises:
        InputError: a file or a column is missing, or the benchmark mixes profiles.
    """
    results, ablations = root / "results", root / "ablations"
    scores = read_benchmark(results / "benchmark.csv")
    images = read_images(results / "per_image.csv", scores)
    profile = str(scores.profile.iloc[0])
    cells = read_cells(ablations / "summary.csv", profile)
    cell_images = read_cell_images(ablations / "per_image.csv", profile)
    size = f", n = {validation_images} images per task" if validation_images else ""
    seen = f"protocol {scores.protocol.iloc[0]}, validation split{size}; profile {profile}"
    tables = (
        table01(cells, cell_images, seen),
        table02(results / "sensitivity.csv", selected_groups(root / "models/selection.json"), seen),
        table03(rank_budgets(results / "rank_strategy.csv"), cells, cell_images, seen),
        table04(scores, images),
        *(detail(name, scores, images) for name in DETAILS),
        table09(cells, cell_images, seen),
        table10(results / "cost.csv", profile),
        table10b(results / "instruction.csv", profile),
        table10c(ablations / "instruction.csv", profile),
        table11(results / "diffusion.csv", results / "diffusion_per_image.csv"),
    )
    for table in tables:
        write_table(table, out_dir)
