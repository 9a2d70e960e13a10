"""`ipt rank`: the PCA rank analysis of the synchronous biases and of the experts' deltas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from instruct_ipt.adaptation import Shared
from instruct_ipt.analysis.rank import (
    Delta,
    decompose,
    factor_parameters,
    is_matrix,
    matched_rules,
    ranks_of,
    with_increments,
)
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.modulation import RankRule, matrix_shape
from instruct_ipt.paths import MODELS, PREPARED, RESULTS, SELECTION
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation, build_shared, read_selection
from instruct_ipt.training.checkpoint import load_weights

if TYPE_CHECKING:
    from instruct_ipt.backbone import UShape
    from instruct_ipt.pipeline import Context

_LAYER = ["source", "task", "group", "layer", "stage_depth"]
COLUMNS: dict[str, list[str]] = {
    "rank_energy": [*_LAYER, "rank", "cumulative_energy"],
    "rank_effective": [*_LAYER, "full_rank", "effective_rank", "rank90", "rank99"],
    "rank_strategy": ["source", "rule", "value", "params", "energy_mean", "energy_min", "task", "psnr"],
}
Rows = dict[str, list[list[Any]]]


def run(context: Context) -> None:
    """Write `results/rank_energy.csv`, `results/rank_effective.csv` and `results/rank_strategy.csv`."""
    params = context.params
    torch.set_num_threads(params.training.threads)
    validation = Validation(PREPARED, params.degradation)
    rows: Rows = {name: [] for name in COLUMNS}
    for source in (_biases(params), _experts(params)):
        rules = matched_rules(source.shapes(), params.rank.constant)
        for task in TASKS:
            # The decompositions of one task at a time: those of all would not fit beside a large network.
            for name, found in _analyse(source, task, rules, validation).items():
                rows[name] += found
    folder = context.out / RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in rows.items():
        table = pd.DataFrame(found, columns=COLUMNS[name])
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f", lineterminator="\n")


@dataclass(frozen=True)
class _Source:
    """Increments of every task to one base network.

    Attributes:
        name: ``bias`` or ``expert``.
        base: the network that the increments are added to.
        names: weights to analyse and to cut, in network order; increments to other weights stay whole.
        increments: task -> parameter name -> increment.
    """

    name: str
    base: UShape
    names: list[str]
    increments: Callable[[str], Mapping[str, Tensor]]

    def shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of each weight in ``names``."""
        weights = dict(self.base.named_parameters())
        return [matrix_shape(weights[name].shape) for name in self.names]

    def deltas(self, task: str, increments: Mapping[str, Tensor]) -> Iterator[Delta]:
        """The decomposed increments of ``task``."""
        group_of = {n: g for g, members in self.base.weight_groups().items() for n in members}
        depth = self.base.stage_depths()
        for name in self.names:
            yield Delta(self.name, task, group_of[name], name, depth[name], decompose(increments[name]))


def _biases(params: Any) -> _Source:
    """The unfactored biases of synchronous training, on the selected weights."""
    full = build_modulation(params.backbone, params.seed, read_selection(SELECTION), RankRule("full", None))
    load_weights(MODELS / "full" / "weights.safetensors", full)
    weights = dict(full.backbone.named_parameters())
    names = [name for name in full.selection() if is_matrix(weights[name])]
    if not names:
        raise InputError(
            f"{SELECTION}: none of the selected weights is a matrix that a rank could cut; "
            "set sensitivity.groups in params.yaml to groups such as attention.qkv or ffn.in"
        )

    def increments(task: str) -> dict[str, Tensor]:
        return {name: full.bias(name).delta(TASKS.index(task)).detach() for name in full.selection()}

    return _Source("bias", full.backbone, names, increments)


def _experts(params: Any) -> _Source:
    """What fine-tuning on one task changed, in every weight of the network."""
    model = build_shared(params.backbone, params.seed)
    load_weights(MODELS / "shared" / "weights.safetensors", model)
    shared = model.backbone
    weights = dict(shared.named_parameters())

    def increments(task: str) -> dict[str, Tensor]:
        tuned = load_file(MODELS / "experts" / f"{task}.safetensors")
        return {name: (tuned[f"backbone.{name}"] - weight).detach() for name, weight in weights.items()}

    return _Source("expert", shared, [name for name, weight in weights.items() if is_matrix(weight)], increments)


def _analyse(source: _Source, task: str, rules: Sequence[RankRule], validation: Validation) -> Rows:
    """Rows of the three tables for one source and task."""
    increments = source.increments(task)
    deltas = list(source.deltas(task, increments))
    heads = [[d.source, d.task, d.group, d.layer, d.stage_depth] for d in deltas]
    curves = [d.svd.cumulative_energy() for d in deltas]
    energy = [
        [*head, rank, value]
        for head, curve in zip(heads, curves, strict=True)
        for rank, value in enumerate(curve, start=1)
    ]
    effective = [
        [*head, d.svd.full_rank, d.svd.effective_rank(), d.svd.rank_at(0.90), d.svd.rank_at(0.99)]
        for head, d in zip(heads, deltas, strict=True)
    ]
    strategy = []
    for rule in rules:
        shapes = [d.svd.shape for d in deltas]
        ranks = ranks_of(shapes, rule)
        kept = [float(curve[rank - 1]) for curve, rank in zip(curves, ranks, strict=True)]
        # At full rank the increments themselves, so that this row does not rest on the decomposition.
        whole = rule.kind == "full"
        cut = {} if whole else {d.layer: d.svd.truncate(rank) for d, rank in zip(deltas, ranks, strict=True)}
        network = Shared(with_increments(source.base, increments, cut), TASKS)
        psnr = validation(network, [task])[task]
        size = factor_parameters(shapes, ranks)
        value = "" if whole else rule.value
        strategy.append([source.name, rule.kind, value, size, sum(kept) / len(kept), min(kept), task, psnr])
    return {"rank_energy": energy, "rank_effective": effective, "rank_strategy": strategy}
