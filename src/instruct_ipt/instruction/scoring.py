"""How well a reader reads: figures with intervals, for the corpus's own splits and for a file of texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from instruct_ipt.errors import InputError
from instruct_ipt.instruction.reader import Reader, Refusal
from instruct_ipt.tasks import TASKS

COLUMNS = ("metric", "of", "value", "n", "ci_low", "ci_high")
BINS, RESAMPLES = 10, 1000


@dataclass(frozen=True)
class Case:
    """A text with the right answer.

    Attributes:
        text: what a person typed.
        tasks: what has to be done; empty when it must be refused.
        strength: right when the reading lies on the same side of 1; None is not judged.
        kind: a name for a group of texts, or "".
    """

    text: str
    tasks: tuple[str, ...]
    strength: float | None = None
    kind: str = ""


@dataclass(frozen=True)
class Answer:
    """What the reader made of a case.

    Attributes:
        case: the case.
        tasks: what it would do; empty for a refusal.
        strength: of the reading, None for a refusal.
        scope: probability that anything is asked for; 0 where the rules refused.
        probabilities: of the tasks, (T,), zeros for a refusal.
    """

    case: Case
    tasks: tuple[str, ...]
    strength: float | None
    scope: float
    probabilities: np.ndarray

    @property
    def right(self) -> bool:
        """Whether exactly the right tasks would be done."""
        return self.tasks == self.case.tasks


def read_cases(path: Path) -> list[Case]:
    """The cases of a YAML file: a list of mappings with ``text``, ``tasks`` and perhaps ``strength`` or ``kind``.

    Raises:
        InputError: the file is missing or says something else.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: must be a list of texts, each with `text` and `tasks`")
    return [_case(path, number, entry) for number, entry in enumerate(entries, 1)]


def _case(path: Path, number: int, entry: Any) -> Case:
    where = f"{path}: entry {number}"
    if not isinstance(entry, dict) or not {"text", "tasks"} <= set(entry) <= {"text", "tasks", "strength", "kind"}:
        raise InputError(f"{where} needs `text` and `tasks`, may have `strength` and `kind`, and nothing else")
    text, tasks, strength, kind = entry["text"], entry["tasks"], entry.get("strength"), entry.get("kind", "")
    if not isinstance(text, str) or not isinstance(kind, str):
        raise InputError(f"{where}: `text` and `kind` must be text; put them in quotes")
    if not isinstance(tasks, list) or not all(task in TASKS for task in tasks):
        raise InputError(f"{where}: `tasks` must be a list of {', '.join(TASKS)}; [] for a text to be refused")
    if strength is not None and not (isinstance(strength, int | float) and 0 <= strength <= 1.5):
        raise InputError(f"{where}: `strength` must be a number in [0, 1.5]")
    return Case(text, tuple(task for task in TASKS if task in tasks), strength, kind)


def answer(reader: Reader, case: Case) -> Answer:
    """Let the reader read one case."""
    try:
        reading = reader(case.text)
    except Refusal as refusal:
        return Answer(case, (), None, refusal.scope, np.zeros(len(TASKS)))
    found = np.array([reading.probabilities[task] for task in TASKS])
    return Answer(case, reading.tasks, reading.strength, reading.scope, found)


def figures(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Rows of :data:`COLUMNS`: shares with their 95 % Wilson interval; calibration errors with that of a bootstrap.

    ``right_task`` and ``combination`` count texts of one task and of several whose tasks were all found and no other;
    ``accepted`` counts texts to be refused that were not; ``refusal_precision`` and ``refusal_recall`` count refusals.
    """
    one = [a for a in answers if len(a.case.tasks) == 1]
    wrong = [a for a in answers if not a.case.tasks]
    refused = [a for a in answers if not a.tasks]
    judged = [a for a in answers if a.case.strength is not None and a.strength is not None and a.case.tasks]
    rows = [_share("right_task", "all", [a.right for a in one])]
    rows += [_share("right_task", task, [a.right for a in one if a.case.tasks == (task,)]) for task in TASKS]
    rows += [_share("combination", "all", [a.right for a in answers if len(a.case.tasks) > 1])]
    rows += [_share("accepted", "all", [bool(a.tasks) for a in wrong])]
    kinds = sorted({a.case.kind for a in wrong} - {""})
    rows += [_share("accepted", kind, [bool(a.tasks) for a in wrong if a.case.kind == kind]) for kind in kinds]
    rows += [_share("refusal_precision", "all", [not a.case.tasks for a in refused])]
    rows += [_share("refusal_recall", "all", [not a.tasks for a in wrong])]
    rows += [_share("strength", "all", [np.sign(a.strength - 1) == np.sign(a.case.strength - 1) for a in judged])]
    scope = np.array([[a.scope, bool(a.case.tasks)] for a in answers])
    read = [a for a in answers if a.tasks]
    each = np.array([[p, t in a.case.tasks] for a in read for t, p in zip(TASKS, a.probabilities, strict=True)])
    rows += [_calibration("scope", scope)] + ([_calibration("tasks", each)] if len(each) else [])
    return [row for row in rows if row["n"]]


def _share(metric: str, of: str, hits: Iterable[Any]) -> dict[str, Any]:
    from scipy.stats import binomtest

    values = [bool(hit) for hit in hits]
    if not values:
        return dict.fromkeys(COLUMNS, 0)
    low, high = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return dict(zip(COLUMNS, (metric, of, sum(values) / len(values), len(values), low, high), strict=True))


def _calibration(of: str, pairs: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draws = [expected_calibration_error(pairs[rng.integers(len(pairs), size=len(pairs))]) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, (0.025, 0.975))
    return dict(zip(COLUMNS, ("ece", of, expected_calibration_error(pairs), len(pairs), low, high), strict=True))


def expected_calibration_error(pairs: np.ndarray) -> float:
    """Mean distance between probability and frequency, over ten bins of equal width weighted by their texts.

    Args:
        pairs: (N, 2), a probability in [0, 1] and whether it came true.
    """
    bins = np.minimum((pairs[:, 0] * BINS).astype(int), BINS - 1)
    sums = np.stack([np.bincount(bins, pairs[:, column], BINS) for column in (0, 1)])
    return float(np.abs(sums[0] - sums[1]).sum() / len(pairs))


def write(rows: Sequence[dict[str, Any]], path: Path, columns: Sequence[str] = COLUMNS) -> None:
    """Rows as CSV, numbers with six significant digits."""
    import pandas as pd

    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False, float_format="%.6g", lineterminator="\n")


def score_file(path: Path, model: Path, output: Path) -> str:
    """Score the reader in ``model`` on the file ``path``, write the figures to ``output``, return them as text.

    Raises:
        InputError: the file or the reader is missing or damaged.
    """
    cases, reader = read_cases(path), Reader.load(model)
    rows = figures([answer(reader, case) for case in cases])
    write(rows, output)
    return "\n".join(map(_line, rows)) + f"\nwritten to {output}"


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['metric']:<18} {row['of']:<14} {row['value']:.3f}  [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
        f"  n = {row['n']}"
    )
