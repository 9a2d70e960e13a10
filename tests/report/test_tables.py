"""The table writer's marks and escapes, and tables 3, 4 and 9 on results with known winners."""

from __future__ import annotations

import re
from pathlib import Path

import fixtures
import numpy as np
import pandas as pd
import pytest

from instruct_ipt.errors import InputError
from instruct_ipt.report.tables import (
    PAPER,
    Column,
    Table,
    cells_of,
    escape_latex,
    marks_of,
    read_benchmark,
    snow_note,
    table04,
    write_table,
    write_tables,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables")
    strategy = fixtures.rank_strategy(fixtures.rank_energy())
    write_tables(fixtures.benchmark(), strategy, fixtures.ablations(), out, validation_images=4)
    return out


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


def test_hostile_text_survives_markdown(tmp_path: Path) -> None:
    from instruct_ipt.report.page import _table

    rows = pd.DataFrame({"name": ["a|b*c_d<e>"], "value": [1.0]})
    write_table(Table("table00", "Caption.", (Column("name", "N|M"), Column("value", "V", 1)), rows), tmp_path)
    table = _table(tmp_path / "table00.md")
    assert (table["head"], table["title"]) == (["N|M", "V"], "Table 0")
    assert [str(cell["text"]) for cell in table["rows"][0]] == ["a|b*c_d<e>", "1.0"]


@pytest.mark.parametrize("name", ["table03", "table04", "table09"])
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


@pytest.mark.parametrize("name", ["table03", "table04", "table09"])
def test_caption_and_the_paper_column(folder: Path, name: str) -> None:
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    caption, head, _, *rows = [line for line in text.splitlines() if line]
    split = "test split, n = 3 images" if name == "table04" else "validation split, n = 4 images"
    for words in ("assumed", "rotocol rgb", split, "profile quick", "1 seed" if name == "table04" else "2 seeds"):
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


def test_a_trained_rank_without_a_truncation_gets_its_own_row(tmp_path: Path) -> None:
    strategy = fixtures.rank_strategy(fixtures.rank_energy(), constants=(1, 2))
    write_tables(fixtures.benchmark(), strategy, fixtures.ablations(), tmp_path)
    rows = pd.read_csv(tmp_path / "table03.csv").query("source == 'bias' and psnr_trained.notna()", engine="python")
    assert list(zip(rows.rule, rows.value, rows.budget, strict=True)) == [
        ("constant", 4.0, 4.0),
        ("proportional", 0.0625, 4.0),
        ("constant", 8.0, 8.0),
    ]
    assert rows.psnr.isna().all()


def test_table09_order_marks_and_profile(folder: Path) -> None:
    table = pd.read_csv(folder / "table09.csv")
    assert list(table.setting) == ["shared", "experts", "frozen", "two_stage", "synchronous"]
    assert list(table["mean"]) == pytest.approx([26.1, 27.4, 26.6, 27.2, 27.6])
    lines = (folder / "table09.md").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line.startswith("| synchronous")).count("**27.60 ± 0.14**") == 6
    assert next(line for line in lines if line.startswith("| experts")).count("<u>27.40 ± 0.14</u>") == 6


def test_an_empty_grid_gives_empty_tables(tmp_path: Path) -> None:
    strategy = fixtures.rank_strategy(fixtures.rank_energy())
    write_tables(fixtures.benchmark(), strategy, fixtures.ablations().iloc[:0], tmp_path)
    assert "no cells in this profile" in (tmp_path / "table09.md").read_text(encoding="utf-8")
    assert pd.read_csv(tmp_path / "table03.csv").psnr_trained.isna().all()


def test_a_method_without_a_task_has_no_mean(tmp_path: Path) -> None:
    scores = fixtures.benchmark().query("not (method == 'film' and task == 'derain')")
    write_tables(scores, fixtures.rank_strategy(fixtures.rank_energy()), fixtures.ablations(), tmp_path)
    table = pd.read_csv(tmp_path / "table04.csv").query("metric == 'PSNR (dB)'").set_index("method")
    assert table["mean"].isna().to_dict() == {m: m == "film" for m in table.index}


@pytest.mark.parametrize(
    ("position", "column", "file"),
    [
        (0, "psnr_input", "results/benchmark.csv"),
        (1, "energy_min", "results/rank_strategy.csv"),
        (2, "steps", "ablations/summary.csv"),
    ],
)
def test_a_missing_column_is_named_with_its_file(position: int, column: str, file: str, tmp_path: Path) -> None:
    tables = [fixtures.benchmark(), fixtures.rank_strategy(fixtures.rank_energy()), fixtures.ablations()]
    tables[position] = tables[position].drop(columns=column)
    with pytest.raises(InputError, match=f"{file} has no column `{column}`"):
        write_tables(*tables, tmp_path)


def test_mixed_profiles_are_refused(tmp_path: Path) -> None:
    scores = fixtures.benchmark()
    scores.loc[3, "profile"] = "study"
    with pytest.raises(InputError, match="mixes profiles quick, study"):
        write_tables(scores, fixtures.rank_strategy(fixtures.rank_energy()), fixtures.ablations(), tmp_path)


def test_synthetic_snow_over_benchmark_images_is_said_beside_the_numbers():
    scores = read_benchmark(fixtures.benchmark())
    assert snow_note(scores) == ""
    snowy = scores.assign(dataset=scores.dataset.where(scores.task != "desnow", "CBSD68-snow"))
    assert "no public pairs" in snow_note(snowy) and "no public pairs" in table04(snowy).caption
