"""Tables 3, 4 and 9 as CSV, Markdown and LaTeX, all by one writer.

Which of the paper's tables holds what is not public; the numbering is our assumption, and each caption says so. The
paper's values are not public either: their column stays empty.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.figure2 import rank_budgets
from instruct_ipt.report.style import METHOD_LABELS, METHODS
from instruct_ipt.tasks import TASKS

PAPER = "Paper (not public)"
STRATEGIES = ("shared", "experts", "frozen", "two_stage", "synchronous")
_MISSING = "–"
_METRICS = {"psnr": "PSNR (dB)", "ssim": "SSIM", "gain": "Gain (dB)"}
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "σ": r"$\sigma$", "ρ": r"$\rho$", "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$",
}  # fmt: skip
_TEX_MARKS = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
_MARKDOWN_MARKS = {"best": "**%s**", "second": "<u>%s</u>", "": "%s"}


@dataclass(frozen=True)
class Column:
    """How one column is shown.

    Attributes:
        key: column of the table's rows.
        title: its heading.
        digits: decimals of a number; or, with ``Table.within``, decimals by the value of that column. None for text.
        better: whether the best value is marked, and which end is best. None for what is not compared.
        spread: column that holds the standard deviation over seeds, shown as ``mean ± deviation`` where it is a number.
    """

    key: str
    title: str
    digits: int | dict[str, int] | None = None
    better: Literal["higher", "lower"] | None = None
    spread: str | None = None


@dataclass(frozen=True)
class Table:
    """A table to be written.

    Attributes:
        name: file name without suffix; ends with the two digits of the table's number.
        caption: one paragraph of plain text.
        columns: what is shown, in order.
        rows: the values; columns that are not shown are still in the CSV, but for those that start with `_`.
        within: column whose equal values compete for the marks; None = all rows compete.
        outside: positions of rows that take no part in the comparison (references).
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: pd.DataFrame
    within: str | None = None
    outside: tuple[int, ...] = ()


def write_tables(
    benchmark: pd.DataFrame | Path,
    rank_strategy: pd.DataFrame | Path,
    ablations: pd.DataFrame | Path,
    out_dir: Path,
    validation_images: int | None = None,
) -> None:
    """Write ``table03``, ``table04`` and ``table09`` as ``.csv``, ``.md`` and ``.tex`` into ``out_dir``.

    Args:
        benchmark: `results/benchmark.csv` (test split).
        rank_strategy: `results/rank_strategy.csv` (validation split).
        ablations: `ablations/summary.csv` (validation split); only cells of the benchmark's profile are used.
        out_dir: folder to write to; it is made.
        validation_images: number of validation images per task, for the captions; None leaves it out.

    Raises:
        InputError: a column is missing, or the benchmark mixes profiles.
    """
    scores = read_benchmark(benchmark)
    profile = str(scores.profile.iloc[0])
    cells = _read_cells(ablations, profile)
    size = f", n = {validation_images} images per task" if validation_images else ""
    seen = f"protocol {scores.protocol.iloc[0]}, validation split{size}; profile {profile}"
    tables = (
        table03(rank_budgets(rank_strategy), cells[(cells.study == "rank") & (cells.setting != "shared")], seen),
        table04(scores),
        table09(cells[cells.study == "strategy"], seen),
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    for table in tables:
        write_table(table, out_dir)


def read_benchmark(benchmark: pd.DataFrame | Path) -> pd.DataFrame:
    """`results/benchmark.csv` under its first protocol, the one that figures and tables show; one profile.

    Raises:
        InputError: a column is missing, or the table mixes profiles.
    """
    text = ("method", "strategy", "task", "dataset", "protocol", "profile")
    numbers = ("seed", "images", "psnr", "ssim", "psnr_input", "ssim_input", "params_total", "params_per_task")
    scores = read_result(benchmark, "results/benchmark.csv", text, numbers)
    profiles = list(dict.fromkeys(scores.profile))
    if len(profiles) > 1:
        raise InputError(f"results/benchmark.csv mixes profiles {', '.join(profiles)}; keep the rows of one")
    return scores[scores.protocol == scores.protocol.iloc[0]].reset_index(drop=True)


def _read_cells(ablations: pd.DataFrame | Path, profile: str) -> pd.DataFrame:
    text, numbers = (
        ("profile", "study", "setting", "task"),
        (
            *("seed", "psnr", "ssim", "params_added", "steps"),
            "psnr_backbone",
        ),
    )
    # A grid may be empty: its table then says so.
    cells = read_result(ablations, "ablations/summary.csv", text, numbers, rows=False)
    return cells[cells.profile == profile].reset_index(drop=True)


# ---- the three tables -----------------------------------------------------------------------------------------------


def table03(budgets: pd.DataFrame, cells: pd.DataFrame, seen: str) -> Table:
    """Constant against proportional rank at equal parameters: energy, PSNR after truncation, PSNR when trained so.

    Args:
        budgets: as ``figure2.rank_budgets`` returns it.
        cells: the cells of the study ``rank``.
        seen: protocol, split and profile, for the caption.
    """
    rows = _with_trained(budgets, _trained_ranks(cells))
    rows["energy_mean_percent"], rows["energy_min_percent"] = 100 * rows.energy_mean, 100 * rows.energy_min
    rows = rows.drop(columns=["energy_mean", "energy_min"])
    rows["_shown"] = [_rank_label(row.rule, row.value) for row in rows.itertuples(index=False)]
    rows["_compared"] = [f"{row.source} {row.budget:g}" for row in rows.itertuples(index=False)]
    rows[PAPER] = ""
    columns = (
        Column("source", "Increment"),
        Column("rule", "Rank rule"),
        Column("_shown", "Rank"),
        Column("params", "Factors, parameters per task", 0),
        Column("energy_mean_percent", "Energy kept, mean (%)", 2, "higher"),
        Column("energy_min_percent", "Energy kept, least (%)", 2, "higher"),
        Column("psnr", "PSNR truncated (dB)", 2, "higher"),
        Column("params_added", "Trained: parameters added", 0),
        Column("psnr_trained", "Trained: PSNR (dB)", 2, "higher", "psnr_spread"),
        Column(PAPER, PAPER),
    )
    caption = (
        "Rank rules, constant r against proportional ρ (share of the full rank) at nearly equal parameters (table 3 by "
        "an assumed mapping). Truncated: unfactored increments cut to the rank. Trained: networks trained at that rank"
        f"{_seeds(cells)}. PSNR: mean over tasks, {seen}. Bold: the better rule of each pair."
    )
    outside = tuple(np.flatnonzero(rows.rule == "full").tolist())
    return Table("table03", caption, columns, rows, "_compared", outside)


def _trained_ranks(cells: pd.DataFrame) -> pd.DataFrame:
    """Per setting of the rank study: rule, value, params_added, psnr_trained, psnr_spread."""
    means = _over_seeds(cells)
    parts = [setting.partition("-") for setting in means.setting]
    rules = {"rule": [rule for rule, _, _ in parts], "value": [float(value) for _, _, value in parts]}
    trained = pd.DataFrame(rules, index=means.index)
    trained[["params_added", "psnr_trained", "psnr_spread"]] = means[["params_added", "mean", "mean_spread"]]
    return trained


def _with_trained(budgets: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """The truncation rows of each source with the trained networks beside those of the biases.

    A trained setting without a truncation row gets its own row, in the budget of the nearest trained constant rank.
    """
    # A share went through text of six digits on both sides; as keys they are compared at five.
    left = budgets.assign(key=budgets.value.round(5))
    right = trained.assign(key=trained.value.round(5), source="bias").rename(columns={"value": "trained_value"})
    rows = left.merge(right, on=["source", "rule", "key"], how="outer")
    rows["value"] = rows.value.fillna(rows.trained_value)
    constant = right[right.rule == "constant"]
    for index in rows.index[rows.budget.isna() & (rows.rule != "full")]:
        row = rows.loc[index]
        if row.rule == "constant":
            rows.loc[index, "budget"] = row.value
        elif len(constant):
            nearest = (constant.params_added - row.params_added).abs().argmin()
            rows.loc[index, "budget"] = constant.trained_value.iloc[nearest]
    ordered = rows.sort_values(["source", "budget", "rule", "value"], kind="stable", ignore_index=True)
    return ordered.drop(columns=["key", "trained_value"])


def _rank_label(rule: str, value: float) -> str:
    return {"constant": f"r = {value:g}", "proportional": f"ρ = {value:.4g}"}.get(rule, "full")


def table04(scores: pd.DataFrame) -> Table:
    """Main comparison: methods by tasks, in three blocks (PSNR, SSIM, gain over the degraded image).

    Args:
        scores: as ``read_benchmark`` returns it.
    """
    scores = scores.assign(gain=scores.psnr - scores.psnr_input)
    sets = _sets(scores)
    rows = pd.concat(
        [_block(scores, sets, key, title) for key, title in _METRICS.items()],
        ignore_index=True,
    )
    rows = rows[~((rows.metric == "Gain (dB)") & (rows.method == "input"))].reset_index(drop=True)
    rows["_shown"] = [METHOD_LABELS.get(method, method) for method in rows.method]
    rows[PAPER] = ""
    digits = {"PSNR (dB)": 2, "SSIM": 4, "Gain (dB)": 2}
    columns = (
        Column("metric", "Metric"),
        Column("_shown", "Method"),
        *(Column(key, title, digits, "higher") for key, title in sets.items()),
        Column("mean", "Mean", digits, "higher"),
        Column("params_total", "Parameters, total", 0),
        Column("params_per_task", "Parameters per task", 0),
        Column(PAPER, PAPER),
    )
    outside = tuple(np.flatnonzero(rows.method == "input").tolist())
    return Table("table04", _caption04(scores), columns, rows, "metric", outside)


def _caption04(scores: pd.DataFrame) -> str:
    first = scores.iloc[0]
    seeds = int(scores.seed.nunique())
    return (
        f"Main comparison (table 4 by an assumed mapping). Protocol {first.protocol}, test split, "
        f"n = {images_per_set(scores)} images per set, {seeds} seed{'s' if seeds > 1 else ''}; "
        f"profile {first.profile}. "
        "The mean weighs the tasks equally, however many sets each has. Gain: PSNR minus that of the degraded image. "
        f"Bold: best, underlined: second best.{snow_note(scores)}"
    )


def images_per_set(scores: pd.DataFrame) -> str:
    """Number of images behind the scores, as text: `3`, or `5 to 68` where sets differ."""
    low, high = int(scores.images.min()), int(scores.images.max())
    return f"{low}" if low == high else f"{low} to {high}"


def snow_note(scores: pd.DataFrame) -> str:
    """What must stand wherever desnowing is scored on synthetic snow over benchmark images; empty elsewhere."""
    if not scores.dataset.str.endswith("-snow").any():
        return ""
    return " Desnowing: synthetic snow with a real mask among the flakes, for no public pairs could be had."


def _sets(scores: pd.DataFrame) -> dict[str, str]:
    """Column key -> heading of every (task, dataset), tasks in order, noise levels rising."""
    found = {}
    for task in in_order(list(scores.task), TASKS):
        datasets = list(dict.fromkeys(scores.dataset[scores.task == task]))
        for dataset in sorted(datasets, key=lambda name: (_sigma(name), datasets.index(name))):
            level = f" σ={_sigma(dataset):g}" if _sigma(dataset) else ""
            plain = level or len(datasets) == 1
            found[f"{task}/{dataset}"] = f"{task}{level}" if plain else f"{task} {dataset}"
    return found


def _sigma(dataset: str) -> float:
    match = re.search(r"sigma(\d+(?:\.\d+)?)", dataset)
    return float(match[1]) if match else 0.0


def _block(scores: pd.DataFrame, sets: dict[str, str], key: str, title: str) -> pd.DataFrame:
    """One row per method: ``key`` averaged over seeds for each set, and over tasks."""
    rows = []
    for method in in_order(list(scores.method), METHODS):
        part = scores[scores.method == method]
        values = part.groupby(part.task + "/" + part.dataset)[key].mean()
        cells = {name: float(values.get(name, np.nan)) for name in sets}
        by_task = pd.Series(cells).groupby([name.split("/")[0] for name in cells], sort=False)
        tasks = by_task.agg(lambda values: values.mean(skipna=False))
        costs = {name: float(part[name].iloc[0]) for name in ("params_total", "params_per_task")}
        rows.append({"metric": title, "method": method} | cells | {"mean": tasks.mean(skipna=False)} | costs)
    return pd.DataFrame(rows)


def table09(cells: pd.DataFrame, seen: str) -> Table:
    """Training strategies by tasks.

    Args:
        cells: the cells of the study ``strategy``.
        seen: protocol, split and profile, for the caption.
    """
    rows = _over_seeds(cells)
    order = in_order(list(rows.setting), STRATEGIES)
    rows = rows.set_index("setting").loc[order].reset_index()
    rows["_shown"] = [setting.replace("_", "-") for setting in rows.setting]
    rows[PAPER] = ""
    columns = (
        Column("_shown", "Strategy"),
        *(Column(task, f"{task} (dB)", 2, "higher", f"{task}_spread") for task in in_order(list(cells.task), TASKS)),
        Column("mean", "Mean PSNR (dB)", 2, "higher", "mean_spread"),
        Column("psnr_backbone", "Backbone alone (dB)", 2),
        Column("ssim", "Mean SSIM", 4, "higher"),
        Column("params_added", "Parameters added", 0),
        Column("steps", "Steps", 0),
        Column(PAPER, PAPER),
    )
    caption = (
        f"Training strategies (table 9 by an assumed mapping). Backbone alone: mean PSNR without the task biases "
        f"(strength 0), which is what the shared weights have learned. "
        f"{seen[0].upper()}{seen[1:]}{_seeds(cells)}. Bold: best, underlined: second best."
    )
    return Table("table09", caption, columns, rows)


def _seeds(cells: pd.DataFrame) -> str:
    """``, 2 seeds (mean ± standard deviation)`` for a caption."""
    seeds = int(cells.seed.nunique())
    if seeds == 0:
        return ", no cells in this profile"
    return ", 1 seed" if seeds == 1 else f", {seeds} seeds (mean ± standard deviation)"


def _over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
    """One row per setting: mean PSNR over seeds per task, ``mean`` over tasks, their deviations over seeds, costs.

    The deviation is the sample one (n - 1); NaN for one seed. A task without a score makes the mean NaN.
    """
    rows = []
    tasks = in_order(list(cells.task), TASKS)
    for setting, part in cells.groupby("setting", sort=False):
        grid = part.pivot_table(index="seed", columns="task", values="psnr").reindex(columns=tasks)
        grid["mean"] = grid.mean(axis=1, skipna=False)
        row = {"setting": setting} | grid.mean(skipna=False).to_dict() | grid.std().add_suffix("_spread").to_dict()
        rows.append(row | part[list(_COSTS)].mean().to_dict())
    spreads = [f"{name}_spread" for name in (*tasks, "mean")]
    return pd.DataFrame(rows, columns=["setting", *tasks, "mean", *spreads, *_COSTS])


_COSTS = ("psnr_backbone", "ssim", "params_added", "steps")


# ---- the writer -----------------------------------------------------------------------------------------------------


def write_table(table: Table, out_dir: Path) -> None:
    """Write ``table`` as ``.csv`` (plain values), ``.md`` and ``.tex`` (booktabs) into ``out_dir``."""
    rows, marks = cells_of(table), marks_of(table)
    # Helper columns start with an underscore. An integer that shared a column with empty cells is a float by now; eight
    # significant digits write it as an integer again.
    plain = table.rows[[column for column in table.rows.columns if not column.startswith("_")]]
    plain.to_csv(out_dir / f"{table.name}.csv", index=False, float_format="%.8g", lineterminator="\n")
    (out_dir / f"{table.name}.md").write_text(_markdown(table, rows, marks), encoding="utf-8")
    (out_dir / f"{table.name}.tex").write_text(_latex(table, rows, marks), encoding="utf-8")


def cells_of(table: Table) -> list[list[str]]:
    """The text of every cell, without marks."""
    lines = []
    for row in table.rows.to_dict("records"):
        group = row[table.within] if table.within else ""
        lines.append([_cell(row, column, group) for column in table.columns])
    return lines


def marks_of(table: Table) -> list[list[str]]:
    """For every cell ``best``, ``second`` or nothing.

    Values are compared as they are printed, so that equal prints share a mark. A comparison needs two different values;
    ``second`` needs three rows, else it would mark every loser.
    """
    marks = [[""] * len(table.columns) for _ in range(len(table.rows))]
    competing = [i for i in range(len(table.rows)) if i not in table.outside]
    groups: dict[str, list[int]] = {}
    for index in competing:
        groups.setdefault(str(table.rows.iloc[index][table.within]) if table.within else "", []).append(index)
    for group, members in groups.items():
        for place, column in enumerate(table.columns):
            if column.better:
                for index, mark in _ranked(table.rows[column.key], members, column, group).items():
                    marks[index][place] = mark
    return marks


def _ranked(values: pd.Series, members: Sequence[int], column: Column, group: str) -> dict[int, str]:
    digits = _digits(column, group)
    shown = {i: round(float(values.iloc[i]), digits) for i in members if np.isfinite(values.iloc[i])}
    distinct = sorted(set(shown.values()), reverse=column.better == "higher")
    if len(distinct) < 2:
        return {}
    best = {i: "best" for i, value in shown.items() if value == distinct[0]}
    if len(shown) < 3:
        return best
    return best | {i: "second" for i, value in shown.items() if value == distinct[1]}


def _digits(column: Column, group: str) -> int:
    return column.digits[group] if isinstance(column.digits, dict) else column.digits or 0


def _cell(row: dict[str, object], column: Column, group: str) -> str:
    value = row[column.key]
    if column.digits is None:
        return str(value)
    if not np.isfinite(value):
        return _MISSING
    digits = _digits(column, str(group))
    spread = row[column.spread] if column.spread else np.nan
    return f"{value:,.{digits}f}" + (f" ± {spread:.{digits}f}" if np.isfinite(spread) else "")


def _markdown(table: Table, rows: list[list[str]], marks: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [_markdown_text(column.title) for column in table.columns]
    rule = ["---" if column.digits is None else "---:" for column in table.columns]
    body = [
        line([_MARKDOWN_MARKS[mark] % _markdown_text(cell) for cell, mark in zip(cells, marked, strict=True)])
        for cells, marked in zip(rows, marks, strict=True)
    ]
    return "\n".join([f"**Table {int(table.name[-2:])}.** {table.caption}", "", line(head), line(rule), *body, ""])


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|*_<>])", r"\\\1", text)


def _latex(table: Table, rows: list[list[str]], marks: list[list[str]]) -> str:
    spec = "".join("l" if column.digits is None else "r" for column in table.columns)
    head = " & ".join(escape_latex(column.title) for column in table.columns)
    lines = [
        "% Needs \\usepackage{booktabs,graphicx}.",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{escape_latex(table.caption)}}}",
        f"\\label{{tab:{table.name}}}",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{{spec}}}",
        "\\toprule",
        f"{head} \\\\",
        "\\midrule",
        *_latex_body(table, rows, marks),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{table*}",
        "",
    ]
    return "\n".join(lines)


def _latex_body(table: Table, rows: list[list[str]], marks: list[list[str]]) -> list[str]:
    """The lines of the body; a rule between the groups that are compared."""
    groups = list(table.rows[table.within].astype(str)) if table.within else [""] * len(rows)
    lines = []
    for index, (cells, marked) in enumerate(zip(rows, marks, strict=True)):
        if index and groups[index] != groups[index - 1]:
            lines.append("\\midrule")
        shown = [_TEX_MARKS[mark] % escape_latex(cell) for cell, mark in zip(cells, marked, strict=True)]
        lines.append(" & ".join(shown) + " \\\\")
    return lines


def escape_latex(text: str) -> str:
    """``text`` as LaTeX that prints it: special characters escaped, Greek and signs as mathematics."""
    return "".join(_TEX.get(character, character) for character in text)
