"""Speed and memory of the backbones against each other and against plain peers.

python -m benchmarks backbone
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from instruct_ipt.backbone import NafConfig, NafNet, RepDepthwise, UShape, build_backbone

from .peers import PlainNafNet, PlainRestormer, UnfoldedDepthwise
from .timing import Row, exact, ratio

HEIGHT, WIDTH = 320, 480
NAF_700K = NafConfig(width=32, depths=(1, 2, 4, 2, 1))
KEEPS_FREED_MEMORY = False
"""The networks differ in the memory they touch, and fresh pages are part of what that costs."""
BASE_PATCH = 128


def apart(model: UShape) -> UShape:
    """A folded copy of `model` in which every re-parameterised layer runs its branches one by one."""
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, RepDepthwise):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, UnfoldedDepthwise(layer.weight, *layer.branches))
    return model.fold()


def forward(model: nn.Module, image: Tensor) -> Callable[[], Tensor]:
    """One forward pass without gradients, for the clock."""
    model.eval()
    return torch.inference_mode()(lambda: model(image))


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


def run(pairs: int = 50) -> list[Row]:
    """All rows; comparisons with slow peers take a fifth of the `pairs`."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, HEIGHT, WIDTH)
    quick, naf, small = build_backbone("quick"), build_backbone("quick", kind="naf"), build_backbone("small")
    few = max(2, pairs // 5)
    forwards = [
        (
            "re-parameterised branches folded / apart, quick, 480x320",
            copy.deepcopy(quick).fold(),
            apart(quick),
            0.85,
            pairs,
        ),
        ("small folded / plain Restormer of its size, 480x320", small.fold(), plain_restormer(), 0.50, few),
        ("naf of 0.7 M / plain NAFNet of its size, 480x320", *naf_pair(), 1.05, pairs),
        (
            "quick folded / naf of its size, 480x320",
            copy.deepcopy(quick).fold(),
            copy.deepcopy(naf).fold(),
            1.80,
            pairs,
        ),
    ]
    rows = [ratio(what, forward(a, image), forward(b, image), bound, n) for what, a, b, bound, n in forwards]
    return rows + checkpointing(few)


def naf_pair() -> tuple[nn.Module, nn.Module]:
    """Our CNN of 0.7 M parameters and a plain NAFNet of the same stem, widths and depths."""
    return NafNet(NAF_700K).fold(), PlainNafNet(NAF_700K.width, NAF_700K.depths, NAF_700K.stem_stride)


def plain_restormer() -> nn.Module:
    """A Restormer of the size of our `small`, 5.0 M parameters: the published one with fewer channels."""
    return PlainRestormer(width=20, depths=(4, 6, 6, 9), heads=(1, 2, 4, 4), refinement=4)


def checkpointing(pairs: int) -> list[Row]:
    """Memory and time of a training pass with gradient checkpointing over without, for `base` and its sibling."""
    patch = torch.rand(1, 3, BASE_PATCH, BASE_PATCH)
    rows = []
    for kind in ("ipt", "naf"):
        on, off = (build_backbone("base", kind=kind, checkpoint=flag) for flag in (True, False))
        what = f"{kind} base with gradient checkpointing / without"
        rows.append(exact(f"{what}, bytes kept for the backward pass", kept_bytes(on, patch) / kept_bytes(off, patch)))
        rows.append(ratio(f"{what}, time", training_pass(on, patch), training_pass(off, patch), None, pairs))
    return rows
