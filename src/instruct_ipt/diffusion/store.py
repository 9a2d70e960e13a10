"""A trained denoiser on disk: a folder with `weights.safetensors` and `denoiser.json`, which says what they fill."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.diffusion.denoiser import PRESETS
from instruct_ipt.diffusion.methods import build_method
from instruct_ipt.diffusion.schedule import SAMPLERS
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule, TaskModel
from instruct_ipt.provenance import write_json
from instruct_ipt.training.checkpoint import load_weights, save_weights

WEIGHTS_FILE, CARD_FILE = "weights.safetensors", "denoiser.json"
_VERSION = 1
_KINDS = ("attention", "convolution")


@dataclass(frozen=True)
class Card:
    """What a denoiser is.

    Attributes:
        method: of `METHODS`.
        preset: size of the network.
        size: side in px of the windows that it was trained on.
        tasks: names, in the order of the biases.
        rank: of the biases; other methods are as large as such biases.
        weights: kinds of weights that carry biases.
        sampler, steps: how it is sampled unless asked otherwise.
    """

    method: str
    preset: str
    size: int
    tasks: tuple[str, ...]
    rank: int
    weights: tuple[str, ...]
    sampler: str
    steps: int

    def build(self, seed: int = 0) -> TaskModel:
        """A fresh network of this kind."""
        rule = RankRule("constant", self.rank)
        return build_method(self.method, self.preset, seed, rule, self.weights, self.tasks)


def save_denoiser(folder: Path, model: nn.Module, card: Card) -> None:
    """Write the folder's two files, each whole or not at all."""
    save_weights(folder / WEIGHTS_FILE, model.state_dict())
    write_json(folder / CARD_FILE, {"format_version": _VERSION, **asdict(card)})


def load_denoiser(folder: Path) -> tuple[TaskModel, Card]:
    """The network of a folder, on the CPU, ready to sample.

    Raises:
        InputError: it is missing, damaged, or of a newer version; one line that says what to do.
    """
    card = read_card(folder)
    with torch.random.fork_rng(devices=[]):
        model = card.build()
    load_weights(folder / WEIGHTS_FILE, model)  # type: ignore[arg-type]
    return model.eval(), card  # type: ignore[attr-defined]


def read_card(folder: Path) -> Card:
    """What `denoiser.json` of a folder says.

    Raises:
        InputError: as `load_denoiser`.
    """
    path = folder / CARD_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        version = facts.pop("format_version")
        if type(version) is not int or version < 1:
            raise ValueError(version)
        if version > _VERSION:
            raise InputError(f"{path} was written by a newer version of this package; update it")
        card = Card(**{key: tuple(value) if isinstance(value, list) else value for key, value in facts.items()})
        fits = card.method in METHODS and card.preset in PRESETS and card.sampler in SAMPLERS
        whole = all(type(n) is int and 1 <= n <= 4096 for n in (card.size, card.rank, card.steps))
        named = 0 < len(card.tasks) <= len(FILL_TASKS) and set(card.tasks) <= set(FILL_TASKS)
        kinds = 0 < len(card.weights) <= len(_KINDS) and set(card.weights) <= set(_KINDS)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `dvc repro train_diffusion` makes it") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged; `dvc repro --force --single-item train_diffusion` renews it") from None
    if not (fits and whole and named and kinds):
        raise InputError(f"{path} names a method, preset, sampler, task or size that is not known; renew it, or update")
    return card
