"""One fitted reader for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from instruct_ipt import params
from instruct_ipt.instruction.fitting import fit, refit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def fitted():
    """(the reader to measure, the reader to keep, the corpus) of the repository's parameters."""
    configuration = params.load(ROOT / "params.yaml", "quick")
    measured, corpus = fit(configuration.instruction, configuration.seed)
    return measured, refit(configuration.instruction, measured, corpus), corpus


@pytest.fixture(scope="session")
def reader(fitted):
    """The reader to keep."""
    return fitted[1]
