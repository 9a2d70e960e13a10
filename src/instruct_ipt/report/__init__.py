"""Figures, tables and the one-page report. Everything here is drawn from result files and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instruct_ipt.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from PIL.Image import Image


def read_result(
    source: pd.DataFrame | Path, name: str, text: Sequence[str], numbers: Sequence[str], rows: bool = True
) -> pd.DataFrame:
    """A result table with its columns checked; the rows keep the order of the file.

    Args:
        source: the table, or the CSV file that holds it.
        name: what to call a table in messages, for example ``results/benchmark.csv``; a file is called by its path.
        text: columns that are read as text.
        numbers: columns that are read as float64 or int64; an empty cell is NaN.
        rows: whether an empty table is an error.

    Raises:
        InputError: the file or a column is missing, a number is no number, or there are no rows.
    """
    import pandas as pd

    if isinstance(source, Path):
        name = source.as_posix()
        if not source.is_file():
            raise InputError(f"{name} does not exist; `dvc repro` makes it")
        source = pd.read_csv(source)
    for column in (*text, *numbers):
        if column not in source.columns:
            raise InputError(f"{name} has no column `{column}`; it has: {', '.join(map(str, source.columns))}")
    if rows and source.empty:
        raise InputError(f"{name} has no rows; run the stage that writes it again")
    table = source.copy()
    table[list(text)] = table[list(text)].astype(str)
    for column in numbers:
        try:
            # An empty text cell means "no value" (rule `full` has none), as it does after a round trip through CSV.
            table[column] = pd.to_numeric(table[column].replace("", None))
        except (ValueError, TypeError):
            raise InputError(f"{name}: column `{column}` holds something that is no number") from None
    return table.reset_index(drop=True)


def named_picture(path: Path, table: str, stage: str) -> Image:
    """A picture that a result file names, as RGB.

    Args:
        path: of its file.
        table, stage: which result file names it and which stage makes both, for the message.

    Raises:
        InputError: the file is missing.
    """
    from PIL import Image as images

    if not path.is_file():
        raise InputError(f"{path.as_posix()} does not exist though {table} names it; run `dvc repro {stage}`")
    with images.open(path) as opened:
        return opened.convert("RGB")


def in_order(found: Sequence[str], order: Sequence[str]) -> list[str]:
    """The distinct values of ``found``: known ones as in ``order``, then the others by first appearance."""
    distinct = list(dict.fromkeys(found))
    return [value for value in order if value in distinct] + [value for value in distinct if value not in order]
