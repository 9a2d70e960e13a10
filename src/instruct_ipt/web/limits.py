"""What one visitor may ask of the server, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

MB = 1_000_000
LARGEST_TEXT = 16_384
"""Bytes of a request that holds words and no photo."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a server. They bound its memory: see docs/serve.md.

    Attributes:
        bytes: largest photo, as a file.
        pixels: largest photo, decoded.
        seconds: longest work on one photo; looked at between tiles.
        waiting: photos that may wait, or be on their way in or out, while one is worked on.
        pause: seconds within which the next bytes of an upload have to come, or those of an answer to be taken.
        upload: seconds within which a whole upload has to be there.
        mask_bytes: largest mask, as a file.
        painted: most pixels of a photo that is filled in or extended, with what is added; never more than `pixels`.
            How long the last step of a pass over all of it takes is looked at by nobody.
        areas: most separate areas of a mask; each may need a window of its own.
    """

    bytes: int = 50 * MB
    pixels: int = 50 * MB
    seconds: float = 900.0
    waiting: int = 8
    pause: float = 15.0
    upload: float = 120.0
    mask_bytes: int = 8 * MB
    painted: int = 16 * MB
    areas: int = 500

    @property
    def paintable(self) -> int:
        """Most pixels of a photo that is filled in or extended."""
        return min(self.pixels, self.painted)


class Refused(Exception):
    """A request that is not done.

    Attributes:
        status: of HTTP.
        retry: after how many seconds another try makes sense; None where it makes none.
    """

    def __init__(self, status: int, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer. Where an upload may not have ended, nothing more is read from that connection."""
        found = {"Connection": "close"} if self.status in (408, 413) else {}
        return found if self.retry is None else {**found, "Retry-After": str(self.retry)}


class Gone(Exception):
    """The client has left: there is nobody to answer."""


def in_megabytes(count: int) -> str:
    """Bytes as a person counts them."""
    return f"{count / MB:.3g} MB"


def in_megapixels(count: int) -> str:
    """Pixels as a person counts them."""
    return f"{count / MB:.3g} megapixels"
