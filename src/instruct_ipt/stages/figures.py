"""`ipt figures`: every figure, from result files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_ipt.data.prepared import photographs
from instruct_ipt.paths import ABLATIONS, FIGURES, MODELS, PREPARED, RESULTS
from instruct_ipt.report.contact_sheet import contact_sheet
from instruct_ipt.report.curves import figure_training
from instruct_ipt.report.figure2 import figure2
from instruct_ipt.report.figure4 import figure4
from instruct_ipt.report.studies import figure_pareto, figure_task_gap

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `figures`."""
    out = context.out / FIGURES
    out.mkdir(parents=True)
    figure2(RESULTS / "rank_energy.csv", RESULTS / "rank_strategy.csv", out)
    figure4(RESULTS / "samples.csv", RESULTS, out)
    figure_training({name: MODELS / name / "history.csv" for name in ("shared", "film", "modulation")}, out)
    figure_pareto(ABLATIONS / "summary.csv", out)
    figure_task_gap(ABLATIONS / "summary.csv", RESULTS / "task_conflict.csv", out)
    contact_sheet(photographs(PREPARED, "test"), context.params.degradation, out / "data_degradations.png")
