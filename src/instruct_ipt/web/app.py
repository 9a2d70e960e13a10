"""The HTTP interface: routes, and nothing else. The page in `page/` uses what any other client can use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

import instruct_ipt
from instruct_ipt.errors import InputError
from instruct_ipt.restoration import Choice, Restorer
from instruct_ipt.restoration.choice import parse_task

from . import work
from .answers import LIVE, Pieces, error_of, finished, live, whole
from .guard import Guard
from .limits import LARGEST_TEXT, Gone, Limits, Refused
from .line import Line, Place
from .uploads import uploading

PAGE = Path(__file__).parent / "page"

_PHOTO = {
    "requestBody": {
        "required": True,
        "description": "the file's bytes as they are: PNG, JPEG, WebP, TIFF, BMP, GIF or PPM",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_Task = Annotated[str | None, Query(description="a task, or weights: `derain` or `derain=0.7,denoise=0.3`")]
_Instruction = Annotated[str | None, Query(description="what to do, in words; a task wins over it")]
_Strength = Annotated[float | None, Query(description="0 to 1.5; without it as the instruction says, or 1")]
_Name = Annotated[str, Query(description="of the file; only the name of the result follows from it")]
_Previews = Annotated[
    bool, Query(description="whether PNGs of before and after are wanted, for formats no browser shows")
]


class _Asked:
    """What a request asks for, in its query."""

    def __init__(
        self, task: _Task = None, instruction: _Instruction = None, strength: _Strength = None, name: _Name = ""
    ) -> None:
        self.task, self.instruction, self.strength, self.name = task, instruction, strength, name

    def order(self, restorer: Restorer, previews: bool) -> work.Order:
        """As the worker takes it.

        Raises:
            InputError: no such task, a sentence or strength that is refused, or nothing that could guess.
        """
        task = None if self.task is None else parse_task(self.task)
        choice = restorer.asked(task, self.strength, self.instruction)
        return work.Order(choice, self.strength, self.name, previews)


class Sentence(BaseModel):
    """What `/api/read` takes."""

    instruction: str
    strength: float | None = None


class Understood(BaseModel):
    """Task weights, strength, and what they follow from: `task`, `instruction` or `image`."""

    weights: dict[str, float]
    strength: float
    source: str


class Problem(BaseModel):
    """What every refusal says: one line."""

    error: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    408: {"model": Problem, "description": "the upload is too slow"},
    413: {"model": Problem, "description": "too many bytes or pixels"},
    422: {"model": Problem, "description": "no photo, no such task, or a sentence that asks for something else"},
    503: {"model": Problem, "description": "the line is full (`Retry-After`), or the work takes too long"},
}


def create_app(restorer: Restorer, limits: Limits | None = None, names: Collection[str] = ()) -> FastAPI:
    """The web application around one restorer.

    Args:
        restorer: does the work.
        limits: of photos, time and line.
        names: host names by which the server may be called, beside `localhost` and addresses in numbers.
    """
    limits = limits or Limits()
    line = Line(limits)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        line.close()

    # No pages of documentation: theirs come from another server.
    app = FastAPI(
        title="Instruct-IPT",
        description="Restores photographs. Nothing is kept: a photo lives in memory until its answer has gone.",
        version=instruct_ipt.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=life,
    )
    app.add_middleware(Guard, names=names)
    _add_errors(app)
    _add_facts(app, restorer, limits, line)
    _add_work(app, restorer, limits, line)
    app.mount("/", StaticFiles(directory=PAGE, html=True))
    return app


def _add_errors(app: FastAPI) -> None:
    """Whatever goes wrong is one line of JSON."""

    def answer(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        return answer(error.status, str(error), error.headers)

    @app.exception_handler(InputError)
    async def mistaken(_: Request, error: InputError) -> Response:
        return answer(*error_of(error))

    @app.exception_handler(Gone)
    async def gone(_: Request, error: Gone) -> Response:
        return Response(status_code=408)  # nobody reads it

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return answer(422, _told(error.errors()))

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return answer(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> Response:
        return answer(*error_of(error))


def _add_facts(app: FastAPI, restorer: Restorer, limits: Limits, line: Line) -> None:
    """Addresses that answer at once."""

    @app.get("/health")
    async def health() -> dict[str, str | int]:
        """Whether the server answers, and how many places of its line are taken."""
        return {"status": "ok", "version": instruct_ipt.__version__, **line.counts()}

    @app.get("/api/about")
    def about() -> dict[str, Any]:
        """What this server can do, and its limits."""
        return {
            "tasks": restorer.tasks,
            "can_read": restorer.can_read,
            "can_guess": restorer.can_guess,
            "limits": {"bytes": limits.bytes, "pixels": limits.pixels, "seconds": limits.seconds},
        }

    @app.post(
        "/api/read",
        responses=_PROBLEMS,
        openapi_extra={"requestBody": {"content": {"application/json": {"schema": Sentence.model_json_schema()}}}},
    )
    async def read(request: Request) -> Understood:
        """What a sentence asks for, or a refusal that names what is possible."""
        async with uploading(request, limits, LARGEST_TEXT) as upload:
            content = await upload.read()
        try:
            said = Sentence.model_validate_json(content)
        except ValidationError as error:
            raise Refused(422, _told(error.errors())) from None
        return _understood(await asyncio.to_thread(restorer.read, said.instruction, said.strength))


def _add_work(app: FastAPI, restorer: Restorer, limits: Limits, line: Line) -> None:
    """Addresses that take a photo."""

    async def receive(request: Request, prepare: Callable[[], work.Job]) -> Place:
        """Take a place, then the photo, and put what is to be done with it into the line."""
        async with uploading(request, limits, limits.bytes) as upload:
            job = await asyncio.to_thread(prepare)
            place = line.enter()
            try:
                content = await upload.read()
                header = await asyncio.to_thread(work.look, content, limits)
                place.start(lambda place: job(content, header, place))
            except BaseException:
                place.leave()
                raise
            return place

    def restoring(asked: _Asked, previews: bool = False) -> Callable[[], work.Job]:
        return lambda: work.restoring(restorer, asked.order(restorer, previews))

    @app.post("/api/restore", openapi_extra=_PHOTO, responses=_PROBLEMS, response_class=Response)
    async def restore(request: Request, asked: Annotated[_Asked, Depends()]) -> Response:
        """The restored photo, in its own format; what was done stands in headers. Without task and instruction the
        damage is guessed."""
        place = await receive(request, restoring(asked))
        try:
            restored: work.Restored = await finished(place, request)
        except BaseException:
            place.leave()
            raise
        photo = restored.parts["photo"]
        return Pieces(whole(photo), place, limits.pause, _headers(restored, len(photo)), restored.type)

    @app.post("/api/restore/live", openapi_extra=_PHOTO, responses=_PROBLEMS, response_class=Response)
    async def restore_live(
        request: Request, asked: Annotated[_Asked, Depends()], previews: _Previews = False
    ) -> Response:
        """The same with progress: lines of JSON, the last of which is followed by the bytes that it counts."""
        place = await receive(request, restoring(asked, previews))
        return Pieces(live(place, request), place, limits.pause, {"X-Accel-Buffering": "no"}, LIVE)

    @app.post("/api/guess", openapi_extra=_PHOTO, responses=_PROBLEMS)
    async def guess(request: Request) -> Understood:
        """What seems to have damaged the photo. Often wrong."""
        place = await receive(request, lambda: work.guessing(restorer))
        try:
            return _understood(await finished(place, request))
        finally:
            place.leave()


def _understood(choice: Choice) -> Understood:
    return Understood(weights=dict(choice.weights), strength=choice.strength, source=choice.source)


def _headers(restored: work.Restored, length: int) -> dict[str, str]:
    """Of a photo: how to name the file, and what was done."""
    weights = ",".join(f"{task}={weight:g}" for task, weight in restored.choice.weights.items() if weight > 0)
    return {
        "Content-Length": str(length),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(restored.name)}",
        "X-Ipt-Weights": weights,
        "X-Ipt-Strength": f"{restored.choice.strength:g}",
        "X-Ipt-Source": restored.choice.source,
    }


def _told(errors: Any) -> str:
    """The first thing that a schema complained about, as one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
    return f"{where or 'the request'}: {first['msg']}"
