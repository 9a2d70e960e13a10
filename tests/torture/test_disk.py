"""Disks that are full or read-only: one line, earlier results as they were, and the same bytes once there is room."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from instruct_ipt.data.images import write_image
from instruct_ipt.stage_table import STAGES
from tests import planted
from tests.own.folders import write_pairs
from tests.replication import Copy
from tests.restoration import nets
from tests.restoration.test_weights import replication as trained_network

from .disks import Disk, small_disk
from .forked import ROOT, Ended, Ipt
from .tally import Tally
from .workplaces import ran, workspace

SHARES = (0.0, 0.6, 0.02, 0.1, 0.25, 0.4, 0.75, 0.9, 0.97)
"""How much of the room that a command takes it is given; the short form takes the first two."""
Many = Callable[[int, int], int]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the networks of a finished replication, a release, and photographs."""
    folder = tmp_path_factory.mktemp("released") / "work"
    workspace(folder)
    trained_network(folder / "models")
    nets.write_release(folder / "weights")
    write_pairs(folder / "pairs")
    for index in range(4):
        write_image(folder / f"photographs/{index}.png", noise(index))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with every file of a finished replication, planted, and a snapshot of an earlier one."""
    folder = tmp_path_factory.mktemp("finished") / "work"
    workspace(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        planted.replication()
        for name in ("fig4_comparison", "fig5_diffusion", "fig2_rank", "fig_pareto", "fig_task_gap"):
            write_image(Path(f"figures/{name}.png"), noise(0, 256))
        write_image(Path("figures/data_degradations.png"), noise(1, 256))
        Path("tables/table04.md").write_text("| a |\n", encoding="utf-8")
        names = [*STAGES, *(f"smoke/{cell.study}/{cell.setting}/seed-{cell.seed}" for cell in planted.CELLS)]
        rows = [[name, "1.0", "100", "x", "y"] for name in names]
        Path("logs").mkdir()
        planted.table(Path("logs/runtime.csv"), ["stage", "seconds", "peak_mib", "hardware", "versions"], rows)
        Path("docs/smoke").mkdir(parents=True)
        Path("docs/smoke/benchmark.csv").write_text("earlier\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def replicated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a whole replication at smoke scale; takes minutes where no other test has made it."""
    made: Copy = request.getfixturevalue("replication")
    folder = tmp_path_factory.mktemp("replicated") / "work"
    aside = shutil.ignore_patterns(
        "__pycache__", ".ipt", ".dvc", ".site", ".snakemake", ".finished", "mlflow.db", "mlruns"
    )
    shutil.copytree(made.folder, folder, ignore=aside, symlinks=True)
    return folder


def noise(seed: int, side: int = 64) -> np.ndarray:
    """A picture that no format makes small, uint8 (side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


# ---- the rule -------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """One command on one small disk.

    Attributes:
        ipt, disk, tally: what runs it, where, and what counts it.
        command: as given.
        lines: how many lines on standard error a failure may take; None where it is a table of many files.
        again: what is given beside, where a part may have been done.
    """

    ipt: Ipt
    disk: Disk
    tally: Tally
    command: tuple[str, ...]
    lines: int | None = 1
    again: tuple[str, ...] = ()

    def run(self, *more: str, largest: int | None = None) -> Ended:
        return self.ipt(self.disk.folder, *self.command, *more, largest=largest)

    def usual(self, base: Path) -> tuple[dict[str, bytes], int]:
        """What the command leaves where there is room, and how much room it takes."""
        self.disk.reset(base)
        before = self.disk.free()
        ran(self.run())
        found = self.disk.contents()
        grown = before - self.disk.free()
        # A stage replaces what is there, and works in a scratch folder that is gone now.
        return found, max(grown, 64 * 1024)

    def fails(self, ended: Ended, before: dict[str, bytes], usual: dict[str, bytes], *words: str) -> None:
        """A failure is told in few words; what stood there stands there; what is new is whole."""
        assert ended.code not in (0, -9), (self.command, ended)
        assert "Traceback" not in ended.err, ended.err
        assert any(word in ended.err for word in words), ended.err
        if self.lines is not None:
            assert len(ended.said) == self.lines and ended.said[-1].startswith("ipt: "), ended.err
        after = self.disk.contents()
        for path, content in before.items():
            assert after.get(path) in (content, usual.get(path)), f"{path} is neither as it was nor as it should be"
        for path in after.keys() - before.keys() - {"data/checksums.lock.json"}:  # it grows with each file
            if path.startswith("data/raw/.partial/"):
                continue  # where downloads wait for the rest
            assert after[path] == usual.get(path), f"{path} is rubbish"

    def strike(self, base: Path, shares: tuple[float, ...]) -> None:
        """Fill the disk to several degrees; then make room and compare what comes out with what usually does."""
        usual, room = self.usual(base)
        self.disk.reset(base)
        before = self.disk.contents()
        for share in shares:
            self.disk.fill(int(room * share))
            ended = self.run(*self.again)
            if ended.code == 0:
                assert self.disk.contents() == usual
                self.disk.reset(base)
                self.tally.add("that fitted")
                continue
            self.fails(ended, before, usual, "disk is full", "free; make room", "full")
            self.tally.add("full disks")
        self.disk.fill(self.disk.free())
        self.disk.make_room()
        ran(self.run(*self.again))
        assert self.disk.contents() == usual, "with room it gives the usual bytes"

    def refused(self, base: Path) -> None:
        """On a disk that is read-only nothing changes."""
        usual, _ = self.usual(base)
        self.disk.reset(base)
        before = self.disk.contents()
        with self.disk.read_only():
            self.fails(self.run(), before, usual, "read-only", "Read-only")
            assert self.disk.contents() == before
        self.tally.add("read-only disks")
        ran(self.run())
        assert self.disk.contents() == usual


@pytest.fixture
def trial(ipt: Ipt, tmp_path: Path, tally: Tally) -> Iterator[Callable[..., Trial]]:
    # Room for a replication at smoke scale, the outputs that a command replaces, and its scratch folder.
    with small_disk(tmp_path / "disk", 256) as disk:
        yield lambda *command, **more: Trial(ipt, disk, tally, command, **more)


# ---- commands -------------------------------------------------------------------------------------------------------

STAGE_COMMANDS = [("train-film",), ("prepare",), ("cell", "strategy", "frozen", "0")]
RELEASE_COMMANDS = [
    ("restore", "photographs/0.png", "-o", "out/0.png", "--task", "derain", "--compare"),
    ("release", "-o", "weights", "--force"),
    ("release", "-o", "released"),
    (
        "task",
        "add",
        "dim",
        "--input",
        "pairs/in",
        "--target",
        "pairs/out",
        "--steps",
        "2",
        "--patch",
        "24",
        "--batch",
        "2",
    ),
]
LATE_COMMANDS = [("figures",), ("tables",), ("report",), ("demo",), ("snapshot",), ("evaluate",)]


def test_stages_on_full_disks(prepared: Path, trial: Callable[..., Trial], many: Many):
    """Fill the disk under `ipt prepare`, `train-film` and `cell`, to several degrees."""
    for command in STAGE_COMMANDS[: many(1, 3)]:
        trial(*command).strike(prepared, SHARES[: many(2, len(SHARES))])


def test_releases_tasks_and_restorations_on_full_disks(released: Path, trial: Callable[..., Trial], many: Many):
    """Fill the disk under `ipt restore`, `release` and `task add`, to several degrees."""
    for command in RELEASE_COMMANDS[: many(2, 4)]:
        # `ipt task add` tells how it goes; a restoration that is there is only replaced when that is asked for.
        more = {"restore": {"again": ("--force",)}, "task": {"lines": None}}.get(command[0], {})
        trial(*command, **more).strike(released, SHARES[1 : many(2, len(SHARES))])


def test_the_views_of_a_replication_on_full_disks(
    request: pytest.FixtureRequest, trial: Callable[..., Trial], many: Many
):
    """Fill the disk under `ipt evaluate`, `demo`, `figures`, `tables`, `report` and `snapshot` after a replication."""
    if many(1, 2) == 1:
        pytest.skip("takes minutes: in full only")
    replicated = request.getfixturevalue("replicated")
    for command in LATE_COMMANDS:
        trial(*command).strike(replicated, SHARES[:4] if command != ("evaluate",) else SHARES[1:2])


def test_a_snapshot_on_a_full_disk(finished: Path, trial: Callable[..., Trial], many: Many):
    """Fill the disk under `ipt snapshot`, which replaces an earlier one, to several degrees."""
    trial("snapshot").strike(finished, SHARES[: many(2, len(SHARES))])


def test_read_only_disks(prepared: Path, released: Path, finished: Path, trial: Callable[..., Trial], many: Many):
    """Run commands in a folder on a disk that is read-only: one line, and nothing changes."""
    cheap = [(prepared, ("profile", "quick")), (released, RELEASE_COMMANDS[0]), (finished, ("snapshot",))]
    rest = [(prepared, command) for command in STAGE_COMMANDS] + [(released, c) for c in RELEASE_COMMANDS[1:]]
    for base, command in (cheap + rest)[: many(2, 99)]:
        trial(*command, lines=None if command[0] == "task" else 1).refused(base)


def test_of_many_pictures_those_that_fit_are_whole(released: Path, trial: Callable[..., Trial]):
    """Restore several pictures onto a disk that takes some of them: the others are named."""
    found = trial("restore", "photographs", "-o", "out", "--task", "derain", lines=None, again=("--force",))
    usual, room = found.usual(released)
    found.disk.reset(released)
    before = found.disk.contents()
    found.disk.fill(room // 2)
    ended = found.run()
    found.fails(ended, before, usual, "disk is full")
    kept = [name for name in usual.keys() - before.keys() if name in found.disk.contents()]
    assert ended.code == 1 and 0 < len(kept) < 4
    assert ended.err.count("the disk is full; make room") == 4 - len(kept) and f"{len(kept)} restored" in ended.err
    found.tally.add("full disks")
    found.disk.make_room()
    ran(found.run("--force"))
    assert found.disk.contents() == usual


def test_a_fetch_on_a_full_disk(ipt: Ipt, tmp_path: Path, tally: Tally, many: Many):
    """Fetch images from a mirror of unknown sizes onto a disk that takes some of them, and onto one with no margin."""
    base, mirror = tmp_path / "base", tmp_path / "mirror"
    big_mirror(base, mirror)
    with small_disk(tmp_path / "disk", 300) as disk:
        trial = Trial(ipt, disk, tally, ("data", "fetch", "--set", "BSD400_clean", "--mirror", str(mirror)))
        usual, _ = trial.usual(base)
        disk.reset(base)
        before = disk.contents()
        for leave in (110 * 2**20, 50 * 2**20):
            disk.fill(leave)
            trial.fails(trial.run(), before, usual, "disk is full; make room", "MB are free; make room")
            tally.add("full disks")
        assert not list((disk.folder / "data/raw").rglob("*.tmp"))
        disk.make_room()
        ran(trial.run())
        assert disk.contents() == usual
        if many(0, 1):
            trial.refused(base)


def big_mirror(base: Path, mirror: Path) -> None:
    """A catalogue of 14 files of 10 MiB whose sizes and checksums nobody published, and the files."""
    workspace(base)
    table = base / "data/catalogue/benchmark.csv"
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["set"] == "BSD400_clean"][:14]
    for number, row in enumerate(rows):
        row["bytes"] = row["sha256"] = ""
        path = mirror / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(bytes([number]))
            stream.truncate(10 * 2**20)
    planted.table(table, list(rows[0]), [list(row.values()) for row in rows])
    description = base / "data/catalogue/benchmark.yaml"
    text = description.read_text(encoding="utf-8")
    first = yaml.safe_load(text)["BSD400_clean"]
    description.write_text(yaml.safe_dump({"BSD400_clean": first}), encoding="utf-8")
    (base / "data/raw").mkdir()


def test_a_sync_on_a_full_disk(finished: Path, ipt: Ipt, tmp_path: Path, tally: Tally, many: Many):
    """Fill the disk under `ipt mlflow-sync`, which then completes the store."""
    shutil.copytree(finished, base := tmp_path / "base")
    if many(1, 2) == 1:
        for stage in list(STAGES.values())[4:]:
            (base / stage.provenance).unlink(missing_ok=True)
        for path in (base / "ablations/smoke").iterdir():
            if path.name != "rank":
                shutil.rmtree(path)
    ran(ipt(tmp_path, "mlflow-pages", MLFLOW_TRACKING_URI=f"sqlite:///{base}/mlflow.db"))  # makes an empty store
    with small_disk(tmp_path / "disk", 96) as disk:
        uri = f"sqlite:///{disk.folder}/mlflow.db"
        disk.reset(base)
        before = disk.free()
        ran(ipt(disk.folder, "mlflow-sync", MLFLOW_TRACKING_URI=uri))
        usual, room = ipt.shown(disk.folder, uri), before - disk.free()
        for share in (0.5, 0.0, 0.2, 0.8)[: many(1, 4)]:
            # From the start: what an earlier sync has added needs no room now.
            disk.reset(base)
            disk.fill(int(room * share))
            ended = ipt(disk.folder, "mlflow-sync", MLFLOW_TRACKING_URI=uri)
            assert ended.code == 2 and ended.err.count("\n") == 1 and ended.err.startswith("ipt: "), ended.err
            assert "full" in ended.err and "make room" in ended.err, ended.err
            tally.add("full disks")
        disk.make_room()
        ran(ipt(disk.folder, "mlflow-sync", MLFLOW_TRACKING_URI=uri))
        assert ipt.shown(disk.folder, uri) == usual
        tally.add("runs that stand afterwards", len(usual))


def test_files_that_may_not_grow_beyond_a_limit(prepared: Path, ipt: Ipt, tmp_path: Path, tally: Tally, many: Many):
    """Forbid files above a size (`ulimit -f`) while FiLM is trained: needs no root."""
    work = tmp_path / "work"
    shutil.copytree(prepared, work)
    disk = Disk(work)
    trial = Trial(ipt, disk, tally, ("train-film",))
    before = disk.contents()
    for largest in (2_000, 100_000, 500, 5_000, 20_000)[: many(1, 5)]:
        ended = trial.run(largest=largest)
        trial.fails(ended, before, {}, "larger than a file may be here")
        tally.add("limits met")
    ran(trial.run())
    assert disk.contents().keys() > before.keys()


def test_what_is_printed_onto_a_full_disk_is_missed(prepared: Path):
    """Print to a full disk: one line and no traceback."""
    command = [sys.executable, "-m", "instruct_ipt", "check-params"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            command, cwd=prepared, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.endswith(
        "output cannot be written: the disk is full; make room and run the same command again\n"
    )
