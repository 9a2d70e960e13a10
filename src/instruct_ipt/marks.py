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
        """Whether the page is there and has a place for the block.

        Raises:
            InputError: the place has a beginning and no end.
        """
        text = page.read_text(encoding="utf-8") if page.is_file() else ""
        if self.begin in text and self.filled(text, "") is None:
            raise self._broken(page)
        return self.begin in text

    def filled(self, text: str, block: str) -> str | None:
        """`text` with what stands between the lines replaced by `block`; None without the lines."""
        before, begin, rest = text.partition(self.begin)
        _, end, after = rest.partition(self.end)
        return before + self.around(block) + after if begin and end else None

    def fill(self, page: Path, block: str) -> None:
        """Replace what stands between the lines.

        Args:
            page: Markdown.
            block: ends with a line break.

        Raises:
            InputError: a line is missing.
        """
        text = self.filled(page.read_text(encoding="utf-8"), block)
        if text is None:
            raise self._broken(page)
        write_whole(page, text.encode())

    def _broken(self, page: Path) -> InputError:
        return InputError(
            f"{page} has no block between {self.begin} and {self.end}; put the two lines where the block belongs"
        )
