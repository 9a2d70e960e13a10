"""`ipt`, the command line. Thin: it parses, calls a stage, and turns an InputError or a full disk into one line."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from instruct_ipt import cli_data, cli_fill, cli_release, cli_restore, cli_serve, cli_task
from instruct_ipt.disk import complaint, naming
from instruct_ipt.errors import InputError
from instruct_ipt.stage_table import STAGES

app = typer.Typer(
    help="Instruct-IPT: one image-processing transformer, many restoration tasks, by low-rank weight modulation.\n\n"
    "`make repro` (or `dvc repro`) runs every stage in order; the commands below run one thing at a time and read "
    "their settings from params.yaml.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _add_stage(name: str, text: str) -> None:
    def command() -> None:
        from instruct_ipt.pipeline import run_stage

        run_stage(name)

    app.command(name.replace("_", "-"), help=text, rich_help_panel="Stages of the replication")(command)


app.add_typer(cli_data.app, name="data", short_help="Fetch, verify, list and add image sets.")
app.add_typer(cli_task.app, name="task", short_help="Add, list and remove tasks of your own.")
app.command()(cli_restore.restore)
app.command()(cli_fill.inpaint)
app.command()(cli_fill.outpaint)
app.command()(cli_restore.release)
app.command()(cli_release.arm)
app.command()(cli_release.scores)
app.command("side-by-side")(cli_release.side_by_side)
app.command()(cli_release.gallery)
app.command()(cli_restore.export)
app.command()(cli_serve.serve)

for _stage in STAGES.values():
    _add_stage(_stage.name, _stage.help)


@app.command()
def cell(
    study: Annotated[str, typer.Argument(help="Study, for example `rank`.")],
    setting: Annotated[str, typer.Argument(help="Setting, for example `constant-4`.")],
    seed: Annotated[int, typer.Argument(help="Seed.")],
) -> None:
    """Train and score one ablation cell."""
    from instruct_ipt.pipeline import run_cell

    print(run_cell(study, setting, seed))


@app.command()
def status() -> None:
    """Say what is up to date; exit code 1 if not all is."""
    from instruct_ipt.params import load
    from instruct_ipt.pipeline import staleness

    configuration = load()
    width = max(map(len, STAGES))
    stale = 0
    for stage in STAGES.values():
        reasons = staleness(stage, configuration)
        stale += bool(reasons)
        print(f"{stage.name:{width}}  {'; '.join(reasons) if reasons else 'up to date'}")
    raise typer.Exit(1 if stale else 0)


@app.command()
def profile(name: Annotated[str, typer.Argument(help="smoke, quick, study or paper.")]) -> None:
    """Set the `profile` key of params.yaml."""
    from instruct_ipt.params import load, set_profile

    changed = set_profile(name)
    load()
    print(f"params.yaml: profile is {name}" + ("" if changed else " already"))


@app.command("check-params")
def check_params(path: Annotated[Path, typer.Argument(help="File to check.")] = Path("params.yaml")) -> None:
    """Check params.yaml without running anything."""
    from instruct_ipt.params import load

    print(f"{path}: valid, profile {load(path).profile}")


@app.command()
def summary() -> None:
    """Print the gains of the last evaluation."""
    from instruct_ipt.summary import print_summary

    print_summary()


@app.command("instruction-score")
def instruction_score(
    file: Annotated[Path, typer.Argument(help="YAML list of text, tasks ([]: to be refused), perhaps strength.")],
    output: Annotated[Path | None, typer.Option(help="CSV; without it results/instruction_<name of FILE>.csv.")] = None,
) -> None:
    """Score the reader of instructions on a file."""
    from instruct_ipt.instruction.scoring import score_file
    from instruct_ipt.paths import INSTRUCTION, RESULTS

    print(score_file(file, INSTRUCTION, output or RESULTS / f"instruction_{file.stem}.csv"))


@app.command()
def snapshot(
    grid: Annotated[bool, typer.Option("--grid", help="Keep the searches, the grid and the claims only.")] = False,
) -> None:
    """Keep the last replication's tables under docs/."""
    from instruct_ipt.snapshot import snapshot as keep

    print(keep(grid=grid))


@app.command()
def runtime() -> None:
    """Write logs/runtime.html: hardware, versions, durations."""
    from instruct_ipt.paths import RUNTIME, RUNTIME_PAGE
    from instruct_ipt.report.runtime import write_runtime

    write_runtime(RUNTIME, RUNTIME_PAGE)
    print(RUNTIME_PAGE)


@app.command()
def notebooks() -> None:
    """Run the notebooks on finished results."""
    from instruct_ipt.notebooks import execute_all

    for copy, seconds in execute_all():
        print(f"{copy}  {seconds:.0f} s", flush=True)


@app.command("mlflow-pages")
def mlflow_pages(port: Annotated[int, typer.Option(help="Where `make ui` serves.")] = 5000) -> None:
    """Print the addresses of the MLflow experiments."""
    from instruct_ipt.tracking import pages

    for name, address in pages(port).items():
        print(f"{name:36}  {address}")


@app.command("mlflow-sync")
def mlflow_sync() -> None:
    """Rebuild the MLflow store from result files."""
    from instruct_ipt.sync import sync

    print(f"{sync()} runs added")


def _flush() -> None:
    """Write out what was printed. A reader that is gone has seen enough, as in `ipt status | head -1`."""
    try:
        with naming(Path("standard output")):
            sys.stdout.flush()
    except OSError as error:
        # The interpreter would try again at its end, and complain in words of its own.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:
            raise


def main() -> None:
    """Entry point: errors that a person can mend are one line and exit code 2; `IPT_DEBUG=1` shows the traceback."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        try:
            app()
        finally:
            _flush()
    except (InputError, OSError) as error:
        said = complaint(error) if isinstance(error, OSError) else str(error)
        if said is None or os.environ.get("IPT_DEBUG"):
            raise
        print(f"ipt: {said}", file=sys.stderr)
        sys.exit(2)
