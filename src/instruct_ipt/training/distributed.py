"""Training in several processes: each takes a share of every batch, gradients are averaged, the first alone writes.

`torchrun` starts the processes; `joined` brings them together. Alone, a process is a world of one, in which nothing
below does anything.

Why not `DistributedDataParallel`: it averages with equal weights, while a batch that does not divide evenly needs
weights by samples; it fixes at wrapping which parameters learn, while phases change that; it searches the graph of
every step for parameters without gradient; and it hides the model whose methods the loop calls. One buffer with all
gradients is exact in all of these cases and short. What it gives up is averaging while the backward pass still runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from instruct_ipt.data.stream import Batch, PatchStream
from instruct_ipt.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes that train one network together, as one of them sees them.

    Attributes:
        rank: number of this process in [0, size); only rank 0 writes files, shows progress and validates.
        size: number of processes.
        device: where this process trains; None leaves the network where it is.
    """

    rank: int = 0
    size: int = 1
    device: torch.device | None = None

    @classmethod
    def current(cls) -> World:
        """The world that this process has joined, or a world of one.

        Raises:
            RuntimeError: torchrun started several processes, and they have not been joined: each would train alone and
                write over the others.
        """
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), _device())
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise RuntimeError("torchrun started several processes; train inside `with distributed.joined():`")
        return cls(device=_device() if torch.cuda.is_available() else None)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, stream: PatchStream) -> PatchStream | Share:
        """This process's share of ``stream``; a world of one takes all of it."""
        return stream if self.size == 1 else Share(stream, self.rank, self.size)

    def start_alike(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of the first."""
        if self.size == 1:
            return
        for tensor in model.state_dict().values():
            values = tensor.contiguous()
            dist.broadcast(values, src=0)
            tensor.copy_(values)

    def broadcast(self, value: T) -> T:
        """The first process's ``value``, in every process; tensors in it should lie on the CPU."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def sum(self, values: Tensor) -> Tensor:
        """The sum of ``values`` over the processes, elementwise: same shape, type and device, same bits everywhere."""
        if self.size == 1:
            return values
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def average_gradients(self, parameters: Sequence[nn.Parameter], share: float) -> None:
        """Make each gradient the mean over the processes, the same bits everywhere.

        A parameter that has a gradient in some processes only counts as zero in the others; one that has none anywhere
        keeps none, so that the optimiser passes it over as it would in one process.

        Args:
            parameters: the parameters that learn, in the same order in every process.
            share: this process's part of the samples; the shares of all processes sum to 1.
        """
        if self.size == 1 or not parameters:
            return
        with torch.no_grad():
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            present = gradients[0].new_tensor([p.grad is not None for p in parameters])
            sums = torch.cat([*(gradient.reshape(-1) * share for gradient in gradients), present])
            dist.all_reduce(sums)
            parts = sums.split([*(gradient.numel() for gradient in gradients), len(parameters)])
            for parameter, gradient, part, seen in zip(
                parameters, gradients, parts[:-1], parts[-1].tolist(), strict=True
            ):
                parameter.grad = gradient.copy_(part.view_as(gradient)) if seen else None


@dataclass(frozen=True)
class Share:
    """Of every batch of a stream, the samples ``rank``, ``rank + size``, ``rank + 2 size``, ...

    Batches are sorted by task, so that each process gets its part of every task, give or take one sample, and the parts
    together are the batch of a single process.

    Attributes:
        stream: where batches come from.
        rank, size: as in `World`.
    """

    stream: PatchStream
    rank: int
    size: int

    def batch(self, step: int, patch: int, counts: Mapping[str, int]) -> Batch:
        """This process's samples of ``stream.batch(step, patch, counts)``.

        Raises:
            InputError: the batch has fewer samples than there are processes.
        """
        if sum(counts.values()) < self.size:
            raise InputError(
                f"a batch of {sum(counts.values())} samples cannot be shared by {self.size} processes; raise "
                "training.batch_per_task (or experts.batch) in params.yaml or start fewer processes"
            )
        whole = self.stream.batch(step, patch, counts)
        parts = (whole.input, whole.target, whole.task)
        mine = (np.ascontiguousarray(part[self.rank :: self.size]) for part in parts)
        return Batch(*mine, whole.names[self.rank :: self.size])


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started, for the length of the context; without torchrun a world of one.

    They speak NCCL where there is a GPU for each process of this machine, and gloo on CPUs.

    Raises:
        InputError: there are GPUs, but fewer than processes on this machine.
    """
    if not dist.is_torchelastic_launched():
        yield World()
        return
    device = _device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield World.current()
    # Not after an error: the others are on their way to a meeting that will not happen, and so might this one be.
    dist.destroy_process_group()


def _device() -> torch.device:
    """The GPU of this process, by its number on this machine, or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    index, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if index >= gpus:
        raise InputError(f"this machine has {gpus} GPUs, fewer than processes; start torchrun --nproc_per_node={gpus}")
    return torch.device("cuda", index)
