"""`ipt sensitivity`: the search for task-sensitive weight groups, and the selection that later stages modulate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from instruct_ipt.analysis.sensitivity import exact_search, select_groups
from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.paths import MODELS, PREPARED, RESULTS, SELECTION
from instruct_ipt.progress import progress
from instruct_ipt.provenance import write_json
from instruct_ipt.stages._training import stream_of
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared, cost
from instruct_ipt.training.checkpoint import load_weights

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context


def run(context: Context) -> None:
    """Write `results/sensitivity.csv` and `models/selection.json`."""
    params = context.params
    torch.set_num_threads(params.training.threads)
    shared = build_shared(params.backbone.preset, params.seed)
    load_weights(MODELS / "shared" / "weights.safetensors", shared)
    validation = Validation(PREPARED, params.degradation)
    with progress("sensitivity search", len(TASKS) * len(shared.backbone.weight_groups())) as advance:
        table = exact_search(
            shared,
            stream_of(params),
            lambda model, task: validation(model, [task])[task],
            params.sensitivity,
            params.training,
            params.seed,
            advance,
        )
    (context.out / RESULTS).mkdir(parents=True, exist_ok=True)
    table.to_csv(context.out / RESULTS / "sensitivity.csv", index=False, float_format="%.6f", lineterminator="\n")
    searched = select_groups(table, cost(shared)["params_total"], params.sensitivity.budget)
    chosen = list(params.sensitivity.groups) or searched
    how = "params.yaml: sensitivity.groups" if params.sensitivity.groups else "sensitivity search"
    write_json(context.out / SELECTION, {"groups": chosen, "chosen_by": how, "budget": params.sensitivity.budget})
