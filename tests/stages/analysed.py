"""What the analysis stages stand on, made in a moment: a small `data/prepared` and networks that nobody trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from instruct_ipt.data.prepared import Index
from instruct_ipt.data.shards import ShardWriter
from instruct_ipt.modulation import RankRule
from instruct_ipt.params import Params
from instruct_ipt.paths import MODELS, PREPARED
from instruct_ipt.provenance import write_json
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation, build_shared
from instruct_ipt.training.checkpoint import save_weights
from tests.helpers import images, smoke


class Tracker:
    """Keeps what a stage shows live."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.seen |= values


def context(params: Params, out: Path = Path("out")) -> Any:
    """What a stage gets: parameters, a folder to write below, no checkpoints, a tracker."""
    return SimpleNamespace(params=params, out=out, checkpoints=None, tracker=Tracker())


def settings(**sections: dict[str, Any]) -> Params:
    """The smoke profile with some keys of some sections replaced."""
    params = smoke()
    return params.model_copy(update={n: getattr(params, n).model_copy(update=keys) for n, keys in sections.items()})


def prepared() -> None:
    """`data/prepared` of the working directory: two training images, one validation image, no test image."""
    with ShardWriter(PREPARED / "train") as shards:
        for number, image in enumerate(images(2)):
            shards.add_clean(f"image-{number}", "bundled", image)
    index = Index(PREPARED, PREPARED)
    index.add_damaged("validation", "bundled", {"held-out": images(1, seed=1)[0]}, smoke().degradation)
    index.write()


def shared_network() -> Any:
    """`models/shared`, and the network itself."""
    network = build_shared("tiny", 0)
    save_weights(MODELS / "shared" / "weights.safetensors", network.state_dict())
    return network


def increments(groups: list[str]) -> tuple[Any, dict[str, Any]]:
    """`models/selection.json`, `models/full` and `models/experts` with random increments; (full, experts) networks."""
    write_json(MODELS / "selection.json", {"groups": groups})
    generator = torch.Generator().manual_seed(0)
    full = build_modulation("tiny", 0, groups, RankRule("full"))
    experts = {task: build_shared("tiny", 0) for task in TASKS}
    with torch.no_grad():
        # The backbone of the synchronous network too: it is not the shared one.
        for network in (full, *experts.values()):
            for parameter in network.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    save_weights(MODELS / "full" / "weights.safetensors", full.state_dict())
    for task, network in experts.items():
        save_weights(MODELS / "experts" / f"{task}.safetensors", network.state_dict())
    return full, experts
