"""`ipt figures`: every figure, from result files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instruct_ipt.data.prepared import photographs
from instruct_ipt.paths import ABLATIONS, FIGURES, MODELS, PREPARED, RESULTS, SELECTION
from instruct_ipt.report.contact_sheet import contact_sheet
from instruct_ipt.report.curves import figure_training, figure_training_seeds
from instruct_ipt.report.figure1 import figure1
from instruct_ipt.report.figure2 import figure2
from instruct_ipt.report.figure3 import figure3
from instruct_ipt.report.figure4 import figure4
from instruct_ipt.report.figure5 import figure5, mask_sheet
from instruct_ipt.report.gains import figure_gains
from instruct_ipt.report.heatmaps import figure_conflict, figure_sensitivity
from instruct_ipt.report.studies import figure_pareto, figure_task_gap
from instruct_ipt.stages._masks import shown_masks

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `figures`: what the registry `report/figures.py` names."""
    out = context.out / FIGURES
    samples, energy = RESULTS / "samples.csv", RESULTS / "rank_energy.csv"
    figure1(samples, RESULTS, energy, SELECTION, MODELS / "modulation" / "metrics.json", out)
    figure2(energy, RESULTS / "rank_strategy.csv", out)
    figure3(RESULTS / "demo.csv", RESULTS, out)
    figure4(samples, RESULTS, out)
    figure5(RESULTS / "diffusion_samples.csv", RESULTS, out)
    figure_sensitivity(RESULTS / "sensitivity.csv", SELECTION, out)
    figure_conflict(RESULTS / "task_conflict.csv", out)
    figure_gains(RESULTS / "per_image.csv", out)
    figure_training({name: MODELS / name / "history.csv" for name in ("shared", "film", "modulation")}, out)
    figure_training_seeds(ABLATIONS / "history.csv", out)
    figure_pareto(ABLATIONS / "summary.csv", out)
    figure_task_gap(ABLATIONS / "summary.csv", RESULTS / "task_conflict.csv", out)
    contact_sheet(photographs(PREPARED, "test"), context.params.degradation, out)
    mask_sheet(*shown_masks(photographs(PREPARED, "test"), context.params.diffusion), out)
