"""Every kind of folder with weights that is read from disk: how a sound small one is made, and how it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from instruct_ipt.backbone import build_backbone
from instruct_ipt.diffusion.store import load_denoiser, save_denoiser
from instruct_ipt.instruction import Estimator, Reader
from instruct_ipt.instruction.encoders import NgramEncoder
from instruct_ipt.instruction.estimator import CLASSES, features
from instruct_ipt.instruction.head import OUTPUTS, Head
from instruct_ipt.instruction.reader import Refusal
from instruct_ipt.instruction.spelling import Speller
from instruct_ipt.modulation.pack import weights_digest
from instruct_ipt.restoration.export import export, load_exported
from instruct_ipt.restoration.weights import load_model
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_shared, read_selection, selected_weights
from instruct_ipt.training.checkpoint import Checkpoints, load_weights, save_weights
from tests.diffusion.denoisers import card, stirred
from tests.restoration import nets
from tests.restoration.test_weights import replication

SENTENCES = ["remove the noise", "take the rain away", "sharpen it please", "less haze", "no snow"]
IMAGE = np.random.default_rng(0).random((40, 52, 3))


def _state(model: nn.Module) -> str:
    state = model.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values()), "it holds what is not finite"
    return weights_digest(state)


def make_reader(folder: Path) -> None:
    """An instruction reader that learned nothing."""
    encoder = NgramEncoder((2, 3), (1, 1), 1)
    encoder.fit(SENTENCES)
    width, rng = encoder.encode(SENTENCES).shape[1], np.random.default_rng(0)
    knots = np.tile(np.array([[-1, -1], [1, 1]], np.float32), (len(OUTPUTS), 1, 1))
    head = Head(rng.normal(size=(len(OUTPUTS), width)).astype(np.float32), np.zeros(len(OUTPUTS), np.float32), knots)
    Reader(Speller.learn(SENTENCES), encoder, head, 0.3).save(folder)


def read_reader(folder: Path) -> str:
    """The reader, used on sentences."""
    reader = Reader.load(folder)
    for sentence in SENTENCES:
        try:
            found = reader(sentence)
        except Refusal:
            continue
        assert sum(found.weights.values()) == 1 and np.isfinite(list(found.probabilities.values())).all()
    return _arrays(reader.head.weight, reader.head.bias, reader.head.knots)


def _arrays(*arrays: np.ndarray) -> str:
    assert all(np.isfinite(array).all() for array in arrays), "it holds what is not finite"
    return weights_digest({str(n): torch.from_numpy(np.ascontiguousarray(a)) for n, a in enumerate(arrays)})


def make_estimator(folder: Path) -> None:
    """An estimator that learned nothing."""
    width, rng = len(features(IMAGE)), np.random.default_rng(0)
    arrays = (rng.random(shape).astype(np.float32) for shape in (width, width, (len(CLASSES), width), len(CLASSES)))
    Estimator(*arrays, size=32).save(folder)


def read_estimator(folder: Path) -> str:
    """The estimator, used on an image."""
    found = Estimator.load(folder)
    guess = found(IMAGE)
    assert np.isfinite(list(guess.weights.values())).all() and abs(sum(guess.weights.values()) - 1) < 1e-6
    return _arrays(found.mean, found.scale, found.weight, found.bias)


def make_checkpoints(folder: Path) -> None:
    """Two rolling checkpoints."""
    for step in (1, 2):
        Checkpoints(folder).save(step, {"phase": 0, "done": step, "model": {"w": torch.ones(3) * step}})


def read_checkpoints(folder: Path) -> str:
    """The newest that can be read."""
    state = Checkpoints(folder).latest()
    return "none" if state is None else str(state["done"])


def make_denoiser(folder: Path) -> None:
    """A tiny denoiser."""
    save_denoiser(folder, stirred(), card())


def make_models(folder: Path) -> None:
    """`models/<method>` of a replication: the network without biases."""
    save_weights(folder / "weights.safetensors", build_shared("tiny", 0).state_dict())


def read_models(folder: Path) -> str:
    """Its weights."""
    model = build_shared("tiny", 1)
    load_weights(folder / "weights.safetensors", model)
    return _state(model)


def read_groups(folder: Path) -> str:
    """The weights that a selection names."""
    return json.dumps(selected_weights(build_backbone("tiny"), read_selection(folder / "selection.json")))


def make_selection(folder: Path) -> None:
    """What the search for sensitive weights selected."""
    folder.mkdir()
    (folder / "selection.json").write_text(json.dumps({"groups": ["norm", "tail"]}), encoding="utf-8")


def make_export(folder: Path) -> None:
    """A network exported for one task."""
    folder.mkdir()
    export(nets.tiny_restorer(), TASKS[0], "safetensors", folder / "one.safetensors")


Maker, Loader = Callable[[Path], object], Callable[[Path], str]
HOARDS: dict[str, tuple[Maker, Loader]] = {
    "release": (nets.write_release, lambda folder: _state(load_model(folder))),
    "replication": (replication, lambda folder: _state(load_model(folder))),
    "denoiser": (make_denoiser, lambda folder: _state(load_denoiser(folder)[0])),
    "models": (make_models, read_models),
    "selection": (make_selection, read_groups),
    "export": (make_export, lambda folder: _state(load_exported(folder / "one.safetensors"))),
    "reader": (make_reader, read_reader),
    "estimator": (make_estimator, read_estimator),
    "checkpoints": (make_checkpoints, read_checkpoints),
}


def load(folder: Path) -> str:
    """What is in a folder of the kind that it is named after, as a digest."""
    return HOARDS[folder.name][1](folder)


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load as parse

    return parse(content)
