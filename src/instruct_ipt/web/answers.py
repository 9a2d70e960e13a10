"""Answers that are sent piece by piece, to clients that may be slow, or leave."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from instruct_ipt.errors import InputError

from .limits import Gone, Refused
from .line import Place
from .work import Finished

_log = logging.getLogger(__name__)
LIVE = "application/x-ndjson"
_PIECE = 1 << 18
_TICK = 0.25
"""Seconds between two looks at the work and at the client."""


class Pieces(Response):
    """An answer in pieces. When it has gone, or has not been taken in time, the place in the line is given back.

    Args:
        pieces: what is sent.
        place: of the photo.
        pause: seconds within which the client has to take each piece.
        headers: of the answer.
        media_type: likewise.
    """

    def __init__(
        self, pieces: AsyncIterator[bytes], place: Place, pause: float, headers: Mapping[str, str], media_type: str
    ) -> None:
        self._pieces, self._place, self._pause = pieces, place, pause
        self.status_code, self.media_type, self.background = 200, media_type, None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for piece in self._pieces:
                async with asyncio.timeout(self._pause):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except (TimeoutError, Gone):
            pass  # the connection is closed without an end, from which the client sees that something is missing
        finally:
            self._place.leave()


def error_of(error: BaseException) -> tuple[int, str]:
    """Status and one line for what went wrong with a photo; other than what a person can mend is a defect of ours."""
    if isinstance(error, Refused):
        return error.status, str(error)
    if isinstance(error, InputError):
        return 422, str(error)
    if isinstance(error, MemoryError):
        return 503, "the server has not enough memory for this photo; scale it down"
    return 500, f"unexpected {type(error).__name__}; the server's log says more"


async def finished(place: Place, request: Request) -> Any:
    """What the work of `place` gives.

    Raises:
        Gone: the client left before.
        Exception: what the work raised.
    """
    while not await place.wait(_TICK):
        if await request.is_disconnected():
            raise Gone
    return place.result()


async def live(place: Place, request: Request) -> AsyncIterator[bytes]:
    """Lines of JSON, four a second while something changes: how far it is, at the end `restored`, `painted` or `error`.

    The bytes of the parts follow the line `restored` or `painted`, which says how many each has.
    """
    told = None
    while not await place.wait(_TICK):
        if await request.is_disconnected():
            raise Gone
        if (state := _state(place)) != told:
            told = state
            yield _line(state)
    try:
        result: Finished = place.result()
    except Gone:
        raise
    except Exception as error:
        status, message = error_of(error)
        if status == 500:
            _log.error("the work on a photo failed", exc_info=error)
        yield _line({"state": "error", "status": status, "error": message})
        return
    yield _line({"state": result.state, **_facts(result)})
    for part in result.parts.values():
        for piece in cut(part):
            yield piece


def cut(content: bytes) -> Iterator[bytes]:
    """Pieces small enough that a slow client shows itself."""
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


async def whole(content: bytes) -> AsyncIterator[bytes]:
    """The pieces of one file."""
    for piece in cut(content):
        yield piece


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _state(place: Place) -> dict[str, Any]:
    if not place.working:
        return {"state": "waiting", "ahead": place.ahead}
    left = place.left
    return {"state": "working", "done": place.done, "total": place.total, "seconds_left": left and round(left)}


def _facts(finished: Finished) -> dict[str, Any]:
    return {
        "name": finished.name,
        "type": finished.type,
        "width": finished.width,
        "height": finished.height,
        **finished.told,
        "parts": {name: len(part) for name, part in finished.parts.items()},
    }
