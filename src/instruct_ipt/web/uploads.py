"""The body of a request, taken in within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from .limits import Gone, Limits, Refused, in_megabytes

_LINGER = 5.0
"""Seconds for which a refused upload is read and dropped. A browser that is cut off while it sends shows its own error
in the place of ours."""


class Upload:
    """The body of one request; see `uploading`."""

    def __init__(self, request: Request, limits: Limits, largest: int) -> None:
        self._request, self._limits, self._largest = request, limits, largest
        self._ended = False

    async def read(self) -> bytes:
        """All of it.

        Raises:
            Refused: it is longer than allowed, of which no more than that was held, or it comes too slowly.
            Gone: the client left before the end.
        """
        promised = self._request.headers.get("content-length", "")
        if promised.isdigit() and int(promised) > self._largest:
            raise self._too_long()
        content = bytearray()
        try:
            async with asyncio.timeout(self._limits.upload):
                while not self._ended:
                    async with asyncio.timeout(self._limits.pause):
                        content += await self._next()
                    if len(content) > self._largest:
                        raise self._too_long()
        except TimeoutError:
            self._ended = True  # nobody waits for a client that sends nothing
            raise Refused(
                408,
                f"the upload is too slow: the next bytes have to come within {self._limits.pause:g} s, "
                f"and all of it within {self._limits.upload:g} s",
            ) from None
        return bytes(content)

    async def drop(self) -> None:
        """Take in what still comes, for a while, and forget it."""
        if "expect" in self._request.headers:
            return  # the client waits for our word before it sends anything
        try:
            async with asyncio.timeout(_LINGER):
                while not self._ended:
                    await self._next()
        except (TimeoutError, Gone):
            pass

    async def _next(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            self._ended = True
            raise Gone
        self._ended = not message.get("more_body", False)
        return message.get("body", b"")

    def _too_long(self) -> Refused:
        return Refused(413, f"the upload is larger than the {in_megabytes(self._largest)} that are allowed")


@asynccontextmanager
async def uploading(request: Request, limits: Limits, largest: int) -> AsyncIterator[Upload]:
    """The upload of a request of at most `largest` bytes; if the block fails, the rest of it is dropped."""
    upload = Upload(request, limits, largest)
    try:
        yield upload
    except (ClientDisconnect, Gone):
        raise Gone from None
    except Exception:
        await upload.drop()
        raise
