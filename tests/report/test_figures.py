"""The figures by themselves: their numbers, their looks, and that the same inputs give the same bytes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fixtures
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from instruct_ipt.errors import InputError
from instruct_ipt.report.contact_sheet import contact_sheet
from instruct_ipt.report.curves import figure_training, figure_training_seeds
from instruct_ipt.report.figure1 import figure1, read_facts, strips
from instruct_ipt.report.figure2 import figure2, figure2_data, rank_of
from instruct_ipt.report.figure3 import caption, figure3
from instruct_ipt.report.figure4 import crop_box, figure4, hardest_window, shown_samples
from instruct_ipt.report.figure5 import COLUMNS, figure5, filled_rows, mask_sheet
from instruct_ipt.report.figures import FIGURES
from instruct_ipt.report.gains import image_gains
from instruct_ipt.report.heatmaps import figure_conflict, figure_sensitivity, sensitivity_means
from instruct_ipt.report.style import COLUMN_IN, PAGE_IN, PNG_LIMIT, save
from instruct_ipt.stages._masks import shown_masks
from instruct_ipt.tasks import TASKS
from tests.helpers import smoke

_SCRIPT = """
from pathlib import Path
from instruct_ipt.report.curves import figure_training, figure_training_seeds
from instruct_ipt.report.figure1 import figure1
from instruct_ipt.report.figure2 import figure2
from instruct_ipt.report.figure3 import figure3
from instruct_ipt.report.figure4 import figure4
from instruct_ipt.report.figure5 import figure5
from instruct_ipt.report.gains import figure_gains
from instruct_ipt.report.heatmaps import figure_conflict, figure_sensitivity
from instruct_ipt.report.page import write_page
from instruct_ipt.report.tables import write_tables
import sys
root, out = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, sys.argv[3])
import fixtures
import pages
results, models, figures = root / "results", root / "models", out / "figures"
samples, energy, selection = results / "samples.csv", results / "rank_energy.csv", models / "selection.json"
figure1(samples, results, energy, selection, models / "modulation/metrics.json", figures)
figure2(energy, results / "rank_strategy.csv", figures)
figure3(results / "demo.csv", results, figures)
figure4(samples, results, figures)
figure5(results / "diffusion_samples.csv", results, figures)
figure_sensitivity(results / "sensitivity.csv", selection, figures)
figure_conflict(results / "task_conflict.csv", figures)
figure_gains(results / "per_image.csv", figures)
figure_training(fixtures.histories(), figures)
figure_training_seeds(root / "ablations/history.csv", figures)
write_tables(root, out / "tables")
(out / "results").symlink_to(results)
pages.write_prepared(out / "data/prepared")
write_page(out, out / "report/index.html", pages.plain_params())
"""


@pytest.fixture(scope="module")
def energy() -> pd.DataFrame:
    return fixtures.rank_energy()


@pytest.fixture(scope="module")
def strategy(energy: pd.DataFrame) -> pd.DataFrame:
    return fixtures.rank_strategy(energy)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The whole report, made by two processes of other time zone, hash seed, locale and matplotlib settings."""
    base = tmp_path_factory.mktemp("twice")
    fixtures.write_all(base / "root")
    (base / "matplotlibrc").write_text("font.size: 20\nlines.linewidth: 9\nsvg.fonttype: none\n", encoding="utf-8")
    settings = ({"TZ": "UTC", "PYTHONHASHSEED": "1"}, {"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "2", "LC_ALL": "C"})
    settings[1]["MATPLOTLIBRC"] = str(base / "matplotlibrc")
    running = []
    for number, extra in enumerate(settings):
        (base / f"out{number}").mkdir()
        where = [str(base / "root"), str(base / f"out{number}"), str(Path(__file__).parent)]
        command = [sys.executable, "-c", _SCRIPT, *where]
        paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        running.append(subprocess.Popen(command, env=os.environ | paths | extra))
    assert [process.wait(timeout=600) for process in running] == [0, 0]
    return base / "out0", base / "out1"


def _files(root: Path) -> Iterator[Path]:
    return (path.relative_to(root) for path in sorted(root.glob("[frt]*/**/*.*")) if "results" not in path.parts)


def test_two_processes_write_the_same_bytes(twice: tuple[Path, Path]) -> None:
    first, second = ({path: (root / path).read_bytes() for path in _files(root)} for root in twice)
    assert {path.name for path in first} >= {"fig2_rank.svg", "fig4_comparison.png", "fig_training.csv", "index.html"}
    assert first == second


def test_pictures_are_small_and_carry_no_date(twice: tuple[Path, Path]) -> None:
    for path in _files(twice[0]):
        content = (twice[0] / path).read_bytes()
        if path.suffix == ".png":
            assert len(content) <= PNG_LIMIT
            assert b"Software" not in content
        if path.suffix == ".svg":
            assert b"<dc:date>" not in content
            assert b"<text" not in content, "glyphs must be outlines"


def test_figure2_keeps_what_the_curves_say(energy: pd.DataFrame, strategy: pd.DataFrame) -> None:
    layers, _ = figure2_data(energy, strategy)
    assert list(layers.layer.drop_duplicates()) == [layer for layer, *_ in fixtures.layers()]
    row = layers[(layers.rule == "constant") & (layers.value == 4)].iloc[7]
    curve = energy[(energy.source == "bias") & (energy.layer == row.layer) & (energy["rank"] == 4)].cumulative_energy
    assert (row["rank"], row.tasks) == (4, 5)
    np.testing.assert_allclose(
        row[["energy_mean", "energy_min", "energy_max"]].astype(float), [curve.mean(), curve.min(), curve.max()]
    )


def test_figure2_agrees_with_the_other_file_on_every_rule(energy: pd.DataFrame, strategy: pd.DataFrame) -> None:
    """The mean energy over layers, computed from one file, is what the other file states."""
    layers, budgets = figure2_data(energy, strategy)
    ours = layers.groupby(["rule", "value"]).energy_mean.mean()
    theirs = budgets[budgets.rule != "full"].set_index(["rule", "value"]).energy_mean
    assert len(ours) == 8
    np.testing.assert_allclose(ours, theirs.reindex(ours.index), atol=2e-6)


def test_every_constant_rank_has_the_nearest_share_as_partner(energy: pd.DataFrame, strategy: pd.DataFrame) -> None:
    layers, _ = figure2_data(energy, strategy)
    params = layers.groupby(["budget", "rule"]).params.first().unstack()
    shares = strategy[(strategy.rule == "proportional") & (strategy.source == "bias")].params.unique()
    assert list(params.index) == [1, 2, 4, 8]
    for _, pair in params.iterrows():
        assert abs(pair.proportional - pair.constant) == min(abs(shares - pair.constant))


def test_a_share_survives_six_decimals() -> None:
    sides = (12, 24, 36, 48, 72, 96, 384)
    for share in {k / side for side in sides for k in range(1, side + 1)}:
        for full in sides:
            assert rank_of("proportional", round(share, 6), full) == max(1, round(share * full))


def test_constant_rank_is_capped() -> None:
    assert [rank_of("constant", 8.0, full) for full in (3, 8, 24)] == [3, 8, 8]


def test_figure2_csv_is_what_was_drawn(energy: pd.DataFrame, strategy: pd.DataFrame, twice: tuple[Path, Path]) -> None:
    layers, budgets = figure2_data(energy, strategy)
    folder = twice[0] / "figures"
    pd.testing.assert_frame_equal(pd.read_csv(folder / "fig2_rank.csv"), layers, atol=1e-6, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv(folder / "fig2_rank_budget.csv"), budgets, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("column", ["source", "layer", "stage_depth", "cumulative_energy"])
def test_a_missing_column_is_named_with_its_file(
    energy: pd.DataFrame, strategy: pd.DataFrame, column: str, tmp_path: Path
) -> None:
    path = tmp_path / "rank_energy.csv"
    energy.head(50).drop(columns=column).to_csv(path, index=False)
    with pytest.raises(InputError, match=rf"rank_energy\.csv has no column `{column}`"):
        figure2(path, strategy, tmp_path)


def test_energy_of_experts_alone_is_refused(energy: pd.DataFrame, strategy: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows of source `bias`"):
        figure2(energy[energy.source == "expert"], strategy, tmp_path)


def test_a_missing_or_broken_file_is_one_clear_line(energy: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.csv does not exist"):
        figure2(tmp_path / "nowhere.csv", energy, tmp_path)
    with pytest.raises(InputError, match="column `rank` holds something that is no number"):
        figure2(energy.head(20).assign(rank="four"), energy, tmp_path)


def test_the_zoom_goes_where_the_error_is() -> None:
    clean = np.full((40, 60, 3), 0.5, np.float32)
    degraded = clean.copy()
    degraded[22:30, 31:39] += 0.3
    assert hardest_window(degraded, clean, 8) == (22, 31)
    assert hardest_window(clean, clean, 8) == (0, 0)


def test_the_zoom_against_brute_force() -> None:
    rng = np.random.default_rng(3)
    clean, degraded = rng.random((2, 17, 23, 3))
    error = np.abs(degraded - clean)
    sums = {(top, left): error[top : top + 5, left : left + 5].sum() for top in range(13) for left in range(19)}
    assert hardest_window(degraded, clean, 5) == max(sums, key=sums.__getitem__)


@pytest.mark.parametrize("shape", [(512, 512), (400, 600), (600, 400), (37, 211), (3, 4)])
def test_crops_have_one_aspect_and_lie_inside(shape: tuple[int, int]) -> None:
    top, left, height, width = crop_box(*shape)
    assert min(top, left) >= 0
    assert top + height <= shape[0] and left + width <= shape[1]
    assert abs(width - height * 4 / 3) <= 1
    assert height == shape[0] or width == shape[1]


def test_figure4_table(twice: tuple[Path, Path]) -> None:
    table = pd.read_csv(twice[0] / "figures" / "fig4_comparison.csv")
    assert list(table.task.drop_duplicates()) == ["denoise", "derain", "dehaze"]
    assert set(table.dataset[table.task == "denoise"]) != {"bundled-sigma15"}
    assert list(table.method[:5]) == ["input", "shared", "film", "modulation", "clean"]
    # The photograph is 96 x 140, its crop 96 x 128 from column 6: the damage at (60, 100) lies at (60, 94) in it.
    assert list(table[["crop_top", "crop_left", "crop_height", "crop_width"]].iloc[0]) == [0, 6, 96, 128]
    zoom = table.iloc[0]
    assert zoom.zoom_top >= 60 and zoom.zoom_top + zoom.zoom_side <= 76
    assert zoom.zoom_left >= 94 and zoom.zoom_left + zoom.zoom_side <= 110


def test_the_highest_noise_is_shown(tmp_path: Path) -> None:
    samples = fixtures.write_samples(tmp_path)
    level = samples.dataset.str.extract(r"sigma(\d+)")[0].astype(float)
    samples["psnr"] = np.where(level.notna(), 30 - level / 10, samples.psnr)
    assert set(shown_samples(samples)[0].dataset) == {"bundled-sigma50"}


def test_figure4_without_a_picture(tmp_path: Path) -> None:
    samples = fixtures.write_samples(tmp_path)
    (tmp_path / samples.file[(samples.task == "derain") & (samples.method == "film")].iloc[0]).unlink()
    with pytest.raises(InputError, match="derain/bundled-photo-film.png does not exist"):
        figure4(samples, tmp_path, tmp_path)
    with pytest.raises(InputError, match="no task with a degraded and a clean picture"):
        figure4(samples[samples.method != "clean"], tmp_path, tmp_path)


def test_photographs_stay_under_the_limit(tmp_path: Path) -> None:
    """Noise does not compress: the resolution gives way, not the limit."""
    figure = Figure(figsize=(PAGE_IN, 3.2))
    axes = figure.subplots()
    axes.set_axis_off()
    axes.imshow(np.random.default_rng(0).random((960, 2160, 3)), aspect="auto")
    save(figure, tmp_path / "noise")
    assert (tmp_path / "noise.png").stat().st_size <= PNG_LIMIT
    with Image.open(tmp_path / "noise.png") as picture:
        assert 700 < picture.size[0] < 2160


def test_training_figure(tmp_path: Path) -> None:
    figure_training(fixtures.histories(), tmp_path)
    table = pd.read_csv(tmp_path / "fig_training.csv")
    assert list(table.columns) == ["method", "step", "task", "psnr"]
    assert len(table) == 3 * 10 * 5
    with pytest.raises(InputError, match=r"models/film/history\.csv has no column `psnr`"):
        figure_training({"film": fixtures.histories()["film"].drop(columns="psnr")}, tmp_path)
    with pytest.raises(InputError, match="no histories"):
        figure_training({}, tmp_path)


def test_the_band_of_a_training_curve_comes_from_the_seeds(tmp_path: Path) -> None:
    figure_training_seeds(fixtures.cell_histories(), tmp_path)
    table = pd.read_csv(tmp_path / "fig_training_seeds.csv")
    assert set(table.method) == {"shared", "film", "modulation"} and set(table.seed) == {0, 1}
    last = table[(table.method == "modulation") & (table.step == 200)].groupby("seed").psnr.mean()
    assert list(last) == pytest.approx([26.5, 26.7])
    with pytest.raises(InputError, match="none of five-shared, five-film, five-constant"):
        figure_training_seeds(fixtures.cell_histories().query("setting == 'five-full'"), tmp_path)


def test_the_registry_says_what_stands_in_the_folder_and_how_wide_it_is(twice: tuple[Path, Path]) -> None:
    """Every figure is known by name, in print as wide as it says, and stands beside its numbers."""
    folder, known = twice[0] / "figures", {figure.name: figure for figure in FIGURES}
    drawn = {path.stem for path in folder.glob("*.svg")}
    assert len(known) == len(FIGURES)
    # Those of the grid and of the photographs are drawn by tests of their own.
    assert set(known) - drawn == {"fig_pareto", "fig_task_gap", "data_degradations", "data_masks"}
    assert drawn <= set(known)
    for name in drawn:
        assert (folder / f"{name}.csv").stat().st_size > 0
        width = re.search(r'<svg[^>]* width="([\d.]+)pt"', (folder / f"{name}.svg").read_text(encoding="utf-8"))
        expected = {1: COLUMN_IN, 2: PAGE_IN}[known[name].columns]
        assert width is not None and float(width[1]) / 72 == pytest.approx(expected)


def test_no_figure_has_text_too_small_or_a_width_of_its_own(tmp_path: Path) -> None:
    figure = Figure(figsize=(COLUMN_IN, 1.0))
    figure.text(0.5, 0.5, "tiny", fontsize=5.5)
    with pytest.raises(ValueError, match="below 6.0 pt: tiny"):
        save(figure, tmp_path / "small")
    with pytest.raises(ValueError, match=r"is 5.0 in wide"):
        save(Figure(figsize=(5.0, 1.0)), tmp_path / "wide")


def test_figure1_says_what_the_run_was(tmp_path: Path) -> None:
    fixtures.write_all(tmp_path)
    results, models = tmp_path / "results", tmp_path / "models"
    files = (results / "rank_energy.csv", models / "selection.json", models / "modulation/metrics.json")
    facts = read_facts(*files)
    assert (facts.stages, facts.groups, facts.per_task) == (3, ("ffn.out", "attention.qkv"), 9753)
    assert facts.share == pytest.approx(100 * 9753 / 501_234)
    files[2].unlink()
    with pytest.raises(InputError, match=r"metrics.json does not exist; `dvc repro train_modulation`"):
        figure1(results / "samples.csv", results, *files, tmp_path)


def test_figure1_shows_every_task_before_and_after(twice: tuple[Path, Path], tmp_path: Path) -> None:
    table = pd.read_csv(twice[0] / "figures" / "fig1_framework.csv")
    assert list(table.task) == [task for task in TASKS for _ in range(2)]
    assert list(table.method[:2]) == ["input", "modulation"] and table.psnr[1] > table.psnr[0]
    samples = fixtures.write_samples(tmp_path)
    with pytest.raises(InputError, match="no picture restored by modulation"):
        strips(samples[samples.method != "modulation"], tmp_path)


def test_figure3_shows_what_was_said_and_what_was_understood(twice: tuple[Path, Path], tmp_path: Path) -> None:
    table = pd.read_csv(twice[0] / "figures" / "fig3_instruction.csv")
    assert list(table.task) == list(TASKS) and table.text[0] == "do something, please, about the denoise"
    assert caption("derain=1.00", 1.0) == "derain"
    assert caption("denoise=0.50 desnow=0.50", 0.5) == "denoise + desnow, strength 0.5"
    assert caption("refused", float("nan")) == "refused"
    fixtures.write_samples(tmp_path)
    longest = ("please " * 8 + "help")[:60]
    figure3(fixtures.demo().assign(text=longest), tmp_path, tmp_path)
    with Image.open(tmp_path / "fig3_instruction.png") as picture:
        edge = np.asarray(picture.convert("L"))[:3]
    assert (edge == 255).all(), "the longest sentence lies inside the figure"
    with pytest.raises(InputError, match="does not exist"):
        figure3(fixtures.demo().assign(output="demo/none.png"), tmp_path, tmp_path)


def test_sensitivity_map_means_over_seeds_and_puts_the_most_sensitive_first() -> None:
    means = sensitivity_means(fixtures.sensitivity(), ["norm"])
    assert list(dict.fromkeys(means.group)) == ["ffn.out", "attention.qkv", "norm"]
    row = means[(means.group == "norm") & (means.task == "deblur")].iloc[0]
    assert (row.gain_db, row.score, row.seeds, row.selected) == pytest.approx((0.16, 0.32, 2, True))
    assert not means.selected[means.group != "norm"].any()


def test_heat_maps_refuse_what_they_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows of estimator `exact`"):
        sensitivity_means(fixtures.sensitivity().query("estimator == 'fisher'"), [])
    with pytest.raises(InputError, match=r"selection\.json does not exist"):
        figure_sensitivity(fixtures.sensitivity(), tmp_path / "selection.json", tmp_path)
    with pytest.raises(InputError, match="no rows of group `all`"):
        figure_conflict(fixtures.task_conflict().query("group == 'norm'"), tmp_path)


def test_gain_of_an_image_is_against_its_own_degraded_picture() -> None:
    gains = image_gains(fixtures.per_image()).set_index(["dataset", "task", "method", "image"]).gain
    assert gains["bundled", "derain", "film", "flower"] == pytest.approx(3.4)
    assert gains["bundled-sigma25", "denoise", "experts", "rocket"] == pytest.approx(4.5)
    images = fixtures.per_image()
    with pytest.raises(InputError, match="no row of method input for desnow/bundled/coffee"):
        image_gains(images[(images.method != "input") | (images.task != "desnow")])


def test_contact_sheet_states_the_damage_of_every_photograph(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((48, 64, 3)).astype(np.float32)
    contact_sheet([("one", image), ("two", image)], smoke().degradation, tmp_path)
    table = pd.read_csv(tmp_path / "data_degradations.csv")
    assert list(table.task) == [*TASKS, *TASKS] and table.psnr.between(3, 60).all()
    with pytest.raises(InputError, match="got no images"):
        contact_sheet([], smoke().degradation, tmp_path)


def test_figure5_shows_every_task_with_every_method(twice: tuple[Path, Path]) -> None:
    table = pd.read_csv(twice[0] / "figures" / "fig5_diffusion.csv")
    assert list(dict.fromkeys(zip(table.task, table.image, strict=True))) == [
        (task, image) for task in fixtures.FILL_TASKS for image in ("coffee-0", "flower-0")
    ]
    assert list(table.method[: len(COLUMNS)]) == list(COLUMNS), "no pass of the sampler"
    assert table.set_index("method").psnr["film"].unique() == [15.5]
    with Image.open(twice[0] / "figures" / "fig5_diffusion.png") as picture:
        edge = np.asarray(picture.convert("L"))
    assert (edge[:, :3] == 255).all() and (edge[:, -3:] == 255).all(), "the line of words lies inside the figure"


def test_figure5_without_a_method_or_a_picture(tmp_path: Path) -> None:
    samples = fixtures.write_fillings(tmp_path)
    lacking = samples[(samples.method != "frozen") | (samples.task != "inpaint")]
    rows = filled_rows(lacking, tmp_path)
    assert "frozen" not in rows[0].pictures and "frozen" in rows[-1].pictures
    assert rows[0].pictures["truth"].shape == (16, 16, 3) and rows[0].psnr["experts"] == 16.5
    figure5(lacking, tmp_path, tmp_path)
    assert (tmp_path / "fig5_diffusion.png").stat().st_size > 0
    (tmp_path / samples.file[(samples.task == "upscale") & (samples.method == "film")].iloc[0]).unlink()
    with pytest.raises(InputError, match="film.png does not exist though diffusion_samples.csv names it; .*diffusion`"):
        figure5(samples, tmp_path, tmp_path)
    with pytest.raises(InputError, match="names no picture of inpaint, outpaint, upscale"):
        figure5(samples.assign(task="colour"), tmp_path, tmp_path)


def test_the_sheet_of_masks_says_how_much_is_missing(tmp_path: Path) -> None:
    images = [(name, np.random.default_rng(0).random((48, 64, 3)).astype(np.float32)) for name in ("one", "two")]
    pictures, masks = shown_masks(images, smoke().diffusion)
    mask_sheet(pictures, masks, tmp_path)
    table = pd.read_csv(tmp_path / "data_masks.csv")
    kinds = ["inpaint: strokes", "inpaint: boxes", "inpaint: holes", "outpaint: one side", "outpaint: all sides"]
    assert list(table["mask"].drop_duplicates()) == kinds
    for kind, part in table.groupby("mask"):
        low, high = getattr(smoke().diffusion.share, kind.partition(":")[0])
        assert list(part.image) == ["one", "two"] * 3 and part.share.is_monotonic_increasing
        assert (part.share.iloc[0], part.share.iloc[-1]) == pytest.approx((low, high), abs=0.05)
    for name in ("png", "svg"):
        assert (tmp_path / f"data_masks.{name}").stat().st_size > 0
