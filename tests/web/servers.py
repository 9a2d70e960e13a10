"""A real server on a free port, in a thread, and networks whose pace a test sets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from torch import Tensor

from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.diffusion.painter import Painted, Painter, Progress
from instruct_ipt.diffusion.store import Card
from instruct_ipt.errors import InputError
from instruct_ipt.instruction import Estimate
from instruct_ipt.modulation import RankRule, TaskModel, modulate
from instruct_ipt.restoration import Guides, Restorer
from instruct_ipt.tasks import TASKS
from instruct_ipt.web import Limits, create_app, line
from instruct_ipt.web.connections import configured

from ..restoration import hostile, nets

REFUSAL = "this does not ask for anything that I can do. I can remove noise, blur, rain, haze or snow."
RAIN = {"derain": 0.75, "denoise": 0.25}


@dataclass(frozen=True)
class Asked:
    """What the tests' reader understands."""

    weights: dict[str, float]
    strength: float


def read(text: str) -> Asked:
    """Rain and noise, gently, from any sentence about rain; everything else is refused."""
    if "rain" not in text:
        raise InputError(REFUSAL)
    return Asked(RAIN, 0.5)


def estimate(image: np.ndarray) -> Estimate:
    """Snow; an image that is one colour is undamaged."""
    weights = dict.fromkeys(TASKS, 0.0) | {"desnow": 0.8, "denoise": 0.2}
    return Estimate(weights, float(image.min() == image.max()))


GUIDES = Guides(reader=read, estimator=estimate)


class Paced(nets.Plain):
    """Darkens by a quarter, and before each tile waits until the test lets it go on."""

    gate = threading.Event()
    started = threading.Semaphore(0)
    tiles = 0

    def correction(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W): minus a quarter of it."""
        Paced.wait()
        return -x / 4

    @staticmethod
    def wait() -> None:
        """Count a tile, say that it is begun, and wait."""
        Paced.tiles += 1
        Paced.started.release()
        assert Paced.gate.wait(60)


def begun() -> None:
    """Wait until a tile of a `Paced` network is begun."""
    assert Paced.started.acquire(timeout=60)


def one_more() -> None:
    """Let what waits at the gate go on; the next has to wait again."""
    shut, Paced.gate = Paced.gate, threading.Event()
    shut.set()
    begun()


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Move the clock by which work is timed."""
    monkeypatch.setattr(line, "monotonic", lambda: time.monotonic() + seconds)


def leaving(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Is set when the server has noticed that somebody left, or has answered him."""
    noticed, leave = threading.Event(), line.Place.leave

    def told(place: line.Place) -> None:
        leave(place)
        noticed.set()

    monkeypatch.setattr(line.Place, "leave", told)
    return noticed


def paced() -> Restorer:
    """A restorer that waits for `Paced.gate`, shut until a test opens it."""
    Paced.gate, Paced.started, Paced.tiles = threading.Event(), threading.Semaphore(0), 0
    return Restorer(modulate(Paced(), TASKS, ["scale"], RankRule("constant", 1)), "cpu", GUIDES)


class Darker(nets.Plain):
    """Darkens, the more the larger a task's bias: what a slider shows can be told apart."""

    def correction(self, x: Tensor) -> Tensor:
        """Of (N, C, H, W): a share of it, taken away."""
        return -x * (self.scale - 1).clamp(0, 1)


def darker() -> Restorer:
    """A restorer that takes half of the light away at strength 1, and nothing at 0."""
    model = modulate(Darker(), TASKS, ["scale"], RankRule("constant", 1))
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.fill_(0.5**0.5)
    return Restorer(model, "cpu", GUIDES)


def tiny() -> Restorer:
    """A real network with the tests' reader and estimator."""
    return Restorer(nets.tiny(), "cpu", GUIDES)


def denoiser(tasks: tuple[str, ...] = FILL_TASKS) -> tuple[TaskModel, Card]:
    """A real network for 32 x 32 pixels, untrained, in two passes, and what it is."""
    card = Card("synchronous", "tiny", 32, tasks, 2, ("attention", "convolution"), "ddim", 2)
    with torch.random.fork_rng():
        model = card.build(0)
        # At zero, as it begins, every filling would be the smooth continuation, whatever the seed.
        torch.nn.init.normal_(model.backbone.unet.conv_out.weight, std=0.1)
        return model.eval(), card


def painter(tasks: tuple[str, ...] = FILL_TASKS) -> Painter:
    """What fills in with `denoiser`."""
    return Painter(*denoiser(tasks))


class PacedPainter(Painter):
    """A painter that before each pass waits for `Paced.gate`."""

    def fill(
        self,
        picture: np.ndarray,
        missing: np.ndarray,
        task: str = "inpaint",
        seed: int = 0,
        steps: int | None = None,
        progress: Progress | None = None,
    ) -> Painted:
        """As `Painter.fill`."""

        def told(done: int, total: int) -> None:
            assert progress is not None
            progress(done, total)
            if done < total:
                Paced.wait()

        Paced.wait()
        return super().fill(picture, missing, task, seed, steps, told)


def paced_painter() -> Painter:
    """One whose gate is shut until a test opens it."""
    Paced.gate, Paced.started, Paced.tiles = threading.Event(), threading.Semaphore(0), 0
    return PacedPainter(*denoiser())


@contextlib.contextmanager
def serving(restorer: Restorer, limits: Limits | None = None, painter: Painter | None = None) -> Iterator[str]:
    """The address of a server that runs inside the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        app = create_app(restorer, limits, ["photos.example"], painter)
        server = uvicorn.Server(configured(app, limits or Limits()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            Paced.gate.set()
            server.should_exit = True
            thread.join(60)
        assert not thread.is_alive()


def until(happens: object, seconds: float = 60) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not happens():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def mask(width: int = 32, height: int = 24, box: tuple[int, int, int, int] = (8, 6, 20, 16)) -> bytes:
    """The PNG of a mask; white between left, top, right and bottom."""
    image = Image.new("1", (width, height))
    image.paste(1, box)
    return hostile.saved(image, "PNG")


def photo(format: str = "PNG", width: int = 32, height: int = 24, seed: int = 0, **options: object) -> bytes:
    """The file of a smooth random picture."""
    return hostile.saved(Image.fromarray(hostile.picture(seed, height, width)), format, **options)
