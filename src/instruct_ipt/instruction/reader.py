"""Sentence -> task weights and a strength, or a refusal that names what is possible."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.instruction import encoders, rules
from instruct_ipt.instruction.encoders import Encoder
from instruct_ipt.instruction.head import OUTPUTS, SCOPE, Head
from instruct_ipt.instruction.spelling import Speller
from instruct_ipt.tasks import TASKS

POSSIBLE = "I can remove noise, blur, rain, haze or snow; name one or several of them"
LONGEST = 1000
Reason = Literal["empty", "too_long", "unknown", "opposite", "nothing_left"]
_WHY: dict[str, str] = {
    "empty": "the instruction is empty",
    "too_long": f"the instruction is longer than {LONGEST} characters",
    "unknown": "this does not ask for anything that I can do",
    "opposite": "this asks for more of what I take away",
    "nothing_left": "this only says what should stay as it is",
}


class Refusal(InputError):
    """A sentence that cannot be followed; the message is one line that names what is possible.

    Attributes:
        reason: ``empty``, ``too_long``, ``unknown``, ``opposite`` or ``nothing_left``.
        scope: probability in [0, 1] that the text asks for one of the tasks; 0 where the head was not asked.
    """

    def __init__(self, reason: Reason, scope: float = 0.0) -> None:
        super().__init__(f"{_WHY[reason]}. {POSSIBLE}.")
        self.reason, self.scope = reason, scope


@dataclass(frozen=True)
class Reading:
    """What a sentence asks for.

    Attributes:
        weights: task -> weight, convex over the five tasks: what is not asked for is exactly 0.
        strength: in [0, 1.5]; 1 is plain.
        probabilities: task -> calibrated probability in (0, 1).
        scope: calibrated probability that the sentence asks for any of the tasks.
        ignored: clauses that were not followed, because they leave something as it is or ask for damage.
    """

    weights: Mapping[str, float]
    strength: float
    probabilities: Mapping[str, float] = field(default_factory=dict)
    scope: float = 1.0
    ignored: tuple[str, ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that have a weight, in the fixed order."""
        return tuple(task for task in TASKS if self.weights[task] > 0)


class Reader:
    """Reads instructions.

    Args:
        speller: mends slips of the keys.
        encoder: text to features.
        head: features to probabilities.
        threshold: least probability of the scope; below, a text is refused.
    """

    def __init__(self, speller: Speller, encoder: Encoder, head: Head, threshold: float) -> None:
        self.speller, self.encoder, self.head, self.threshold = speller, encoder, head, threshold

    def __call__(self, text: str) -> Reading:
        """Read one sentence of at most :data:`LONGEST` characters.

        Raises:
            Refusal: it asks for nothing that the tasks can do.
        """
        if not text.strip():
            raise Refusal("empty")
        if len(text) > LONGEST:
            raise Refusal("too_long")
        plain = self.speller(rules.normalise(text))
        clauses = rules.clauses(plain)
        left = tuple(clause.text for clause in clauses if clause.wish != "do")
        pieces = rules.pieces(clauses, plain)
        if not pieces:
            raise Refusal(_reason(clauses))
        scores = self.head.scores(self.encoder.encode(pieces)).max(axis=0, keepdims=True)
        probabilities = dict(zip(OUTPUTS, map(float, self.head.probabilities(scores)[0]), strict=True))
        scope = probabilities.pop(SCOPE)
        if scope < self.threshold:
            raise Refusal(_reason([clause for clause in clauses if clause.wish == "add"]), scope)
        return Reading(_weights(probabilities), rules.strength(plain), probabilities, scope, left)

    def save(self, folder: Path) -> None:
        """Write `reader.json` and `head.safetensors`; nothing is pickled."""
        from safetensors.numpy import save

        values, arrays = self.encoder.state()
        content = {"outputs": OUTPUTS, "threshold": self.threshold, "spelling": self.speller.known, **values}
        write_whole(folder / "reader.json", (json.dumps(content, ensure_ascii=False) + "\n").encode())
        own = {"weight": self.head.weight, "bias": self.head.bias, "knots": self.head.knots}
        packed = save({name: np.ascontiguousarray(a) for name, a in (own | arrays).items()})
        write_whole(folder / "head.safetensors", packed)

    @classmethod
    def load(cls, folder: Path) -> Reader:
        """The reader that was kept in ``folder``.

        Raises:
            InputError: it is missing, damaged, or of another version.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        again = "`ipt instruction` makes it"
        try:
            values = json.loads((folder / "reader.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "head.safetensors")
            if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
                raise ValueError("not finite float32")
        except FileNotFoundError:
            raise InputError(f"{folder} holds no instruction reader; {again}") from None
        except (OSError, ValueError, RecursionError, SafetensorError):
            raise InputError(f"{folder} holds a damaged instruction reader; {again} anew") from None
        try:
            if tuple(values["outputs"]) != OUTPUTS:
                raise InputError(f"it was made for other tasks than {', '.join(TASKS)}; {again} anew")
            if not isinstance(values["encoder"], str):
                raise TypeError(values["encoder"])
            head = Head(*(arrays[name] for name in ("weight", "bias", "knots")))
            speller = Speller({str(word): int(count) for word, count in values["spelling"].items()})
            found = cls(speller, encoders.restore(values, arrays), head, float(values["threshold"]))
            found._check()
            return found
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
            raise InputError(f"{folder} holds an instruction reader of another version; {again} anew") from None

    def _check(self) -> None:
        """ValueError unless the head fits the encoder, its calibration rises, and the threshold is a probability."""
        width = self.encoder.encode(["noise"]).shape[1]
        count, knots = len(OUTPUTS), self.head.knots
        fits = self.head.weight.shape == (count, width) and self.head.bias.shape == (count,)
        fits = fits and knots.ndim == 3 and knots.shape[::2] == (count, 2) and knots.shape[1] >= 2
        if not (fits and 0 <= self.threshold <= 1 and (np.diff(knots[..., 0]) > 0).all()):
            raise ValueError("the head does not fit")


def _reason(clauses: Sequence[rules.Clause]) -> Reason:
    wishes = {clause.wish for clause in clauses}
    return "opposite" if "add" in wishes else "nothing_left" if "leave" in wishes else "unknown"


def _weights(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Equal weights for all tasks that are more likely than not; the likeliest alone where none is."""
    chosen = [task for task in TASKS if probabilities[task] >= 0.5]
    chosen = chosen or [max(TASKS, key=lambda task: probabilities[task])]
    return {task: (1 / len(chosen) if task in chosen else 0.0) for task in TASKS}
