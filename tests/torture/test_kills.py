"""Killed at random moments and started again, the pipeline ends with the bytes of a run that was never killed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from instruct_ipt.stage_table import STAGES
from tests.replication import Copy

from .killing import digests, run_killed
from .tally import Tally

pytestmark = pytest.mark.pipeline
DVC = (("dvc", "repro"),)
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
            if name == "dvc.lock":
                continue
            assert self.reference.get(name) == digest, f"{name} is half, or should not be there"
            self.tally.add("files found whole in between")


def emptied(copy: Copy, stages: list[str]) -> Copy:
    """The copy without what ``stages`` made."""
    copy.forget(*(out for name in stages for out in STAGES[name].outputs))
    return copy


def test_dvc_repro_killed_at_random_moments(
    replication: Copy, reference: dict[str, str], many: Callable[[int, int], int], tally: Tally, tmp_path: Path
) -> None:
    """`dvc repro` killed at random moments ends with the bytes of a run never killed."""
    kills, full = many(2, 30), many(0, 1)
    done, round_ = 0, 0
    while done < kills:
        folder = tmp_path / f"copy-{round_}"
        # In the short form a few stages in the middle are made anew, in full everything from the beginning.
        copy = Copy.fresh(folder) if full else emptied(replication.copied(folder), ["train_film", "tables"])
        killer = Killer(copy, reference, 25.0 if full else 12.0, tally, seed=round_)
        run_killed(copy, DVC, killer.pauses(kills - done), killer.look)
        assert digests(folder) == reference
        assert copy.run("ipt", "status").stdout.count("up to date") == len(STAGES)
        assert copy.repro() == [], "nothing is left to do"
        tally.add("runs compared")
        done, round_ = done + killer.kills, round_ + 1
        shutil.rmtree(folder)


def test_snakemake_killed_at_random_moments(
    replication: Copy, reference: dict[str, str], many: Callable[[int, int], int], tally: Tally, tmp_path: Path
) -> None:
    """`snakemake` killed at random moments ends with the bytes of a run never killed."""
    kills, full = many(2, 30), many(0, 1)
    done, round_ = 0, 0
    while done < kills:
        copy = replication.copied(tmp_path / f"copy-{round_}")
        grid = copy.folder / "ablations" / "smoke"
        for study in sorted(grid.iterdir()) if full else [grid / "rank"]:
            shutil.rmtree(study)
        killer = Killer(copy, reference, 25.0 if full else 12.0, tally, seed=100 + round_)
        run_killed(copy, SNAKEMAKE, killer.pauses(kills - done), killer.look)
        assert digests(copy.folder) == reference and copy.jobs() == 0
        tally.add("runs compared")
        done, round_ = done + killer.kills, round_ + 1
        shutil.rmtree(copy.folder)
