"""The HTTP interface: routes, and nothing else. The page in `page/` uses what any other client can use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
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
from instruct_ipt.restoration.filling import Sides

from . import painting, work
from .answers import LIVE, Pieces, error_of, finished, live, whole
from .guard import Guard
from .limits import LARGEST_TEXT, Gone, Limits, Refused, in_megabytes
from .line import Line, Place
from .uploads import uploading

if TYPE_CHECKING:
    from instruct_ipt.diffusion.painter import Painter

PAGE = Path(__file__).parent / "page"

_PHOTO = {
    "requestBody": {
        "required": True,
        "description": "the file's bytes as they are: PNG, JPEG, WebP, TIFF, BMP, GIF or PPM",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_PHOTO_AND_MASK = {
    "requestBody": {
        "required": True,
        "description": "the bytes of the photo's file, and directly behind them those of the mask's (a PNG of the size "
        "in which the photo is displayed: white is filled in, black is kept); `photo_bytes` says where it begins",
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
_PhotoBytes = Annotated[int, Query(ge=1, description="length of the photo's file; the mask follows")]
_Seed = Annotated[int, Query(ge=0, le=painting.LARGEST_SEED, description="another gives another filling")]
_Steps = Annotated[
    int | None,
    Query(ge=1, le=painting.MOST_STEPS, description="passes of the sampler; without it as the denoiser was evaluated"),
]
_Margin = Annotated[int, Query(ge=0, description="px to add there, as displayed; at most the photo's own side")]


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


class _Stroke(painting.Stroke):
    """How a request wants to be painted in, in its query."""

    def __init__(self, seed: _Seed = 0, steps: _Steps = None, name: _Name = "") -> None:
        super().__init__(seed, steps, name)


class _Sides(Sides):
    """What a request wants to be added, in its query."""

    def __init__(self, top: _Margin = 0, right: _Margin = 0, bottom: _Margin = 0, left: _Margin = 0) -> None:
        super().__init__(top, right, bottom, left)


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
_PAINTING_PROBLEMS: dict[int | str, dict[str, Any]] = {
    **_PROBLEMS,
    422: {"model": Problem, "description": "no photo, no mask that fits, nothing or everything marked, or bad numbers"},
    501: {"model": Problem, "description": "the server has no denoiser"},
}


def create_app(
    restorer: Restorer, limits: Limits | None = None, names: Collection[str] = (), painter: Painter | None = None
) -> FastAPI:
    """The web application around one restorer.

    Args:
        restorer: does the work.
        limits: of photos, time and line.
        names: host names by which the server may be called, beside `localhost` and addresses in numbers.
        painter: fills in and extends; None: both are refused, and the page does not offer them.
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
        description="Restores photographs, and fills in and extends them where there is a denoiser. Nothing is kept: a "
        "photo lives in memory until its answer has gone.",
        version=instruct_ipt.__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=life,
    )
    app.add_middleware(Guard, names=names)
    _add_errors(app)
    _add_facts(app, restorer, limits, line, painter)
    desk = _Desk(limits, line)
    _add_restoring(app, restorer, desk)
    _add_painting(app, painter, desk)
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


def _add_facts(app: FastAPI, restorer: Restorer, limits: Limits, line: Line, painter: Painter | None) -> None:
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
            "can_fill": painting.can(painter, "inpaint"),
            "can_extend": painting.can(painter, "outpaint"),
            "denoiser": painter and {"size": painter.card.size, "steps": painter.card.steps},
            "limits": {
                "bytes": limits.bytes,
                "pixels": limits.pixels,
                "seconds": limits.seconds,
                "painted": limits.paintable,
                "areas": limits.areas,
            },
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


class _Desk:
    """Where photos are taken in and given out."""

    def __init__(self, limits: Limits, line: Line) -> None:
        self.limits, self._line = limits, line

    async def receive(self, request: Request, prepare: Callable[[], work.Job], photo_bytes: int | None = None) -> Place:
        """Take a place, then the photo, and put what is to be done with it into the line.

        Args:
            request: with the upload.
            prepare: gives what is to be done; what it refuses is refused before the upload is read.
            photo_bytes: where in the upload a mask begins; None: there is none.
        """
        limits = self.limits
        largest = limits.bytes + (0 if photo_bytes is None else limits.mask_bytes)
        async with uploading(request, limits, largest) as upload:
            if photo_bytes is not None and photo_bytes > limits.bytes:
                raise Refused(413, f"the photo is larger than the {in_megabytes(limits.bytes)} that are allowed")
            job = await asyncio.to_thread(prepare)
            place = self._line.enter()
            try:
                content = await upload.read()
                sent = await asyncio.to_thread(self._look, content, photo_bytes)
                place.start(lambda place: job(sent, place))
            except BaseException:
                place.leave()
                raise
            return place

    def _look(self, content: bytes, photo_bytes: int | None) -> work.Sent:
        if photo_bytes is None:
            return work.Sent(content, work.look(content, self.limits))
        return painting.divide(content, photo_bytes, self.limits)

    async def photo(self, request: Request, place: Place) -> Response:
        """The finished photo alone."""
        try:
            result: work.Finished = await finished(place, request)
        except BaseException:
            place.leave()
            raise
        photo = result.parts["photo"]
        headers = {
            "Content-Length": str(len(photo)),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quote(result.name)}",
            **result.headers,
        }
        return Pieces(whole(photo), place, self.limits.pause, headers, result.type)

    def live(self, request: Request, place: Place) -> Response:
        """Progress, and behind it the finished photo."""
        return Pieces(live(place, request), place, self.limits.pause, {"X-Accel-Buffering": "no"}, LIVE)


def _add_restoring(app: FastAPI, restorer: Restorer, desk: _Desk) -> None:
    """Addresses that restore a photo, or judge it."""

    def restoring(asked: _Asked, previews: bool = False) -> Callable[[], work.Job]:
        return lambda: work.restoring(restorer, asked.order(restorer, previews))

    @app.post("/api/restore", openapi_extra=_PHOTO, responses=_PROBLEMS, response_class=Response)
    async def restore(request: Request, asked: Annotated[_Asked, Depends()]) -> Response:
        """The restored photo, in its own format; what was done stands in headers. Without task and instruction the
        damage is guessed."""
        return await desk.photo(request, await desk.receive(request, restoring(asked)))

    @app.post("/api/restore/live", openapi_extra=_PHOTO, responses=_PROBLEMS, response_class=Response)
    async def restore_live(
        request: Request, asked: Annotated[_Asked, Depends()], previews: _Previews = False
    ) -> Response:
        """The same with progress: lines of JSON, the last of which is followed by the bytes that it counts."""
        return desk.live(request, await desk.receive(request, restoring(asked, previews)))

    @app.post("/api/guess", openapi_extra=_PHOTO, responses=_PROBLEMS)
    async def guess(request: Request) -> Understood:
        """What seems to have damaged the photo. Often wrong."""
        place = await desk.receive(request, lambda: work.guessing(restorer))
        try:
            return _understood(await finished(place, request))
        finally:
            place.leave()


def _add_painting(app: FastAPI, painter: Painter | None, desk: _Desk) -> None:
    """Addresses that fill in a photo, or extend it."""
    filling: dict[str, Any] = {"openapi_extra": _PHOTO_AND_MASK, "responses": _PAINTING_PROBLEMS}
    extending: dict[str, Any] = {"openapi_extra": _PHOTO, "responses": _PAINTING_PROBLEMS}

    async def fill(request: Request, stroke: _Stroke, photo_bytes: int) -> Place:
        return await desk.receive(request, lambda: painting.inpainting(painter, stroke, desk.limits), photo_bytes)

    async def extend(request: Request, stroke: _Stroke, sides: _Sides) -> Place:
        return await desk.receive(request, lambda: painting.outpainting(painter, sides, stroke, desk.limits))

    @app.post("/api/inpaint", **filling, response_class=Response)
    async def inpaint(request: Request, stroke: Annotated[_Stroke, Depends()], photo_bytes: _PhotoBytes) -> Response:
        """The photo with what the mask marks filled in, in its own format; `X-Ipt-Painted` says how fine."""
        return await desk.photo(request, await fill(request, stroke, photo_bytes))

    @app.post("/api/inpaint/live", **filling, response_class=Response)
    async def inpaint_live(
        request: Request, stroke: Annotated[_Stroke, Depends()], photo_bytes: _PhotoBytes
    ) -> Response:
        """The same with progress, as `/api/restore/live`; the last line is `painted`."""
        return desk.live(request, await fill(request, stroke, photo_bytes))

    @app.post("/api/outpaint", **extending, response_class=Response)
    async def outpaint(
        request: Request, stroke: Annotated[_Stroke, Depends()], sides: Annotated[_Sides, Depends()]
    ) -> Response:
        """The photo with something added at its sides, in its own format; `X-Ipt-Painted` says how fine."""
        return await desk.photo(request, await extend(request, stroke, sides))

    @app.post("/api/outpaint/live", **extending, response_class=Response)
    async def outpaint_live(
        request: Request, stroke: Annotated[_Stroke, Depends()], sides: Annotated[_Sides, Depends()]
    ) -> Response:
        """The same with progress, as `/api/restore/live`; the last line is `painted`."""
        return desk.live(request, await extend(request, stroke, sides))


def _understood(choice: Choice) -> Understood:
    return Understood(weights=dict(choice.weights), strength=choice.strength, source=choice.source)


def _told(errors: Any) -> str:
    """The first thing that a schema complained about, as one line."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
    return f"{where or 'the request'}: {first['msg']}"
