"""Where things lie, relative to the repository's root, which is the working directory of every command."""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
RAW = Path("data/raw")
PREPARED = Path("data/prepared")
MODELS = Path("models")
SELECTION = Path("models/selection.json")
ARMS = Path("models/release")
INSTRUCTION = Path("models/instruction")
ESTIMATOR = Path("models/estimator")
RESULTS = Path("results")
FIGURES = Path("figures")
TABLES = Path("tables")
REPORT = Path("report")
ABLATIONS = Path("ablations")
WEIGHTS = Path("weights")
LOGS = Path("logs")
RUNTIME = LOGS / "runtime.csv"
RUNTIME_PAGE = LOGS / "runtime.html"
# Rolling checkpoints and half-finished outputs; ignored by git and by DVC, safe to delete when nothing runs.
SCRATCH = Path(".ipt")
