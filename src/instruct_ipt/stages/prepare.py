"""`ipt prepare`: training shards, validation crops and the test index, each image in one split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from instruct_ipt.data.catalogue import Scene, scenes
from instruct_ipt.data.dead_leaves import dead_leaves
from instruct_ipt.data.images import read_image, to_bytes
from instruct_ipt.data.photographs import BUNDLED
from instruct_ipt.data.prepared import Index, damaged, read_scene
from instruct_ipt.data.shards import ShardWriter
from instruct_ipt.errors import InputError
from instruct_ipt.paths import PREPARED, RAW
from instruct_ipt.stages._datasets import chosen
from instruct_ipt.tasks import TASKS

if TYPE_CHECKING:
    from instruct_ipt.pipeline import Context

# The clean test images that get synthetic snow: no public pairs of clean and snowy photographs could be had.
SNOW_TEST = "CBSD68"


def run(context: Context) -> None:
    """Write `data/prepared`."""
    params, out = context.params, context.out / PREPARED
    found = [scene for dataset in chosen(params.data) for scene in scenes(dataset, RAW)]
    bundled = params.data.level == "bundled"
    with ShardWriter(out / "train") as shards:
        _train(params, shards, found, _bundled("train") if bundled else {})
    index = Index(out, PREPARED)
    if bundled:
        _bundled_splits(params, index)
    _validation(params, index, found)
    add_test_images(index, found, params.degradation)
    index.write()


# ---- training -------------------------------------------------------------------------------------------------------


def _train(params: Any, shards: ShardWriter, found: list[Scene], bundled: dict[str, np.ndarray]) -> None:
    leaves = _procedural(params, params.data.procedural, "leaves")
    for name, image in sorted((bundled | leaves).items()):
        shards.add_clean(name, "leaves" if name in leaves else "bundled", image)
    for scene in found:
        if scene.split == "train":
            _add_training(shards, scene)


def _add_training(shards: ShardWriter, scene: Scene) -> None:
    given, target = read_scene(scene)
    if scene.layout == "mask":
        assert target is not None
        shards.add_mask(scene.name, scene.dataset, target)
    elif given is None and target is not None:
        shards.add_clean(scene.name, scene.dataset, target)
    elif given is not None and target is not None:
        shards.add_pair(scene.name, scene.dataset, scene.task, given, target)


def _procedural(params: Any, count: int, prefix: str) -> dict[str, np.ndarray]:
    """Dead-leaves images: without them a handful of photographs is learned by heart within minutes."""
    # The prefix is part of the seed, so that validation never sees a training image.
    key = int.from_bytes(prefix.encode(), "big") % 2**32
    size = max(params.data.procedural_size, params.data.validation_size)
    return {
        f"{prefix}-{i:03d}": to_bytes(dead_leaves(np.random.default_rng([params.seed, key, i]), size))
        for i in range(count)
    }


# ---- the bundled photographs ----------------------------------------------------------------------------------------


def _bundled(split: str) -> dict[str, np.ndarray]:
    return {p.name: read_image(_file(RAW / "bundled", p.name)) for p in BUNDLED if p.split == split}


def _file(folder: Path, name: str) -> Path:
    found = sorted(folder.glob(f"{name}.*"))
    if not found:
        raise InputError(f"{folder}/{name}.* is missing; `dvc repro --force --single-item fetch` brings it back")
    return found[0]


def _bundled_splits(params: Any, index: Index) -> None:
    size, count = params.data.validation_size, params.data.validation_crops
    crops = _crops(_bundled("validation"), size, count)
    leaves = _procedural(params, count, "validation-leaves")
    crops |= {name: image[:size, :size] for name, image in leaves.items()}
    # By name, as a folder would list them.
    index.add_damaged("validation", "bundled", dict(sorted(crops.items())), params.degradation)
    index.add_damaged("test", "bundled", dict(sorted(_bundled("test").items())), params.degradation)


# ---- fetched sets ---------------------------------------------------------------------------------------------------


def _validation(params: Any, index: Index, found: list[Scene]) -> None:
    """Crops of held-out training scenes: real pairs where a task has them, else our damage on clean images."""
    held = [scene for scene in found if scene.split == "validation"]
    masks = _masks(found, "train")
    for task in TASKS:
        real = [scene for scene in held if scene.task == task and scene.layout in ("paired", "both")]
        clean = [scene for scene in held if scene.layout == "clean"]
        for name, dataset, given, target in _scene_crops(params, real or clean):
            if not real and task != "denoise":
                given = damaged(task, target, name, params.degradation, masks)
            index.add_pair("validation", task, dataset, name, given, target)


def _scene_crops(params: Any, members: Sequence[Scene]) -> list[tuple[str, str, np.ndarray | None, np.ndarray]]:
    """(name, dataset, input, target) of at least one crop per scene, all of one size, input and target aligned."""
    loaded = [(scene, *read_scene(scene)) for scene in members]
    sides = [side for _, _, target in loaded if target is not None for side in target.shape[:2]]
    size = min([params.data.validation_size, *sides])
    each = max(1, -(-params.data.validation_crops // max(1, len(members))))
    crops = []
    for scene, given, target in loaded:
        assert target is not None
        for i, (top, left) in enumerate(zip(*_corners(*target.shape[:2], size, each), strict=True)):
            window = np.s_[top : top + size, left : left + size]
            part = None if given is None else given[window]
            crops.append((f"{scene.name}-{i}", scene.dataset, part, target[window]))
    return crops


def add_test_images(index: Index, found: Sequence[Scene], degradation: Any) -> None:
    """Put the test images of some scenes into an index, and our snow on the clean ones of :data:`SNOW_TEST`.

    Args:
        index: of the folder that is written.
        found: scenes of any split; those of other splits are passed over.
        degradation: the `degradation` section of the parameters.
    """
    masks = _masks(found, "test")
    for scene in found:
        if scene.split == "test" and scene.layout in ("paired", "both", "clean", "picture"):
            index.add_scene(scene)
        if scene.split == "test" and scene.dataset == SNOW_TEST:
            assert scene.target is not None
            snowy = damaged("desnow", read_image(scene.target), scene.name, degradation, masks)
            index.add_pair("test", "desnow", f"{SNOW_TEST}-snow", scene.name, snowy, scene.target)


def _masks(found: Sequence[Scene], split: str) -> list[np.ndarray]:
    """The real snow masks of a split, uint8 (H, W, 3): those of training never fall on a test image."""
    return [read_image(s.target) for s in found if s.layout == "mask" and s.split == split and s.target]


def _crops(images: dict[str, np.ndarray], size: int, count: int) -> dict[str, np.ndarray]:
    """``count`` square crops spread over the photographs, with the largest distances that fit."""
    crops: dict[str, np.ndarray] = {}
    for name, image in images.items():
        height, width = image.shape[:2]
        side = min(size, height, width)
        tops, lefts = _corners(height, width, side, -(-count // len(images)))
        for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            crops[f"{name}-{i}"] = image[top : top + side, left : left + side]
    return dict(list(crops.items())[:count])


def _corners(height: int, width: int, side: int, count: int) -> tuple[list[int], list[int]]:
    columns = min(count, max(1, round(np.sqrt(count * width / height))))
    rows = -(-count // columns)
    tops = np.linspace(0, height - side, rows).round().astype(int)
    lefts = np.linspace(0, width - side, columns).round().astype(int)
    grid = [(int(t), int(left)) for t in tops for left in lefts][:count]
    return [t for t, _ in grid], [left for _, left in grid]
