"""How long does reading an instruction take? Milliseconds per sentence after loading, on one core, against the bound.

    python -m benchmarks.instruction                    the reader in models/instruction
    python -m benchmarks.instruction --out FILE.json    where the figures go (default: logs/benchmark_instruction.json)

Texts are those of set A, each read several times in turn; the slowest counts as well as the median. The longest allowed
text is timed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from instruct_ipt.errors import InputError
from instruct_ipt.instruction import Reader, Refusal
from instruct_ipt.instruction.reader import LONGEST
from instruct_ipt.instruction.scoring import read_cases
from instruct_ipt.paths import INSTRUCTION, LOGS

BOUND = 20.0  # ms, per sentence
ROUNDS = 5
SET_A = Path(__file__).parents[1] / "tests" / "instruction" / "set_a.yaml"


def measure(reader: Reader, texts: list[str], rounds: int = ROUNDS) -> list[float]:
    """Milliseconds per text: the median of ``rounds`` readings of each, after one that is not counted."""
    found: list[list[float]] = [[] for _ in texts]
    for number in range(rounds + 1):
        for times, text in zip(found, texts, strict=True):
            begun = time.perf_counter()
            with suppress(Refusal):
                reader(text)
            if number:
                times.append(1e3 * (time.perf_counter() - begun))
    return [median(times) for times in found]


def run(model: Path = INSTRUCTION) -> dict[str, Any]:
    """Median and slowest sentence in ms, the longest text in ms, loading in s, and the ratios to the bound."""
    begun = time.perf_counter()
    reader = Reader.load(model)
    loading = time.perf_counter() - begun
    times = measure(reader, [case.text for case in read_cases(SET_A)])
    (longest,) = measure(reader, [("remove the rain, " * LONGEST)[:LONGEST]])
    return {
        "bound_ms": BOUND, "texts": len(times), "loading_s": loading,
        "median_ms": median(times), "slowest_ms": max(times), "longest_ms": longest,
        "median_ratio": median(times) / BOUND, "slowest_ratio": max(times) / BOUND,
    }  # fmt: skip


def main() -> None:
    """Print the figures and keep them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instruction", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=LOGS / "benchmark_instruction.json")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        found = run()
    except InputError as error:
        parser.error(str(error))
    for name in ("median", "slowest"):
        share = found[f"{name}_ratio"]
        verdict = "ok" if share <= 1 else "MISSED"
        print(f"{name:8} {found[f'{name}_ms']:6.2f} ms  {share:5.2f} of the bound of {BOUND:g} ms  {verdict}")
    print(f"longest  {found['longest_ms']:6.2f} ms  ({LONGEST} characters)\nloading  {found['loading_s']:6.2f} s")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
