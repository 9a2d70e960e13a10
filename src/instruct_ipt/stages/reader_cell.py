"""`ipt cell instruction ...`: a reader of instructions made with something changed, measured on held-out phrasings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from instruct_ipt.instruction.fitting import fit
from instruct_ipt.instruction.scoring import COLUMNS, write
from instruct_ipt.provenance import write_json
from instruct_ipt.stages.instruction import held_out_figures


def run(settings: Any, facts: dict[str, Any], out: Path) -> None:
    """Make one reader; write ``metrics.json`` and ``figures.csv`` (as `results/instruction.csv`) into ``out``.

    Args:
        settings: the `instruction` section with what the setting changes in it.
        facts: ``study``, ``setting``, ``seed``; the seed is that of the corpus.
        out: folder; it exists and is empty.
    """
    rows = held_out_figures(*fit(settings, facts["seed"]))
    write(rows, out / "figures.csv", ("split", *COLUMNS))
    test = {
        row["metric"]: round(float(row["value"]), 6) for row in rows if (row["split"], row["of"]) == ("test", "all")
    }
    write_json(out / "metrics.json", facts | {"test": test})
