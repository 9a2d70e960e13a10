"""Figures of a file of texts: the counts, the intervals, and what a wrong file is told."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from instruct_ipt.errors import InputError
from instruct_ipt.instruction.scoring import Answer, Case, expected_calibration_error, figures, read_cases, score_file


def answers() -> list[Answer]:
    def one(wanted: tuple[str, ...], got: tuple[str, ...], asked: float | None = None, said: float = 1.0) -> Answer:
        kind = "" if wanted else "opposite"
        return Answer(Case("x", wanted, asked, kind), got, said if got else None, 0.9 if got else 0.1, np.full(5, 0.5))

    return [
        *[one(("derain",), ("derain",))] * 8, one(("derain",), ("desnow",)), one(("derain",), ()),
        one(("denoise", "derain"), ("denoise", "derain")), one(("denoise", "derain"), ("denoise",)),
        *[one((), ())] * 3, one((), ("deblur",)), one(("dehaze",), ("dehaze",), 0.5, 0.3),
        one(("dehaze",), ("dehaze",), 0.5, 1.0),
    ]  # fmt: skip


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The textbook formula."""
    p = hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def test_figures_count_what_they_say():
    rows = {(row["metric"], row["of"]): row for row in figures(answers())}
    expected = {
        ("right_task", "all"): (10, 12), ("right_task", "derain"): (8, 10), ("combination", "all"): (1, 2),
        ("accepted", "all"): (1, 4), ("accepted", "opposite"): (1, 4), ("refusal_precision", "all"): (3, 4),
        ("refusal_recall", "all"): (3, 4), ("strength", "all"): (1, 2),
    }  # fmt: skip
    for key, (hits, n) in expected.items():
        row = rows[key]
        assert (row["value"], row["n"]) == (hits / n, n), key
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(wilson(hits, n), abs=1e-6)
    assert ("right_task", "desnow") not in rows


def test_calibration_error_by_hand():
    pairs = np.array([[0.05, 0], [0.05, 1], [0.95, 1], [1.0, 1]])
    assert expected_calibration_error(pairs) == pytest.approx(0.5 * abs(0.05 - 0.5) + 0.5 * abs(0.975 - 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", ["not valid YAML"]), ("a: 1", ["must be a list"]), ("[]", ["must be a list"]),
        ("- {text: a}", ["entry 1", "tasks"]), ("- {text: a, tasks: [], colour: x}", ["entry 1", "nothing else"]),
        ("- {text: yes, tasks: []}", ["entry 1", "quotes"]), ("- {text: a, tasks: [colour]}", ["denoise", "desnow"]),
        ("- {text: a, tasks: [derain], strength: 2}", ["[0, 1.5]"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_what_is_wrong(tmp_path, text, words):
    path = tmp_path / "set.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_cases(path)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in (*words, "set.yaml"))


def test_a_file_is_scored_into_a_table(reader, tmp_path):
    reader.save(tmp_path / "model")
    path = tmp_path / "set.yaml"
    path.write_text("- {text: remove the rain, tasks: [derain]}\n- {text: hello, tasks: []}\n", encoding="utf-8")
    said = score_file(path, tmp_path / "model", tmp_path / "out.csv")
    assert "right_task" in said and "1.000" in said
    lines = Path(tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "metric,of,value,n,ci_low,ci_high" and lines[1].startswith("right_task,all,1,1,0.2065")
