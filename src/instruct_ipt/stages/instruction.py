"""`ipt instruction`: the reader of instructions, made from the corpus and measured on phrasings it never saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instruct_ipt.instruction.fitting import Corpus, fit, refit
from instruct_ipt.instruction.scoring import COLUMNS, Case, answer, figures, write
from instruct_ipt.paths import INSTRUCTION, RESULTS

if TYPE_CHECKING:
    from instruct_ipt.instruction.reader import Reader
    from instruct_ipt.instruction.sentences import Example
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `models/instruction` and `results/instruction.csv`."""
    settings = context.params.instruction
    measured, corpus = fit(settings, context.params.seed)
    refit(settings, measured, corpus).save(context.out / INSTRUCTION)
    write(held_out_figures(measured, corpus), context.out / RESULTS / "instruction.csv", ("split", *COLUMNS))


def held_out_figures(reader: Reader, corpus: Corpus) -> list[dict[str, Any]]:
    """Rows of `scoring.figures` with their ``split``: of the phrasings for validation, and of those for the test."""
    return [
        {"split": split} | row
        for split in ("validation", "test")
        for row in figures([answer(reader, _case(example)) for example in corpus[split]])
    ]


def _case(example: Example) -> Case:
    # Only texts of one task carry a strength of their own making.
    strength = example.strength if example.kind == "single" else None
    return Case(example.text, example.tasks, strength, "" if example.tasks else example.kind)
