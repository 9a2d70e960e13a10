"""The trained methods, loaded from `models/` for evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from instruct_ipt.paths import MODELS
from instruct_ipt.stages._training import modulation_model
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_rival, build_shared
from instruct_ipt.training.checkpoint import load_weights

if TYPE_CHECKING:
    from instruct_ipt.evaluation.benchmark import Method
    from instruct_ipt.modulation import TaskModel


def load_methods(params: Any) -> dict[str, Method | None]:
    """Method -> (task -> trained network), in the order of the tables; None stands for the degraded input itself."""
    backbone, seed = params.backbone, params.seed
    modulation = _loaded(modulation_model(params), "modulation/weights")
    film = _loaded(build_rival("film", backbone, seed, modulation.added_parameters()), "film/weights")
    shared = _loaded(build_shared(backbone, seed), "shared/weights")
    experts = {task: _loaded(build_shared(backbone, seed), f"experts/{task}") for task in TASKS}
    single = {"shared": shared, "film": film, "modulation": modulation}
    methods: dict[str, Method | None] = {name: dict.fromkeys(TASKS, model) for name, model in single.items()}
    return {
        "input": None,
        "shared": methods["shared"],
        "experts": experts,
        "film": methods["film"],
        "modulation": methods["modulation"],
    }


def _loaded(model: TaskModel, stem: str) -> TaskModel:
    load_weights(MODELS / f"{stem}.safetensors", model)
    return model.eval()
