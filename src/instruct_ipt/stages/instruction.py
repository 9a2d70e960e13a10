"""`ipt instruction`: the reader of instructions, made from the corpus and measured on phrasings it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instruct_ipt.instruction.fitting import measured_and_final
from instruct_ipt.instruction.scoring import COLUMNS, Case, answer, figures, write
from instruct_ipt.paths import INSTRUCTION, RESULTS

if TYPE_CHECKING:
    from instruct_ipt.instruction.reader import Reader
    from instruct_ipt.instruction.sentences import Example
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/instruction` and `results/instruction.csv`."""
    measured, final, corpus = measured_and_final(context.params.instruction, context.params.seed)
    final.save(context.out / INSTRUCTION)
    rows = [
        {"split": split} | row for split in ("validation", "test") for row in figures(_answers(measured, corpus[split]))
    ]
    write(rows, context.out / RESULTS / "instruction.csv", ("split", *COLUMNS))


def _answers(reader: Reader, examples: Any) -> list[Any]:
    return [answer(reader, _case(example)) for example in examples]


def _case(example: Example) -> Case:
    # Only texts of one task carry a strength of their own making.
    strength = example.strength if example.kind == "single" else None
    return Case(example.text, example.tasks, strength, "" if example.tasks else example.kind)
