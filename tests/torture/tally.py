"""What the harnesses did, kept in `docs/reliability.json` and shown in `docs/reliability.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.pages import filled, write

DOCS = Path(__file__).parents[2] / "docs"


class Tally:
    """What one harness counted while it ran.

    Args:
        title: what the harness does, in one sentence.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.counts: dict[str, int] = {}

    def add(self, what: str, number: int = 1) -> None:
        """Count ``number`` more of ``what`` ("kills", "images refused", ...)."""
        self.counts[what] = self.counts.get(what, 0) + number


def block(kept: Mapping[str, Any]) -> str:
    """The table of `docs/reliability.md`: one row per harness."""
    lines = ["| harness | counted | minutes |", "|---|---|---:|"]
    for name, row in kept.items():
        counts = ", ".join(f"{number:,} {what}" for what, number in row["counts"].items())
        variant = f" ({name.partition('[')[2].rstrip(']')})" if "[" in name else ""
        lines.append(f"| {row['title']}{variant} | {counts} | {row['seconds'] / 60:.1f} |")
    minutes = sum(row["seconds"] for row in kept.values()) / 60
    lines.append(f"\n`make torture`: {len(kept)} harnesses, {minutes:.0f} minutes together.")
    return "\n".join(lines)


def keep(found: Mapping[str, Any]) -> None:
    """Write the rows of a full run over those of earlier ones, and the table into the page."""
    file, page = DOCS / "reliability.json", DOCS / "reliability.md"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept = dict(sorted((before | dict(found)).items()))
    write(file, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
    write(page, filled(page.read_text(encoding="utf-8"), "make torture", block(kept)))


if __name__ == "__main__":
    keep({})
