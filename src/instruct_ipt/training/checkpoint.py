"""Weights and rolling checkpoints: written under a temporary name, then renamed; never unpickled."""

from __future__ import annotations

import hashlib
import io
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from instruct_ipt.disk import whole, write_whole
from instruct_ipt.errors import InputError


def save_weights(path: Path, state: dict[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically; the same tensors give the same bytes."""
    # The package's own save_file has an error of its own for a full disk, and leaves half a file behind.
    write_whole(path, save({name: tensor.detach().contiguous().cpu() for name, tensor in sorted(state.items())}))


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill ``model`` from ``path``, strictly.

    Raises:
        InputError: the file is missing or unreadable, or its names or shapes are not the model's.
    """
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `dvc repro` makes it") from None
    except Exception as error:
        raise InputError(f"{path}: is not a readable safetensors file ({error})") from None
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: does not fit this network: {reason}") from None


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
                return torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            print(f"{path} is damaged; going back to the checkpoint before it", file=sys.stderr)
        return None

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.pt")) if self._folder is not None else []
