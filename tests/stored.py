"""What a tracking store shows, as plain values that can be compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Shown by the machine that computes, and by no other: these cannot be rebuilt from files.
LIVE_METRICS, LIVE_ARTIFACTS = ("system/", "seconds/"), ("images/", "environment.json")


@dataclass
class Shown:
    """One run.

    Attributes:
        tags: but for MLflow's own.
        params: as text.
        metrics: name -> points (step, value), in order.
        artifacts: paths of files.
        parent: name of the run above it.
        id: of the run.
    """

    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, list[tuple[int, float]]]
    artifacts: set[str]
    parent: str
    id: str = field(compare=False)

    def rebuilt(self) -> Shown:
        """What of it can be rebuilt from files."""
        metrics = {name: points for name, points in self.metrics.items() if not name.startswith(LIVE_METRICS)}
        artifacts = {path for path in self.artifacts if not path.startswith(LIVE_ARTIFACTS)}
        return Shown(self.tags, self.params, metrics, artifacts, self.parent, self.id)


def shown(uri: str = "", only: str = "") -> dict[tuple[str, str], Shown]:
    """(experiment, run name) -> run: current runs of experiments whose name contains ``only``, in the store in use."""
    from mlflow.tracking import MlflowClient

    from instruct_ipt.tracking import store

    client = MlflowClient(tracking_uri=uri or store())
    found: dict[tuple[str, str], Shown] = {}
    for experiment in client.search_experiments(filter_string="name LIKE 'instruct-ipt/%'"):
        if only not in experiment.name:
            continue
        runs = client.search_runs([experiment.experiment_id], "tags.current = 'yes'", max_results=5000)
        names = {run.info.run_id: run.info.run_name for run in runs}
        for run in runs:
            key = (experiment.name, run.info.run_name)
            assert key not in found, f"two current runs {key}"
            assert run.info.status == "FINISHED", key
            found[key] = _one(client, run, names)
    return found


def _one(client: Any, run: Any, names: dict[str, str]) -> Shown:
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    metrics = {name: [(0, value)] for name, value in run.data.metrics.items()}
    # Final numbers stand at step 0; what goes beyond is a curve.
    for name in (metric.key for metric in run.data._metric_objs if metric.step):
        points = client.get_metric_history(run.info.run_id, name)
        metrics[name] = sorted({(point.step, point.value) for point in points})
    parent = run.data.tags.get("mlflow.parentRunId")
    files = set(_files(client, run.info.run_id, None))
    return Shown(tags, run.data.params, metrics, files, names.get(parent, ""), run.info.run_id)


def _files(client: Any, run_id: str, folder: str | None) -> list[str]:
    found = []
    for entry in client.list_artifacts(run_id, folder):
        found += _files(client, run_id, entry.path) if entry.is_dir else [entry.path]
    return found
