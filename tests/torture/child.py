"""A process of its own that reads one hostile file after another, with bounds of memory and time set from outside."""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
MIB = 2**20
REFUSED, DONE, HUNG, DIED = "refused", "done", "hung", "died"


@dataclass(frozen=True)
class Answer:
    """What became of one file.

    Attributes:
        outcome: `DONE`, `REFUSED` (an InputError), `HUNG`, `DIED`, or the name of any other exception.
        text: what the work returned, or the exception's message.
        grown: bytes of memory by which the process was larger at its peak than before the first file.
        printed: what it wrote to stderr or stdout meanwhile.
        seconds: until the answer came.
    """

    outcome: str
    text: str
    grown: int
    printed: str
    seconds: float


class Child:
    """Runs a function of this package's tests in another process; a context.

    Args:
        work: `module:function`; the function takes a path and returns text.
        folder: where its stderr is kept, apart from the files it reads.
        memory: bytes that it may ask for beyond what it has once its modules are imported.
        seconds: in which each answer has to come; then the process is killed.
    """

    def __init__(self, work: str, folder: Path, memory: int, seconds: float = 20.0) -> None:
        self._work, self._memory, self._seconds = work, memory, seconds
        self._errors = (folder / "child-stderr.txt").open("w+b")
        self._start()

    def _start(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "default"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.child", self._work, str(self._memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment | {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))},
        )
        ready, text, _ = self._answer(120.0)
        assert ready == DONE, f"the child does not start: {text}"
        self._printed()

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()
        self._errors.close()

    def ask(self, path: Path) -> Answer:
        """What becomes of one file. Where no answer comes in time or the process dies, the outcome says so."""
        assert self._process.stdin is not None
        begun = time.monotonic()
        self._process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        self._process.stdin.flush()
        outcome, text, grown = self._answer(self._seconds)
        answer = Answer(outcome, text, grown, self._printed(), time.monotonic() - begun)
        if outcome in (HUNG, DIED):
            self._end()
            self._start()
        return answer

    def _answer(self, seconds: float) -> tuple[str, str, int]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        if not ready:
            return HUNG, f"no answer in {seconds:g} s", 0
        line = self._process.stdout.readline()
        return json.loads(line) if line else (DIED, f"exit status {self._process.wait()}", 0)

    def _printed(self) -> str:
        # The child has the same open file: where one of the two stands, the other does.
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        self._errors.seek(0)
        self._errors.truncate()
        return text


def sound(answer: Answer, name: str) -> str:
    """What is wrong with a refusal, empty where nothing is: one printable line that names `name`, and nothing beside.

    A file that was read is not looked at here, but for what was printed.
    """
    if answer.outcome not in (DONE, REFUSED):
        return f"{answer.outcome}: {answer.text[:300]} {answer.printed[-300:]!r}"
    if answer.printed:
        return f"printed {answer.printed[:300]!r}"
    if answer.outcome == DONE:
        return ""
    if not answer.text.isprintable() or not answer.text.strip() or len(answer.text) > 1000:
        return f"not one line: {answer.text[:300]!r}"
    return "" if name in answer.text else f"does not name {name}: {answer.text}"


def _size(field: str) -> int:
    """A size of this process in bytes, from /proc: `VmSize` or `VmHWM`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def _outcome(work: Callable[[Path], str], path: Path) -> tuple[str, str]:
    from instruct_ipt.errors import InputError

    try:
        return DONE, work(path)
    except InputError as error:
        return REFUSED, str(error)
    except Exception as error:
        return type(error).__name__, str(error)


def main() -> None:
    """The other process: a path a line on stdin, an answer a line on stdout."""
    module, _, name = sys.argv[1].partition(":")
    work = getattr(importlib.import_module(module), name)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    limit = _size("VmSize") + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before = _size("VmHWM")
    print(json.dumps((DONE, "ready", 0)), file=answers, flush=True)
    for line in sys.stdin:
        outcome, text = _outcome(work, Path(json.loads(line)))
        print(json.dumps((outcome, text, _size("VmHWM") - before)), file=answers, flush=True)


if __name__ == "__main__":
    main()
