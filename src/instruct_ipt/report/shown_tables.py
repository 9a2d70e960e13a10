"""The tables of `tables/` as the page shows them: their Markdown, with a number behind each cell to sort by."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from instruct_ipt.errors import InputError

COMMANDS: dict[str, str] = {
    "table01": "dvc repro ablations tables",
    "table02": "dvc repro sensitivity tables",
    "table03": "dvc repro rank ablations tables",
    **{f"table{number:02d}": "dvc repro evaluate tables" for number in (4, 5, 6, 7, 8, 10)},
    "table09": "dvc repro ablations tables",
    "table10b": "dvc repro instruction tables",
    "table10c": "dvc repro ablations tables",
    "table11": "dvc repro diffusion tables",
}
"""The command that makes a table again; of one that is not named here, `dvc repro tables`."""


def shown_tables(folder: Path) -> list[dict[str, Any]]:
    """Every ``table*.md`` of ``folder``, by number.

    Returns:
        Per table: ``name`` (of its files), ``title``, ``caption``, ``head`` (text), ``numeric`` (a bool per column),
        ``named`` (whether the first cell names its row), ``rows`` (cells with ``text`` and ``sort``), ``files`` (names
        that exist), ``command``.

    Raises:
        InputError: there is none, or one is not as `dvc repro tables` writes it.
    """
    files = sorted(folder.glob("table*.md"))
    if not files:
        raise InputError(f"{folder.as_posix()} holds no table; `dvc repro tables` makes them")
    return [_shown(file) for file in files]


def _shown(file: Path) -> dict[str, Any]:
    title, caption, head, numeric, rows = parse_markdown(file.read_text(encoding="utf-8"))
    beside = (file.with_suffix(suffix) for suffix in (".csv", ".tex", ".md"))
    return {
        "name": file.stem,
        "title": f"{title}. {_topic(caption)}",
        "caption": caption,
        "head": [_plain(cell) for cell in head],
        "numeric": numeric,
        "named": len({row[0] for row in rows}) == len(rows),
        "rows": [[_cell(cell) for cell in row] for row in rows],
        "files": [path.name for path in beside if path.is_file()],
        "command": COMMANDS.get(file.stem, "dvc repro tables"),
    }


def parse_markdown(text: str) -> tuple[str, str, list[str], list[bool], list[list[str]]]:
    """A table file as ``tables.write_table`` writes it.

    Returns:
        Title, caption, heading cells, whether each column holds numbers, body rows.

    Raises:
        InputError: the text is not such a file.
    """
    lines = text.splitlines() or [""]
    match = re.fullmatch(r"\*\*(.+?)\.\*\* (.*)", lines[0])
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    if match is None or len(cells) < 2:
        raise InputError("a table in tables/ is not as `dvc repro tables` writes it; run it again")
    return match[1], match[2], cells[0], [rule.endswith(":") for rule in cells[1]], cells[2:]


def _topic(caption: str) -> str:
    """What a caption begins with, for a heading: all before its first comma, colon, bracket or full stop."""
    return re.split(r"[,.:(]", caption, maxsplit=1)[0].strip()


def _plain(cell: str) -> str:
    """The text of a Markdown cell without its backslashes."""
    return re.sub(r"\\(.)", r"\1", cell)


def _cell(cell: str) -> dict[str, Any]:
    """Text of a cell with its mark, and the number to sort it by ('' for text)."""
    match = re.fullmatch(r"(\*\*|<u>)?(.*?)(\*\*|</u>)?", cell)
    assert match is not None, "every text matches"
    mark = {"**": "strong", "<u>": "u", None: ""}[match[1]]
    text = _plain(match[2])
    shown = Markup("<{0}>{1}</{0}>").format(mark, text) if mark else text
    return {"text": shown, "sort": _number(text)}


def _number(text: str) -> str:
    """The number that a cell holds, before its deviation or interval; '' for text."""
    match = re.fullmatch(r"(?:[rρ] = )?([-+−]?[\d,]+(?:\.\d+)?)(?: ?%)?(?: (?:±|\[).*)?", text)
    return match[1].replace(",", "").replace("−", "-") if match else ""
