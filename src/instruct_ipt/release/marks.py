"""A table that a command writes into a page, between two lines that say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError


@dataclass(frozen=True)
class Marks:
    """The lines before and after a table.

    Attributes:
        begin, end: HTML comments, which Markdown does not show.
    """

    begin: str
    end: str

    def fill(self, page: Path, table: str) -> None:
        """Replace what stands between the marks; nothing where the page is missing or has no place for the table.

        Args:
            page: Markdown.
            table: ends with a line break.

        Raises:
            InputError: the page has the first mark and not the second.
        """
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        before, begin, rest = text.partition(self.begin)
        if not begin:
            return
        _, end, after = rest.partition(self.end)
        if not end:
            raise InputError(
                f"{page}: the line `{self.end}` is missing after `{self.begin}`; put it where the table ends"
            )
        write_whole(page, f"{before}{self.begin}\n{table}{self.end}{after}".encode())
