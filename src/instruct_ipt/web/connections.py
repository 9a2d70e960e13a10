"""Connections of the server: how many there may be, and how long one may stand idle or leave an answer lying.

uvicorn waits for ever for the rest of a request's head and for a client that takes nothing of an answer, and counts
connections that ask for nothing against those that do. A few dozen such clients would end the service for all others.
"""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .limits import Limits

MOST = 256
"""Connections at a time. Far more than the line has places, and far fewer than a process may have open files."""


def configured(app: ASGIApp, limits: Limits) -> uvicorn.Config:
    """How the application is served."""
    return uvicorn.Config(
        app,
        http=functools.partial(Connection, patience=limits.pause),  # type: ignore[arg-type]
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )


class Connection(H11Protocol):
    """uvicorn's connection over h11, which bounds the heads of requests; this one does not wait for ever.

    Args:
        *arguments: uvicorn's.
        patience: seconds; between one and two times as long a client may be silent between two requests or within the
            head of one, or take nothing of an answer.
        **more: uvicorn's.
    """

    def __init__(self, *arguments: Any, patience: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._patience, self._idle_since = patience, self.loop.time()
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; where there are too many, the one that has been idle longest goes."""
        super().connection_made(transport)
        self._look(None)
        if len(self.connections) > MOST:
            idle = [other for other in self.connections if other.idle and other is not self]
            min(idle, key=lambda other: other._idle_since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client has gone."""
        if self._watch is not None:
            self._watch.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """An answer is written."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, unless an answer has been begun: then there is no place for another."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()
        if not self.idle:  # whoever works on the request sees that its client is gone, and sends nothing behind this
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    @property
    def idle(self) -> bool:
        """Whether no request is in work."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self, before: object) -> None:
        """End the connection if nothing has moved since the last look; look again later."""
        now = self._waiting()
        if now is not None and now == before:
            self.transport.abort()  # `close` would wait until the client has taken what is left
            return
        self._watch = self.loop.call_later(self._patience, self._look, now)

    def _waiting(self) -> object:
        """What tells one wait for the client from the next; None where it is not the client that is waited for."""
        if self.idle or self.transport.is_closing() or self.flow.write_paused:
            return self.cycle, self.transport.is_closing(), self.transport.get_write_buffer_size()
        return None
