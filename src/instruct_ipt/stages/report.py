"""`ipt report`: the one page that shows the whole study and opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from instruct_ipt.paths import REPORT, RESULTS
from instruct_ipt.report.page import summarise, write_page

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `report/index.html`."""
    (context.out / REPORT).mkdir(parents=True)
    write_page(Path("."), context.out / REPORT / "index.html", summarise(RESULTS / "benchmark.csv"))
