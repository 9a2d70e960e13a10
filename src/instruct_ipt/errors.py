"""The one error that a person is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something a person gave is wrong: a file, a key, a value.

    The message is one line that says what is wrong, where, and what to do. The command line prints it and exits with
    code 2; every other exception is a defect of ours and keeps its traceback.
    """
