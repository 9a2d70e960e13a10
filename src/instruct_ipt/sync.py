"""Rebuilding the tracking store from files: MLflow is a view, and a view can be lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from instruct_ipt import provenance, tracking
from instruct_ipt.errors import InputError
from instruct_ipt.paths import ABLATIONS
from instruct_ipt.stage_table import STAGES


def sync() -> int:
    """Add a run for every finished stage and cell whose digest has none; returns how many were added.

    Raises:
        InputError: the tracking store cannot be reached.
    """
    known = tracking.known_digests()
    if known is None:
        raise InputError(
            f"the tracking store {tracking.store()} cannot be reached; start it or unset MLFLOW_TRACKING_URI"
        )
    added = 0
    for name, record, outputs, tags in _finished():
        digest = provenance.digest(record)
        if digest in known:
            continue
        with tracking.start(name, digest, record["params"], **tags) as tracker:
            for history in sorted(h for out in outputs if out.is_dir() for h in out.glob("history.csv")):
                tracker.history(history)
            tracker.finish(outputs)
        added += 1
    return added


def _finished() -> Iterator[tuple[str, dict[str, Any], list[Path], dict[str, str]]]:
    for stage in STAGES.values():
        record = provenance.read_record(stage.provenance)
        if record is not None:
            outputs = [Path(out) for out in stage.outputs]
            yield f"{record['params']['profile']}/{stage.name}", record, outputs, {"stage": stage.name}
    for path in sorted(ABLATIONS.glob("*/*/*/seed-*/provenance.json")):
        record = provenance.read_record(path)
        if record is not None:
            tags = {key: str(value) for key, value in record["params"]["cell"].items()}
            yield path.parent.relative_to(ABLATIONS).as_posix(), record, [path.parent], tags
