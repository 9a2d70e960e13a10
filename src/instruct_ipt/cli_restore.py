"""`ipt restore`, `ipt release` and `ipt export`. Thin, like the rest of the command line."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instruct_ipt.errors import InputError

if TYPE_CHECKING:
    from instruct_ipt.restoration.batch import Job, Outcome, Settings
    from instruct_ipt.restoration.restorer import Restorer

_FORMATS = ("png", "jpeg", "webp", "tiff")


def restore(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Files, folders, patterns; `-` is standard input.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="OUT", help="Folder, file, or `-`.")],
    task: Annotated[
        str | None, typer.Option("--task", "-t", help="A task, or weights: `derain` or `derain=0.7,denoise=0.3`.")
    ] = None,
    instruction: Annotated[
        str | None, typer.Option("--instruction", "-i", help="What to do, in words; --task wins over it.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How much of it, 0 to 1.5; default: what the sentence says, else 1.")
    ] = None,
    tile: Annotated[int | None, typer.Option(help="Side of the tiles in pixels; 0: the whole image at once.")] = None,
    format: Annotated[str | None, typer.Option(help="png, jpeg, webp or tiff; default: what came in.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of `ipt release` or of a replication's models.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also write before and after side by side.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON per picture on standard output.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Small pictures at a time; default: the cores.")] = None,
) -> None:
    """Restore photographs, of any size.

    With neither a task nor an instruction, the damage of each picture is guessed, and the guess is shown. Exit code 1
    if one of them failed: the others are restored all the same. Nothing that exists is replaced without --force.
    """
    if as_json and output == "-":
        raise InputError("--json and `-o -` both need standard output; give one of them")
    if output == "-" and sys.stdout.isatty():
        raise InputError("standard output is a terminal; send it to a file, or give -o a name")
    if format is not None and format.lower() not in _FORMATS:
        raise InputError(f"format {format!r} is not written; allowed: {', '.join(_FORMATS)}")
    from instruct_ipt.restoration import Restorer
    from instruct_ipt.restoration.batch import Settings, plan
    from instruct_ipt.restoration.choice import parse_task

    restorer = Restorer.load(weights)
    settings = Settings(None if task is None else parse_task(task), strength, tile, force, compare)
    if task is None and instruction is not None:
        asked = restorer.read(instruction, strength)
        print(f"understood: {asked}", file=sys.stderr)
        settings = replace(settings, task=asked.weights, strength=asked.strength)
    restorer.check(settings.task, settings.strength, tile)
    planned = plan(inputs, output, format and format.upper(), settings, sys.stdin.buffer)
    outcomes = _run(planned, restorer, settings, jobs, as_json)
    _report(outcomes)
    raise typer.Exit(1 if any(outcome.error for outcome in outcomes) else 0)


def release(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder to write.")] = Path("weights"),
    models: Annotated[Path, typer.Option(help="Models of a replication, or `models/release/NAME`.")] = Path("models"),
    half: Annotated[bool, typer.Option("--half", help="Store the weights in half precision.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a release that is there.")] = False,
) -> None:
    """Write the trained network as a release folder."""
    from instruct_ipt.restoration.weights import write_release

    model = write_release(models, output, force, half)
    print(f"{output}: the backbone and a pack for each of {', '.join(model.tasks)}")


def export(
    task: Annotated[str, typer.Option("--task", "-t", help="A task, or weights: `derain=0.7,denoise=0.3`.")],
    format: Annotated[str, typer.Option(help="onnx, torchscript or safetensors.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Default: the task's name here.")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Folder of `ipt release` or of a replication's models.")] = None,
    strength: Annotated[float, typer.Option(help="How much of it, 0 to 1.5.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Write the network of one task as one file."""
    from instruct_ipt.restoration import Restorer
    from instruct_ipt.restoration.choice import parse_task
    from instruct_ipt.restoration.export import BOUND, FORMATS, SIZES
    from instruct_ipt.restoration.export import export as write

    restorer, asked, format = Restorer.load(weights, "cpu"), parse_task(task), format.lower()
    names = [name for name, share in restorer.task_weights(asked).items() if share > 0]
    path = output or Path("-".join(names) + FORMATS.get(format, ""))
    done = write(restorer, asked, format, path, strength, force)
    print(f"{done.path}: {done.bytes / 1000:.0f} kB")
    bound = f"bound {BOUND:g}, values in [0, 1]"
    print(f"checked on {len(SIZES)} sizes: at most {done.difference:.1e} from the network ({bound})")


def _run(planned: list[Job], restorer: Restorer, settings: Settings, jobs: int | None, as_json: bool) -> list[Outcome]:
    """Outcomes in the order of the inputs; each is told as soon as it is there."""
    import itertools
    import threading

    import torch

    from instruct_ipt.progress import progress
    from instruct_ipt.restoration.batch import count_tiles, run

    done, lock = itertools.count(1), threading.Lock()
    outcomes: dict[int, Outcome] = {}
    with progress("restoring", max(1, count_tiles(planned, restorer, settings))) as bar:

        def advance(name: str) -> None:
            with lock:
                bar(next(done), _plain(name))

        workers = jobs or torch.get_num_threads()
        for index, outcome in run(planned, restorer, settings, workers, advance, sys.stdout.buffer):
            outcomes[index] = outcome
            if as_json:
                print(json.dumps(asdict(outcome)), flush=True)
    return [outcomes[index] for index in range(len(planned))]


def _report(outcomes: list[Outcome]) -> None:
    """The final table, on standard error; for one picture, one line."""
    if len(outcomes) == 1:
        only = outcomes[0]
        guessed = f" (guessed: {only.guess})" if only.guess else ""
        done = f"{only.output}: restored in {only.seconds:.1f} s{guessed}"
        text = f"{only.input}: {only.error}" if only.error else done
        print(f"ipt: {_plain(text)}" if only.error else _plain(text), file=sys.stderr)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    failed = sum(outcome.error is not None for outcome in outcomes)
    table = Table(box=None, pad_edge=False)
    for title, justify in (("picture", "left"), ("pixels", "right"), ("s", "right"), ("result", "left")):
        table.add_column(title, justify=justify, overflow="fold")
    for outcome in outcomes:
        size = f"{outcome.width} x {outcome.height}" if outcome.width else ""
        guessed = f" (guessed: {outcome.guess})" if outcome.guess else ""
        result = Text(_plain(outcome.error), "red") if outcome.error else Text(_plain(f"{outcome.output}{guessed}"))
        table.add_row(Text(_plain(outcome.input)), size, f"{outcome.seconds:.1f}", result)
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 200
    console.print(table)
    console.print(f"{len(outcomes) - failed} restored, {failed} failed", highlight=False)


def _plain(text: str) -> str:
    """Text that cannot steer a terminal, whatever a file is called."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
