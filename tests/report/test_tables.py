"""The table writer's marks and escapes, and the tables on results with known winners and known intervals."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import fixtures
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from instruct_ipt.errors import InputError
from instruct_ipt.report.benchmark_tables import read_benchmark, read_images, snow_note, table04
from instruct_ipt.report.table import PAPER, Column, Table, cells_of, escape_latex, marks_of, write_table
from instruct_ipt.report.tables import write_tables

NAMES = [*(f"table{number:02d}" for number in range(1, 12)), "table10b", "table10c"]
TEST_SPLIT = NAMES[3:8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tables")
    fixtures.write_all(root)
    write_tables(root, root / "tables", validation_images=4)
    return root / "tables"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fixtures.write_all(tmp_path)
    return tmp_path


def _replace(root: Path, file: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    change(pd.read_csv(root / file)).to_csv(root / file, index=False)


def _line(folder: Path, name: str, start: str) -> str:
    lines = (folder / f"{name}.md").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(f"| {start} |"))


def _marks(values: list[float], better: str = "higher", **more: object) -> list[str]:
    rows = pd.DataFrame({"value": values, "kind": more.pop("kinds", [""] * len(values))})
    column = Column("value", "Value", 2, better)  # type: ignore[arg-type]
    table = Table("table00", "", (column,), rows, **more)  # type: ignore[arg-type]
    return [marks[0] for marks in marks_of(table)]


def test_best_and_second_best() -> None:
    assert _marks([1.0, 3.0, 2.0]) == ["", "best", "second"]
    assert _marks([1.0, 3.0, 2.0], "lower") == ["best", "", "second"]


def test_equal_prints_share_a_mark() -> None:
    assert _marks([2.001, 2.004, 1.0, 0.5]) == ["best", "best", "second", ""]
    assert _marks([2.0, 2.0, 2.0]) == ["", "", ""]


def test_a_pair_has_no_second_and_gaps_do_not_compete() -> None:
    assert _marks([1.0, 2.0]) == ["", "best"]
    assert _marks([np.nan, 1.0, 2.0, 3.0]) == ["", "", "second", "best"]
    assert _marks([np.nan, 1.0]) == ["", ""]


def test_references_and_groups() -> None:
    assert _marks([9.0, 1.0, 2.0, 3.0], outside=(0,)) == ["", "", "second", "best"]
    assert _marks([1.0, 2.0, 5.0, 4.0], kinds=["a", "a", "b", "b"], within="kind") == ["", "best", "best", ""]


def test_cells() -> None:
    rows = pd.DataFrame({"a": [1234567.0, np.nan], "b": [1.005, -0.1], "s": [0.25, np.nan]})
    columns = (Column("a", "A", 0), Column("b", "B", 2, spread="s"))
    assert cells_of(Table("table00", "", columns, rows)) == [["1,234,567", "1.00 ± 0.25"], ["–", "-0.10"]]


def test_latex_escapes() -> None:
    assert escape_latex("50 % of a_b & c # {d} σ=15 ± 1") == r"50 \% of a\_b \& c \# \{d\} $\sigma$=15 $\pm$ 1"


def test_a_negative_number_has_a_minus_in_latex_and_text_keeps_its_hyphen(tmp_path: Path) -> None:
    rows = pd.DataFrame({"name": ["two-stage"], "value": [-0.5], "value_low": [-1.0], "value_high": [0.25]})
    columns = (Column("name", "Name"), Column("value", "Value", 2, interval=True))
    write_table(Table("table00", "Caption.", columns, rows), tmp_path)
    text = (tmp_path / "table00.tex").read_text(encoding="utf-8")
    assert r"two-stage & $-$0.50 [$-$1.00, +0.25] &  \\" in text
    assert "| two-stage | -0.50 [-1.00, +0.25] |  |" in (tmp_path / "table00.md").read_text(encoding="utf-8")


def test_hostile_text_survives_markdown(tmp_path: Path) -> None:
    from instruct_ipt.report.shown_tables import shown_tables

    rows = pd.DataFrame({"name": ["a|b*c_d<e>"], "value": [1.0]})
    write_table(Table("table00", "Caption.", (Column("name", "N|M"), Column("value", "V", 1)), rows), tmp_path)
    (table,) = shown_tables(tmp_path)
    assert (table["head"], table["title"]) == (["N|M", "V", PAPER], "Table 0. Caption")
    assert [str(cell["text"]) for cell in table["rows"][0]] == ["a|b*c_d<e>", "1.0", ""]


@pytest.mark.parametrize("name", NAMES)
def test_latex_is_well_formed(folder: Path, name: str) -> None:
    text = (folder / f"{name}.tex").read_text(encoding="utf-8")
    bare = re.sub(r"\\[\\{}%&_#$]", "", text)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    for line in bare.splitlines():
        assert "%" not in line.removeprefix("%").removesuffix("%"), line
        assert "_" not in re.sub(r"\\label\{.*?\}", "", line)
    assert re.findall(r"\\(begin)\{(\S+?)\}", bare) and text.isascii()
    assert [e for _, e in re.findall(r"\\(begin)\{(.+?)\}", bare)] == [
        e for _, e in re.findall(r"\\(end)\{(.+?)\}", bare)
    ][::-1]
    columns = len(re.search(r"\\begin\{tabular\}\{(.+?)\}", bare)[1])
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) > 3
    assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}


@pytest.mark.parametrize("name", NAMES)
def test_caption_and_the_paper_column(folder: Path, name: str) -> None:
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    caption, head, _, *rows = [line for line in text.splitlines() if line]
    split = "test split, n = 3 images" if name in TEST_SPLIT else "validation split, n = 4 images"
    counts = ("rotocol rgb", split, "1 seed" if name in TEST_SPLIT else "2 seeds", "95 % interval")
    own = {"table10": ("128 x 128", "Exact counts"), "table10b": ("test split", "1 seed", "95 % interval")}
    own |= {"table10c": ("est phrasings", "; mean over 2 seeds.", "texts per seed: 200 (right task), 200 (accepted")}
    own |= {"table11": ("test photographs", "n = 3 windows per task", "1 seed", "95 % interval")}
    for words in ("assumed", "rofile quick", *own.get(name, counts)):
        assert words in caption
    assert head.endswith(f"| {PAPER} |")
    assert all(row.endswith("|  |") for row in rows)
    assert pd.read_csv(folder / f"{name}.csv")[PAPER].isna().all()


def test_table04_marks_the_known_winners(folder: Path) -> None:
    text = (folder / "table04.md").read_text(encoding="utf-8")
    experts, modulation = (
        next(line for line in text.splitlines() if line.startswith(f"| PSNR (dB) | {name} |"))
        for name in ("Experts", "Weight modulation")
    )
    assert experts.count("**") == 2 * 7 and experts.count("<u>") == 1
    assert modulation.count("**") == 2 * 1 and modulation.count("<u>") == 7
    assert "| denoise σ=15 | denoise σ=25 | denoise σ=50 | deblur | derain | dehaze | desnow | Mean |" in text
    assert "Degraded | **" not in text


def test_table04_mean_weighs_tasks_equally(folder: Path) -> None:
    table = pd.read_csv(folder / "table04.csv")
    row = table[(table.method == "shared") & (table.metric == "PSNR (dB)")].iloc[0]
    assert row["mean"] == pytest.approx(np.mean([np.mean([23, 24, 25]), 26, 27, 28, 29]))
    gains = table[table.metric == "Gain (dB)"]
    assert list(gains.method) == ["shared", "film", "experts", "modulation"]
    assert list(gains["desnow/bundled"]) == pytest.approx([3, 3.4, 4.2, 4.5])


def test_table03_puts_trained_cells_beside_the_truncated_ones(folder: Path) -> None:
    table = pd.read_csv(folder / "table03.csv")
    bias = table[table.source == "bias"].set_index(["rule", "value"])
    assert bias.loc[("constant", 4.0), "psnr_trained"] == pytest.approx(27.1)
    assert bias.loc[("constant", 4.0), "psnr_spread"] == pytest.approx(np.std([27.0, 27.2], ddof=1))
    assert bias.loc[("proportional", 0.0625), "params_added"] == 9100
    assert bias.loc[("proportional", 0.0625), "budget"] == 4
    assert table.psnr_trained.notna().sum() == 3
    text = (folder / "table03.md").read_text(encoding="utf-8")
    assert "| bias | constant | r = 4 |" in text and "**27.10 ± 0.14**" in text
    assert "<u>" not in text


def test_a_trained_rank_without_a_truncation_gets_its_own_row(root: Path) -> None:
    strategy = fixtures.rank_strategy(fixtures.rank_energy(), constants=(1, 2))
    strategy.to_csv(root / "results/rank_strategy.csv", index=False)
    write_tables(root, root / "tables")
    rows = pd.read_csv(root / "tables/table03.csv").query("source == 'bias' and psnr_trained.notna()", engine="python")
    assert list(zip(rows.rule, rows.value, rows.budget, strict=True)) == [
        ("constant", 4.0, 4.0),
        ("proportional", 0.0625, 4.0),
        ("constant", 8.0, 8.0),
    ]
    assert rows.psnr.isna().all()
    assert _line(root / "tables", "table03", "bias | constant | r = 4").count("**27.10 ± 0.14**") == 1


def test_rank_rules_of_unlike_size_are_not_compared(root: Path) -> None:
    larger = {"proportional-0.0625": "proportional-0.5"}
    for file in ("ablations/summary.csv", "ablations/per_image.csv"):
        _replace(root, file, lambda cells: cells.assign(setting=cells.setting.replace(larger)))
    _replace(
        root,
        "ablations/summary.csv",
        lambda t: t.assign(params_added=t.params_added.mask(t.setting == "proportional-0.5", 99_000)),
    )
    write_tables(root, root / "tables")
    for start in ("bias | constant | r = 4", "bias | proportional | ρ = 0.5"):
        assert "**2" not in _line(root / "tables", "table03", start).split("|")[9]


def test_table09_order_marks_and_profile(folder: Path) -> None:
    table = pd.read_csv(folder / "table09.csv")
    assert list(table.setting) == ["shared", "experts", "frozen", "two_stage", "synchronous"]
    assert list(table["mean"]) == pytest.approx([26.1, 27.4, 26.6, 27.2, 27.6])
    assert _line(folder, "table09", "synchronous").count("**27.60 ± 0.14**") == 6
    assert _line(folder, "table09", "experts").count("<u>27.40 ± 0.14</u>") == 6


def test_table01_compares_with_the_shared_network_of_the_same_task_set(folder: Path) -> None:
    table = pd.read_csv(folder / "table01.csv").set_index("method")
    assert list(table.index) == ["shared", "film", "experts", "constant", "full"]
    assert table.loc["constant", "five_psnr"] == pytest.approx(27.6)
    assert table.loc["film", "noise_gain"] == pytest.approx(0.8) and np.isnan(table.loc["shared", "five_gain"])
    assert table.loc["constant", "five_share"] == pytest.approx(100 * 9000 / 60_000)
    assert "**+1.60 [" in _line(folder, "table01", "Modulation, full biases")


def test_experts_of_the_strategies_stand_in_table01_where_that_grid_has_none(root: Path) -> None:
    for file in ("ablations/summary.csv", "ablations/per_image.csv"):
        _replace(root, file, lambda cells: cells[cells.setting != "five-experts"])
    write_tables(root, root / "tables")
    experts = pd.read_csv(root / "tables/table01.csv").set_index("method").loc["experts"]
    assert (experts.five_psnr, experts.five_gain) == pytest.approx((27.4, 1.3))


def test_the_interval_of_one_seed_is_students_over_the_photographs(folder: Path) -> None:
    """Three images of 0.3 dB apart, one seed: scipy's own interval of the mean."""
    table = pd.read_csv(folder / "table06.csv").set_index("method")
    gains = np.array([4.0 - 0.3, 4.0, 4.0 + 0.3])
    low, high = stats.t.interval(0.95, 2, loc=gains.mean(), scale=stats.sem(gains))
    row = table.loc["modulation"]
    assert row["deblur/bundled/gain"] == pytest.approx(4.0, abs=1e-5)
    assert (row["deblur/bundled/gain_low"], row["deblur/bundled/gain_high"]) == pytest.approx((low, high), abs=1e-4)
    assert np.isnan(table.loc["input", "deblur/bundled/gain"])
    assert "**+4.20 [" in _line(folder, "table06", "Experts") and f"+4.00 [{low:+.2f}, {high:+.2f}]" in _line(
        folder, "table06", "Weight modulation"
    )


def test_the_interval_of_the_mean_takes_one_photograph_as_one_draw(folder: Path) -> None:
    """The same photographs stand behind all tasks, so that five tasks narrow nothing: as in one task."""
    whole = pd.read_csv(folder / "table04.csv")
    row = whole[(whole.metric == "Gain (dB)") & (whole.method == "film")].iloc[0]
    gains = np.array([3.4 - 0.3, 3.4, 3.4 + 0.3])
    assert (row.mean_low, row.mean_high) == pytest.approx(
        stats.t.interval(0.95, 2, loc=3.4, scale=stats.sem(gains)), abs=1e-4
    )
    assert whole[whole.metric != "Gain (dB)"].mean_low.isna().all()


def test_details_hold_the_sets_of_their_tasks(folder: Path) -> None:
    head = {name: (folder / f"{name}.md").read_text(encoding="utf-8").splitlines()[2] for name in NAMES}
    assert [head["table05"].count(f"σ={sigma}: SSIM") for sigma in (15, 25, 50)] == [1, 1, 1]
    assert "deblur: PSNR" in head["table06"] and "desnow: gain" in head["table08"]
    assert head["table07"].count("PSNR") == 2
    assert "derain: PSNR" in head["table07"] and "dehaze: SSIM" in head["table07"]
    row = pd.read_csv(folder / "table07.csv").set_index("method").loc["experts"]
    assert (row["derain/bundled/psnr"], row["dehaze/bundled/ssim"]) == pytest.approx((28.2, 0.6 + 0.02 * 5 + 0.21))


def test_table02_ranks_the_groups_and_says_which_are_modulated(folder: Path) -> None:
    table = pd.read_csv(folder / "table02.csv")
    gains = table[table.metric == "Gain (dB)"].set_index("group")
    assert list(gains.index) == ["ffn.out", "attention.qkv", "norm"] and list(gains.selected) == ["yes", "yes", "no"]
    assert gains.loc["norm", "denoise"] == pytest.approx(0.15) and gains.loc["norm", "mean"] == pytest.approx(0.17)
    low, high = stats.t.interval(0.95, 1, loc=0.17, scale=stats.sem([0.12, 0.22]))
    assert (gains.loc["norm", "mean_low"], gains.loc["norm", "mean_high"]) == pytest.approx((low, high))
    assert table[table.metric != "Gain (dB)"].set_index("group").loc["ffn.out", "denoise"] == pytest.approx(0.9)


def test_table10_counts_a_task(folder: Path) -> None:
    table = pd.read_csv(folder / "table10.csv").set_index("method")
    assert table.loc["modulation", "percent_per_task"] == pytest.approx(100 * 9753 / 501234)
    assert (table.loc["film", "mega"], table.loc["modulation", "mega_fold"]) == (1100, 5.0)
    assert _line(folder, "table10", "Shared").count("**") == 0


def test_table10b_shows_the_held_out_phrasings(folder: Path) -> None:
    assert _line(folder, "table10b", "Right task") == "| Right task | 85.0 | [79, 89] | 200 |  |"
    table = pd.read_csv(folder / "table10b.csv")
    assert list(table.metric) == ["right_task", "combination", "accepted"], "neither validation nor calibration"
    assert "Accepted though to be refused: out of scope" in (folder / "table10b.md").read_text(encoding="utf-8")


def test_table10c_compares_readers_by_the_mean_over_seeds(folder: Path) -> None:
    assert _line(folder, "table10c", "usual") == "| usual | nothing | **92.0** | – | 92.0 | – |  |"
    assert _line(folder, "table10c", "fewer") == "| fewer | fills: 1 | 72.0 | – | **72.0** | – |  |"
    assert _line(folder, "table10c", "isotonic").count("<u>82.0</u>") == 2
    assert list(pd.read_csv(folder / "table10c.csv").setting) == ["usual", "fewer", "isotonic"]


def test_table11_compares_the_ways_within_a_task_and_leaves_the_experts_outside(folder: Path) -> None:
    table = pd.read_csv(folder / "table11.csv")
    assert list(table.task) == [task for task in fixtures.FILL_TASKS for _ in fixtures.FILLED]
    assert list(table.method[:5]) == ["shared", "film", "frozen", "synchronous", "experts"]
    line = _line(folder, "table11", "outpaint | Weight modulation")
    assert "| 80,640 | **17.00** | +1.00 [" in line and "**62.5**" in line
    assert "<u>16.50</u>" in _line(folder, "table11", "outpaint | FiLM")
    assert "**" not in _line(folder, "table11", "outpaint | Experts")
    assert _line(folder, "table11", "upscale | Shared").split("|")[5].strip() == "–", "no gain over itself"


def test_table11_counts_windows_of_one_photograph_as_one_draw(folder: Path) -> None:
    row = pd.read_csv(folder / "table11.csv").set_index(["task", "method"]).loc[("inpaint", "synchronous")]
    assert row.gain == pytest.approx(1.0)
    # Two photographs, gains 0.9 (twice) and 1.2: one degree of freedom, as far apart as a t of 12.7 makes them.
    assert row.gain_high - row.gain > 1.0 and row.gain_low < 0


def test_table11_says_what_was_not_computed(folder: Path, root: Path) -> None:
    caption = (folder / "table11.md").read_text(encoding="utf-8")
    assert "FID, KID, LPIPS: not computed" in caption and "1.25 (inpaint), 1.25 (outpaint);" in caption
    assert "PSNR 20.25 (inpaint), 20.25 (outpaint), 20.25 (upscale)." in caption
    assert "FID |" not in caption
    _replace(root, "results/diffusion.csv", lambda t: t.assign(lpips=0.25))
    write_tables(root, root / "tables")
    text = (root / "tables/table11.md").read_text(encoding="utf-8")
    assert "FID, KID: not computed" in text and "| LPIPS |" in text


def test_an_empty_grid_gives_empty_tables(root: Path) -> None:
    for file in ("ablations/summary.csv", "ablations/per_image.csv"):
        _replace(root, file, lambda cells: cells.iloc[:0])
    write_tables(root, root / "tables")
    for name in ("table01", "table09"):
        assert "no cells in this profile" in (root / f"tables/{name}.md").read_text(encoding="utf-8")
    assert pd.read_csv(root / "tables/table03.csv").psnr_trained.isna().all()


def test_a_method_without_a_task_has_no_mean_and_no_interval(root: Path) -> None:
    for file in ("results/benchmark.csv", "results/per_image.csv"):
        _replace(root, file, lambda scores: scores.query("not (method == 'film' and task == 'derain')"))
    write_tables(root, root / "tables")
    table = pd.read_csv(root / "tables/table04.csv").query("metric == 'Gain (dB)'").set_index("method")
    assert table["mean"].isna().to_dict() == table.mean_low.isna().to_dict() == {m: m == "film" for m in table.index}
    assert _line(root / "tables", "table07", "FiLM").split("|")[2:5] == [" – "] * 3


def test_images_that_do_not_pair_are_named(root: Path) -> None:
    lost = "method == 'film' and task == 'dehaze' and image == 'rocket'"
    _replace(root, "results/per_image.csv", lambda t: t.query(f"not ({lost})"))
    with pytest.raises(InputError, match="film and input were not scored on the same images .*dehaze/bundled/rocket"):
        write_tables(root, root / "tables")
    fixtures.per_image().pipe(lambda t: pd.concat([t, t.tail(1)])).to_csv(root / "results/per_image.csv", index=False)
    with pytest.raises(InputError, match="modulation is scored twice on desnow/bundled/rocket"):
        write_tables(root, root / "tables")


@pytest.mark.parametrize(
    ("file", "column"),
    [
        ("results/benchmark.csv", "psnr_input"),
        ("results/per_image.csv", "image"),
        ("results/rank_strategy.csv", "energy_min"),
        ("results/sensitivity.csv", "gain_db"),
        ("results/cost.csv", "multiply_adds_fold"),
        ("results/diffusion.csv", "seam_real"),
        ("results/diffusion_per_image.csv", "image"),
        ("ablations/summary.csv", "steps"),
        ("ablations/per_image.csv", "seed"),
    ],
)
def test_a_missing_column_is_named_with_its_file(file: str, column: str, root: Path) -> None:
    _replace(root, file, lambda table: table.drop(columns=column))
    with pytest.raises(InputError, match=f"{file} has no column `{column}`"):
        write_tables(root, root / "tables")


def test_mixed_profiles_are_refused(root: Path) -> None:
    _replace(root, "results/benchmark.csv", lambda t: t.assign(profile=["study", *t.profile[1:]]))
    with pytest.raises(InputError, match="mixes profiles study, quick"):
        write_tables(root, root / "tables")


def test_synthetic_snow_over_benchmark_images_is_said_beside_the_numbers():
    scores, images = read_benchmark(fixtures.benchmark()), fixtures.per_image()
    assert snow_note(scores) == ""
    snowy, shown = (t.assign(dataset=t.dataset.where(t.task != "desnow", "CBSD68-snow")) for t in (scores, images))
    assert "no public pairs" in snow_note(snowy)
    assert "no public pairs" in table04(snowy, read_images(shown, snowy)).caption
