"""One file per task: the biases of a task apart from the backbone they belong to, in safetensors format.

A pack holds, for every modulated parameter, either `<name>:down` (r, cols) and `<name>:up` (rows, r), or `<name>:full`
in the shape of the weight. The header's single key `pack` is a JSON object: format_version, backbone (SHA-256), task,
selection, ranks (null where the bias is full), metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .modulated import Modulated

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Pack:
    """The biases of one task, read from a file.

    Attributes:
        task: its name.
        backbone: SHA-256 of the backbone that it was trained with.
        tensors: `<parameter>:<factor>` -> tensor.
        ranks: parameter -> rank, None where the bias is full; its keys are the selection.
        metadata: whatever the writer added.
    """

    task: str
    backbone: str
    tensors: dict[str, Tensor]
    ranks: dict[str, int | None]
    metadata: dict[str, Any]


def backbone_digest(backbone: nn.Module) -> str:
    """Hex SHA-256 over the parameters in the order of their names: name, type, shape, bytes."""
    digest = hashlib.sha256()
    for name, weight in sorted(backbone.named_parameters()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _slices(model: Modulated, task: str) -> dict[str, Tensor]:
    """`<parameter>:<factor>` -> the slice of one task, a view of the model's own storage."""
    if task not in model.tasks:
        raise KeyError(f"unknown task {task!r}; known tasks: {', '.join(model.tasks)}")
    model.require_unfolded()
    index = model.tasks.index(task)
    return {
        f"{name}:{factor}": stack.detach()[index]
        for name in model.selection()
        for factor, stack in model.bias(name).named_parameters()
    }


def save_pack(model: Modulated, task: str, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write the biases of `task` to `path`: under a temporary name first, so that no half-written pack is ever seen.

    Args:
        model: not folded in place.
        task: one of `model.tasks`.
        path: its folder is made when missing.
        metadata: JSON-serialisable facts for the header.

    Raises:
        KeyError: unknown task.
        ValueError: a task is folded into the model.
    """
    tensors = {name: value.cpu().contiguous() for name, value in _slices(model, task).items()}
    ranks = {name: getattr(model.bias(name), "rank", None) for name in model.selection()}
    header = {
        "format_version": FORMAT_VERSION,
        "backbone": backbone_digest(model.backbone),
        "task": task,
        "selection": list(model.selection()),
        "ranks": ranks,
        "metadata": dict(metadata or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary, metadata={"pack": json.dumps(header, sort_keys=True)})
    os.replace(temporary, path)


def load_pack(path: Path) -> Pack:
    """Read a pack onto the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a task pack, or of another format version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("pack", "{}"))
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no task pack: {error}") from error
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} has pack format {header.get('format_version')}; this version reads {FORMAT_VERSION}")
    ranks = {name: header["ranks"][name] for name in header["selection"]}
    return Pack(header["task"], header["backbone"], tensors, ranks, header["metadata"])


@torch.no_grad()
def install_pack(model: Modulated, pack: Pack) -> None:
    """Copy the biases of `pack` into the task of the same name in `model`.

    Raises:
        KeyError: the model does not know the task.
        ValueError: the pack belongs to another backbone, selection or rank, or a task is folded into the model.
    """
    slices = _slices(model, pack.task)
    if (found := backbone_digest(model.backbone)) != pack.backbone:
        raise ValueError(
            f"the pack of task {pack.task!r} belongs to backbone {pack.backbone[:12]}, this one is {found[:12]};"
            " load the backbone it was trained with"
        )
    shapes = {name: value.shape for name, value in pack.tensors.items()}
    if shapes != {name: value.shape for name, value in slices.items()}:
        raise ValueError(f"the pack of task {pack.task!r} has another selection or other ranks than the model")
    for name, value in slices.items():
        value.copy_(pack.tensors[name])
