"""`ipt inpaint` and `ipt outpaint`. Thin, like the rest of the command line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instruct_ipt.errors import InputError

if TYPE_CHECKING:
    from instruct_ipt.diffusion.painter import Painted, Painter, Progress
    from instruct_ipt.restoration.pictures import Picture

_Source = Annotated[Path, typer.Argument(metavar="IN", help="The photograph.")]
_Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="OUT", help="File; default: a new one beside the photograph.")
]
_Seed = Annotated[int, typer.Option(min=0, help="Another seed gives another filling.")]
_Steps = Annotated[int | None, typer.Option(min=1, max=1000, help="Passes of the sampler.")]
_Weights = Annotated[
    Path | None,
    typer.Option(help="Folder of a denoiser; default: models/diffusion, which `dvc repro train_diffusion` makes."),
]
_Force = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]

Work = Callable[["Painter", "Picture", "Progress"], "tuple[Picture, Painted]"]


def inpaint(
    source: _Source,
    mask: Annotated[Path, typer.Option("--mask", "-m", help="Picture of the same size: white is filled in.")],
    output: _Output = None,
    seed: _Seed = 0,
    steps: _Steps = None,
    weights: _Weights = None,
    force: _Force = False,
) -> None:
    """Fill in parts of a photograph.

    Every other pixel keeps its bits. What is filled in is as fine as the denoiser's own small pictures, and the last
    line says how much they were enlarged.
    """
    from instruct_ipt.restoration.filling import fill_picture, read_mask

    with _named(mask):
        missing = read_mask(mask)

    def work(painter: Painter, picture: Picture, progress: Progress) -> tuple[Picture, Painted]:
        return fill_picture(painter, picture, missing, seed, steps, progress)

    _run(source, output, "inpainted", weights, force, work)


def outpaint(
    source: _Source,
    top: Annotated[int, typer.Option(min=0, help="Pixels to add at the top.")] = 0,
    right: Annotated[int, typer.Option(min=0, help="Pixels to add at the right.")] = 0,
    bottom: Annotated[int, typer.Option(min=0, help="Pixels to add at the bottom.")] = 0,
    left: Annotated[int, typer.Option(min=0, help="Pixels to add at the left.")] = 0,
    output: _Output = None,
    seed: _Seed = 0,
    steps: _Steps = None,
    weights: _Weights = None,
    force: _Force = False,
) -> None:
    """Add to a photograph at its sides.

    What was there keeps its bits. What is added is as fine as the denoiser's own small pictures, and the last line says
    how much they were enlarged.
    """
    from instruct_ipt.restoration.filling import Sides, extend_picture

    def work(painter: Painter, picture: Picture, progress: Progress) -> tuple[Picture, Painted]:
        return extend_picture(painter, picture, Sides(top, right, bottom, left), seed, steps, progress)

    _run(source, output, "outpainted", weights, force, work)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What goes wrong inside is said with the file's name in front."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _run(source: Path, output: Path | None, word: str, weights: Path | None, force: bool, work: Work) -> None:
    from instruct_ipt.diffusion.painter import Painter
    from instruct_ipt.progress import progress
    from instruct_ipt.restoration import files

    target = output or source.with_name(f"{source.stem}-{word}{source.suffix}")
    format = files.format_of(target.suffix)
    if format is None:
        raise InputError(f"{target}: pictures are written as {', '.join(files.SUFFIXES)}; give -o such a name")
    if target.exists() and not force:
        raise InputError(f"{target} exists; give --force to replace it, or -o another name")
    with _named(source):
        picture = files.read(source)
    painter = Painter.load(weights)
    with progress("sampling", painter.card.steps) as bar:
        done, painted = work(painter, picture, lambda passed, total: bar(passed * painter.card.steps // total, ""))
    files.write(target, files.encode(done, format), force)
    print(f"{target}: {painted}", file=sys.stderr)
