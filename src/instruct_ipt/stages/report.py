"""`ipt report`: the one page that shows the whole study and opens from disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruct_ipt.paths import REPORT, RUNTIME, RUNTIME_PAGE
from instruct_ipt.report.page import write_page
from instruct_ipt.report.runtime import write_runtime

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `report/index.html`, and beside the outputs `logs/runtime.html`, which it links to."""
    # What this stage may see is what the page shows.
    params = {name: _plain(section) for name, section in vars(context.params).items() if name != "profile"}
    write_page(Path("."), context.out / REPORT / "index.html", params)
    # No output: it depends on the machine. `ipt runtime` writes it again, with this stage's own row.
    write_runtime(RUNTIME, RUNTIME_PAGE)


def _plain(section: Any) -> Any:
    return section.model_dump(mode="json") if hasattr(section, "model_dump") else section
