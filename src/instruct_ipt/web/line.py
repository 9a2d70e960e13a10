"""The line of photos: one is worked on, a few wait, and who comes when it is full is told so at once.

A place is taken before the first byte of a photo is read and is given back when its answer has gone and its work has
ended. So no more photos are ever in memory than there are places.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic
from typing import Any

from .limits import Gone, Limits, Refused

_GUESS = 10
"""Seconds after which to come again, where nothing is known of the work in progress."""


class Place:
    """One photo's place in the line. All methods are called in the event loop, but those marked *worker*."""

    def __init__(self, line: Line, seconds: float) -> None:
        self._line, self._seconds = line, seconds
        self._stopped, self._left_line = threading.Event(), False
        self._work: Future[Any] | None = None
        self._ended: asyncio.Future[Any] | None = None
        self._begun = self._first = 0.0
        self.number = -1
        """Of its work, in the order in which work is done; -1 before there is any."""
        self.done = self.total = 0
        """Tiles that are finished, and all of them; 0 of 0 until there are any."""

    def start(self, work: Callable[[Place], Any]) -> None:
        """Put the work behind that of those who came before."""
        self.number = self._line.next_number()
        self._work = self._line.pool.submit(self._run, work)
        self._ended = asyncio.wrap_future(self._work)
        # Somebody has to look at the outcome, even where the client has gone.
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self._work.add_done_callback(lambda _: self._release())

    async def wait(self, seconds: float) -> bool:
        """Wait for the work's end, at most so long; whether it has ended."""
        assert self._ended is not None
        await asyncio.wait([self._ended], timeout=seconds)
        return self._ended.done()

    def result(self) -> Any:
        """What the ended work gave; raises what it raised."""
        assert self._work is not None
        return self._work.result()

    @property
    def ahead(self) -> int:
        """How many photos are done before this one is begun; 0 once it is."""
        return self._line.ahead(self) if self.waiting else 0

    @property
    def working(self) -> bool:
        """Whether it is being worked on."""
        return self._work is not None and self._work.running()

    @property
    def waiting(self) -> bool:
        """Whether its work is there and not begun."""
        return self._work is not None and not self._work.running() and not self._work.done()

    @property
    def left(self) -> float | None:
        """Seconds that the remaining tiles take if they are like those so far; None before the first is finished."""
        if not self.done:
            return None
        return (monotonic() - self._first) / self.done * (self.total - self.done)

    def leave(self) -> None:
        """The answer has gone, or the client has: what is not finished is not needed any more."""
        self._left_line = True
        self._stopped.set()
        if self._work is None or self._work.cancel() or self._work.done():
            self._release()

    def tiles(self, total: int) -> None:
        """*Worker*: from now on there are tiles."""
        self.total, self._first = total, monotonic()

    def advance(self, done: int, total: int) -> None:
        """*Worker*: a tile is finished.

        Raises:
            Gone, Refused: as `check`, while there is something left to do.
        """
        self.done, self.total = done, total
        if done < total:
            self.check()

    def check(self) -> None:
        """*Worker*: whether to go on.

        Raises:
            Gone: nobody waits for it.
            Refused: it takes too long.
        """
        if self._stopped.is_set():
            raise Gone
        if monotonic() - self._begun > self._seconds:
            raise Refused(
                503,
                f"the photo took longer than the {self._seconds:g} s that are allowed"
                + (f" ({self.done} of {self.total} parts were done)" if self.total else "")
                + "; scale it down",
            )

    def _run(self, work: Callable[[Place], Any]) -> Any:
        self._begun = monotonic()
        self.check()
        return work(self)

    def _release(self) -> None:
        if self._left_line and (self._work is None or self._work.done()):
            self._line.free(self)


class Line:
    """All places.

    Args:
        limits: how many may wait, and how long one may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._lock = limits, threading.Lock()
        self._places: list[Place] = []
        self._numbers = itertools.count()
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="restore")
        """One worker: a restoration uses all cores already."""

    def enter(self) -> Place:
        """The next place; who takes it has to `leave` it.

        Raises:
            Refused: all are taken; says when to come again.
        """
        with self._lock:
            if len(self._places) > self._limits.waiting:
                busy = next((place.left for place in self._places if place.working), None)
                retry = min(max(1, math.ceil(busy or _GUESS)), 600)
                raise Refused(
                    503,
                    f"the server is busy and its line is full (places: {len(self._places)}); try again in {retry} s",
                    retry,
                )
            place = Place(self, self._limits.seconds)
            self._places.append(place)
            return place

    def free(self, place: Place) -> None:
        """Give a place back; a second time is none."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)

    def ahead(self, place: Place) -> int:
        """How many photos are worked on before `place` is; those on their way in or out do not count."""
        with self._lock:
            others = [other for other in self._places if other.working or other.waiting]
        return sum(other.number < place.number for other in others)

    def next_number(self) -> int:
        """Counts the pieces of work."""
        return next(self._numbers)

    def counts(self) -> dict[str, int]:
        """Places that are taken and places that there are."""
        with self._lock:
            return {"taken": len(self._places), "places": self._limits.waiting + 1}

    def close(self) -> None:
        """Stop what is worked on after its tile, and forget what waits."""
        with self._lock:
            places = list(self._places)
        for place in places:
            place.leave()
        self.pool.shutdown(wait=False, cancel_futures=True)
