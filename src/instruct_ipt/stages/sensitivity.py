"""`ipt sensitivity`: the search for task-sensitive weight groups, and the selection that later stages modulate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from instruct_ipt.analysis.estimators import agreement, estimate
from instruct_ipt.analysis.sensitivity import exact_search, pixel_passes, select_groups
from instruct_ipt.data.prepared import training_stream
from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.paths import MODELS, PREPARED, RESULTS, SELECTION
from instruct_ipt.progress import progress
from instruct_ipt.provenance import write_json
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared, cost
from instruct_ipt.training.checkpoint import load_weights

if TYPE_CHECKING:
    from pathlib import Path

    from instruct_ipt.data.stream import PatchStream
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write the three tables of the search below `results`, and `models/selection.json`."""
    params, settings = context.params, context.params.sensitivity
    torch.set_num_threads(params.training.threads)
    shared = build_shared(params.backbone, params.seed)
    load_weights(MODELS / "shared" / "weights.safetensors", shared)
    streams = {
        seed: training_stream(PREPARED, params.degradation, seed, params.training.real_share) for seed in settings.seeds
    }
    begun = time.perf_counter()
    exact = _search(params, shared, streams, context.checkpoints)
    searched = time.perf_counter()
    estimates, conflict = estimate(shared, streams, settings, params.training)
    # Seconds are a fact about this machine: they are shown live and enter no output.
    seconds = {"seconds/exact": searched - begun, "seconds/estimators": time.perf_counter() - searched}
    context.tracker.metrics(0, seconds)
    table = pd.concat([exact, estimates], ignore_index=True)
    patches = params.training.patches
    passes = [pixel_passes(count, settings.batch, patches) for count in (settings.steps, settings.batches)]
    tables = {"sensitivity": table, "task_conflict": conflict, "sensitivity_agreement": agreement(table, *passes)}
    (context.out / RESULTS).mkdir(parents=True, exist_ok=True)
    for name, content in tables.items():
        # Significant digits: squared gradients are small numbers.
        content.to_csv(context.out / RESULTS / f"{name}.csv", index=False, float_format="%.7g", lineterminator="\n")
    searched_groups = select_groups(table, cost(shared)["params_total"], settings.budget)
    chosen = list(settings.groups) or searched_groups
    how = "params.yaml: sensitivity.groups" if settings.groups else "sensitivity search"
    write_json(context.out / SELECTION, {"groups": chosen, "chosen_by": how, "budget": settings.budget})


def _search(params: Any, shared: TaskModel, streams: dict[int, PatchStream], checkpoints: Path) -> pd.DataFrame:
    """The exact search, scored on the validation split."""
    validation = Validation(PREPARED, params.degradation)
    total = len(streams) * len(TASKS) * len(shared.backbone.weight_groups())
    with progress("sensitivity search", total) as advance:
        return exact_search(
            shared,
            streams,
            lambda model, task: validation(model, [task])[task],
            params.sensitivity,
            params.training,
            advance,
            checkpoints,
        )
