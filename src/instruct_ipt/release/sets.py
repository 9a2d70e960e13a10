"""The benchmark images that a release is scored on, wherever it is used: no stage of a replication has to have run."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instruct_ipt.data.catalogue import load_catalogue, scenes, select
from instruct_ipt.data.images import read_image
from instruct_ipt.data.prepared import Index, damaged
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import load_pack
from instruct_ipt.params import DegradationParams
from instruct_ipt.paths import RAW, SCRATCH
from instruct_ipt.stages.prepare import SNOW_TEST, add_test_images
from instruct_ipt.tasks import TASKS

LEVEL = "benchmark"
# Clean test images, and the tasks whose damage on them is real or others' elsewhere; snow is ours in any case.
CLEAN, OURS = SNOW_TEST, ("deblur", "derain", "dehaze")
_PREFIX, _HELD = "scored", "held.lock"


def degradation_of(weights: Path) -> DegradationParams:
    """The damage that a release was made for, as the headers of its packs tell it; `params.yaml` may be another by now.

    Raises:
        InputError: the pack of one of the five tasks is missing, damaged, or tells no ranges.
    """
    told: dict[str, Mapping[str, Any] | None] = {}
    for task in TASKS:
        path = weights / f"{task}.safetensors"
        try:
            told[task] = load_pack(path).degradation
        except FileNotFoundError:
            raise InputError(f"{path} is missing; scores need a release of all of {', '.join(TASKS)}") from None
        except ValueError as error:
            raise InputError(str(error)) from None
    try:
        return DegradationParams.model_validate(told)
    except ValueError:
        raise InputError(
            f"{weights}: the packs do not tell the damage they are for; write them by `ipt release`"
        ) from None


def indexed_images(degradation: DegradationParams, ours: bool = False) -> Path:
    """Index the fetched test images of level `benchmark`, make the snowy ones, and return the folder of the index.

    Args:
        degradation: ranges of our own damage.
        ours: whether the clean images of :data:`CLEAN` are damaged by us for the other tasks too, as sets of their own
            (`CBSD68-derain` and so on), to compare with what others photographed or made.

    Raises:
        InputError: a set is not there; the line says how to fetch it.
    """
    found = [scene for dataset in select(load_catalogue(), LEVEL) for scene in scenes(dataset, RAW)]
    folder = _own_folder()
    index = Index(folder, folder)
    add_test_images(index, found, degradation)
    for scene in found if ours else ():
        if scene.dataset == CLEAN and scene.target is not None:
            _damage(index, scene.name, scene.target, degradation)
    index.write()
    return folder


def without_level(dataset: str) -> str:
    """`CBSD68` of `CBSD68-sigma25`: noise of each level is a set of its own."""
    return dataset.partition("-sigma")[0]


def _own_folder() -> Path:
    """A folder of this process alone, gone when it ends: scores, gallery and comparison may run at the same time.

    A lock in it ends with its process, however that ends; the folder of one that was killed goes with the next call.
    """
    from filelock import FileLock

    SCRATCH.mkdir(parents=True, exist_ok=True)
    with FileLock(SCRATCH / f"{_PREFIX}.lock"):
        for left in SCRATCH.glob(f"{_PREFIX}-*/{_HELD}"):
            _remove_unless_held(left)
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-", dir=SCRATCH)).absolute()
        held = FileLock(folder / _HELD)
        held.acquire()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(held.release)
    return folder.relative_to(Path.cwd())


def _remove_unless_held(lock: Path) -> None:
    from filelock import FileLock, Timeout

    try:
        with FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)
    except Timeout:
        return


def _damage(index: Index, name: str, target: Path, degradation: DegradationParams) -> None:
    image = read_image(target)
    for task in OURS:
        index.add_pair("test", task, f"{CLEAN}-{task}", name, damaged(task, image, name, degradation), target)
