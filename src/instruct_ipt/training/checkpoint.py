"""Weights and rolling checkpoints: written under a temporary name, then renamed; never unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from instruct_ipt.errors import InputError
from instruct_ipt.modulation.pack import fill


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically; the same tensors give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({name: tensor.detach().contiguous().cpu() for name, tensor in sorted(state.items())}, temporary)
    os.replace(temporary, path)


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill ``model`` from ``path``, strictly.

    Raises:
        InputError: the file is missing or unreadable, its names, shapes or types are not the model's, or a value is
            not finite.
    """
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `dvc repro` makes it") from None
    except Exception as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error})") from None
    try:
        fill(model, state)
    except ValueError as error:
        raise InputError(f"{path}: does not fit this network: {str(error)[:300]}") from None


class Checkpoints:
    """The last two rolling checkpoints of a training run in ``folder``; None switches checkpointing off."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after ``step`` steps, then drop all but the last two."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"step-{step:08d}.pt"
        temporary = path.with_suffix(".tmp")
        payload = io.BytesIO()
        torch.save(state, payload)
        with temporary.open("wb") as stream:
            # The digest in front tells a damaged file before anything tries to read it.
            stream.write(hashlib.sha256(payload.getbuffer()).digest())
            stream.write(payload.getbuffer())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        for old in self._paths()[:-2]:
            old.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The newest readable state, on the CPU; a damaged one is passed over with a warning."""
        for path in reversed(self._paths()):
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() == content[:32]:
                # A digest is no proof: whoever makes a file makes its digest too.
                with contextlib.suppress(pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
                    return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            print(f"{path} is damaged; going back to the checkpoint before it", file=sys.stderr)
        return None

    def clear(self) -> None:
        """Delete the folder: the run is over."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.pt")) if self._folder is not None else []
