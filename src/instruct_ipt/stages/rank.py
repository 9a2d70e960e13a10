"""`ipt rank`: the PCA rank analysis of the synchronous biases and of the experts' deltas."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from instruct_ipt.analysis.rank import (
    Delta,
    constant_ranks,
    cumulative_energy,
    energy_kept,
    factor_parameters,
    matching_share,
    proportional_ranks,
    truncate,
)
from instruct_ipt.evaluation.validation import Validation
from instruct_ipt.modulation import RankRule
from instruct_ipt.paths import MODELS, PREPARED, RESULTS, SELECTION
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation, build_shared, read_selection, selected_weights
from instruct_ipt.training.checkpoint import load_weights

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.pipeline import Context

SOURCES = ("bias", "expert")


def run(context: Context) -> None:
    """Write `results/rank_energy.csv` and `results/rank_strategy.csv`."""
    params = context.params
    torch.set_num_threads(params.training.threads)
    analysis = _Analysis(params)
    folder = context.out / RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"rank_energy": analysis.energy_table(), "rank_strategy": analysis.strategy_table(params.rank.constant)}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6f", lineterminator="\n")


class _Analysis:
    """The deltas of both sources, their energy curves, and the networks to put truncated deltas back into."""

    def __init__(self, params: Any) -> None:
        self.params = params
        self.validation = Validation(PREPARED, params.degradation)
        groups = read_selection(SELECTION)
        self.full = build_modulation(params.backbone.preset, params.seed, groups, RankRule("full", None))
        load_weights(MODELS / "full" / "weights.safetensors", self.full)
        self.shared = build_shared(params.backbone.preset, params.seed)
        load_weights(MODELS / "shared" / "weights.safetensors", self.shared)
        self.names = self._matrices(groups)
        self.deltas = {source: list(self._deltas(source)) for source in SOURCES}
        self.curves = {
            source: {(d.task, d.layer): cumulative_energy(d.matrix) for d in deltas}
            for source, deltas in self.deltas.items()
        }

    def _matrices(self, groups: list[str]) -> list[str]:
        """Selected weights that a rank rule can cut: matrices and dense kernels; 1-D and depthwise ones stay whole."""
        weights = dict(self.shared.backbone.named_parameters())
        return [name for name in _in_network_order(self.shared, groups) if _is_matrix(weights[name])]

    def _deltas(self, source: str) -> Iterator[Delta]:
        group_of = {n: g for g, members in self.shared.backbone.weight_groups().items() for n in members}
        depth = self.shared.backbone.stage_depths()
        for task in TASKS:
            increments = self._increments(source, task)
            for name in self.names:
                matrix = increments[name].double().flatten(1).numpy()
                yield Delta(source, task, group_of[name], name, depth[name], matrix)

    def _increments(self, source: str, task: str) -> dict[str, torch.Tensor]:
        """Parameter name -> increment of one task: all selected weights (bias) or all weights (expert)."""
        if source == "bias":
            biases = {name: self.full.bias(name) for name in self.full.selection()}
            return {name: bias.delta(TASKS.index(task)).detach() for name, bias in biases.items()}
        base = dict(self.shared.backbone.named_parameters())
        tuned = load_file(MODELS / "experts" / f"{task}.safetensors")
        return {name: (tuned[f"backbone.{name}"] - weight).detach() for name, weight in base.items()}

    def energy_table(self) -> pd.DataFrame:
        """One row per source, task, layer and rank."""
        rows = [
            [d.source, d.task, d.group, d.layer, d.stage_depth, rank, energy]
            for source in SOURCES
            for d in self.deltas[source]
            for rank, energy in enumerate(self.curves[source][d.task, d.layer], start=1)
        ]
        columns = ["source", "task", "group", "layer", "stage_depth", "rank", "cumulative_energy"]
        return pd.DataFrame(rows, columns=columns)

    def strategy_table(self, constants: Sequence[int]) -> pd.DataFrame:
        """Energy and validation PSNR when all deltas are cut by each rule, the two rules at matched parameters."""
        shapes = [d.matrix.shape for d in self.deltas["bias"] if d.task == TASKS[0]]
        full = [min(shape) for shape in shapes]
        rules: list[tuple[str, Any, list[int]]] = [("full", "", full)]
        for rank in constants:
            share = matching_share(shapes, rank)
            rules.append(("constant", rank, constant_ranks(shapes, rank)))
            rules.append(("proportional", share, proportional_ranks(shapes, share)))
        rows = [
            self._row(
                source, rule, value, dict(zip(self.names, ranks, strict=True)), factor_parameters(shapes, ranks), task
            )
            for source in SOURCES
            for rule, value, ranks in rules
            for task in TASKS
        ]
        columns = ["source", "rule", "value", "params", "energy_mean", "energy_min", "task", "psnr"]
        return pd.DataFrame(rows, columns=columns)

    def _row(self, source: str, rule: str, value: Any, ranks: dict[str, int], params: int, task: str) -> list[Any]:
        curves = {name: self.curves[source][task, name] for name in self.names}
        kept = list(energy_kept(curves, ranks).values())
        psnr = self._psnr(source, task, None if rule == "full" else ranks)
        return [source, rule, value, params, float(np.mean(kept)), float(np.min(kept)), task, psnr]

    def _psnr(self, source: str, task: str, ranks: dict[str, int] | None) -> float:
        """Validation PSNR of the base network plus the truncated increments of ``task``."""
        base = self.full.backbone if source == "bias" else self.shared.backbone
        model = copy.deepcopy(self.shared)
        model.backbone.load_state_dict(base.state_dict())
        increments = self._increments(source, task)
        with torch.no_grad():
            for name, weight in model.backbone.named_parameters():
                if name in increments:
                    weight += _cut(increments[name], ranks.get(name) if ranks else None)
        return self.validation(model, [task])[task]


def _cut(increment: torch.Tensor, rank: int | None) -> torch.Tensor:
    if rank is None:
        return increment
    cut = truncate(increment.double().flatten(1).numpy(), rank)
    return torch.from_numpy(cut).view(increment.shape).to(increment.dtype)


def _is_matrix(weight: torch.Tensor) -> bool:
    return weight.ndim > 1 and min(weight.flatten(1).shape) > 1 and not (weight.ndim == 4 and weight.shape[1] == 1)


def _in_network_order(model: TaskModel, groups: list[str]) -> list[str]:
    chosen = set(selected_weights(model.backbone, groups))
    return [name for name, _ in model.backbone.named_parameters() if name in chosen]
