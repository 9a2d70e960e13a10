"""A smoke replication in a folder of its own: made once for all tests, and copied by those that need one.

Its commands start quickly (:mod:`tests.warm`); the environment of a copy, for processes to be killed, is without that.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock

from instruct_ipt.stage_table import STAGES

from . import warm

ROOT = Path(__file__).resolve().parent.parent


class Copy:
    """A copy of the repository in which commands run with the copy's own sources.

    Args:
        folder: where it stands.

    Attributes:
        folder: where it stands.
        environment: in which the programs of this Python, and in them the copy's own sources, are found.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "src"),
            "DVC_NO_ANALYTICS": "1",
            "DVC_SITE_CACHE_DIR": str(folder / ".site"),
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.environment.pop("MLFLOW_TRACKING_URI", None)

    @classmethod
    def fresh(cls, folder: Path) -> Copy:
        """A copy at profile smoke in which nothing has run yet."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("params.yaml", "dvc.yaml", "Snakefile"):
            shutil.copy(ROOT / name, folder / name)
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        for name in ("src", "workflow", "data/catalogue"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        made = cls(folder)
        made.run("dvc", "init", "--no-scm", "--quiet")
        made.run("ipt", "profile", "smoke")
        made._fit_estimator_on_less()
        return made

    @classmethod
    def finished(cls, folder: Path) -> Copy:
        """The copy in ``folder`` with every stage done; made by the first of the test processes that asks for it."""
        with FileLock(folder.with_suffix(".lock")):
            mark = folder / ".finished"
            if not mark.exists():
                shutil.rmtree(folder, ignore_errors=True)
                assert cls.fresh(folder).repro() == list(STAGES), "every stage runs once, in order"
                mark.touch()
        return cls(folder)

    def _fit_estimator_on_less(self) -> None:
        """Fewer windows: the estimator has no scale of its own in a profile, and no test asks how good it is."""
        path = self.folder / "params.yaml"
        text = path.read_text(encoding="utf-8")
        assert text.count("  windows: 120 ") == 1
        path.write_text(text.replace("  windows: 120 ", "  windows: 20 "), encoding="utf-8")

    def copied(self, folder: Path) -> Copy:
        """This copy with all that has been done in it, once more in the empty or new ``folder``."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True, symlinks=True)
        return Copy(folder)

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        quick = warm.environment_of(self.environment | environment)
        done = subprocess.run(command, cwd=self.folder, env=quick, capture_output=True, text=True)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def repro(self, *targets: str) -> list[str]:
        """Names of the stages that `dvc repro` ran; of all, or up to the targets."""
        return re.findall(r"Running stage '(\w+)'", self.run("dvc", "repro", *targets).stdout)

    def stale(self) -> set[str]:
        """Names of the stages that `dvc repro` would run."""
        return set(json.loads(self.run("dvc", "status", "--json").stdout))

    def jobs(self, *targets: str) -> int:
        """How many cells `snakemake -n` would run."""
        return self.run("snakemake", "-n", *targets).stdout.count("rule cell:")

    def forget(self, *outs: str) -> None:
        """Remove outputs of stages, and DVC's copies of them: their stages have to run again, and no other has."""
        lock = yaml.safe_load((self.folder / "dvc.lock").read_text(encoding="utf-8"))
        known = {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage.get("outs", ())}
        for out in outs:
            path = self.folder / out
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            (self.folder / ".dvc/cache/files/md5" / known[out][:2] / known[out][2:]).unlink()

    @contextmanager
    def edited(self, file: str, old: str, new: str):
        """The copy with ``old`` replaced in ``file``; the file comes back as it was."""
        path = self.folder / file
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {file}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(text, encoding="utf-8")

    def rows(self, file: str) -> list[dict[str, str]]:
        with (self.folder / file).open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))

    def manifest(self, folder: str) -> dict[str, str]:
        return json.loads((self.folder / folder / "manifest.json").read_text(encoding="utf-8"))
