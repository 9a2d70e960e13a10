"""Weights and rolling checkpoints: written under a temporary name, then renamed; never unpickled."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from instruct_ipt.disk import whole, write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.modulation.pack import fill


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically; the same tensors give the same bytes."""
    # The package's own save_file has an error of its own for a full disk, and leaves half a file behind.
    write_whole(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in sorted(state.items())}))


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
        payload = io.BytesIO()
        torch.save(state, payload)
        with whole(self._folder / f"step-{step:08d}.pt") as temporary, temporary.open("wb") as stream:
            # The digest in front tells a damaged file before anything tries to read it.
            stream.write(hashlib.sha256(payload.getbuffer()).digest())
            stream.write(payload.getbuffer())
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

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.pt")) if self._folder is not None else []
