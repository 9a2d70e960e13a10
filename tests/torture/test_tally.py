"""The table of `docs/reliability.md` is what the kept counts say."""

from __future__ import annotations

import json

from .tally import DOCS, Tally, block


def test_the_table_stands_as_the_counts_have_it():
    page = (DOCS / "reliability.md").read_text(encoding="utf-8")
    kept = json.loads((DOCS / "reliability.json").read_text(encoding="utf-8"))
    assert kept and block(kept) in page


def test_counts_add_up_and_are_shown():
    tally = Tally("Kill it")
    tally.add("kills")
    tally.add("kills", 1200)
    assert tally.counts == {"kills": 1201}
    shown = block({"a[full]": {"title": tally.title, "seconds": 90.0, "counts": tally.counts}})
    assert "| Kill it (full) | 1,201 kills | 1.5 |" in shown and "1 harnesses, 2 minutes" in shown
