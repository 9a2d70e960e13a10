"""Denoisers that others trained: loaded from a folder or a hub, wrapped to take one tensor, ready to be modulated.

A wrapped denoiser takes (N, C + 1, H, W): its own input planes and one of the time. What its own interface asks beside
is given once: the embedding of an empty prompt, the class that means none. `modulate` then applies to it unchanged; the
weights that carry biases are found by `denoiser.weights_of`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instruct_ipt.errors import InputError

CLASSES: tuple[str, ...] = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel")


class Wrapped(nn.Module):
    """Another's denoiser as a function of one tensor.

    Args:
        network: one of :data:`CLASSES`.
        prompt: (L, D) embedding that a text-conditioned network is given for every sample; zeros for none.

    Raises:
        InputError: another class.
    """

    def __init__(self, network: nn.Module, prompt: Tensor | None = None) -> None:
        super().__init__()
        self.kind = type(network).__name__
        if self.kind not in CLASSES:
            raise InputError(f"denoisers of class {self.kind} are not known; known: {', '.join(CLASSES)}")
        self.network = network
        if self.kind == "UNet2DConditionModel":
            empty = torch.zeros(1, _width(network)) if prompt is None else prompt
            self.register_buffer("prompt", empty)

    def forward(self, x: Tensor) -> Tensor:
        """x, (N, C + 1, H, W), the last plane the time of each sample -> (N, C', H, W), what the network predicts."""
        planes, time = x[:, :-1], x[:, -1, 0, 0]
        return self._call(planes, time)[:, : self.channels]

    @property
    def channels(self) -> int:
        """Planes of the prediction, without those of a learned variance, which stand behind them."""
        config = self.network.config
        return min(config["in_channels"], config["out_channels"] or config["in_channels"])

    def _call(self, planes: Tensor, time: Tensor) -> Tensor:
        extra: dict[str, Any] = {}
        if self.kind == "UNet2DConditionModel":
            extra["encoder_hidden_states"] = self.prompt.expand(len(planes), *self.prompt.shape)
        if self.kind == "DiTTransformer2DModel":
            # One class more than there are is the one that was trained without.
            none = self.network.config["num_embeds_ada_norm"]
            extra["class_labels"] = torch.full((len(planes),), none, device=planes.device)
        return self.network(planes, time, return_dict=False, **extra)[0]


def load_pretrained(source: str, prompt: Tensor | None = None) -> Wrapped:
    """A denoiser of diffusers.

    Args:
        source: a folder as `save_pretrained` writes it (with a `config.json`), or the name of a model on a hub, which
            is downloaded by diffusers. For a pipeline, name the folder of the denoiser inside it.
        prompt: see `Wrapped`.

    Raises:
        InputError: there is none, or it is of a class that is not known.
    """
    import diffusers

    name = _class_of(source)
    if name not in CLASSES:
        raise InputError(f"{source}: denoisers of class {name} are not known; known: {', '.join(CLASSES)}")
    try:
        # Weights in safetensors only: other files are pickles, which can run code.
        network = getattr(diffusers, name).from_pretrained(source, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be loaded as {name}: {' '.join(str(error).split())[:300]}") from None
    return Wrapped(network.eval(), prompt)


def _class_of(source: str) -> str:
    folder = Path(source)
    if folder.is_dir():
        config = folder / "config.json"
        try:
            return str(json.loads(config.read_text(encoding="utf-8"))["_class_name"])
        except (OSError, ValueError, KeyError):
            raise InputError(
                f"{config} is missing or names no class; give a folder of diffusers' save_pretrained"
            ) from None
    from diffusers import ModelMixin

    try:
        return str(ModelMixin.load_config(source)["_class_name"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{source}: is neither a folder nor a model that could be reached: {' '.join(str(error).split())[:200]}"
        ) from None


def _width(network: nn.Module) -> int:
    width = network.config["cross_attention_dim"]
    return int(width if isinstance(width, int) else width[0])
