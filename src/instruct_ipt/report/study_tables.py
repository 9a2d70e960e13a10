"""Tables of the ablation grid and the searches: task sets (1), sensitivity (2), rank (3), strategy (9), cost (10)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from instruct_ipt.analysis.claims import photograph_of
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.intervals import EXPLAINED, NOTHING, Interval, of_seeds, paired
from instruct_ipt.report.style import METHOD_LABELS, METHODS
from instruct_ipt.report.table import Column, Table, interval_cells
from instruct_ipt.tasks import TASKS

STRATEGIES = ("shared", "experts", "frozen", "two_stage", "synchronous")
SETS = {"five": "Five dissimilar tasks", "noise": "Noise levels"}
# Settings of the grid that compare methods, in the order of the tables.
LABELS = {method: METHOD_LABELS[method] for method in METHODS if method not in ("input", "modulation")} | {
    "constant": "Modulation, constant r",
    "proportional": "Modulation, proportional ρ",
    "full": "Modulation, full biases",
}
_COSTS = ("psnr_backbone", "ssim", "params_added", "params_total", "steps")
_FILE = "ablations/per_image.csv"
# Two rank rules are compared if the sizes of their biases differ by no more than this share.
_NEARLY_EQUAL = 0.25
_MARKS = "Bold: best, underlined: second best."


def read_cells(summary: pd.DataFrame | Path, profile: str) -> pd.DataFrame:
    """The cells of one profile in `ablations/summary.csv`; a grid may be empty, its tables then say so.

    Raises:
        InputError: a column is missing.
    """
    text = ("profile", "study", "setting", "task")
    cells = read_result(summary, "ablations/summary.csv", text, ("seed", "psnr", *_COSTS), rows=False)
    return _with_experts(cells[cells.profile == profile].reset_index(drop=True))


def read_cell_images(images: pd.DataFrame | Path, profile: str) -> pd.DataFrame:
    """The images of one profile in `ablations/per_image.csv`.

    Raises:
        InputError: a column is missing.
    """
    text = ("profile", "study", "setting", "task", "image")
    table = read_result(images, _FILE, text, ("seed", "psnr"), rows=False)
    return _with_experts(table[table.profile == profile].reset_index(drop=True))


def _with_experts(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with the experts of the study `strategy` in `adaptation` too: one recipe, which some grids run once."""
    if "five-experts" in set(table.setting):
        return table
    experts = table[(table.study == "strategy") & (table.setting == "experts")]
    return pd.concat([table, experts.assign(study="adaptation", setting="five-experts")], ignore_index=True)


def table01(cells: pd.DataFrame, images: pd.DataFrame, seen: str) -> Table:
    """The motivating experiment: every method on dissimilar and on similar tasks.

    Args:
        cells: as ``read_cells`` returns it.
        images: as ``read_cell_images`` returns it.
        seen: protocol, split and profile, for the caption.
    """
    cells, images = (table[table.study == "adaptation"] for table in (cells, images))
    columns = [Column("_shown", "Method")]
    rows = pd.DataFrame({"method": in_order([s.rpartition("-")[2] for s in cells.setting], list(LABELS))}, dtype=str)
    for name, title in SETS.items():
        found = over_seeds(cells[cells.setting.str.startswith(f"{name}-")])
        found = found.assign(method=[s.rpartition("-")[2] for s in found.setting]).astype({"method": str})
        found[f"{name}_share"] = 100 * found.params_added / (found.params_total - found.params_added)
        found[[f"{name}_psnr", f"{name}_spread"]] = found[["mean", "mean_spread"]]
        found = _with_gains(found, images, f"{name}_gain", f"{name}-shared")
        keys = [f"{name}_{key}" for key in ("psnr", "spread", "gain", "gain_low", "gain_high", "share")]
        rows = rows.merge(found[["method", *keys]], on="method", how="left")
        columns += [
            Column(keys[0], f"{title}: PSNR (dB)", 2, "higher", keys[1]),
            Column(keys[2], f"{title}: gain over shared (dB)", 2, "higher", interval=True),
            Column(keys[5], f"{title}: parameters added (% of the backbone)", 1),
        ]
    rows["_shown"] = [LABELS.get(method, method) for method in rows.method]
    caption = (
        "Adapting features or weights, on tasks that differ and on tasks that are alike (table 1 by an assumed "
        f"mapping). PSNR: mean over tasks, {seen}{_seeds(cells)}. {EXPLAINED}. {_MARKS}"
    )
    return Table("table01", caption, tuple(columns), rows)


def table02(sensitivity: pd.DataFrame | Path, selected: Sequence[str], seen: str) -> Table:
    """The sensitivity search: gain of every weight group for every task, and the same per freed parameter.

    Args:
        sensitivity: `results/sensitivity.csv`; its rows of the exact search are shown.
        selected: the modulated groups.
        seen: protocol, split and profile, for the caption.

    Raises:
        InputError: a column is missing.
    """
    text, numbers = ("estimator", "task", "group"), ("seed", "gain_db", "freed_params", "score")
    search = read_result(sensitivity, "results/sensitivity.csv", text, numbers)
    search = search[search.estimator == "exact"]
    tasks = in_order(list(search.task), TASKS)
    metrics = {"gain_db": "Gain (dB)", "score": "Gain per 100 000 freed parameters (dB)"}
    order = search.groupby("group", sort=False).gain_db.mean().sort_values(ascending=False, kind="stable").index
    rows = pd.DataFrame(
        [
            {"metric": title, "group": group, "selected": "yes" if group in selected else "no"}
            | part.groupby("task")[key].mean().to_dict()
            | interval_cells("mean", of_seeds(part.groupby("seed")[key].mean()))
            | {"freed_params": part.freed_params.iloc[0]}
            for key, title in metrics.items()
            for group in order
            for part in [search[search.group == group]]
        ]
    )
    columns = (
        Column("metric", "Metric"),
        Column("group", "Weight group"),
        *(Column(task, task, 3, "higher") for task in tasks),
        Column("mean", "Mean", 3, "higher", interval=True),
        Column("freed_params", "Freed parameters", 0),
        Column("selected", "Modulated"),
    )
    seeds = int(search.seed.nunique())
    allowed = "[ ]: 95 % interval over seeds, Student t" if seeds > 1 else "With one seed there is no interval"
    caption = (
        "Sensitivity search: validation PSNR gained when one weight group of the shared network is freed for one task "
        f"(table 2 by an assumed mapping). {_sentence(seen)}, {seeds} seed{'s' * (seeds > 1)}. {allowed}. {_MARKS}"
    )
    return Table("table02", caption, columns, rows, "metric")


def table03(budgets: pd.DataFrame, cells: pd.DataFrame, images: pd.DataFrame, seen: str) -> Table:
    """Constant against proportional rank at equal parameters: energy, PSNR after truncation, PSNR when trained so.

    Args:
        budgets: as ``figure2.rank_budgets`` returns it.
        cells: as ``read_cells`` returns it.
        images: as ``read_cell_images`` returns it.
        seen: protocol, split and profile, for the caption.
    """
    cells, images = (table[table.study == "rank"] for table in (cells, images))
    trained = _trained_ranks(cells[cells.setting != "shared"], images)
    rows = _with_trained(budgets, trained)
    rows["energy_mean_percent"], rows["energy_min_percent"] = 100 * rows.energy_mean, 100 * rows.energy_min
    rows = rows.drop(columns=["energy_mean", "energy_min"])
    rows["_shown"] = [_rank_label(row.rule, row.value) for row in rows.itertuples(index=False)]
    compared = [f"{row.source} {row.budget:g}{' apart' * row.apart}" for row in rows.itertuples(index=False)]
    rows = rows.drop(columns="apart").assign(_compared=compared)
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
        Column("gain", "Trained: gain over shared (dB)", 2, "higher", interval=True),
    )
    caption = (
        "Rank rules, constant r against proportional ρ (share of the full rank) at nearly equal parameters (table 3 by "
        "an assumed mapping). Truncated: unfactored increments cut to the rank. Trained: networks trained at that rank"
        f"{_seeds(cells)}. PSNR: mean over tasks, {seen}. {EXPLAINED}. Bold: the better rule of each pair."
    )
    outside = tuple(np.flatnonzero(rows.rule == "full").tolist())
    return Table("table03", caption, columns, rows, "_compared", outside)


def table09(cells: pd.DataFrame, images: pd.DataFrame, seen: str) -> Table:
    """Training strategies by tasks.

    Args:
        cells: as ``read_cells`` returns it.
        images: as ``read_cell_images`` returns it.
        seen: protocol, split and profile, for the caption.
    """
    cells, images = (table[table.study == "strategy"] for table in (cells, images))
    rows = _with_gains(over_seeds(cells), images, "gain", "shared")
    order = in_order(list(rows.setting), STRATEGIES)
    rows = rows.set_index("setting").loc[order].reset_index()
    rows["_shown"] = [setting.replace("_", "-") for setting in rows.setting]
    columns = (
        Column("_shown", "Strategy"),
        *(Column(task, f"{task} (dB)", 2, "higher", f"{task}_spread") for task in in_order(list(cells.task), TASKS)),
        Column("mean", "Mean PSNR (dB)", 2, "higher", "mean_spread"),
        Column("gain", "Gain over shared (dB)", 2, "higher", interval=True),
        Column("psnr_backbone", "Backbone alone (dB)", 2),
        Column("ssim", "Mean SSIM", 4, "higher"),
        Column("params_added", "Parameters added", 0),
        Column("steps", "Steps", 0),
    )
    caption = (
        f"Training strategies (table 9 by an assumed mapping). Backbone alone: mean PSNR without the task biases "
        f"(strength 0), which is what the shared weights have learned. {_sentence(seen)}{_seeds(cells)}. {EXPLAINED}. "
        f"{_MARKS}"
    )
    return Table("table09", caption, columns, rows)


def table10(cost: pd.DataFrame | Path, profile: str) -> Table:
    """What a task costs: parameters, multiply-adds of a restoration and of folding the task's biases in.

    Args:
        cost: `results/cost.csv`.
        profile: for the caption.

    Raises:
        InputError: a column is missing.
    """
    numbers = ("params_total", "params_per_task", "multiply_adds", "multiply_adds_fold", "side")
    rows = read_result(cost, "results/cost.csv", ("method",), numbers)
    rows = rows.set_index("method").loc[in_order(list(rows.method), METHODS)].reset_index()
    backbone = float(rows.params_total[rows.method == "shared"].iloc[0])
    rows["percent_per_task"] = 100 * rows.params_per_task / backbone
    rows["mega"], rows["mega_fold"] = rows.multiply_adds / 1e6, rows.multiply_adds_fold / 1e6
    rows["_shown"] = [METHOD_LABELS.get(method, method) for method in rows.method]
    columns = (
        Column("_shown", "Method"),
        Column("params_total", "Parameters, total", 0, "lower"),
        Column("params_per_task", "Parameters per added task", 0, "lower"),
        Column("percent_per_task", "Per added task (% of the backbone)", 2, "lower"),
        Column("mega", "Multiply-adds of a restoration (M)", 2, "lower"),
        Column("mega_fold", "Multiply-adds of folding a task in (M)", 2),
    )
    side = int(rows.side.iloc[0])
    caption = (
        f"Cost of a task (table 10 by an assumed mapping). Profile {profile}. Multiply-adds of one image of {side} x "
        f"{side} pixels whose task is known, in matrix products and convolutions; weight modulation with the biases "
        "folded into the weights, which is done once per change of the task. Exact counts, so that there is no "
        "interval; times stand as ratios in benchmarks/README.md. Bold: least, underlined: second; "
        "shared knows no task and stands outside."
    )
    outside = tuple(np.flatnonzero(rows.method == "shared").tolist())
    return Table("table10", caption, columns, rows.drop(columns="side"), None, outside)


_READ = {
    "right_task": "Right task", "combination": "Right combination", "accepted": "Accepted though to be refused",
    "refusal_precision": "Refusals that were due", "refusal_recall": "Due refusals that were made",
    "strength": "Strength on the right side of 1",
}  # fmt: skip


def table10b(instruction: pd.DataFrame | Path, profile: str) -> Table:
    """How well sentences are read: the held-out test phrasings of the corpus.

    Args:
        instruction: `results/instruction.csv`.
        profile: for the caption.

    Raises:
        InputError: a column is missing.
    """
    numbers = ("value", "n", "ci_low", "ci_high")
    rows = read_result(instruction, "results/instruction.csv", ("split", "metric", "of"), numbers)
    rows = rows[(rows.split == "test") & rows.metric.isin(list(_READ))].drop(columns="split").reset_index(drop=True)
    kinds = ["" if of == "all" else f": {of.replace('_', ' ')}" for of in rows.of]
    rows["_shown"] = [_READ[metric] + kind for metric, kind in zip(rows.metric, kinds, strict=True)]
    rows["percent"] = 100 * rows.value
    rows["_interval"] = [
        f"[{100 * low:.0f}, {100 * high:.0f}]" for low, high in zip(rows.ci_low, rows.ci_high, strict=True)
    ]
    columns = (
        Column("_shown", "Instructions"),
        Column("percent", "Share (%)", 1),
        Column("_interval", "95 % interval"),
        Column("n", "Texts", 0),
    )
    caption = (
        f"How well instructions are read (table 10, second part, by an assumed mapping). Profile {profile}. Phrasings "
        "of the corpus whose templates never occur in training, test split, 1 seed; 95 % interval: Wilson. Nothing is "
        "marked: the rows answer different questions. docs/instruction.md scores texts by another author."
    )
    return Table("table10b", caption, columns, rows.drop(columns="value"))


_COMPARED = ("right_task", "combination", "accepted", "refusal_recall")


def table10c(readers: pd.DataFrame | Path, profile: str) -> Table:
    """Readers of instructions that differ in one thing: shares of the held-out test phrasings, means over seeds.

    Args:
        readers: `ablations/instruction.csv`; it may be without rows.
        profile: whose cells are shown.

    Raises:
        InputError: a column is missing.
    """
    text = ("profile", "setting", "changes", "split", "metric", "of")
    rows = read_result(readers, "ablations/instruction.csv", text, ("seed", "value", "n"), rows=False)
    rows = rows[(rows.profile == profile) & (rows.split == "test") & (rows.of == "all")]
    settings = rows.drop_duplicates("setting").set_index("setting").changes
    shown = pd.DataFrame({"setting": settings.index, "_changes": settings.to_numpy()})
    for metric in _COMPARED:
        share = rows[rows.metric == metric].groupby("setting").value.mean()
        shown[metric] = 100 * share.reindex(settings.index).to_numpy(dtype=float)
    columns = (
        Column("setting", "Setting"),
        Column("_changes", "Changed"),
        *(Column(m, f"{_READ[m]} (%)", 1, "lower" if m == "accepted" else "higher") for m in _COMPARED),
    )
    counts = {metric: int(rows[rows.metric == metric].n.max()) for metric in _COMPARED if (rows.metric == metric).any()}
    seeds = rows.seed.nunique()
    over = f"mean over {seeds} seeds" if seeds > 1 else f"{seeds} seed{'s' * (seeds != 1)}"
    texts = ", ".join(f"{n} ({_READ[metric].lower()})" for metric, n in counts.items())
    caption = (
        f"What the reader of instructions owes to its parts (table 10, third part, by an assumed mapping). Profile "
        f"{profile}. Test phrasings whose templates never occur in training; texts per seed: {texts or 'none'}; "
        f"{over}. Bold: best, underlined: second best; table10b has the intervals of the usual reader."
    )
    return Table("table10c", caption, columns, shown)


# ---- what the tables share ------------------------------------------------------------------------------------------


def over_seeds(cells: pd.DataFrame) -> pd.DataFrame:
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
    table = pd.DataFrame(rows, columns=["setting", *tasks, "mean", *spreads, *_COSTS])
    return table.astype({"setting": str})


def _with_gains(rows: pd.DataFrame, images: pd.DataFrame, key: str, reference: str) -> pd.DataFrame:
    """``rows`` (one per setting) with the gain of each setting over ``reference`` and its interval."""
    shown = images.rename(columns={"setting": "method"}).assign(dataset="")
    found = [interval_cells(key, _gain(shown, setting, reference)) for setting in rows.setting]
    return rows.join(pd.DataFrame(found, index=rows.index, columns=[key, f"{key}_low", f"{key}_high"], dtype=float))


def _gain(images: pd.DataFrame, setting: str, reference: str) -> Interval:
    if setting == reference or reference not in set(images.method):
        return NOTHING
    return paired(images, setting, reference, _FILE, photograph_of)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _seeds(cells: pd.DataFrame) -> str:
    """``, 2 seeds (mean ± standard deviation)`` for a caption."""
    seeds = int(cells.seed.nunique())
    if seeds == 0:
        return ", no cells in this profile"
    return ", 1 seed" if seeds == 1 else f", {seeds} seeds (mean ± standard deviation)"


# ---- the ranks of table 3 -------------------------------------------------------------------------------------------


def _trained_ranks(cells: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Per setting of the rank study: rule, value, params_added, psnr_trained, psnr_spread, gain with its interval."""
    means = _with_gains(over_seeds(cells), images, "gain", "shared")
    parts = [setting.partition("-") for setting in means.setting]
    rules = {"rule": [rule for rule, _, _ in parts], "value": [float(value) for _, _, value in parts]}
    trained = pd.DataFrame(rules, index=means.index)
    trained[["params_added", "psnr_trained", "psnr_spread"]] = means[["params_added", "mean", "mean_spread"]]
    return trained.join(means[["gain", "gain_low", "gain_high"]])


def _with_trained(budgets: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """The truncation rows of each source with the trained networks beside those of the biases.

    A trained setting without a truncation row gets its own row, in the budget of the nearest trained constant rank;
    column ``apart`` says that the sizes are not near enough to compare.
    """
    # A share went through text of six digits on both sides; as keys they are compared at five.
    left = budgets.assign(key=budgets.value.round(5))
    right = trained.assign(key=trained.value.round(5), source="bias").rename(columns={"value": "trained_value"})
    rows = left.merge(right, on=["source", "rule", "key"], how="outer")
    rows["value"] = rows.value.fillna(rows.trained_value)
    rows["apart"] = False
    constant = right[right.rule == "constant"]
    for index in rows.index[rows.budget.isna() & (rows.rule != "full")]:
        row = rows.loc[index]
        if row.rule == "constant":
            rows.loc[index, "budget"] = row.value
        elif len(constant):
            partner = constant.iloc[(constant.params_added - row.params_added).abs().argmin()]
            rows.loc[index, "budget"] = partner.trained_value
            rows.loc[index, "apart"] = abs(row.params_added / partner.params_added - 1) > _NEARLY_EQUAL
    ordered = rows.sort_values(["source", "budget", "rule", "value"], kind="stable", ignore_index=True)
    return ordered.drop(columns=["key", "trained_value"])


def _rank_label(rule: str, value: float) -> str:
    return {"constant": f"r = {value:g}", "proportional": f"ρ = {value:.4g}"}.get(rule, "full")
