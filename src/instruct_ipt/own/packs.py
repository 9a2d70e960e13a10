"""The packs of a release: which there are, what they were trained on, and taking one's own away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instruct_ipt.errors import InputError
from instruct_ipt.modulation import BACKBONE_FILE, Pack, load_pack
from instruct_ipt.restoration.weights import find_weights, released_tasks

MADE_BY = "ipt task add"
RECORDS = (".csv", ".json")
"""Suffixes of what stands beside a pack of one's own."""


@dataclass(frozen=True)
class OwnPack:
    """A pack in a release.

    Attributes:
        task: its name.
        path: the file.
        bytes: its size.
        own: whether `ipt task add` made it.
        trained_on: what its header says, JSON; None where it says nothing.
    """

    task: str
    path: Path
    bytes: int
    own: bool
    trained_on: dict[str, Any] | None


def list_packs(weights: Path | None = None) -> list[OwnPack]:
    """The packs of a release; None takes the one that `ipt restore` would take.

    Raises:
        InputError: no release there, or a damaged pack.
    """
    folder = weights or find_weights()
    if not (folder / BACKBONE_FILE).is_file():
        raise InputError(f"{folder} is no release and has no packs; `ipt release` or `ipt task add` makes one")
    found = []
    for task in released_tasks(folder):
        path = folder / f"{task}.safetensors"
        pack = read(path)
        found.append(OwnPack(task, path, path.stat().st_size, is_own(pack), pack.degradation))
    return found


def remove_pack(task: str, weights: Path | None = None) -> None:
    """Delete a pack of one's own and what stands beside it.

    Raises:
        InputError: there is no such pack, or `ipt task add` did not make it.
    """
    packs = {pack.task: pack for pack in list_packs(weights)}
    if task not in packs:
        raise InputError(f"there is no task {task!r}; there are {', '.join(packs)}")
    if not packs[task].own:
        raise InputError(f"{packs[task].path} came with the network; only what `ipt task add` made is removed")
    for suffix in RECORDS:
        packs[task].path.with_suffix(suffix).unlink(missing_ok=True)
    packs[task].path.unlink()


def is_own(pack: Pack) -> bool:
    """Whether `ipt task add` made a pack."""
    return pack.metadata.get("made_by") == MADE_BY


def read(path: Path) -> Pack:
    """A pack; InputError where it is missing or damaged."""
    try:
        return load_pack(path)
    except (OSError, ValueError) as error:
        raise InputError(str(error)) from error
