"""How long a piece of work took, also where several processes worked on it one after the other."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from instruct_ipt.disk import write_whole


class Stopwatch:
    """Runs from now on; a process that was killed counts until its last checkpoint, for the rest is done again.

    When this process began is noted beside the checkpoints, for one that goes on after it.

    Args:
        checkpoints: folder of the work's checkpoints, which need not exist.

    Raises:
        OSError: the disk takes no file.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._note = checkpoints.with_name(f"{checkpoints.name}.begun")
        self._earlier = _earlier(self._note, checkpoints)
        self._begun = time.monotonic()
        write_whole(self._note, json.dumps({"earlier": self._earlier, "begun": time.time()}).encode())

    def seconds(self) -> float:
        """What all processes together have worked."""
        return self._earlier + time.monotonic() - self._begun

    def forget(self) -> None:
        """Remove the note: the work is done and its duration written down."""
        self._note.unlink(missing_ok=True)


def _earlier(note: Path, checkpoints: Path) -> float:
    """Seconds that are in the checkpoints."""
    # A name that begins with a dot is that of a file that was never whole.
    files = [path for path in checkpoints.rglob("*") if path.is_file() and not path.name.startswith(".")]
    try:
        said = json.loads(note.read_text(encoding="utf-8"))
        earlier, begun = float(said["earlier"]), float(said["begun"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0
    # Without a checkpoint the work begins anew, and so does its time.
    if not files or not math.isfinite(earlier + begun):
        return 0.0
    return earlier + max(0.0, max(path.stat().st_mtime for path in files) - begun)
