"""A table as a value, and the one writer that renders it as CSV, Markdown and LaTeX.

Which of the paper's tables holds what was not at hand; the numbering is our assumption, and each caption says so. The
paper's values were not at hand either: their column stays empty.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from instruct_ipt.report.intervals import Interval

PAPER = "Paper (not at hand)"
_MISSING = "–"
_HEAD_LETTERS = 14
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "σ": r"$\sigma$", "ρ": r"$\rho$", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
}  # fmt: skip
_TEX_MARKS = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
_MARKDOWN_MARKS = {"best": "**%s**", "second": "<u>%s</u>", "": "%s"}


@dataclass(frozen=True)
class Column:
    """How one column is shown.

    Attributes:
        key: column of the table's rows.
        title: its heading.
        digits: decimals of a number; or, with ``Table.within``, decimals by the value of that column. None for text.
        better: whether the best value is marked, and which end is best. None for what is not compared.
        spread: column that holds the standard deviation over seeds, shown as ``mean ± deviation`` where it is a number.
        interval: whether columns ``<key>_low`` and ``<key>_high`` hold its interval, shown as ``+1.20 [+0.90, +1.50]``.
    """

    key: str
    title: str
    digits: int | dict[str, int] | None = None
    better: Literal["higher", "lower"] | None = None
    spread: str | None = None
    interval: bool = False


@dataclass(frozen=True)
class Table:
    """A table to be written.

    Attributes:
        name: file name without suffix: `table`, two digits, perhaps a letter for a further part.
        caption: one paragraph of plain text.
        columns: what is shown, in order; the empty one for the paper's values comes after them.
        rows: the values; columns that are not shown are still in the CSV, but for those that start with `_`.
        within: column whose equal values compete for the marks; None = all rows compete.
        outside: positions of rows that take no part in the comparison (references).
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: pd.DataFrame
    within: str | None = None
    outside: tuple[int, ...] = ()

    @property
    def number(self) -> str:
        """``1`` of `table01`, ``10b`` of `table10b`."""
        return self.name.removeprefix("table").lstrip("0") or "0"


def interval_cells(key: str, interval: Interval) -> dict[str, float]:
    """The three cells of a column with an interval."""
    return {key: interval.effect, f"{key}_low": interval.low, f"{key}_high": interval.high}


def write_table(table: Table, out_dir: Path) -> None:
    """Write ``table`` as ``.csv`` (plain values), ``.md`` and ``.tex`` (booktabs) into ``out_dir``, which is made."""
    out_dir.mkdir(parents=True, exist_ok=True)
    table = replace(table, columns=(*table.columns, Column(PAPER, PAPER)), rows=table.rows.assign(**{PAPER: ""}))
    rows, marks = cells_of(table), marks_of(table)
    # Helper columns start with an underscore. An integer that shared a column with empty cells is a float by now; eight
    # significant digits write it as an integer again.
    plain = table.rows[[column for column in table.rows.columns if not column.startswith("_")]]
    plain.to_csv(out_dir / f"{table.name}.csv", index=False, float_format="%.8g", lineterminator="\n")
    (out_dir / f"{table.name}.md").write_text(_markdown(table, rows, marks), encoding="utf-8")
    (out_dir / f"{table.name}.tex").write_text(_latex(table, rows, marks), encoding="utf-8")


def cells_of(table: Table) -> list[list[str]]:
    """The text of every cell, without marks."""
    lines = []
    for row in table.rows.to_dict("records"):
        group = row[table.within] if table.within else ""
        lines.append([_cell(row, column, group) for column in table.columns])
    return lines


def marks_of(table: Table) -> list[list[str]]:
    """For every cell ``best``, ``second`` or nothing.

    Values are compared as they are printed, so that equal prints share a mark. A comparison needs two different values;
    ``second`` needs three rows, else it would mark every loser.
    """
    marks = [[""] * len(table.columns) for _ in range(len(table.rows))]
    competing = [i for i in range(len(table.rows)) if i not in table.outside]
    groups: dict[str, list[int]] = {}
    for index in competing:
        groups.setdefault(str(table.rows.iloc[index][table.within]) if table.within else "", []).append(index)
    for group, members in groups.items():
        for place, column in enumerate(table.columns):
            if column.better:
                for index, mark in _ranked(table.rows[column.key], members, column, group).items():
                    marks[index][place] = mark
    return marks


def _ranked(values: pd.Series, members: Sequence[int], column: Column, group: str) -> dict[int, str]:
    digits = _digits(column, group)
    shown = {i: round(float(values.iloc[i]), digits) for i in members if np.isfinite(values.iloc[i])}
    distinct = sorted(set(shown.values()), reverse=column.better == "higher")
    if len(distinct) < 2:
        return {}
    best = {i: "best" for i, value in shown.items() if value == distinct[0]}
    if len(shown) < 3:
        return best
    return best | {i: "second" for i, value in shown.items() if value == distinct[1]}


def _digits(column: Column, group: str) -> int:
    return column.digits[group] if isinstance(column.digits, dict) else column.digits or 0


def _cell(row: dict[str, object], column: Column, group: str) -> str:
    value = row[column.key]
    if column.digits is None:
        return str(value)
    if not np.isfinite(value):
        return _MISSING
    digits = _digits(column, str(group))
    spread = row[column.spread] if column.spread else np.nan
    low, high = (row[f"{column.key}_{end}"] if column.interval else np.nan for end in ("low", "high"))
    text = f"{value:,.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]" if np.isfinite(low) else text


def _markdown(table: Table, rows: list[list[str]], marks: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [_markdown_text(column.title) for column in table.columns]
    rule = ["---" if column.digits is None else "---:" for column in table.columns]
    body = [
        line([_MARKDOWN_MARKS[mark] % _markdown_text(cell) for cell, mark in zip(cells, marked, strict=True)])
        for cells, marked in zip(rows, marks, strict=True)
    ]
    return "\n".join([f"**Table {table.number}.** {table.caption}", "", line(head), line(rule), *body, ""])


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*_<>])", r"\\\1", text)


def _latex(table: Table, rows: list[list[str]], marks: list[list[str]]) -> str:
    spec = "".join("l" if column.digits is None else "r" for column in table.columns)
    head = " & ".join(_latex_head(column) for column in table.columns)
    lines = [
        "% Needs \\usepackage{booktabs,graphicx}.",
        "\\begin{table*}",
        "\\centering",
        "\\setlength{\\belowcaptionskip}{6pt}",
        "\\setlength{\\tabcolsep}{4pt}",
        f"\\caption{{{escape_latex(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        # Only what is wider than the page is made smaller.
        "\\resizebox{\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{spec}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
        *_latex_body(table, rows, marks),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{table*}",
        "",
    ]
    return "\n".join(lines)


def _latex_head(column: Column) -> str:
    """A heading on as many lines as keep its column narrow, which is what keeps a wide table readable."""
    lines = [escape_latex(line) for line in textwrap.wrap(column.title, _HEAD_LETTERS, break_long_words=False)]
    side = "l" if column.digits is None else "r"
    return lines[0] if len(lines) == 1 else f"\\shortstack[{side}]{{" + " \\\\ ".join(lines) + "}"


def _latex_body(table: Table, rows: list[list[str]], marks: list[list[str]]) -> list[str]:
    """The lines of the body; a rule between the groups that are compared."""
    groups = list(table.rows[table.within].astype(str)) if table.within else [""] * len(rows)
    lines = []
    for index, (cells, marked) in enumerate(zip(rows, marks, strict=True)):
        if index and groups[index] != groups[index - 1]:
            lines.append("\\midrule")
        # A hyphen before a number is a minus.
        signed = [c if k.digits is None else c.replace("-", "−") for c, k in zip(cells, table.columns, strict=True)]
        shown = [_TEX_MARKS[mark] % escape_latex(cell) for cell, mark in zip(signed, marked, strict=True)]
        lines.append(" & ".join(shown) + " \\\\")
    return lines


def escape_latex(text: str) -> str:
    """``text`` as LaTeX that prints it: special characters escaped, Greek and signs as mathematics."""
    return "".join(_TEX.get(character, character) for character in text)
