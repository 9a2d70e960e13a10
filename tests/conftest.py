"""Shared fixtures: the repository's root, a configuration to mutate, one CPU thread for reproducible floats."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Tests compare bits and feed CPU tensors; a GPU, where there is one, would take the training. Before torch looks.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MPLBACKEND", "Agg")

# Two cores and many tiny networks: one thread is faster than two that wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the repository's params.yaml at profile smoke; tracking goes to its own store."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("profile: quick", "profile: smoke", 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path
