"""The released form of a modulated network: one folder with the backbone and a pack per task.

`backbone.safetensors` holds its parameters and buffers, `<task>.safetensors` a pack each. Whoever needs two tasks takes
the backbone and those two packs. The header of the backbone can say, under the key `architecture`, how to build the
network: a JSON object that only its writer and reader have to agree on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from .bias import FullBias, LowRankBias, TaskBias
from .modulated import Modulated
from .pack import Pack, install_pack, load_pack, save_pack, write_safetensors

BACKBONE_FILE = "backbone.safetensors"
Facts = Mapping[str, Mapping[str, Any]]
"""Task -> what the header of its pack says."""


def save_release(
    model: Modulated,
    folder: Path,
    *,
    degradation: Facts | None = None,
    metrics: Facts | None = None,
    architecture: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write the backbone (parameters and buffers) and one pack per task into `folder`.

    Args:
        model: not folded in place.
        folder: made when missing; files of the same names are replaced.
        degradation: task -> that field of its pack (see `save_pack`); tasks may be left out.
        metrics: task -> that field of its pack; tasks may be left out.
        architecture: how to build the backbone, for `read_architecture`; JSON. None leaves that to the reader.
        dtype: floating-point type in which weights are stored, say `torch.float16` for files of half the size; None:
            that of the model. What was stored is what is loaded: the packs belong to the rounded backbone.

    Raises:
        ValueError: a task name that is no file name, a model that is folded or not finite (in `dtype`), or a fact that
            is not JSON.
    """
    model.require_unfolded()
    if dtype is not None:
        model = rounded(model, dtype)
    paths = {task: _pack_path(folder, task) for task in model.tasks}
    try:
        header = {} if architecture is None else {"architecture": json.dumps(dict(architecture), sort_keys=True)}
    except (TypeError, ValueError) as error:
        raise ValueError(f"architecture must be JSON: {error}") from error
    for task, path in paths.items():
        facts = {"degradation": (degradation or {}).get(task), "metrics": (metrics or {}).get(task)}
        save_pack(model, task, path, **facts, dtype=dtype)
    # Clones: the format knows no ties, so a tied weight is written under both names.
    state = {name: _stored(value, dtype).clone() for name, value in model.backbone.state_dict().items()}
    write_safetensors(folder / BACKBONE_FILE, state, header)


@torch.no_grad()
def rounded(model: Modulated, dtype: torch.dtype) -> Modulated:
    """A copy of `model`, of the same types, whose floating-point weights are exact in `dtype`.

    Raises:
        ValueError: a weight is too large for `dtype`, or is not finite.
    """
    copied = copy.deepcopy(model)
    for name, value in copied.state_dict().items():
        value.copy_(_stored(value, dtype))
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} is not finite in {dtype}; store the weights in another type")
    return copied


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The value in the type in which it is stored; whole numbers stay what they are."""
    return value if dtype is None or not value.is_floating_point() else value.to(dtype)


def read_architecture(folder: Path) -> dict[str, Any] | None:
    """What the release in `folder` says about building its backbone; None where it says nothing.

    Raises:
        FileNotFoundError: the backbone is missing.
        ValueError: its file is damaged, or what it says is not a JSON object; one line that names the file.
    """
    path = folder / BACKBONE_FILE
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("architecture")
        found = None if text is None else json.loads(text)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {str(error)[:300]}; get the file again") from error
    if found is not None and not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: its architecture is no JSON object; get the file again")
    return found


def load_release(backbone: nn.Module, folder: Path, tasks: Sequence[str]) -> Modulated:
    """The released network for `tasks`, in this order, on a copy of `backbone`.

    Args:
        backbone: of the released architecture; its weights do not matter and stay as they are.
        folder: what `save_release` wrote.
        tasks: distinct, at least one; all or some of the released ones.

    Raises:
        FileNotFoundError: the backbone or a pack is missing.
        ValueError: a file is damaged or of another architecture, or a pack is of another task or backbone or differs
            from the first in selection or ranks; one line that names the file.
    """
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks are {list(tasks)}; expected distinct names, at least one")
    network, path = copy.deepcopy(backbone), folder / BACKBONE_FILE
    try:
        network.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} does not fit this network: {reason}; build the one that was released") from error
    packs = {_pack_path(folder, task): load_pack(_pack_path(folder, task)) for task in tasks}
    model = None
    for task, (path, pack) in zip(tasks, packs.items(), strict=True):
        if pack.task != task:
            raise ValueError(f"{path} holds task {pack.task!r}; get the pack of {task!r}")
        try:
            model = model or _attach(network, tasks, pack)
            install_pack(model, pack)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return model


def _pack_path(folder: Path, task: str) -> Path:
    """Where the pack of `task` stands; ValueError where its name would lead elsewhere."""
    path = folder / f"{task}.safetensors"
    if not task or path.parent != folder or path.name == BACKBONE_FILE:
        raise ValueError(f"task {task!r} cannot name a file in {folder}; rename the task")
    return path


def _attach(network: nn.Module, tasks: Sequence[str], pack: Pack) -> Modulated:
    """`network` with zero biases for the selection and ranks of `pack`."""
    parameters = dict(network.named_parameters())
    if unknown := sorted(pack.ranks.keys() - parameters.keys()):
        raise ValueError(f"the network has no parameter {unknown[0]!r} to modulate")
    biases: dict[str, TaskBias] = {}
    for name in (name for name in parameters if name in pack.ranks):
        shape, rank = parameters[name].shape, pack.ranks[name]
        # A generator of its own: what it draws is overwritten, and the global one must not notice.
        bias = FullBias(shape, len(tasks)) if rank is None else LowRankBias(shape, len(tasks), rank, torch.Generator())
        biases[name] = bias.to(parameters[name])
    return Modulated(network, tasks, biases)
