"""`ipt tables`: every table, as CSV, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instruct_ipt.paths import TABLES
from instruct_ipt.report.tables import write_tables

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `tables`."""
    data = context.params.data
    # At level bundled `prepare` writes as many procedural crops as photographic ones; else it depends on the task.
    validation_images = 2 * data.validation_crops if data.level == "bundled" and not data.custom else None
    write_tables(Path(), context.out / TABLES, validation_images)
