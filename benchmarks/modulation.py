"""What task biases cost: folded, switched, in mixed batches and in the synchronous training step.

    python -m benchmarks.modulation

Every ratio is the median of interleaved pairs in one process on two threads. All weights of the network carry a bias of
rank 4, which is more than any selection has. The row against PEFT appears where the package `peft` is installed: both
adapt the same layers, the Linear and ungrouped Conv2d outside the attention (inside it, rows are windows, and PEFT's
`adapter_names` wants one row per sample). Takes about five minutes on two quiet cores.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from instruct_ipt.backbone import build_backbone
from instruct_ipt.modulation import Modulated, RankRule, modulate
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.losses import restoration_loss

from .timing import ratio

IMAGE = (1, 3, 320, 480)
RANK = 4


def modulated(backbone: nn.Module, names: list[str] | None = None) -> Modulated:
    """`backbone` with a trained-looking bias of rank 4 on `names`, or on all its weights."""
    names = names or [name for name, _ in backbone.named_parameters()]
    model = modulate(backbone, TASKS, names, RankRule("constant", RANK))
    with torch.no_grad():
        for parameter in model.bias_parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return model


def pair(preset: str) -> tuple[nn.Module, Modulated]:
    """A plain backbone and the same one with task biases."""
    torch.manual_seed(0)
    plain = build_backbone(preset)
    return plain, modulated(copy.deepcopy(plain))


def task_mix(samples: int) -> Tensor:
    """Task indices of a batch, int64 (N,), every task present; denoising has the larger share, as in training."""
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


def folded_and_switch(pairs: int) -> dict[str, dict[str, float]]:
    """A folded model, and folding another task into a live one, both over a plain forward pass at 480x320."""
    plain, model = pair("quick")
    x, folded = torch.rand(IMAGE), model.fold(TASKS[0])
    assert operators(folded, x) == operators(plain, x), "folding must not add an operator"
    assert [type(m) for m in folded.modules()] == [type(m) for m in plain.modules()]
    turn = iter(range(10**6))
    with torch.inference_mode():
        same = ratio(lambda: folded(x), lambda: plain(x), pairs)
    with torch.no_grad():
        switch = ratio(lambda: model.fold_(TASKS[next(turn) % len(TASKS)]), lambda: plain(x), pairs)
    return {"folded model / plain backbone, forward 480x320": same, "switching task / forward 480x320": switch}


def mixed_forward(pairs: int) -> dict[str, dict[str, float]]:
    """A batch of 10 with 5 tasks at 128x128, no gradient."""
    plain, model = pair("quick")
    x, task = torch.rand(10, 3, 128, 128), torch.arange(10) % len(TASKS)
    with torch.no_grad():
        rows = {
            "mixed batch of 5 tasks / plain, forward 10 x 128x128": ratio(
                lambda: model(x, task), lambda: plain(x), pairs
            )
        }
        if importlib.util.find_spec("peft"):
            names, peft = peft_model(copy.deepcopy(plain))
            ours = modulated(copy.deepcopy(plain), names)
            adapters = [TASKS[index] for index in task.tolist()]
            theirs = ratio(lambda: ours(x, task), lambda: peft(x, adapter_names=adapters), pairs)
            rows["mixed batch of 5 tasks / PEFT's LoRA with adapter_names"] = theirs
    return rows


def peft_model(backbone: nn.Module) -> tuple[list[str], nn.Module]:
    """The weights of the layers that PEFT's LoRA can run on mixed batches, and the backbone with five such adapters."""
    import peft

    layers = [
        name
        for name, layer in backbone.named_modules()
        if (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1))
        and not name.endswith((".qkv", ".proj"))
    ]
    config = peft.LoraConfig(r=RANK, target_modules=layers, init_lora_weights=False)
    model = peft.get_peft_model(copy.deepcopy(backbone), config, adapter_name=TASKS[0])
    for task in TASKS[1:]:
        model.add_adapter(task, config)
    return [f"{name}.weight" for name in layers], model.eval()


def training_step(model: nn.Module, x: Tensor, y: Tensor, *task: Tensor) -> Callable[[], None]:
    """Forward, backward and AdamW on one batch, for the clock."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        restoration_loss(model(x, *task), y, 1.0, 0.05).backward()
        optimiser.step()

    return step


def steps(preset: str, samples: int, side: int) -> dict[str, Callable[[], None]]:
    """The synchronous step of five tasks and the plain step on the same batch."""
    plain, model = pair(preset)
    x, y = torch.rand(2, samples, 3, side, side)
    return {
        "modulated": training_step(model, x, y, task_mix(samples)),
        "plain": training_step(plain, x, y),
    }


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
    """Peak memory of the two steps, each in a fresh process, MiB, and their ratio."""
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for kind in ("modulated", "plain"):
        results = context.Queue()
        process = context.Process(target=_peak, args=(kind, preset, samples, side, results))
        process.start()
        peaks[kind] = results.get()
        process.join()
    return {"median": peaks["modulated"] / peaks["plain"], **peaks}


def run(pairs: int = 50) -> dict[str, dict[str, float]]:
    """What is compared -> median ratio with its quartiles."""
    torch.set_num_threads(2)
    rows = folded_and_switch(pairs) | mixed_forward(pairs)
    for preset, samples, side in (("quick", 20, 64), ("small", 10, 128)):
        both = steps(preset, samples, side)
        what = f"{preset}, {samples} x {side}x{side}"
        rows[f"synchronous step of 5 tasks / plain step, {what}"] = ratio(both["modulated"], both["plain"], pairs)
        rows[f"peak memory of that step / plain, {what}"] = peak_memory(preset, samples, side)
    return rows


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
