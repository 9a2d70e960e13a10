"""`ipt` without the seconds that importing takes: a process that has imported the libraries forks one for each command.

Half of what a smoke replication costs is `import torch` and `import mlflow`, a hundred times. Where
:func:`environment_of` holds, `ipt` is a script (:mod:`tests.warm.client`) that asks a server (:mod:`tests.warm.server`)
for a child: of its own process, working directory, environment and open files, and with the sources of the package
read anew. Where that cannot stand for a new start of Python, as with another hash seed, the script becomes the real
`ipt`. The libraries compute with one thread, whatever the environment says; torch with as many as `params.yaml` says.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def environment_of(given: dict[str, str]) -> dict[str, str]:
    """The environment ``given``, with the quick `ipt` first in its path; the real one where the system is not Linux."""
    if not hasattr(os, "pidfd_open"):
        return given | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{given['PATH']}"}
    folder = _begun()
    return given | {
        "PATH": f"{folder}{os.pathsep}{given['PATH']}",
        "IPT_WARM_ADDRESS": str(folder / "socket"),
        "IPT_WARM_PYTHON": sys.executable,
    }


def ipt(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `ipt words` says and how it ends, in the working directory or another one."""
    quick = environment_of(dict(os.environ)) | environment
    return subprocess.run(["ipt", *map(str, words)], cwd=cwd, env=quick, capture_output=True, text=True)


@functools.cache
def _begun() -> Path:
    """The folder of the script and the server's socket; the server ends with this process."""
    # Not where TMPDIR says: the path of a socket has at most 107 bytes.
    folder = tempfile.TemporaryDirectory(prefix="warm-", dir="/tmp")
    path = Path(folder.name)
    script = path / "ipt"
    client = (Path(__file__).parent / "client.py").read_text(encoding="utf-8")
    script.write_text(f"#!{sys.executable} -IS\n{client}", encoding="utf-8")
    script.chmod(0o755)
    command = [sys.executable, "-m", "tests.warm.server", str(path / "socket")]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | _ONE, stdin=pipe, stdout=pipe, text=True)
    assert process.stdin is not None and process.stdout is not None
    atexit.register(folder.cleanup)
    atexit.register(process.wait)
    atexit.register(process.stdin.close)  # runs first of the three, and ends the server
    assert process.stdout.readline() == "ready\n", "the server of tests.warm did not start"
    return path
