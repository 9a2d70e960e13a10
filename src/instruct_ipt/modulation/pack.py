"""One file per task: the biases of a task apart from the backbone they belong to, in safetensors format.

A pack holds, for every modulated parameter, either `<name>:down` (r, cols) and `<name>:up` (rows, r), or `<name>:full`
in the shape of the weight. The header's single key `pack` is a JSON object with these fields:

* format_version: 1. A reader refuses any other; it changes when a version-1 reader could misread the file.
* backbone: hex SHA-256 of the backbone, see `backbone_digest`.
* task: its name.
* selection: names of the modulated parameters.
* ranks: each of these names -> rank, null where the bias is full.
* degradation: what the task was trained on (ranges, with their units in the keys), or null.
* metrics: what it reached, or null.
* metadata: whatever else the writer added.

Two fields may be absent, degradation and metrics: the first packs of version 1 have neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from instruct_ipt.disk import write_whole

from .modulated import Modulated

FORMAT_VERSION = 1
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Pack:
    """The biases of one task, read from a file.

    Attributes:
        task: its name.
        backbone: SHA-256 of the backbone that it was trained with.
        tensors: `<parameter>:<factor>` -> tensor: down (r, cols), up (rows, r), or full in the shape of the weight.
        ranks: parameter -> rank, None where the bias is full; its keys are the selection.
        degradation: the range of degradations it was trained on, None where the writer gave none.
        metrics: what it reached, None where the writer gave none.
        metadata: whatever else the writer added.
    """

    task: str
    backbone: str
    tensors: dict[str, Tensor]
    ranks: dict[str, int | None]
    degradation: dict[str, Any] | None
    metrics: dict[str, Any] | None
    metadata: dict[str, Any]


def backbone_digest(backbone: nn.Module) -> str:
    """Hex SHA-256 over the parameters in the order of their names: name, type, shape, bytes."""
    return weights_digest(dict(backbone.named_parameters()))


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """`backbone_digest` of parameters that stand in no module: name -> tensor (any shape, any type)."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write tensors of any shape to `path`, whole or not at all: a temporary file, forced to the disk, then renamed.

    The same tensors and header give the same bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, dict(header))
    write_whole(path, data)


def fill(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy weights from a file into `model`: exactly its names, shapes and types, and finite.

    `load_state_dict` alone would turn integers into floats, and let through what a diverged training left.

    Args:
        model: takes the weights.
        weights: name -> tensor in the shape of the weight.

    Raises:
        ValueError: they are not such; one line that names one of them.
    """
    for name, own in model.state_dict().items():
        if (value := weights.get(name)) is None:
            continue
        if value.dtype != own.dtype:
            raise ValueError(f"{name} is {value.dtype}, not {own.dtype}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(" ".join(str(error).split())) from error


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


def save_pack(
    model: Modulated,
    task: str,
    path: Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    degradation: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the biases of `task` to `path`: under a temporary name first, so that no half-written pack is ever seen.

    Args:
        model: not folded in place.
        task: one of `model.tasks`.
        path: its folder is made when missing.
        metadata: further JSON-serialisable facts for the header.
        degradation: the range the task was trained on, say `{"sigma_8bit": [0, 50]}`; JSON-serialisable.
        metrics: what it reached, say `{"psnr_db": 31.2}`; JSON-serialisable.
        dtype: floating-point type in which the biases are stored; None: that of the model.

    Raises:
        KeyError: unknown task.
        ValueError: a task is folded into the model, a bias is not finite, or a fact is not JSON (NaN is not).
    """
    tensors = {name: value.to(dtype or value.dtype) for name, value in _slices(model, task).items()}
    if broken := [name for name, value in tensors.items() if not bool(value.isfinite().all())]:
        raise ValueError(f"{broken[0]} of task {task!r} is not finite; a diverged model makes no pack")
    header = {
        "format_version": FORMAT_VERSION,
        "backbone": backbone_digest(model.backbone),
        "task": task,
        "selection": list(model.selection()),
        "ranks": {name: getattr(model.bias(name), "rank", None) for name in model.selection()},
        "degradation": None if degradation is None else dict(degradation),
        "metrics": None if metrics is None else dict(metrics),
        "metadata": dict(metadata or {}),
    }
    try:
        text = json.dumps(header, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: degradation, metrics and metadata must be JSON: {error}") from error
    write_safetensors(path, tensors, {"pack": text})


def load_pack(path: Path) -> Pack:
    """Read a pack onto the CPU. Nothing in the file is executed, and nothing is taken on trust.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a task pack, of another format version, or with fields and tensors that do not fit together;
            one line that names the file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = _parse((file.metadata() or {}).get("pack"))
            _check_version(header)
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
        pack = _pack(header, tensors)
        _check_tensors(pack)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no task pack: {error}; get the file again") from error
    except ValueError as error:
        # Cut, since it may quote what a stranger wrote.
        raise ValueError(f"{path} is no task pack: {str(error)[:300]}; write it again with save_pack") from error
    return pack


def _parse(text: str | None) -> dict[str, Any]:
    """The header's JSON object; ValueError for anything else."""
    if text is None:
        raise ValueError("its header has no key 'pack'")
    try:
        header = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    return header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_version(header: dict[str, Any]) -> None:
    """ValueError unless this module wrote the file; looked at first, since other versions may have other fields."""
    version = header.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ValueError(f"it has pack format {version!r:.20}, this version reads {FORMAT_VERSION}")


def _pack(header: dict[str, Any], tensors: dict[str, Tensor]) -> Pack:
    """The fields of a header, each of the type it must have."""
    task, backbone = _field(header, "task", str), _field(header, "backbone", str)
    selection, ranks = _field(header, "selection", list), _field(header, "ranks", dict)
    if not task:
        raise ValueError("field 'task' is empty")
    if not re.fullmatch("[0-9a-f]{64}", backbone):
        raise ValueError("field 'backbone' is no SHA-256 in lower-case hex")
    if not selection or not all(isinstance(name, str) and name for name in selection):
        raise ValueError("field 'selection' is no list of parameter names, at least one")
    if len(set(selection)) != len(selection) or set(selection) != set(ranks):
        raise ValueError("fields 'selection' and 'ranks' do not name the same parameters, each once")
    if bad := [name for name, rank in ranks.items() if rank is not None and (type(rank) is not int or rank < 1)]:
        raise ValueError(f"rank of {bad[0]!r} is neither null nor an integer >= 1")
    return Pack(
        task,
        backbone,
        tensors,
        {name: ranks[name] for name in selection},
        _field(header, "degradation", dict, optional=True),
        _field(header, "metrics", dict, optional=True),
        _field(header, "metadata", dict),
    )


def _field(header: dict[str, Any], name: str, kind: type, optional: bool = False) -> Any:
    """A field of the header; ValueError where it is missing or of another type."""
    value = header.get(name)
    if value is None and optional:
        return None
    if name not in header:
        raise ValueError(f"its header has no field {name!r}")
    if not isinstance(value, kind):
        raise ValueError(f"field {name!r} is of type {type(value).__name__}, not {kind.__name__}")
    return value


def _check_tensors(pack: Pack) -> None:
    """ValueError unless the tensors are exactly those that selection and ranks announce, of a usable type, finite."""
    factors = {name: ("full",) if rank is None else ("down", "up") for name, rank in pack.ranks.items()}
    expected = {f"{name}:{factor}" for name in factors for factor in factors[name]}
    if odd := sorted(expected ^ pack.tensors.keys()):
        raise ValueError(f"tensor {odd[0]!r} is {'missing' if odd[0] in expected else 'not in selection and ranks'}")
    for name, value in pack.tensors.items():
        if value.dtype not in _DTYPES:
            raise ValueError(f"tensor {name!r} is {value.dtype}, not a floating-point type of 16 bits or more")
        if not bool(value.isfinite().all()):
            raise ValueError(f"tensor {name!r} is not finite")
    for name, rank in pack.ranks.items():
        if rank is not None:
            _check_factors(name, rank, pack.tensors[f"{name}:down"], pack.tensors[f"{name}:up"])


def _check_factors(name: str, rank: int, down: Tensor, up: Tensor) -> None:
    """ValueError unless down is (rank, cols), up (rows, rank), of one type, and the rank no more than full."""
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != rank or up.shape[1] != rank:
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise ValueError(f"factors of {name!r} have shapes {shapes}, not (rank, cols) and (rows, rank) of rank {rank}")
    if rank > min(up.shape[0], down.shape[1]):
        raise ValueError(f"rank of {name!r} is {rank}, more than its {up.shape[0]} x {down.shape[1]} matrix can have")
    if down.dtype != up.dtype:
        raise ValueError(f"factors of {name!r} are of two types, {down.dtype} and {up.dtype}")


@torch.no_grad()
def install_pack(model: Modulated, pack: Pack) -> None:
    """Copy the biases of `pack` into the task of the same name in `model`. Nothing is changed where it does not fit.

    Raises:
        KeyError: the model does not know the task.
        ValueError: the pack belongs to another backbone, selection or rank, is of a type that the model's cannot hold
            exactly, or a task is folded into the model.
    """
    slices = _slices(model, pack.task)
    check_backbone(pack, backbone_digest(model.backbone))
    # A pack of half precision fits into a model of single precision, exactly; the other way round it would be rounded.
    fits = pack.tensors.keys() == slices.keys() and all(
        pack.tensors[name].shape == own.shape and torch.promote_types(pack.tensors[name].dtype, own.dtype) == own.dtype
        for name, own in slices.items()
    )
    if not fits:
        raise ValueError(f"the pack of task {pack.task!r} has another selection, other ranks or types than the model")
    for name, value in slices.items():
        value.copy_(pack.tensors[name])


def check_backbone(pack: Pack, found: str) -> None:
    """ValueError unless `pack` belongs to the backbone of digest `found`."""
    if found != pack.backbone:
        raise ValueError(
            f"the pack of task {pack.task!r} belongs to backbone {pack.backbone[:12]}, this one is {found[:12]};"
            " load the backbone it was trained with"
        )
