"""Pages of `docs/` with a block of figures that a benchmark writes, and the writing itself."""

from __future__ import annotations

from pathlib import Path

from instruct_ipt.disk import write_whole
from instruct_ipt.marks import Marks


def filled(text: str, command: str, block: str) -> str:
    """`text` with the block of figures that `command` writes replaced.

    Raises:
        ValueError: `text` has no place for it.
    """
    marks = Marks(f"<!-- measured: written by `{command}` -->", "<!-- /measured -->")
    page = marks.filled(text, f"{block}\n")
    if page is None:
        raise ValueError(f"the page lacks {marks.begin} and {marks.end}; put the two lines where the figures belong")
    return page


def write(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    write_whole(path, text.encode())
