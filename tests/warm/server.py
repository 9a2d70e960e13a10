"""The process that has imported everything and forks: `python server.py SOCKET`, until stdin is closed."""

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
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

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
# Of what Python and the libraries read when they start, that which tests set. Each child looks for modules again.
ONCE = ("PYTHON", "LC_", "LANG", "CUDA_VISIBLE", "MPL", "MLFLOW_DISABLE")
AGAIN = ("PYTHONPATH",)
BEGUN = dict(os.environ)  # as it was before libraries set what they set
_PATIENCE = 3.0  # seconds that an asker may take for its question; the others wait as long


@dataclass
class Asker:
    """Who waits for a command: its connection, the process forked for it, and what tells of the end of that process."""

    connection: socket.socket
    child: int
    handle: int


def same_start(environment: dict[str, str]) -> bool:
    """Whether a Python that starts with this environment would be as this one is."""
    return _read_once(environment) == _read_once(BEGUN)


def _read_once(environment: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key.startswith(ONCE) and key not in AGAIN}


def _child(command: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    tempfile.tempdir = None  # it is found again, where the environment says
    _search_modules_in(environment.get("PYTHONPATH", ""))
    _reseed()
    sys.argv = ["ipt", *command]
    end_with(_ipt)


def _ipt() -> None:
    from instruct_ipt.cli import main

    main()


def _search_modules_in(path: str) -> None:
    """Look for modules where an `ipt` with this PYTHONPATH does: not beside this file, nor by the PYTHONPATH of now."""
    own = {os.path.dirname(os.path.abspath(__file__)), *BEGUN.get("PYTHONPATH", "").split(os.pathsep)}
    sys.path[:] = [*filter(None, path.split(os.pathsep)), *(place for place in sys.path if place not in own)]
    importlib.invalidate_caches()


def _reseed() -> None:
    """Give numpy's old global generator, which a fork copies, a state of its own; Python does so for `random`."""
    import numpy as np

    np.random.seed()


def end_with(main: Callable[[], None]) -> NoReturn:
    """Run ``main`` and end this forked process as Python would, but without taking its many modules down."""
    code = _code_of(main)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code_of(main: Callable[[], None]) -> int:
    """The exit code of ``main``; ends this process itself where Python would end by a signal."""
    try:
        main()
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            print(ended.code, file=sys.stderr)
        return ended.code if isinstance(ended.code, int) else ended.code is not None
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


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
        self._askers: dict[int, Asker] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(sys.stdin, selectors.EVENT_READ, None)

    def serve(self) -> None:
        """Until stdin is closed; then what runs is killed."""
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    for asker in self._askers.values():
                        os.kill(asker.child, signal.SIGKILL)
                    return
                key.data()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(_PATIENCE)
        files: list[int] = []
        try:
            head, files, *_ = socket.recv_fds(connection, 8, 3)
            command, folder, environment = _read(connection, int.from_bytes(head, "big"))
            self._fork(connection, command, folder, environment, list(files))
        except (OSError, ValueError):  # the asker is gone, or says nothing
            connection.close()
        finally:
            for file in files:
                os.close(file)

    def _fork(
        self, connection: socket.socket, command: list[str], folder: str, environment: dict[str, str], files: list[int]
    ) -> None:
        if not same_start(environment):
            _say(connection, 0)
            connection.close()
            return
        child = os.fork()
        if not child:
            try:
                self._forget(connection)
                _child(command, folder, environment, files)
            finally:  # a child that failed must not go on as a second server
                traceback.print_exc()
                os._exit(1)
        asker = Asker(connection, child, os.pidfd_open(child))
        self._askers[child] = asker
        _say(connection, child)
        self._selector.register(asker.handle, selectors.EVENT_READ, lambda: self._ended(asker))
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._left(asker))

    def _forget(self, connection: socket.socket) -> None:
        """Close, in a child, what belongs to the server and to other askers: they have to see each other's end."""
        self._selector.close()
        self._listener.close()
        connection.close()
        for asker in self._askers.values():
            asker.connection.close()
            os.close(asker.handle)

    def _left(self, asker: Asker) -> None:
        if asker.connection.fileno() < 0:  # closed: its command ended in the same moment
            return
        self._selector.unregister(asker.connection)
        os.kill(asker.child, signal.SIGKILL)

    def _ended(self, asker: Asker) -> None:
        code = os.waitstatus_to_exitcode(os.waitpid(asker.child, 0)[1])
        del self._askers[asker.child]
        self._selector.unregister(asker.handle)
        os.close(asker.handle)
        if asker.connection in self._selector.get_map():
            self._selector.unregister(asker.connection)
            _say(asker.connection, code)
        asker.connection.close()


def _read(connection: socket.socket, length: int) -> list:
    """The words of a command; ValueError where its asker is gone."""
    asked = b""
    while len(asked) < length and (part := connection.recv(length - len(asked))):
        asked += part
    return json.loads(asked)


def main() -> None:
    import torch

    # A process that has computed with several threads cannot be forked safely. (One of a memory allocator's own may
    # be there, which knows of forks.)
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
