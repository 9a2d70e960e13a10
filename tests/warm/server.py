"""The process that has imported everything and forks: `python -m tests.warm.server SOCKET`, until stdin is closed."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass

# Libraries only: the package itself is read anew by every child, from where its PYTHONPATH says.
LIBRARIES = (
    *("torch", "torch._dynamo", "torch.utils.data", "torch.utils.flop_counter", "torch.func", "safetensors.torch"),
    *("mlflow.tracking", "mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic"),
    *("pandas", "scipy.stats", "scipy.ndimage", "scipy.special", "scipy.optimize", "scipy.fft"),
    *("skimage.metrics", "skimage.restoration", "skimage.color", "skimage.transform", "sklearn.linear_model"),
    *("sklearn.isotonic", "sklearn.feature_extraction.text", "matplotlib.figure", "matplotlib.backends.backend_agg"),
    *("diffusers.models.unets.unet_2d", "diffusers.models.modeling_utils"),
    *("typer", "yaml", "pydantic", "rich.console", "rich.table", "rich.progress", "jinja2", "requests", "filelock"),
)
# Python and the libraries read these once, when they start; the search for modules is made again for each child.
ONCE = ("PYTHON", "LC_", "LANG", "CUDA_VISIBLE", "MPL", "MLFLOW_DISABLE")
AGAIN = ("PYTHONPATH",)
BEGUN = dict(os.environ)  # as it was before libraries set what they set


@dataclass
class Asker:
    """Who waits for a command: its connection, and the process forked for it."""

    connection: socket.socket
    child: int


def same_start(environment: dict[str, str]) -> bool:
    """Whether a Python that starts with this environment would be as this one is."""
    return _read_once(environment) == _read_once(BEGUN)


def _read_once(environment: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(ONCE) and key not in AGAIN}


def _child(command: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None  # it is found again, where the environment says
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    importlib.invalidate_caches()
    sys.argv = ["ipt", *command]
    sys.modules["__main__"].__package__ = None  # where the help finds the name of the program
    code = _run()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking so many modules down would take seconds


def _run() -> int:
    try:
        from instruct_ipt.cli import main

        main()
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else ended.code is not None
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _receive(connection: socket.socket) -> tuple[list[int], list]:
    """The files and the words of a command; OSError or ValueError where its asker is gone already."""
    head, files, *_ = socket.recv_fds(connection, 8, 3)
    length, asked = int.from_bytes(head, "big"), b""
    while len(asked) < length and (part := connection.recv(length - len(asked))):
        asked += part
    return list(files), json.loads(asked)


def _say(connection: socket.socket, number: int) -> None:
    # Who is gone in this moment is noticed by the next look at its connection.
    with contextlib.suppress(OSError):
        connection.sendall(f"{number}\n".encode())


class Server:
    """Forks for who connects, says how the child ended, and kills it where the asker is gone."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        try:
            files, (command, folder, environment) = _receive(connection)
        except (OSError, ValueError):
            connection.close()
            return
        if not same_start(environment):
            _say(connection, 0)
            child = 0
        else:
            child = os.fork()
            if not child:
                self._listener.close()
                connection.close()
                self._selector.close()
                _child(command, folder, environment, files)
        for file in files:
            os.close(file)
        if child:
            self._watch(Asker(connection, child))
        else:
            connection.close()

    def _watch(self, asker: Asker) -> None:
        _say(asker.connection, asker.child)
        handle = os.pidfd_open(asker.child)
        self._selector.register(handle, selectors.EVENT_READ, lambda: self._ended(asker, handle))
        self._selector.register(asker.connection, selectors.EVENT_READ, lambda: self._left(asker))

    def _left(self, asker: Asker) -> None:
        if asker.connection.fileno() < 0:  # closed: its command ended in the same moment
            return
        self._selector.unregister(asker.connection)
        os.kill(asker.child, signal.SIGKILL)

    def _ended(self, asker: Asker, handle: int) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(asker.child, 0)[1])
        self._selector.unregister(handle)
        os.close(handle)
        if asker.connection in self._selector.get_map():
            self._selector.unregister(asker.connection)
            _say(asker.connection, code)
        asker.connection.close()


def main() -> None:
    import torch

    # A process that has had several threads cannot be forked safely.
    torch.set_num_threads(1)
    for name in LIBRARIES:
        importlib.import_module(name)
    server = Server(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C at the tests ends them, and they this
    gc.freeze()  # what is there now stays: no child has to look through it, nor to copy its pages
    print("ready", flush=True)
    server.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
