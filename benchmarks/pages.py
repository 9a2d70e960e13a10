"""Pages of `docs/` with a block of figures that a benchmark writes, and the writing itself."""

from __future__ import annotations

import os
from pathlib import Path

END = "<!-- /measured -->"


def filled(text: str, command: str, block: str) -> str:
    """`text` with the block of figures that `command` writes replaced."""
    start = f"<!-- measured: written by `{command}` -->"
    before, _, rest = text.partition(start)
    return f"{before}{start}\n{block}\n{END}{rest.partition(END)[2]}"


def write(path: Path, text: str) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
