"""Killed at random moments and started again, the pipeline ends with the bytes of a run that was never killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from instruct_ipt.stage_table import STAGES
from tests.replication import Copy

from .killing import digests, run_killed
from .tally import Tally

pytestmark = pytest.mark.pipeline
# DVC writes its list of locks in place: killed in that moment it leaves it empty (docs/reliability.md says what to do).
DVC = (("find", ".dvc", "-name", "rwlock", "-size", "0", "-delete"), ("dvc", "repro"))
SNAKEMAKE = (("snakemake", "--unlock"), ("snakemake", "-c2", "--rerun-incomplete", "all"))


@pytest.fixture(scope="module")
def reference(replication: Copy) -> dict[str, str]:
    """What a replication that nobody disturbed left behind: file -> SHA-256."""
    return digests(replication.folder)


class Killer:
    """Gives the pauses between start and kill, and looks at what stands under final names after each kill."""

    def __init__(self, copy: Copy, reference: dict[str, str], longest: float, tally: Tally, seed: int) -> None:
        self.copy, self.reference, self.longest, self.tally = copy, reference, longest, tally
        self.random = np.random.default_rng(seed)
        self.kills = 0

    def pauses(self, most: int) -> Iterator[float]:
        """At most ``most`` pauses in seconds, evenly spread up to the longest."""
        while self.kills < most:
            yield float(self.random.uniform(0.2, self.longest))

    def look(self) -> None:
        """A file with a final name is whole: it is the one of the undisturbed run."""
        self.kills += 1
        self.tally.add("kills")
        for name, digest in digests(self.copy.folder).items():
            # A hidden name is a temporary one; at the end there may be none of those either.
            if name == "dvc.lock" or any(part.startswith(".") for part in name.split("/")):
                continue
            assert self.reference.get(name) == digest, f"{name} is half, or should not be there"
            self.tally.add("files found whole in between")


def kill_often(
    make: Callable[[Path], Copy],
    commands: Sequence[Sequence[str]],
    killers: Callable[[Copy, int], Killer],
    kills: int,
    folder: Path,
) -> None:
    """Kill the last of ``commands`` so often, in as many copies as that takes, and compare each that was finished."""
    done = round_ = 0
    while done < kills:
        copy = make(folder / f"copy-{round_}")
        killer = killers(copy, round_)
        run_killed(copy, commands, killer.pauses(kills - done), killer.look)
        assert digests(copy.folder) == killer.reference
        assert copy.repro() == [] and copy.jobs() == 0, "nothing is left to do"
        assert copy.run("ipt", "status").stdout.count("up to date") == len(STAGES)
        killer.tally.add("runs compared")
        done, round_ = done + killer.kills, round_ + 1
        shutil.rmtree(copy.folder)


def test_dvc_repro_killed_at_random_moments(
    replication: Copy, reference: dict[str, str], many: Callable[[int, int], int], tally: Tally, tmp_path: Path
) -> None:
    """`dvc repro` killed at random moments ends with the bytes of a run never killed."""

    def partly(folder: Path) -> Copy:
        copy = replication.copied(folder)
        copy.forget(*(out for name in ("train_film", "tables") for out in STAGES[name].outputs))
        return copy

    def killers(copy: Copy, round_: int) -> Killer:
        return Killer(copy, reference, many(12, 25), tally, seed=round_)

    # In the short form two stages are made anew, in full everything from the beginning.
    kill_often(Copy.fresh if many(0, 1) else partly, DVC, killers, many(2, 30), tmp_path)


def test_snakemake_killed_at_random_moments(
    replication: Copy, reference: dict[str, str], many: Callable[[int, int], int], tally: Tally, tmp_path: Path
) -> None:
    """`snakemake` killed at random moments ends with the bytes of a run never killed."""

    def without_cells(folder: Path) -> Copy:
        copy = replication.copied(folder)
        grid = copy.folder / "ablations" / "smoke"
        for study in sorted(grid.iterdir()) if many(0, 1) else [grid / "rank"]:
            shutil.rmtree(study)
        return copy

    def killers(copy: Copy, round_: int) -> Killer:
        return Killer(copy, reference, many(12, 25), tally, seed=100 + round_)

    kill_often(without_cells, SNAKEMAKE, killers, many(2, 30), tmp_path)


def test_what_a_killed_publication_left_aside_goes(replication: Copy, tmp_path: Path, tally: Tally) -> None:
    """A run killed between two renamings leaves a hidden folder, and the next one removes it."""
    copy = replication.copied(tmp_path / "copy")
    shutil.rmtree(copy.folder / "tables")
    aside = copy.folder / ".tables.old"
    aside.mkdir()
    (aside / "table01.md").write_text("old\n", encoding="utf-8")
    copy.run("ipt", "tables")
    assert not aside.exists()
    assert digests(copy.folder / "tables") == digests(replication.folder / "tables")
    tally.add("kills")
