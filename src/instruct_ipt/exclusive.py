"""One process at a time: what makes a stage or a cell holds a lock that ends with the process, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from instruct_ipt.errors import InputError
from instruct_ipt.paths import SCRATCH


@contextmanager
def alone(name: str, what: str) -> Iterator[None]:
    """Hold the lock ``name`` of this repository for the length of the context.

    The system takes the lock away when the process ends, be it by SIGKILL: nothing stale is left to be removed.

    Args:
        name: of the lock, a file name.
        what: what is being made, for the message.

    Raises:
        InputError: another process holds it; the line says which.
    """
    from filelock import FileLock, Timeout

    folder = SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{name}.pid"
    try:
        with FileLock(folder / f"{name}.lock", timeout=0):
            holder.write_text(str(os.getpid()), encoding="utf-8")
            yield
    except Timeout:
        who = "another process"
        with suppress(OSError):
            who = f"process {holder.read_text(encoding='utf-8')}"
        raise InputError(
            f"{what} is being made by {who} right now; wait until it is done, or stop it, then start again"
        ) from None
