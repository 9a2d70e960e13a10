"""Figure 2: how much energy of the task biases each rank rule keeps, layer by layer."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from instruct_ipt.errors import InputError
from instruct_ipt.report import read_result
from instruct_ipt.report.style import GREY, PAGE_IN, RULE_COLOURS, count, publish, write_csv

_RULES = {"constant": ("solid", "o", "r"), "proportional": ((0, (4, 1.2)), "s", "ρ")}
_MOST_BUDGETS = 3
_LAYER_COLUMNS = ["budget", "rule", "value", "params", "index", "layer", "group", "stage_depth", "full_rank", "rank"]
_LAYER_COLUMNS += ["energy_mean", "energy_min", "energy_max", "tasks"]
_PARTS = {"encoder": "encoder", "middle": "bottleneck", "decoder": "decoder"}


def figure2(energy: pd.DataFrame | Path, strategy: pd.DataFrame | Path, out_dir: Path) -> None:
    """Write ``fig2_rank.{png,svg,csv}`` and ``fig2_rank_budget.csv``.

    Top: per layer in network order, the share of the bias's energy kept by a constant rank and by the proportional rank
    of (nearly) equal parameters; line = mean over tasks, band = least to most over tasks, background = U-Net depth.
    Bottom: mean energy and PSNR of the truncated network against parameters.

    Args:
        energy: `results/rank_energy.csv`; rows in network order, per layer every rank up to the full one.
        strategy: `results/rank_strategy.csv`; rules in pairs of nearly equal parameters, and `full`.
        out_dir: folder to write to; it is made.

    Raises:
        InputError: a column is missing, there are no biases, or a rule has no partner.
    """
    layers, budgets = figure2_data(energy, strategy)
    write_csv(budgets, out_dir / "fig2_rank_budget.csv")
    publish("fig2_rank", layers, lambda table: _draw(table, budgets), out_dir)


def figure2_data(energy: pd.DataFrame | Path, strategy: pd.DataFrame | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The numbers of figure 2.

    Returns:
        layers: per budget (the constant rank), rule, value, params and layer (index in network order from 0): group,
            stage_depth, full_rank, rank, energy_mean, energy_min, energy_max over tasks (in [0, 1]), tasks (count).
        budgets: per rule and value: params, energy_mean (over layers and tasks), energy_min, psnr (dB, over tasks),
            budget (the constant rank whose parameters are nearest; NaN for `full`).
    """
    text, numbers = ("source", "task", "group", "layer"), ("stage_depth", "rank", "cumulative_energy")
    curves = read_result(energy, "results/rank_energy.csv", text, numbers)
    curves = curves[curves.source == "bias"].reset_index(drop=True)
    if curves.empty:
        raise InputError("results/rank_energy.csv has no rows of source `bias`; run `dvc repro rank`")
    budgets = rank_budgets(strategy)
    budgets = budgets[budgets.source == "bias"].drop(columns="source").reset_index(drop=True)
    rules = budgets[budgets.rule != "full"]
    if not set(_RULES) <= set(rules.rule):
        raise InputError("results/rank_strategy.csv needs both rules, constant and proportional, for source `bias`")
    kept = []
    for constant in rules[rules.rule == "constant"].itertuples(index=False):
        # The partner is sought from the constant rank's side, so that each one has exactly one.
        shares = rules[rules.rule == "proportional"]
        nearest = (shares.params - constant.params).abs().argmin()
        for rule in (constant, next(shares.iloc[[nearest]].itertuples(index=False))):
            kept.append(_kept(curves, rule.rule, rule.value, rule.params, constant.value))
    return pd.concat(kept, ignore_index=True), budgets


def rank_budgets(strategy: pd.DataFrame | Path) -> pd.DataFrame:
    """Per source, rule and value the means over tasks, each rule with its budget, sorted by source, budget, rule.

    Returns:
        Columns source, rule, value, params, energy_mean, energy_min (least over tasks), psnr, budget. ``budget`` is the
        constant rank of the same source whose parameters are nearest; NaN for rule `full`, which comes last.
    """
    text, numbers = ("source", "rule", "task"), ("value", "params", "energy_mean", "energy_min", "psnr")
    table = read_result(strategy, "results/rank_strategy.csv", text, numbers)
    grouped = table.groupby(["source", "rule", "value"], sort=False, dropna=False)
    means = grouped.agg(
        params=("params", "mean"),
        energy_mean=("energy_mean", "mean"),
        energy_min=("energy_min", "min"),
        psnr=("psnr", "mean"),
    ).reset_index()
    means["budget"] = [
        np.nan if row.rule == "full" else nearest_rank(means[means.source == row.source], row.params)
        for row in means.itertuples(index=False)
    ]
    return means.sort_values(["source", "budget", "rule", "value"], kind="stable", ignore_index=True)


def nearest_rank(rules: pd.DataFrame, params: float) -> float:
    """The value of the rule `constant` in ``rules`` whose ``params`` are nearest, the smaller of two; NaN if none."""
    constant = rules[rules.rule == "constant"].sort_values("value")
    return float(constant.value.iloc[(constant.params - params).abs().argmin()]) if len(constant) else float("nan")


def rank_of(rule: str, value: float, full: int) -> int:
    """Rank that a rule gives a matrix of full rank ``full``: min(r, full), or max(1, round(rho * full)).

    A share that went through a CSV of six decimals is read as the fraction k / side that it was before, so that a rank
    on the edge of rounding comes out as it did when the file was made.
    """
    if rule == "constant":
        return min(int(value), full)
    exact = float(Fraction(value).limit_denominator(512))
    return max(1, round((exact if abs(exact - value) < 1e-6 else value) * full))


def _kept(curves: pd.DataFrame, rule: str, value: float, params: float, budget: float) -> pd.DataFrame:
    """One row per layer: the energy that a rule keeps, over tasks."""
    full = curves.groupby("layer", sort=False)["rank"].max()
    ranks = full.map(lambda side: rank_of(rule, value, int(side)))
    chosen = curves[curves["rank"] == curves.layer.map(ranks)]
    table = chosen.groupby("layer", sort=False).agg(
        group=("group", "first"),
        stage_depth=("stage_depth", "first"),
        energy_mean=("cumulative_energy", "mean"),
        energy_min=("cumulative_energy", "min"),
        energy_max=("cumulative_energy", "max"),
        tasks=("task", "nunique"),
    )
    # Back in network order: a layer's first chosen rank need not come in the order of the layers.
    table = table.reindex(full.index).assign(full_rank=full, rank=ranks, index=range(len(full))).reset_index()
    return table.assign(budget=budget, rule=rule, value=value, params=params)[_LAYER_COLUMNS]


def _draw(layers: pd.DataFrame, budgets: pd.DataFrame) -> Figure:
    chosen = _spread(sorted(layers.budget.unique()))
    figure = Figure(figsize=(PAGE_IN, 4.8), layout="constrained")
    tasks, count_layers = int(layers.tasks.max()), layers.layer.nunique()
    figure.suptitle(f"Energy of the task biases that each rank rule keeps ({count_layers} layers, {tasks} tasks)")
    rows = figure.add_gridspec(2, 1, height_ratios=(1.45, 1.0))
    top = GridSpecFromSubplotSpec(2, len(chosen), rows[0], height_ratios=(1.0, _strip_height(layers)), hspace=0.0)
    first: Axes | None = None
    for column, budget in enumerate(chosen):
        axes = figure.add_subplot(top[0, column], sharey=first)
        strip = figure.add_subplot(top[1, column], sharex=axes)
        first = first or axes
        part = layers[layers.budget == budget]
        _layer_panel(axes, part, "abcdefg"[column], labelled=column == 0)
        _group_strip(strip, part, labelled=column == 0)
    bottom = GridSpecFromSubplotSpec(1, 2, rows[1])
    panels = [figure.add_subplot(bottom[0, column]) for column in range(2)]
    _budget_panel(panels[0], budgets, "energy_mean", "mean energy kept (%)", 100.0, "abcdefg"[len(chosen)])
    _budget_panel(panels[1], budgets, "psnr", "PSNR, truncated (dB)", 1.0, "abcdefg"[len(chosen) + 1])
    handles, labels = panels[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), handlelength=3.2)
    return figure


def _spread(values: list[float]) -> list[float]:
    """At most three of ``values``, evenly spread, ends included."""
    if len(values) <= _MOST_BUDGETS:
        return values
    return [values[i] for i in np.rint(np.linspace(0, len(values) - 1, _MOST_BUDGETS)).astype(int)]


def _strip_height(layers: pd.DataFrame) -> float:
    return 0.075 * layers.group.nunique()


def _layer_panel(axes: Axes, part: pd.DataFrame, letter: str, labelled: bool) -> None:
    """Energy per layer for the two rules of one budget, on the shaded U-Net."""
    for name, (dashes, _, _) in _RULES.items():
        rule = part[part.rule == name]
        colour = RULE_COLOURS[name]
        axes.fill_between(rule["index"], 100 * rule.energy_min, 100 * rule.energy_max, color=colour, alpha=0.22, lw=0)
        axes.plot(rule["index"], 100 * rule.energy_mean, color=colour, ls=dashes)
    network = part[part.rule == "constant"]
    _shade(axes, network.stage_depth.to_numpy(), list(network.layer))
    title = ", ".join(_label(part[part.rule == name]) for name in _RULES)
    axes.set_title(f"({letter})  {title}", loc="left", pad=11, fontsize=6.5)
    axes.tick_params(labelbottom=False, bottom=False, labelleft=labelled)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(-0.5, len(network) - 0.5)
    axes.set_ylim(0, 103)
    if labelled:
        axes.set_ylabel("energy kept (%)")


def _label(rule: pd.DataFrame) -> str:
    row = rule.iloc[0]
    return f"{_RULES[row.rule][2]} = {row.value:.3g} ({count(row.params)})"


def _shade(axes: Axes, depths: np.ndarray, layers: list[str]) -> None:
    """Background darker where the U-Net is deeper, and the names of its parts, read from the layers', along the top."""
    edges = [0, *(np.flatnonzero(np.diff(depths)) + 1), len(depths)]
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        grey = 0.97 - 0.17 * depths[start] / max(1, depths.max())
        axes.axvspan(start - 0.5, end - 0.5, color=str(grey), lw=0, zorder=-2)
    for part, name in _PARTS.items():
        places = [i for i, layer in enumerate(layers) if part in layer.split(".")]
        if places:
            middle = (places[0] + places[-1]) / 2
            where = {"xycoords": ("data", "axes fraction"), "ha": "center", "fontsize": 6, "color": GREY}
            axes.annotate(name, (middle, 1.015), **where)


def _group_strip(axes: Axes, part: pd.DataFrame, labelled: bool) -> None:
    """One line per weight group with a tick at each of its layers: which kind of weight stands where."""
    rule = part[part.rule == "constant"]
    groups = list(dict.fromkeys(rule.group))
    positions = [rule["index"][rule.group == group].to_numpy() for group in groups]
    axes.eventplot(positions, lineoffsets=range(len(groups)), linelengths=0.7, linewidths=1.2, color="#333333")
    axes.set_yticks(range(len(groups)), groups if labelled else [""] * len(groups), fontsize=6)
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.tick_params(axis="x", length=2.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.grid(visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("layer, in network order")


def _budget_panel(axes: Axes, budgets: pd.DataFrame, column: str, label: str, scale: float, letter: str) -> None:
    """One number against parameters for both rules; the untruncated network as a line."""
    for name, (dashes, marker, _) in _RULES.items():
        rule = budgets[budgets.rule == name].sort_values("params")
        colour = RULE_COLOURS[name]
        axes.plot(
            rule.params, scale * rule[column], color=colour, ls=dashes, marker=marker, ms=3.5, label=f"{name} rank"
        )
    full = budgets[budgets.rule == "full"]
    if column == "psnr" and len(full):
        axes.axhline(scale * full[column].iloc[0], color=GREY, lw=0.8, ls=(0, (1, 1)), label="untruncated")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    constant = budgets[budgets.rule == "constant"].sort_values("params")
    axes.set_xticks(constant.params.to_numpy())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count(value)))
    axes.set_xlabel("parameters of the low-rank factors, per task")
    axes.set_ylabel(label)
    axes.set_title(f"({letter})", loc="left")
