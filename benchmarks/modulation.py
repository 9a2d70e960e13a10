"""What task biases cost: folded, switched, in mixed batches, in the synchronous training step, on disk.

    python -m benchmarks modulation

Biases have rank 4. They stand on the weights that the search of the last kept run selected (docs/quick/selection.json),
and, in rows of their own without a bound, on all weights, which no selection does.

PEFT's LoRA with `adapter_names` adapts the Linear and ungrouped Conv2d layers of the same network. It works layer by
layer, so that the attention has to take its textbook form, and it wants one adapter name per row, so that
`peers.lend_names` repeats the names where rows are windows. A user who does neither can adapt the layers outside the
attention only: that row has no bound.
"""

from __future__ import annotations

import copy
import itertools
import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from instruct_ipt.backbone import UShape, build_backbone
from instruct_ipt.modulation import Modulated, RankRule, modulate, save_pack
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.losses import restoration_loss

from .peers import call_projections, lend_names
from .timing import Row, exact, ratio

KEEPS_FREED_MEMORY = True
"""Both sides are one network and differ by percents, which fresh pages from the system would drown."""
IMAGE = (1, 3, 320, 480)
RANK = 4
SELECTION = Path(__file__).parents[1] / "docs" / "quick" / "selection.json"
ALL = "all weights"


def selected(backbone: UShape) -> list[str]:
    """The weights of the groups that the last kept run of profile quick selected."""
    groups = backbone.weight_groups()
    return [name for group in json.loads(SELECTION.read_text())["groups"] for name in groups[group]]


def modulated(backbone: nn.Module, names: list[str]) -> Modulated:
    """`backbone` with a trained-looking bias of rank 4 on `names`."""
    model = modulate(backbone, TASKS, names, RankRule("constant", RANK))
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def pair(preset: str, every: bool = False) -> tuple[UShape, Modulated]:
    """A plain backbone and the same one with task biases on the selected weights, or on every one."""
    torch.manual_seed(0)
    plain = build_backbone(preset)
    names = [name for name, _ in plain.named_parameters()] if every else selected(plain)
    return plain, modulated(copy.deepcopy(plain), names)


def evenly(samples: int) -> Tensor:
    """Task indices of a batch, int64 (N,): as many samples of each task as of any other."""
    return torch.arange(samples) % len(TASKS)


def as_in_training(samples: int) -> Tensor:
    """The same with the larger share of denoising that `training.task_weights` gives it."""
    return torch.cat([torch.arange(samples * 9 // 10) % len(TASKS), torch.zeros(samples, dtype=torch.long)])[:samples]


class _Operators(TorchDispatchMode):
    """Counts the operators that reach the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        self.count += 1
        return func(*args, **(kwargs or {}))


def operators(model: nn.Module, x: Tensor) -> int:
    """Number of operators in one forward pass."""
    with torch.inference_mode(), _Operators() as seen:
        model(x)
    return seen.count


def folded_and_switch(pairs: int) -> list[Row]:
    """A folded model, and folding another task into a live one, both over a plain forward pass at 480x320."""
    rows = []
    for every, bounds in ((False, (1.03, 0.03)), (True, (None, None))):
        plain, model = pair("quick", every)
        x, folded, turn = torch.rand(IMAGE), model.fold(TASKS[0]), itertools.cycle(TASKS)
        assert operators(folded, x) == operators(plain, x), "folding must not add an operator"
        assert [type(m) for m in folded.modules()] == [type(m) for m in plain.modules()]
        label = f", {ALL}" if every else ""
        with torch.inference_mode():
            what = f"folded model / plain backbone, 480x320{label}"
            rows.append(ratio(what, partial(folded, x), partial(plain, x), bounds[0], pairs))
        with torch.no_grad():
            what = f"switching the task of a live model / forward 480x320{label}"
            rows.append(ratio(what, lambda m=model, t=turn: m.fold_(next(t)), partial(plain, x), bounds[1], pairs))
    return rows


def mixed_forward(pairs: int) -> list[Row]:
    """A batch of 10 with 5 tasks at 128x128, no gradient."""
    x, task = torch.rand(10, 3, 128, 128), evenly(10)
    rows = []
    with torch.no_grad():
        for every, bound in ((False, 1.25), (True, None)):
            plain, model = pair("quick", every)
            what = f"mixed batch of 5 tasks / plain backbone, forward 10 x 128x128{f', {ALL}' if every else ''}"
            rows.append(ratio(what, partial(model, x, task), partial(plain, x), bound, pairs))
        for attention, bound in ((True, 0.5), (False, None)):
            layers, names = peft_layers(plain, attention), [TASKS[index] for index in task.tolist()]
            ours, theirs = modulated(copy.deepcopy(plain), [f"{n}.weight" for n in layers]), peft_run(plain, layers)
            where = "all the layers it supports" if attention else "those outside attention"
            what = f"the same batch, ours / PEFT's LoRA on {where}"
            rows.append(ratio(what, partial(ours, x, task), partial(theirs, x, names), bound, pairs))
    return rows


def peft_layers(backbone: nn.Module, every: bool) -> list[str]:
    """The layers that PEFT supports in mixed batches: Linear and ungrouped Conv2d, with or without the attention's."""
    return [
        name
        for name, layer in backbone.named_modules()
        if (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1))
        and (every or not name.endswith((".qkv", ".proj")))
    ]


def peft_run(backbone: nn.Module, layers: list[str]) -> Callable[[Tensor, list[str]], Tensor]:
    """(batch, adapter name per sample) -> output of a copy of the backbone with five adapters of rank 4 on `layers`."""
    import peft

    backbone = call_projections(copy.deepcopy(backbone))
    config = peft.LoraConfig(r=RANK, target_modules=layers, init_lora_weights=False)
    model = peft.get_peft_model(backbone, config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        model.add_adapter(task, config)
    return lend_names(model.eval(), layers)


def training_step(model: nn.Module, x: Tensor, y: Tensor, *task: Tensor) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch, for the clock."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        restoration_loss(model(x, *task), y, 1.0, 0.05).backward()
        optimiser.step()

    return step


def steps(preset: str, samples: int, side: int, every: bool = False, uneven: bool = False) -> dict[str, Callable]:
    """The synchronous step of five tasks and the plain step on the same batch."""
    plain, model = pair(preset, every)
    x, y = torch.rand(2, samples, 3, side, side)
    task = as_in_training(samples) if uneven else evenly(samples)
    return {"modulated": training_step(model, x, y, task), "plain": training_step(plain, x, y)}


def _resident_peak() -> float:
    """Largest resident memory of this process so far, MiB (Linux). `ru_maxrss` would start at the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _peak(kind: str, preset: str, samples: int, side: int, results: multiprocessing.Queue) -> None:
    """Grown memory of this process over two steps, MiB."""
    torch.set_num_threads(2)
    before = _resident_peak()
    step = steps(preset, samples, side)[kind]
    step()
    step()
    results.put(_resident_peak() - before)


def peak_memory(preset: str, samples: int, side: int) -> dict[str, float]:
    """Peak memory of the two steps, each in a fresh process, MiB."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for kind in ("modulated", "plain"):
        results = context.Queue()
        process = context.Process(target=_peak, args=(kind, preset, samples, side, results))
        process.start()
        peaks[kind] = results.get()
        process.join()
    return peaks


def training(pairs: int) -> list[Row]:
    """Time and memory of the synchronous step over the plain one."""
    rows = []
    few = max(2, pairs // 3)
    for preset, samples, side, bound, count in (("quick", 20, 64, 1.25, pairs), ("small", 10, 128, 1.15, few)):
        what = f"synchronous step of 5 tasks / plain step, {preset}, batch {samples} x {side}x{side}"
        for every, uneven, label in (
            (False, False, ""),
            (False, True, ", denoising 1.5 times"),
            (True, False, f", {ALL}"),
        ):
            both = steps(preset, samples, side, every, uneven)
            limit = None if label else bound
            rows.append(ratio(what + label, both["modulated"], both["plain"], limit, count))
        peaks = peak_memory(preset, samples, side)
        what = f"peak memory of that step / plain step, {preset}"
        rows.append(exact(what, peaks["modulated"] / peaks["plain"], 1.15))
    return rows


def packs() -> list[Row]:
    """Bytes of five packs over those of the backbone."""
    rows = []
    for every, bound in ((False, 0.25), (True, None)):
        plain, model = pair("small", every)
        with TemporaryDirectory() as folder:
            for task in TASKS:
                save_pack(model, task, Path(folder) / f"{task}.safetensors")
            save_file(plain.state_dict(), Path(folder) / "backbone")
            written = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
            share = written / (Path(folder) / "backbone").stat().st_size
        rows.append(exact(f"five packs / backbone, bytes on disk, small{f', {ALL}' if every else ''}", share, bound))
    return rows


def run(pairs: int = 50) -> list[Row]:
    """All rows."""
    return folded_and_switch(pairs) + mixed_forward(pairs) + training(pairs) + packs()
