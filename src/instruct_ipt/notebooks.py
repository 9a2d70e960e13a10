"""What the notebooks share, and how all of them are run: real Jupyter kernels, executed copies beside.

A notebook is `notebooks/<two digits>_<name>.py` in jupytext's percent format. Its working directory is the repository's
root (`enter`), so that paths mean what they mean to every command.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruct_ipt.errors import InputError
from instruct_ipt.paths import PARAMS, RESULTS, TABLES

if TYPE_CHECKING:
    from IPython.display import Image, Markdown
    from matplotlib.figure import Figure
    from nbformat import NotebookNode

NOTEBOOKS = Path("notebooks")
# Ignored by git: outputs are looked at and thrown away.
EXECUTED = NOTEBOOKS / "executed"
_WIDTH_PX = 900
_DPI = 200
# Sharp on a dense screen, and no file of ten megabytes.
_MOST_PX_PER_PX = 2.5
# No cell trains; one that takes this long hangs.
_CELL_SECONDS = 600


def enter() -> None:
    """Make the repository's root the working directory, from there or from any folder below it.

    Raises:
        InputError: no folder on the way up has a params.yaml.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / PARAMS).is_file():
            os.chdir(folder)
            return
    raise InputError(f"{here} is not inside the repository: no {PARAMS} here or above; start Jupyter in its root")


def new_figure(height: float, width: float | None = None) -> Figure:
    """An empty figure of ``height`` x ``width`` inches (default: a page's), to be drawn within `report.style.styled`.

    It belongs to no window and no list of open figures: `shown` alone shows it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from instruct_ipt.report.style import PAGE_IN

    figure = Figure(figsize=(width or PAGE_IN, height), layout="constrained")
    # Seaborn measures labels while it draws; without a canvas it would open a figure of its own for that.
    FigureCanvasAgg(figure)
    return figure


def shown(picture: Figure | Callable[[Path], object], alt: str = "", width: int = 0) -> Image:
    """A picture as Jupyter shows it, to end a cell with.

    Args:
        picture: a figure, or what writes one PNG, and whatever else, into the folder that it is given.
        alt: what the picture shows, for somebody who does not see it; a figure of `report/figures.py` brings its own.
        width: on the screen, in px; 0 fits the columns that the picture takes in print. One with far more pixels is
            scaled down.

    Raises:
        ValueError: no alt text.
    """
    from IPython.display import Image
    from matplotlib.figure import Figure

    from instruct_ipt.report.figures import FIGURES
    from instruct_ipt.report.style import styled

    with tempfile.TemporaryDirectory() as folder:
        if isinstance(picture, Figure):
            with styled():
                picture.savefig(Path(folder) / "figure.png", dpi=_DPI)
        else:
            picture(Path(folder))
        (file,) = Path(folder).glob("*.png")
        known = {figure.name: figure for figure in FIGURES}.get(file.stem)
        if not (alt := alt or (known.alt if known else "")):
            raise ValueError(f"{file.name} is shown without an alt text")
        width = width or _WIDTH_PX // (3 - known.columns if known else 1)
        return Image(data=_of_width(file, round(_MOST_PX_PER_PX * width)), width=width, alt=alt)


def _of_width(file: Path, limit: int) -> bytes:
    """A PNG file, scaled down to ``limit`` px where it is wider."""
    from PIL import Image

    with Image.open(file) as picture:
        if picture.width <= limit:
            return file.read_bytes()
        small = picture.resize((limit, round(picture.height * limit / picture.width)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, format="PNG")
    return stream.getvalue()


def verdicts(*claims: str) -> Markdown:
    """What `results/claims.csv` says of some claims: effect with its interval, verdict, what it rests on.

    Raises:
        InputError: the file is missing, or has no such claim.
    """
    from IPython.display import Markdown

    from instruct_ipt.report import read_result
    from instruct_ipt.report.page import claims as as_shown

    table = read_result(RESULTS / "claims.csv", "results/claims.csv", ("claim",), ())
    if unknown := sorted(set(claims) - set(table.claim)):
        raise InputError(f"results/claims.csv has no claim {unknown[0]}; it has: {', '.join(table.claim)}")
    rows = as_shown(table.set_index("claim").loc[list(claims)].reset_index())
    return Markdown("\n".join(map(_verdict, rows)))


def _verdict(row: dict[str, Any]) -> str:
    behind = "; ".join(part for part in (row["n"], row["note"]) if part)
    return f"- *{row['statement']}.* Effect: {row['effect'] or 'not measured'}. **{row['verdict']}** ({behind})"


def table(name: str) -> Markdown:
    """A finished table, for example ``table09``, from `tables/`.

    Raises:
        InputError: the file is missing.
    """
    from IPython.display import Markdown

    path = TABLES / f"{name}.md"
    if not path.is_file():
        raise InputError(f"{path} does not exist; `dvc repro tables` makes it")
    return Markdown(path.read_text(encoding="utf-8"))


def execute_all(folder: Path = NOTEBOOKS, out: Path = EXECUTED) -> Iterator[tuple[Path, float]]:
    """Run the notebooks of ``folder`` one after another, each in a kernel of its own started in the working directory.

    Yields:
        Each executed copy, an .ipynb in ``out``, and the seconds it took, when it is done.

    Raises:
        InputError: there are none, what Jupyter needs is not installed, or a result file is missing or does not fit.
            Any other error in a cell keeps its traceback. The copy shows how far the notebook came.
    """
    sources = sorted(folder.glob("[0-9][0-9]_*.py"))
    if not sources:
        raise InputError(f"{folder} has no notebooks; run from the repository's root")
    out.mkdir(parents=True, exist_ok=True)
    for source in sources:
        begun = time.monotonic()
        target = out / f"{source.stem}.ipynb"
        _execute(source, target)
        yield target, time.monotonic() - begun


def _execute(source: Path, target: Path) -> None:
    try:
        import jupytext
        from nbclient import NotebookClient
        from nbclient.exceptions import CellExecutionError
        from traitlets.config import Config
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; `make setup` installs all that the notebooks need") from None
    notebook: NotebookNode = jupytext.read(source)
    client = NotebookClient(
        notebook,
        timeout=_CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(Path.cwd())}},
        record_timing=False,
        # Sockets of this user instead of open TCP ports.
        config=Config({"KernelManager": {"transport": "ipc"}}),
    )
    try:
        client.execute()
    except CellExecutionError as error:
        if error.ename != InputError.__name__:
            raise
        raise InputError(f"{source}: {error.evalue}") from error
    finally:
        jupytext.write(notebook, target)
