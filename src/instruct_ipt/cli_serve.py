"""`ipt serve`. Thin, like the rest of the command line."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instruct_ipt.errors import InputError

if TYPE_CHECKING:
    from instruct_ipt.diffusion.painter import Painter


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    weights: Annotated[Path | None, typer.Option(help="Folder of `ipt release` or of a replication's models.")] = None,
    denoiser: Annotated[
        Path | None, typer.Option(help="Folder of a denoiser that fills in and extends; default: models/diffusion.")
    ] = None,
    max_megabytes: Annotated[float, typer.Option(min=0.001, max=2000, help="Largest file.")] = 50,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=100, help="Largest photo.")] = 50,
    max_seconds: Annotated[float, typer.Option(min=1, help="Longest work on one photo.")] = 900,
    max_upload_seconds: Annotated[
        float, typer.Option(min=1, help="Longest upload; it may pause for an eighth of that, at most 15 s.")
    ] = 120,
    queue: Annotated[int, typer.Option(min=0, help="Photos that may wait while one is worked on.")] = 8,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name by which the server may be called; repeat for several.")
    ] = None,
) -> None:
    """Serve the web page that restores photographs.

    With a denoiser it fills in and extends them too. Nothing is kept on disk. By default only this computer can open
    the page.
    """
    import uvicorn

    from instruct_ipt.restoration import Restorer
    from instruct_ipt.web import Limits, create_app
    from instruct_ipt.web.connections import configured
    from instruct_ipt.web.limits import MB

    pause = min(Limits.pause, max_upload_seconds / 8)
    limits = Limits(
        round(max_megabytes * MB), round(max_megapixels * MB), max_seconds, queue, pause, max_upload_seconds
    )
    own = socket.gethostname()
    painter = _painter(denoiser)
    app = create_app(Restorer.load(weights), limits, [host, own, *(allow_host or [])], painter)
    with _listening(host, port) as listener:
        _tell(host, listener.getsockname()[1], "restores, fills in and extends" if painter else "restores")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after it has ended in good order
            uvicorn.Server(configured(app, limits)).run(sockets=[listener])


def _painter(folder: Path | None) -> Painter | None:
    """The denoiser of a folder; where none is named, that of the working directory, if there is a sound one.

    Raises:
        InputError: the folder that was named holds none.
    """
    from instruct_ipt.diffusion.painter import Painter
    from instruct_ipt.paths import MODELS

    if folder is None and not (MODELS / "diffusion").is_dir():
        return None
    try:
        return Painter.load(folder)
    except InputError as error:
        if folder is not None:
            raise
        print(f"ipt: warning: {error}; until then the page only restores", file=sys.stderr)
        return None


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}, port {port}: {error.strerror or error}; give another --port or --host"
        ) from error


def _tell(host: str, port: int, does: str = "restores") -> None:
    """Where the page is, and who can open it."""
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/ {does} photographs; Ctrl+C ends it", flush=True)
    if not _is_loopback(host):
        print(
            f"ipt: warning: whoever can reach {host} can use this server: there is no password and no encryption",
            file=sys.stderr,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
