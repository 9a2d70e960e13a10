"""The one-page report: figures, tables, numbers and before/after sliders in a single file that opens from disk."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.figure4 import shown_samples
from instruct_ipt.report.style import METHOD_LABELS, METHODS
from instruct_ipt.report.tables import images_per_set, read_benchmark, snow_note
from instruct_ipt.tasks import TASKS

PICTURE_LIMIT = 150_000
_TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Block:
    """A figure of the page.

    Attributes:
        file: name of the PNG in `figures/`.
        title: heading.
        caption: what it shows.
        alt: the same for somebody who does not see it.
        commands: how to make it again.
    """

    file: str
    title: str
    caption: str
    alt: str
    commands: tuple[str, ...]


FIGURES: tuple[Block, ...] = (
    Block(
        "fig1_framework.png",
        "Figure 1. Framework",
        "One backbone for all tasks and low-rank task biases on its task-sensitive weights; both learn at once.",
        "Diagram: an image and a task go in; the backbone's weights plus the task's low-rank bias give the "
        "restored image.",
        ("dvc repro figures",),
    ),
    Block(
        "fig2_rank.png",
        "Figure 2. Energy kept by each rank rule",
        "Top: share of each task bias's energy kept by a constant rank r and by a rank proportional to the "
        "matrix (share ρ) at nearly equal parameters; line: mean over tasks, band: least to most; the darker "
        "the background, the deeper the U-Net stage; ticks below say which weight group a layer belongs to. "
        "Bottom: mean energy and validation PSNR after truncation against parameters.",
        "Line charts over the network's layers: cumulative energy kept by the constant and by the "
        "proportional rank rule at up to three budgets, then mean energy and PSNR against parameters. The "
        "values are in fig2_rank.csv.",
        ("dvc repro figures", "snakemake -c2 rank"),
    ),
    Block(
        "fig3_instruction.png",
        "Figure 3. Commanded by text",
        "A sentence chooses the task; the network restores accordingly.",
        "Photographs, each with the sentence that commanded the network, before and after.",
        ("dvc repro figures",),
    ),
    Block(
        "fig4_comparison.png",
        "Figure 4. Methods side by side",
        "Photographs of the test split with the median gain. Below each: PSNR of the whole photograph. The "
        "zoomed window is the one where the degraded picture differs most from the clean one, so that the "
        "choice favours no method.",
        "Rows of photographs by task; columns: degraded, shared network, FiLM, weight modulation, clean; a "
        "corner of each shows an enlarged window. The PSNR values are in fig4_comparison.csv.",
        ("dvc repro figures",),
    ),
    Block(
        "fig5_diffusion.png",
        "Figure 5. Diffusion",
        "Inpainting and outpainting by the same method on a diffusion denoiser.",
        "Rows of inpainted and outpainted pictures, one column per method.",
        ("dvc repro figures",),
    ),
    Block(
        "fig_pareto.png",
        "What added parameters buy",
        "PSNR on the validation split against the parameters that all tasks together add to one backbone. Filled "
        "markers are brought to one size, hollow ones stand at their natural size. Bars: least to most over seeds.",
        "Scatter charts, one for the dissimilar tasks and one for the noise levels: PSNR of every method against its "
        "added parameters. The values are in fig_pareto.csv.",
        ("snakemake -c2 adaptation", "dvc repro figures"),
    ),
    Block(
        "fig_task_gap.png",
        "The gap between two tasks",
        "Gain over one shared network, on pairs of tasks, against how much the gradients of the two tasks disagree on "
        "the shared network.",
        "Scatter chart: gain in PSNR of each method over the shared network against the gradient conflict of the pair. "
        "The values are in fig_task_gap.csv.",
        ("snakemake -c2 task_gap", "dvc repro figures"),
    ),
    Block(
        "fig_training.png",
        "Training curves",
        "PSNR on the validation split against the training step, per task.",
        "Line charts, one per task and one of their mean: validation PSNR of the shared network, FiLM and "
        "weight modulation against the step. The values are in fig_training.csv.",
        ("dvc repro train_shared train_film train_modulation", "dvc repro figures"),
    ),
)
TABLE_COMMANDS: dict[str, tuple[str, ...]] = {
    "table03": ("dvc repro tables", "snakemake -c2 rank"),
    "table04": ("dvc repro evaluate", "dvc repro tables"),
    "table09": ("dvc repro tables", "snakemake -c2 strategy"),
}


def write_page(root: Path, out: Path, summary: Mapping[str, Any]) -> None:
    """Write the report as one self-contained HTML file: every picture embedded, no network, the same bytes every time.

    Args:
        root: folder that holds `figures/*.png`, `tables/*.md`, `results/samples.csv` and the pictures it names.
        out: file to write, for example `report/index.html`; its folder is made.
        summary: as :func:`summarise` returns it.

    Raises:
        InputError: a table, `samples.csv` or one of its pictures is missing.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    figures = [_figure(root / "figures", block) for block in FIGURES if (root / "figures" / block.file).is_file()]
    files = sorted((root / "tables").glob("table*.md"))
    if not files:
        raise InputError(f"{(root / 'tables').as_posix()} holds no table; `dvc repro tables` makes them")
    page = environment.get_template(_TEMPLATE).render(
        summary=summary,
        labels=METHOD_LABELS,
        sliders=sliders(root / "results"),
        figures=figures,
        tables=[_table(file) for file in files],
        claims=claims(root / "results" / "claims.csv"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8", newline="\n")


def summarise(benchmark: pd.DataFrame | Path) -> dict[str, Any]:
    """The numbers at the top of the page, from `results/benchmark.csv`.

    Returns:
        ``profile``, ``protocol`` (names); ``images`` (per set, text), ``snow`` (a note); ``seeds`` (count); ``tasks``;
        ``gains``: method to task to gain in PSNR over the degraded image in dB (noise: mean over its levels); ``mean``:
        method to mean over tasks. NaN where a method has no score.
    """
    scores = read_benchmark(benchmark)
    scores = scores.assign(gain=scores.psnr - scores.psnr_input)
    tasks = in_order(list(scores.task), TASKS)
    methods = [method for method in in_order(list(scores.method), METHODS) if method != "input"]
    table = scores.groupby(["method", "task"]).gain.mean()
    gains = {m: {t: float(table.get((m, t), np.nan)) for t in tasks} for m in methods}
    return {
        "profile": str(scores.profile.iloc[0]),
        "protocol": str(scores.protocol.iloc[0]),
        "images": images_per_set(scores),
        "snow": snow_note(scores),
        "seeds": int(scores.seed.nunique()),
        "tasks": tasks,
        "gains": gains,
        "mean": {method: float(np.mean(list(row.values()))) for method, row in gains.items()},
    }


def claims(source: pd.DataFrame | Path) -> list[dict[str, Any]]:
    """The claims of the paper as they are shown, from `results/claims.csv`.

    Returns:
        Per claim: ``statement``, ``verdict``, ``note``, ``effect`` with its interval and unit (text, "" where nothing
        could be estimated), and ``n`` (what the interval allows for, images and seeds, text).
    """
    text, numbers = ("statement", "unit", "verdict"), ("effect", "ci_low", "ci_high", "n_images", "n_seeds")
    table = read_result(source, "results/claims.csv", text, numbers)
    return [
        {
            "statement": row.statement,
            "verdict": row.verdict,
            "note": row.note if isinstance(row.note, str) else "",
            "effect": _effect(row),
            "n": _behind(row),
        }
        for row in table.itertuples()
    ]


def _effect(row: Any) -> str:
    if np.isnan(row.effect):
        return ""
    if row.ci_low == row.ci_high:
        return f"{row.effect:.2f} {row.unit}"
    interval = "" if np.isnan(row.ci_low) else f" [{row.ci_low:+.2f}, {row.ci_high:+.2f}]"
    return f"{row.effect:+.2f}{interval} {row.unit}"


def _behind(row: Any) -> str:
    if not row.n_seeds:
        return ""
    seeds = f"{row.n_seeds} seed{'s' * (row.n_seeds > 1)}"
    images = f"{row.n_images} images, {seeds}" if row.n_images else seeds
    return f"{images}; {row.interval}" if isinstance(row.interval, str) else images


def sliders(results: Path) -> list[dict[str, Any]]:
    """Before/after pictures of every task: one photograph each, degraded against weight modulation.

    Args:
        results: folder with `samples.csv` and the pictures it names.

    Returns:
        Per task, in the fixed order of tasks: ``task``, ``dataset``, ``image``, ``width`` and ``height`` in pixels,
        ``before`` and ``after`` (data addresses), ``psnr_before`` and ``psnr_after`` in dB.
    """
    found = {}
    for part in shown_samples(results / "samples.csv"):
        rows = part.drop_duplicates("method").set_index("method")
        if "modulation" in rows.index:
            found[rows.task.iloc[0]] = _slider(rows, results)
    return [found[task] for task in in_order(list(found), TASKS)]


def _slider(rows: pd.DataFrame, results: Path) -> dict[str, Any]:
    before, after = (_picture(results / rows.file[method]) for method in ("input", "modulation"))
    facts = {key: rows[key].iloc[0] for key in ("task", "dataset", "image")}
    scores = {"psnr_before": float(rows.psnr["input"]), "psnr_after": float(rows.psnr["modulation"])}
    return facts | scores | {"before": before[0], "after": after[0], "width": before[1][0], "height": before[1][1]}


def _picture(path: Path) -> tuple[str, tuple[int, int]]:
    """A photograph as the address of an embedded JPEG of at most ``PICTURE_LIMIT`` bytes, and its (width, height)."""
    if not path.is_file():
        raise InputError(f"{path.as_posix()} does not exist though samples.csv names it; run `dvc repro evaluate`")
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((760, 760), Image.Resampling.LANCZOS)
    for quality in (92, 85, 78, 70, 60, 45):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, subsampling=0)
        if stream.tell() <= PICTURE_LIMIT:
            break
    return _address(stream.getvalue(), "jpeg"), picture.size


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _figure(folder: Path, block: Block) -> dict[str, Any]:
    content = (folder / block.file).read_bytes()
    with Image.open(io.BytesIO(content)) as picture:
        width, height = picture.size
    return {"block": block, "source": _address(content, "png"), "width": width, "height": height}


def _table(file: Path) -> dict[str, Any]:
    title, caption, head, numeric, rows = parse_markdown(file.read_text(encoding="utf-8"))
    return {
        "name": file.stem,
        "title": title,
        "caption": caption,
        "head": [_plain(cell) for cell in head],
        "numeric": numeric,
        "rows": [[_cell(cell) for cell in row] for row in rows],
        "commands": TABLE_COMMANDS.get(file.stem, ("dvc repro tables",)),
    }


def parse_markdown(text: str) -> tuple[str, str, list[str], list[bool], list[list[str]]]:
    """A table file as ``tables.write_table`` writes it.

    Returns:
        Title, caption, heading cells, whether each column holds numbers, body rows.

    Raises:
        InputError: the text is not such a file.
    """
    lines = text.splitlines()
    match = re.fullmatch(r"\*\*(.+?)\.\*\* (.*)", lines[0])
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]
    if match is None or len(cells) < 2:
        raise InputError("a table in tables/ is not as `dvc repro tables` writes it; run it again")
    return match[1], match[2], cells[0], [rule.endswith(":") for rule in cells[1]], cells[2:]


def _plain(cell: str) -> str:
    """The text of a Markdown cell without its backslashes."""
    return re.sub(r"\\(.)", r"\1", cell)


def _cell(cell: str) -> dict[str, Any]:
    """Text of a cell with its mark, and the number to sort it by ('' for text)."""
    match = re.fullmatch(r"(\*\*|<u>)?(.*?)(\*\*|</u>)?", cell)
    assert match is not None, "every text matches"
    mark = {"**": "strong", "<u>": "u", None: ""}[match[1]]
    text = _plain(match[2])
    number = re.fullmatch(r"(?:[rρ] = )?(-?[\d,]+(?:\.\d+)?)(?: ± [\d.]+)?", text)
    shown = Markup("<{0}>{1}</{0}>").format(mark, text) if mark else text
    return {"text": shown, "sort": number[1].replace(",", "") if number else ""}
