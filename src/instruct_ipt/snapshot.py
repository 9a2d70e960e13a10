"""Keeping a finished replication in git: its tables, small pictures, and the numbers that the README quotes."""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from instruct_ipt.disk import naming
from instruct_ipt.errors import InputError
from instruct_ipt.marks import Marks
from instruct_ipt.params import Params, load
from instruct_ipt.paths import ABLATIONS, FIGURES, RESULTS, RUNTIME, SELECTION, TABLES
from instruct_ipt.report.study_tables import read_cell_images, read_cells, table01, table09
from instruct_ipt.report.table import write_table
from instruct_ipt.stage_table import STAGES
from instruct_ipt.stages._cells import cells_of
from instruct_ipt.summary import gains

MARKS = Marks("<!-- results: written by `ipt snapshot` -->", "<!-- /results -->")
README_PROFILE = "quick"
RESULT_FILES = ("benchmark.csv", "claims.csv", "sensitivity_agreement.csv", "task_conflict.csv")
PICTURES = ("fig4_comparison", "fig5_diffusion", "fig2_rank", "fig_pareto", "fig_task_gap", "data_degradations")
PICTURE_BYTES = 300_000
GRID_STAGES = ("fetch", "prepare", "train_shared", "sensitivity", "ablations", "claims")


def snapshot(readme: Path = Path("README.md"), grid: bool = False) -> Path:
    """Write `docs/<profile>/` and, at profile quick, the README's results block from the last replication.

    Args:
        readme: of the repository.
        grid: keep the searches, the ablation grid and the claims only, and leave the README alone: for a study whose
            later stages were not run.

    Raises:
        InputError: a result file is missing, or the README has no results block.
    """
    params = load()
    profile = params.profile
    names = [name for name in RESULT_FILES if not grid or name != "benchmark.csv"]
    # With its parameters: whoever wants to repeat the run copies them to params.yaml.
    kept = [*(RESULTS / name for name in names), ABLATIONS / "summary.csv", SELECTION, Path("params.yaml")]
    kept += [] if grid else sorted(TABLES.glob("table*.md"))
    for source in kept:
        if not source.is_file():
            raise InputError(f"{source} does not exist; `make repro` makes it")
    folder, scratch = Path("docs") / profile, Path("docs") / f".{profile}.snapshot"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        with naming(folder):
            _fill(scratch, kept, params, grid)
            folder.mkdir(exist_ok=True)
            # All is written before the first earlier file goes.
            if profile == README_PROFILE and not grid:
                MARKS.fill(readme, f"{_results(profile)}\n")
            for made in sorted(scratch.iterdir()):
                os.replace(made, folder / made.name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _fill(folder: Path, kept: Sequence[Path], params: Params, grid: bool) -> None:
    """Write the files of `docs/<profile>/` into an empty folder."""
    for source in kept:
        shutil.copy(source, folder / source.name)
    if grid:
        _write_grid_tables(folder, params.profile)
    for name in () if grid else PICTURES:
        (folder / f"{name}.jpg").write_bytes(_small_jpeg(FIGURES / f"{name}.png"))
    with (folder / "runtime.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["stage", "seconds", "peak_mib", "hardware", "versions"])
        rows = [*_runtime(GRID_STAGES if grid else tuple(STAGES)), _cells_together(params)]
        writer.writerows([row[key] for key in ("stage", "seconds", "peak_mib", "hardware", "versions")] for row in rows)


def _results(profile: str) -> str:
    """The README's block: gains over the input, then what the run cost."""
    found = gains(RESULTS / "benchmark.csv")
    methods = list(next(iter(found.values())))
    lines = [f"| gain over the input, dB | {' | '.join(methods)} |", "|---|" + "---:|" * len(methods)]
    lines += [f"| {name} | {' | '.join(f'{row[m]:+.2f}' for m in methods)} |" for name, row in found.items()]
    runtime = _runtime()
    minutes = sum(float(row["seconds"]) for row in runtime) / 60
    peak = max(float(row["peak_mib"]) for row in runtime) / 1024
    cost = (
        f"Profile `{profile}`, {_tested()}. The stages took\n"
        f"{minutes:.0f} minutes together on {runtime[0]['hardware']}, with at most {peak:.1f} GiB in one process\n"
        f"([durations](docs/{profile}/runtime.csv), [scores](docs/{profile}/benchmark.csv))."
    )
    return "\n".join([*lines, "", cost])


def _tested() -> str:
    """How many images, seeds and which protocol stand behind the gains, as a phrase."""
    with (RESULTS / "benchmark.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    images = sorted({int(row["images"]) for row in rows})
    counts = f"{images[0]}" if len(images) == 1 else f"{images[0]} to {images[-1]}"
    seeds = len({row["seed"] for row in rows})
    return f"{counts} test images per set, {seeds} seed{'s' * (seeds > 1)}, protocol `{rows[0]['protocol']}`"


def _write_grid_tables(folder: Path, profile: str) -> None:
    """Tables 1 and 9, which show the grid alone, as Markdown."""
    cells = read_cells(ABLATIONS / "summary.csv", profile)
    images = read_cell_images(ABLATIONS / "per_image.csv", profile)
    seen = f"protocol rgb, validation split; profile {profile}"
    with TemporaryDirectory() as scratch:
        for table in (table01(cells, images, seen), table09(cells, images, seen)):
            write_table(table, Path(scratch))
            shutil.copy(Path(scratch) / f"{table.name}.md", folder)


def _runtime(stages: tuple[str, ...] = tuple(STAGES)) -> list[dict[str, str]]:
    """The last row of `logs/runtime.csv` for every stage."""
    rows = _last_rows()
    missing = [name for name in stages if name not in rows]
    if missing:
        raise InputError(
            f"{RUNTIME} has no row for {', '.join(missing)}; run `dvc repro --force` to measure every stage"
        )
    return [rows[name] for name in stages]


def _cells_together(params: Params) -> dict[str, str]:
    """One row for the cells of the grid: the sum of their times (several run side by side), the largest memory."""
    names = [f"{params.profile}/{cell.study}/{cell.setting}/seed-{cell.seed}" for cell in cells_of(params)]
    found = _last_rows()
    rows = [found[name] for name in names if name in found]
    if not rows:
        raise InputError(f"{RUNTIME} has no row for a cell of the ablation grid; run `dvc repro --force ablations`")
    return _together(rows) | {"stage": f"{len(rows)} cells"}


def _last_rows() -> dict[str, dict[str, str]]:
    """Stage or cell -> its last row of `logs/runtime.csv`; of the grid the sum, for each call finds earlier cells done.

    So a cell that was trained again counts twice: the sum is what the grid takes from nothing, or more.
    """
    if not RUNTIME.is_file():
        raise InputError(f"{RUNTIME} does not exist; `make repro` writes it")
    with RUNTIME.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    grids = [row for row in rows if row["stage"] == "ablations"]
    return {row["stage"]: row for row in rows} | ({"ablations": _together(grids)} if grids else {})


def _together(rows: list[dict[str, str]]) -> dict[str, str]:
    """The last of some rows with the sum of their times and their largest memory."""
    seconds, peak = sum(float(row["seconds"]) for row in rows), max(int(row["peak_mib"]) for row in rows)
    return rows[-1] | {"seconds": f"{seconds:.1f}", "peak_mib": str(peak)}


def _small_jpeg(path: Path) -> bytes:
    """A picture as JPEG of at most :data:`PICTURE_BYTES`, made narrower until it fits."""
    from PIL import Image

    if not path.is_file():
        raise InputError(f"{path} does not exist; `dvc repro figures` makes it")
    picture = Image.open(path).convert("RGB")
    width = min(picture.width, 1800)
    while True:
        height = round(picture.height * width / picture.width)
        buffer = io.BytesIO()
        picture.resize((width, height), Image.Resampling.LANCZOS).save(buffer, format="JPEG", quality=88)
        if buffer.tell() <= PICTURE_BYTES:
            return buffer.getvalue()
        width = round(width * 0.9)
