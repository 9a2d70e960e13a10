"""Speed and memory of the backbones against each other and against plain peers.

    python -m benchmarks.backbone

Every ratio is the median of interleaved pairs in one process on two threads; takes five to ten minutes on two cores.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from instruct_ipt.backbone import NafConfig, NafNet, RepDepthwise, build_backbone
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.tasks import TASKS

from .peers import PlainNafNet, PlainRestormer, UnfoldedDepthwise
from .timing import ratio

HEIGHT, WIDTH = 320, 480
NAF_700K = NafConfig(width=32, depths=(1, 2, 4, 2, 1))
BASE_PATCH = 128


def unfolded(model: nn.Module) -> nn.Module:
    """A copy of `model` in which every re-parameterised layer runs its branches one by one."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, RepDepthwise):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, UnfoldedDepthwise(layer.weight, layer.weight3, layer.weight1))
    return model


def forward(model: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """One forward pass without gradients, for the clock."""
    model.eval()
    return torch.inference_mode()(lambda: model(image))


def task_folded(model: nn.Module) -> nn.Module:
    """`model` with task biases of rank 4 on all its weights, one task folded in."""
    every = [name for names in model.weight_groups().values() for name in names]
    return modulate(copy.deepcopy(model), TASKS, every, RankRule("constant", 4)).fold(TASKS[0])


def kept_bytes(model: nn.Module, image: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters and repeats left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(image).abs().mean()
    total = sum(kept.values())
    del loss
    return total


def training_pass(model: nn.Module, image: Tensor) -> Callable[[], None]:
    """One forward and backward pass, for the clock."""
    return lambda: model(image).abs().mean().backward()


def run(pairs: int = 50) -> dict[str, dict[str, Any]]:
    """Name of each ratio -> `median`, `low`, `high` (quartiles of interleaved pairs) and the `bound`, if it has one.

    Args:
        pairs: pairs of each comparison; comparisons with slow peers take a fifth of them.
    """
    torch.manual_seed(0)
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    quick, naf = build_backbone("quick"), build_backbone("quick", kind="naf")
    small = build_backbone("small")
    rows = {
        "branches folded / unfolded, whole model": (0.85, copy.deepcopy(quick).fold(), unfolded(quick).fold(), pairs),
        "task folded / plain backbone": (1.03, task_folded(quick), quick, pairs),
        "quick folded / naf of equal size": (1.80, copy.deepcopy(quick).fold(), copy.deepcopy(naf).fold(), pairs),
        "small folded / plain Restormer": (0.50, small.fold(), plain_restormer(), max(2, pairs // 5)),
        "naf 0.7 M / plain NAFNet": (1.05, *naf_pair(), pairs),
    }
    results = {
        name: {**ratio(forward(a, image), forward(b, image), count), "bound": bound}
        for name, (bound, a, b, count) in rows.items()
    }
    return results | branches(pairs) | checkpointing(max(2, pairs // 5))


def branches(pairs: int) -> dict[str, dict[str, Any]]:
    """One re-parameterised layer of `quick` at its largest map: merged kernel over separate branches."""
    layer = build_backbone("quick").encoder[0].blocks[0].ffn.depthwise
    apart = UnfoldedDepthwise(layer.weight, layer.weight3, layer.weight1)
    layer.fold()
    x = torch.rand(1, HEIGHT // 2, WIDTH // 2, len(layer.weight))
    return {
        "branches folded / unfolded, one layer": {**ratio(forward(layer, x), forward(apart, x), pairs), "bound": 0.85}
    }


def naf_pair() -> tuple[nn.Module, nn.Module]:
    """Our CNN of 0.7 M parameters and a plain NAFNet of the same stem, widths and depths."""
    return NafNet(NAF_700K).fold(), PlainNafNet(NAF_700K.width, NAF_700K.depths, NAF_700K.stem_stride)


def plain_restormer() -> nn.Module:
    """A Restormer of the size of our `small`, 5.0 M parameters: the published one with fewer channels."""
    return PlainRestormer(width=20, depths=(4, 6, 6, 9), heads=(1, 2, 4, 4), refinement=4)


def checkpointing(pairs: int) -> dict[str, dict[str, Any]]:
    """Memory and time of a training pass with gradient checkpointing over without, for `base` and its sibling."""
    patch = torch.rand(1, 3, BASE_PATCH, BASE_PATCH)
    results: dict[str, dict[str, Any]] = {}
    for kind in ("ipt", "naf"):
        on, off = (build_backbone("base", kind=kind, checkpoint=flag) for flag in (True, False))
        share = kept_bytes(on, patch) / kept_bytes(off, patch)
        results[f"{kind} base, checkpointing: kept bytes"] = {"median": share, "low": share, "high": share}
        results[f"{kind} base, checkpointing: time"] = ratio(training_pass(on, patch), training_pass(off, patch), pairs)
    return results


if __name__ == "__main__":
    torch.set_num_threads(2)
    print(json.dumps(run(), indent=2))
