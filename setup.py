"""Puts the released weights, which stand in `weights/` beside the sources, into the package that is built."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WEIGHTS = Path(__file__).parent / "weights"


class WithWeights(build_py):
    """Builds the package with `instruct_ipt/weights`, where an installed `ipt restore` looks for them."""

    def run(self) -> None:
        """Build, then copy; an editable installation finds the folder where it is."""
        super().run()
        if WEIGHTS.is_dir() and not self.editable_mode:
            shutil.copytree(WEIGHTS, Path(self.build_lib) / "instruct_ipt/weights", dirs_exist_ok=True)


setup(cmdclass={"build_py": WithWeights})
