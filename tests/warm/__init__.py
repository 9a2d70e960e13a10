"""`ipt` without the seconds that importing takes: a process that has imported the libraries forks one for each command.

Half of what a smoke replication costs is `import torch` and `import mlflow`, a hundred times. In the environment that
:func:`environment_of` gives, `ipt` is a script (:mod:`tests.warm.client`) that asks a server (:mod:`tests.warm.server`)
for a child: of its own process, working directory, environment and open files, and with the sources of the package read
anew. Where that cannot stand for a new start of Python, as in another language, the script becomes the real `ipt`.

What differs: all libraries are imported already, and what they warned of then is not seen; all commands of a server
share its hash seed, and a seed that is given has a server of its own; the libraries compute with one thread, torch too
where `params.yaml` does not say how many; limits and umask are those of the server. Tests of such things, and those
that kill process groups, run the real program.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The environment in which libraries compute with one thread."""


def environment_of(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment ``given``, with the quick `ipt` first in its path; the real one where the system is not Linux."""
    if not hasattr(os, "pidfd_open"):
        return dict(given) | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"}
    folder = _begun(given.get("PYTHONHASHSEED", ""))
    return dict(given) | {
        "PATH": f"{folder}{os.pathsep}{given['PATH']}",
        "IPT_WARM_ADDRESS": str(folder / "socket"),
        "IPT_WARM_PYTHON": sys.executable,
    }


def ipt(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `ipt words` says and how it ends, in the working directory or another one."""
    quick = environment_of() | environment
    return subprocess.run(["ipt", *map(str, words)], cwd=cwd, env=quick, capture_output=True, text=True)


@functools.cache
def _begun(seed: str) -> Path:
    """The folder of the script and the server's socket; the server and what it runs end with this process.

    Args:
        seed: of Python's hashes, which is read when the server starts; empty where none is given.
    """
    # Not where TMPDIR says: the path of a socket has at most 107 bytes.
    folder = tempfile.TemporaryDirectory(prefix="warm-", dir="/tmp")
    path = Path(folder.name)
    script = path / "ipt"
    client = (Path(__file__).parent / "client.py").read_text(encoding="utf-8")
    script.write_text(f"#!{sys.executable} -IS\n{client}", encoding="utf-8")
    script.chmod(0o755)
    # As a file: the modules of the tests are not among those that a command finds imported.
    command = [sys.executable, Path(__file__).parent / "server.py", path / "socket"]
    pipe = subprocess.PIPE
    environment = os.environ | ONE_THREAD | ({"PYTHONHASHSEED": seed} if seed else {})
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin is not None and process.stdout is not None
    atexit.register(folder.cleanup)
    atexit.register(process.wait)
    atexit.register(process.stdin.close)  # runs first of the three, and ends the server
    assert process.stdout.readline() == "ready\n", "the server of tests.warm did not start"
    return path
