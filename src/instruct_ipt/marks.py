"""A block that a command writes into a page, between two lines that say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError


@dataclass(frozen=True)
class Marks:
    """The lines before and after a block.

    Attributes:
        begin, end: HTML comments, which Markdown does not show.
    """

    begin: str
    end: str

    def around(self, block: str) -> str:
        """The block as it stands in a page, with both lines; `block` ends with a line break."""
        return f"{self.begin}\n{block}{self.end}"

    def in_page(self, page: Path) -> bool:
        """Whether the page is there and has a place for the block."""
        return page.is_file() and self.begin in page.read_text(encoding="utf-8")

    def fill(self, page: Path, block: str) -> None:
        """Replace what stands between the lines.

        Args:
            page: Markdown.
            block: ends with a line break.

        Raises:
            InputError: a line is missing.
        """
        before, begin, rest = page.read_text(encoding="utf-8").partition(self.begin)
        _, end, after = rest.partition(self.end)
        if not (begin and end):
            raise InputError(
                f"{page} has no block between {self.begin} and {self.end}; put the two lines where the block belongs"
            )
        write_whole(page, (before + self.around(block) + after).encode())
