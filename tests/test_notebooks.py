"""Notebooks are plain text without outputs, say nothing that a run could belie, and run in real Jupyter kernels.

All of them on finished results: tests/test_pipeline.py.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import pandas as pd
import pytest
from nbclient.exceptions import CellExecutionError
from PIL import Image

from instruct_ipt.analysis.claims import COLUMNS
from instruct_ipt.errors import InputError
from instruct_ipt.notebooks import enter, execute_all, new_figure, shown, table, verdicts

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def texts(path: Path) -> list[str]:
    """The Markdown cells of a notebook."""
    return [cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown"]


def test_there_are_seven_and_the_readme_lists_them_all():
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06", "07"]
    listed = re.findall(r"\((\d\d_\w+\.py)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    assert listed == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_as_one(path):
    notebook = jupytext.read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3", "a person's editor must not have to ask for a kernel"
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {int(path.name[:2])}. ")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_measured_number_stands_in_the_text(path):
    for text in texts(path):
        assert not re.search(r"\d\s?dB", text), text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_results_are_read_by_the_reader_that_explains_what_is_missing(path):
    source = path.read_text(encoding="utf-8")
    assert "read_csv" not in source and "enter()" in source


def test_no_executed_notebook_is_in_git():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    assert not [name for name in tracked.stdout.splitlines() if name.endswith(".ipynb")]


def write(name: str, *cells: str) -> None:
    """A notebook in `notebooks/` of the working directory."""
    Path("notebooks").mkdir(exist_ok=True)
    Path("notebooks", name).write_text("\n".join(f"# %%\n{cell}" for cell in cells), encoding="utf-8")


def test_a_notebook_runs_in_a_kernel_of_its_own_in_the_root(workspace):
    write("01_one.py", "import os\nx = 6 * 7", "print(x, os.getcwd(), os.getpid())")
    write("02_two.py", "print('x' in globals())")
    Path("notebooks/helper.py").write_text("raise SystemExit", encoding="utf-8")
    done = list(execute_all())
    assert [path.as_posix() for path, _ in done] == [
        "notebooks/executed/01_one.ipynb",
        "notebooks/executed/02_two.ipynb",
    ]
    assert all(seconds > 0 for _, seconds in done)
    first, second = (nbformat.read(path, as_version=4).cells[-1].outputs[0].text for path, _ in done)
    number, folder, process = first.split()
    assert number == "42" and Path(folder) == workspace and second == "False\n"
    assert Path(f"/proc/{process}").exists() is False, "kernels end with their notebooks"


def test_what_a_person_can_mend_is_one_line_and_a_defect_keeps_its_traceback(workspace):
    write(
        "01_x.py", "print('so far')", "from instruct_ipt.errors import InputError\nraise InputError('a.csv: no rows')"
    )
    with pytest.raises(InputError) as caught:
        list(execute_all())
    assert str(caught.value) == "notebooks/01_x.py: a.csv: no rows"
    kept = nbformat.read("notebooks/executed/01_x.ipynb", as_version=4)
    assert kept.cells[0].outputs[0].text == "so far\n"
    write("01_x.py", "1 / 0")
    with pytest.raises(CellExecutionError, match="1 / 0"):
        list(execute_all())


def test_without_results_the_command_says_what_to_run(workspace):
    shutil.copytree(FOLDER, "notebooks", ignore=shutil.ignore_patterns("executed"))
    done = subprocess.run([sys.executable, "-m", "instruct_ipt", "notebooks"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "ipt: notebooks/01_data_and_degradations.py: data/prepared/train/index.csv does not exist"
    )
    shutil.rmtree("notebooks")
    with pytest.raises(InputError, match="has no notebooks"):
        list(execute_all())


def test_the_root_is_found_from_below_and_missed_outside(workspace, monkeypatch, tmp_path_factory):
    below = workspace / "notebooks/executed"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    enter()
    assert Path.cwd() == workspace
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(InputError, match="not inside the repository"):
        enter()


def test_a_picture_is_shown_with_its_alt_text():
    drawn = shown(new_figure(1, width=2), alt="Nothing.", width=300)._repr_mimebundle_()[1]
    assert drawn["image/png"] == {"alt": "Nothing.", "width": 300}

    def draw(folder: Path) -> None:
        Image.new("RGB", (1000, 10)).save(folder / "wide.png")
        (folder / "wide.csv").write_text("beside it", encoding="utf-8")

    picture = shown(draw, alt="An example.", width=100)
    data, metadata = picture._repr_mimebundle_()
    assert set(data) == {"image/png"} and metadata["image/png"]["alt"] == "An example."
    assert Image.open(io.BytesIO(picture.data)).size == (250, 2), "what nobody could see is not stored"
    with pytest.raises(ValueError, match="wide.png is shown without an alt text"):
        shown(draw)


def test_verdicts_are_those_of_the_file(workspace):
    rows = {"claim": ["a", "b"], "statement": ["A beats B", "C costs little"], "verdict": ["inconclusive", "supported"]}
    numbers = {
        "effect": [0.25, None],
        "ci_low": [-0.5, None],
        "ci_high": [1.0, None],
        "n_images": [40, 0],
        "n_seeds": [1, 0],
    }
    Path("results").mkdir()
    claims = pd.DataFrame(rows | numbers | {"unit": ["dB", "%"], "note": ["one seed", None]}, columns=COLUMNS)
    claims.to_csv("results/claims.csv", index=False)
    first, second = verdicts("b", "a").data.splitlines()
    assert first.startswith("- *C costs little.* Effect: not measured. **supported**")
    assert "+0.25 [−0.50, +1.00] dB. **inconclusive** (40 images, 1 seed; one seed)" in second
    with pytest.raises(InputError, match="no claim c; it has: a, b"):
        verdicts("a", "c")


def test_a_table_is_shown_as_it_was_published(workspace):
    with pytest.raises(InputError, match="dvc repro tables"):
        table("table09")
    Path("tables").mkdir()
    Path("tables/table09.md").write_text("| a |", encoding="utf-8")
    assert table("table09").data == "| a |"
