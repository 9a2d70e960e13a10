"""Two at once: one works, the other says why it does not, and nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from instruct_ipt.errors import InputError
from instruct_ipt.exclusive import alone
from instruct_ipt.paths import SCRATCH
from tests import warm
from tests.replication import Copy

from .killing import digests, start
from .tally import Tally

pytestmark = pytest.mark.pipeline
CELL = ("ipt", "cell", "rank", "constant-2", "0")
SNAKEMAKE = ("snakemake", "-c1", "ablations/smoke/rank/constant-2/seed-0/metrics.json")
LOG = Path("logs/ablations/smoke/rank/constant-2/seed-0.log")


@pytest.fixture
def copy(replication: Copy, tmp_path: Path) -> Copy:
    """A finished replication whose cell `rank/constant-2` is missing, and the network `film`."""
    made = replication.copied(tmp_path / "copy")
    made.forget("models/film")
    for study in ("rank", "adaptation"):
        shutil.rmtree(made.folder / "ablations/smoke" / study)
    return made


def both(
    copy: Copy, first: tuple[str, ...], second: tuple[str, ...], begun: Path, quick: tuple[bool, bool] = (False, False)
) -> tuple[int, str, int, str]:
    """Start ``second`` once ``begun`` exists; exit code and words of each.

    Args:
        copy: where.
        first: a command.
        second: a command.
        begun: made by the first one.
        quick: which of the two start quickly: nothing is killed here, so they may.
    """
    environments = [warm.environment_of(copy.environment) if it else copy.environment for it in quick]
    one = start(copy, *first, environment=environments[0])
    deadline = time.monotonic() + 60
    while not (copy.folder / begun).exists() and one.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert one.poll() is None, one.communicate()[0]
    other = start(copy, *second, environment=environments[1])
    said_second = other.communicate(timeout=300)[0]
    said_first = one.communicate(timeout=300)[0]
    return one.returncode, said_first, other.returncode, said_second


def test_two_trainings_of_one_cell(copy: Copy, tally: Tally) -> None:
    """Two trainings of one cell at once: one works, the other says who is at it."""
    begun = SCRATCH / "locks"
    shutil.rmtree(copy.folder / begun)
    first, _, second, said = both(copy, CELL, CELL, begun, quick=(True, True))
    assert (first, second) == (0, 2), said
    assert said.count("\n") == 1 and "cell smoke/rank/constant-2/seed-0 is being made by process" in said
    tally.add("pairs")


def test_two_dvc_repro(copy: Copy, replication: Copy, tally: Tally) -> None:
    """Two `dvc repro` at once: one finishes, the other says who holds it up, and the files are those of one run."""
    begun = SCRATCH / "work" / "train_film"
    shutil.rmtree(copy.folder / begun, ignore_errors=True)
    first, said_first, second, said = both(copy, ("dvc", "repro"), ("dvc", "repro"), begun)
    assert first == 0, said_first
    assert second != 0 and "Traceback" not in said and ("is busy" in said or "is being made by process" in said), said
    # Cells that are missing are nobody's business as long as the summary of the grid stands.
    cells = "ablations/smoke/"
    found, wanted = (
        {name: digest for name, digest in digests(folder).items() if not name.startswith(cells)}
        for folder in (copy.folder, replication.folder)
    )
    assert found == wanted
    assert copy.repro() == []
    tally.add("pairs")


def test_two_snakemake(copy: Copy, tally: Tally) -> None:
    """Two `snakemake` at once: one finishes, the other says that the folder is locked."""
    shutil.rmtree(copy.folder / ".snakemake" / "locks", ignore_errors=True)
    (copy.folder / LOG).unlink()
    first, said_first, second, said = both(copy, SNAKEMAKE, SNAKEMAKE, LOG)
    assert first == 0, said_first
    assert second != 0 and "Directory cannot be locked" in said and "Traceback" not in said, said
    tally.add("pairs")


def test_the_bridge_does_not_break_the_lock_of_a_snakemake_that_works(copy: Copy, tally: Tally) -> None:
    """`dvc repro` while `snakemake` works on the grid: the stage says so and leaves its lock alone."""
    (copy.folder / LOG).unlink()
    first, said_first, second, said = both(copy, SNAKEMAKE, ("ipt", "ablations"), LOG, quick=(False, True))
    assert first == 0, said_first
    assert second == 2 and "is working on the grid" in said and said.count("\n") == 1, said
    tally.add("pairs")


def test_a_lock_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally) -> None:
    """A killed process leaves no lock behind."""
    monkeypatch.chdir(tmp_path)
    work = "with alone('x', 'stage x'): print(1, flush=True); time.sleep(99)"
    hold = f"import time; from instruct_ipt.exclusive import alone\n{work}"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "1\n"
        with (
            pytest.raises(InputError, match=f"^stage x is being made by process {process.pid} right now"),
            alone("x", "stage x"),
        ):
            pass
        process.kill()
    with alone("x", "stage x"):
        tally.add("kills")
