"""The one error that a person is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something a person gave is wrong: a file, a key, a value.

    The message is one line that says what is wrong, where, and what to do. The command line prints it and exits with
    code 2; every other exception is a defect of ours and keeps its traceback.

    Args:
        message: may quote what a stranger wrote: line breaks become spaces, and what cannot be printed is escaped.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(message.split())
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))
