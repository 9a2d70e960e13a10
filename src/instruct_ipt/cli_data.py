"""`ipt data`: fetch, verify, list and add image sets. Thin, like the rest of the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instruct_ipt.errors import InputError

if TYPE_CHECKING:
    from instruct_ipt.data.catalogue import DataSet

app = typer.Typer(
    help="Image sets: what the catalogue under data/catalogue knows, what is here, and how to get the rest.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

LevelOption = Annotated[str | None, typer.Option(help="bundled, benchmark, paper or custom; default: params.yaml's.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Only this set; may be given several times.")]
RawOption = Annotated[Path, typer.Option(help="Where the images lie.")]
RAW_DEFAULT = Path("data/raw")


@app.command()
def fetch(
    level: LevelOption = None,
    names: SetOption = None,
    mirror: Annotated[
        str | None, typer.Option(help="Folder or http address that stands in for the network (or set IPT_MIRROR).")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Parallel downloads.")] = 8,
    raw: RawOption = RAW_DEFAULT,
) -> None:
    """Download and check what is missing; resumes, and a second call does nothing."""
    from instruct_ipt.data.fetching import describe, fetch_sets, plan_sets
    from instruct_ipt.progress import progress

    sets = _chosen(level, names)
    if not sets:
        print("level bundled needs no download: its photographs ship inside installed packages (try --level benchmark)")
        return
    plan = plan_sets(sets, raw)
    print(describe(plan, sets, raw))
    with progress("fetching", max(1, plan.bytes)) as advance:
        fetch_sets(sets, raw, mirror=mirror or os.environ.get("IPT_MIRROR"), workers=workers, observe=advance)
    print(f"{len(sets)} sets complete in {raw}; `ipt data verify` re-reads every file")


@app.command()
def verify(level: LevelOption = None, names: SetOption = None, raw: RawOption = RAW_DEFAULT) -> None:
    """Re-read every file and compare the scenes of train and test; exit code 1 if not all is well."""
    from instruct_ipt.data.verify import verify as check

    sets = _chosen(level, names)
    if not sets:
        raise InputError("level bundled has nothing to verify; name a level: `ipt data verify --level benchmark`")
    report = check(sets, raw)
    for line in report.lines():
        print(line)
    raise typer.Exit(0 if report.ok else 1)


@app.command("list")
def list_sets(level: LevelOption = None, names: SetOption = None, raw: RawOption = RAW_DEFAULT) -> None:
    """What the catalogue knows, what is here, what is missing and how to get it."""
    from instruct_ipt.data.listing import print_sets

    print_sets(_chosen(level, names, everything=True), raw)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Short name: letters, digits, - and _.")],
    task: Annotated[str, typer.Option(help="denoise, deblur, derain, dehaze or desnow.")],
    target: Annotated[Path, typer.Option(help="Folder of clean images, or of side-by-side images.")],
    given: Annotated[Path | None, typer.Option("--input", help="Folder of degraded images of the same names.")] = None,
    split: Annotated[str, typer.Option(help="train (a tenth is held out for validation) or test.")] = "train",
    side_by_side: Annotated[bool, typer.Option("--side-by-side", help="One file: clean left, degraded right.")] = False,
) -> None:
    """Register a folder of your own pairs, or of clean images; `data.custom` in params.yaml then uses it."""
    from instruct_ipt.data.custom import add as register

    made = register(name, task, given, target, split=split, side_by_side=side_by_side)
    counts = {part: sum(entry.split == part for entry in made.entries) for part in ("train", "validation", "test")}
    shown = ", ".join(f"{count} {part}" for part, count in counts.items() if count)
    print(f"{name}: {shown} files registered for {task}; use it with `data.custom: [{name}]` in params.yaml")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Name of a registered set.")]) -> None:
    """Forget a registered set; its images stay."""
    from instruct_ipt.data.custom import remove as forget

    forget(name)
    print(f"{name}: forgotten; its images stay where they are")


def _chosen(level: str | None, names: list[str] | None, everything: bool = False) -> list[DataSet]:
    """The sets that a command's options name; without options, those of `params.yaml` (or all)."""
    from instruct_ipt.data.catalogue import load_catalogue, select

    catalogue = load_catalogue()
    if names:
        return select(catalogue, level if level != "bundled" else None, tuple(names))
    if level is None and not everything:
        level = _configured_level()
    return [] if level == "bundled" else select(catalogue, level)


def _configured_level() -> str:
    from instruct_ipt.params import load

    return load().data.level
