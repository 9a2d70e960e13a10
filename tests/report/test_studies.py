"""Figures of the ablation grid, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import fixtures
import pandas as pd
import pytest

from instruct_ipt.errors import InputError
from instruct_ipt.report.studies import figure_pareto, figure_task_gap, gap_points, pareto_points


def quick() -> pd.DataFrame:
    cells = fixtures.ablations()
    return cells[cells.profile == "quick"]


def test_pareto_points_are_means_over_tasks_and_seeds_and_shares_of_one_backbone():
    points = pareto_points(quick()).set_index(["task_set", "method"])
    point = points.loc["five", "constant"]
    assert point.psnr == pytest.approx(27.5 + 0.1) and (point.psnr_low, point.psnr_high) == pytest.approx((27.5, 27.7))
    assert point.share == pytest.approx(100 * 9000 / 60_000) and point.seeds == 2
    assert points.loc["noise", "shared"].share == 0


def test_the_gap_is_measured_against_the_shared_network_of_the_same_pair():
    points = gap_points(quick(), fixtures.task_conflict()).set_index(["pair", "method"])
    assert points.loc["denoise+dehaze", "constant"].gain == pytest.approx(1.5)
    assert points.loc["denoise+dehaze", "constant"].conflict == pytest.approx(0.9)
    assert points.loc["derain+desnow", "film"].conflict == pytest.approx(0.4)


def test_figures_stand_beside_the_csv_they_were_drawn_from(tmp_path: Path):
    figure_pareto(quick(), tmp_path)
    figure_task_gap(quick(), fixtures.task_conflict(), tmp_path)
    for name in ("fig_pareto", "fig_task_gap"):
        assert all((tmp_path / f"{name}.{kind}").stat().st_size > 0 for kind in ("png", "svg", "csv"))
    drawn = pd.read_csv(tmp_path / "fig_pareto.csv")
    assert len(drawn) == len(pareto_points(quick()))


@pytest.mark.parametrize(("study", "draw"), [("adaptation", "pareto"), ("task_gap", "gap")])
def test_a_missing_study_is_named(study: str, draw: str, tmp_path: Path):
    cells = quick()
    cells = cells[cells.study != study]
    with pytest.raises(InputError, match=f"no row of the study {study}"):
        if draw == "pareto":
            figure_pareto(cells, tmp_path)
        else:
            figure_task_gap(cells, fixtures.task_conflict(), tmp_path)


def test_a_pair_without_a_known_conflict_is_named():
    cosines = fixtures.task_conflict()
    with pytest.raises(InputError, match="no pair denoise\\+dehaze.*dvc repro sensitivity"):
        gap_points(quick(), cosines[cosines.task_a != "denoise"])
