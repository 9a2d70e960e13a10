"""`ipt task`: a task of one's own. Thin, like the rest of the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from instruct_ipt.own import Report

app = typer.Typer(
    help="Tasks of your own: a small new bias on the network that is there, which stays as it is.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

WeightsOption = Annotated[
    Path | None, typer.Option(help="A release folder, or a replication's models; default: what `ipt restore` takes.")
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Name of the new task: letters, digits, - and _.")],
    given: Annotated[Path | None, typer.Option("--input", help="Folder of degraded images.")] = None,
    target: Annotated[Path | None, typer.Option(help="Folder of clean images; of the same names with --input.")] = None,
    degradation: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Damage for clean images, in place of --input.")
    ] = None,
    weights: WeightsOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 600,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Rank of the new bias; default: that of the other tasks.")
    ] = None,
    patch: Annotated[int, typer.Option(min=16, help="Side of the training patches in pixels.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Patches per step.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the initial weights and of the patches.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a task of your own of this name.")] = False,
) -> None:
    """Train a bias for a new task on the frozen network.

    The pack, NAME.safetensors, stands beside the others, and `ipt restore --task NAME` takes it from then on.
    """
    from instruct_ipt.own import Settings, add_task

    settings = Settings(steps, rank, patch, batch, seed)
    report = add_task(name, given, target, degradation, weights, settings, force, _say)
    for line in describe(report):
        print(line)


@app.command("list")
def list_tasks(weights: WeightsOption = None) -> None:
    """The packs of a release, their sizes and what they were trained on."""
    from instruct_ipt.own import list_packs

    packs = list_packs(weights)
    width = max(len(pack.task) for pack in packs)
    for pack in packs:
        made = "own      " if pack.own else "released "
        print(f"{pack.task:{width}}  {pack.bytes / 1000:7.0f} kB  {made} {json.dumps(pack.trained_on)}")


@app.command()
def remove(name: Annotated[str, typer.Argument(help="A task of your own.")], weights: WeightsOption = None) -> None:
    """Delete the pack of a task of your own."""
    from instruct_ipt.own import remove_pack

    remove_pack(name, weights)
    print(f"{name}: removed")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def describe(report: Report) -> list[str]:
    """The report as lines for a terminal."""
    shown = {
        "input": "as it came in",
        "backbone": "the bare backbone",
        report.nearest: f"{report.nearest}, the nearest older task",
        report.task: f"{report.task}, the new task",
    }
    width = max(map(len, shown.values()))
    came = report.scores["input"]
    lines = [f"{'':{width}}  PSNR, dB   gain    SSIM   (means of {report.images} validation images, protocol rgb)"]
    for method, title in shown.items():
        psnr, ssim = report.scores[method]
        lines.append(f"{title:{width}}  {psnr:8.2f}  {psnr - came[0]:+5.2f}  {ssim:6.3f}")
    older = ", ".join(report.unchanged)
    lines.append(f"{older}: folded weights and restored images compared before and after: equal bit for bit")
    if report.made_release is not None:
        lines.append(f"{report.made_release}/ is a new release of the network; `ipt restore` takes it from now on")
    lines.append(
        f"{report.pack}: {report.pack_bytes / 1000:.0f} kB beside a backbone of {report.backbone_bytes / 1000:.0f} kB"
    )
    lines.append(f"next: ipt restore IN -o OUT --task {report.task}")
    return lines
