"""`ipt scores`: the table of a model card, computed again from the stored weights and the fetched images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from instruct_ipt.data.prepared import Pair, count
from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.benchmark import score_images
from instruct_ipt.evaluation.protocol import PROTOCOLS, first_protocol
from instruct_ipt.marks import Marks
from instruct_ipt.progress import progress
from instruct_ipt.release.sets import degradation_of, indexed_images
from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.weights import CARD, SCORES_BEGIN, SCORES_END

TOLD, GUESSED, INPUT = "told", "guessed", "input"
SHOWN_PROTOCOLS = ("rgb", "y-limited")
KEYS = ["task", "dataset", "protocol", "knowing"]
IMAGES = ["task", "dataset", "image", "protocol", "knowing", "psnr", "ssim"]
SCORES = "scores.csv"
MARKS = Marks(SCORES_BEGIN, SCORES_END)
# How far scores may lie from the recorded ones: sums in another order round otherwise.
TOLERANCE = {"psnr": 0.02, "ssim": 0.001}


class Restoring:
    """The networks of a release, for images whose noise may leave [0, 1].

    Args:
        weights: folder of the release.

    Attributes:
        restorer: what a person would use.
    """

    def __init__(self, weights: Path) -> None:
        self.restorer = Restorer.load(weights, "cpu")
        self._known: dict[str, torch.nn.Module] = {}

    def told(self, pair: Pair) -> np.ndarray:
        """The image restored by the network of its task; float32 (H, W, 3), not clipped."""
        if pair.task not in self._known:
            self._known[pair.task] = self.restorer.network(pair.task)
        return _through(self._known[pair.task], pair.input)

    def guessed(self, pair: Pair) -> np.ndarray:
        """The image restored by what its damage seems to be; unchanged where it seems to have none."""
        try:
            choice = self.restorer.guess(np.clip(pair.input, 0.0, 1.0))
        except InputError:
            return pair.input
        return _through(self.restorer.network(choice.weights, choice.strength), pair.input)


def compute(weights: Path) -> pd.DataFrame:
    """Scores of every test image of level `benchmark`.

    Args:
        weights: folder of a release with packs of all five tasks.

    Returns:
        Rows (task, dataset, image, protocol, knowing, psnr in dB, ssim); `knowing` is `told` where the network was told
        the task, `guessed` where it had to guess the damage from the image, `input` for the damaged image itself.

    Raises:
        InputError: the images are not fetched, or there is no such release.
    """
    degradation = degradation_of(weights)
    root, release = indexed_images(degradation), Restoring(weights)
    if not release.restorer.can_guess:
        raise InputError(f"{weights} holds no estimator of damage; write the release by `ipt release` of a replication")
    methods = {INPUT: lambda pair: pair.input, TOLD: release.told, GUESSED: release.guessed}
    counts = count(root, "test")
    images = sum(counts.values()) + (len(degradation.denoise.sigma) - 1) * counts["denoise"]
    rows = []
    protocols = [PROTOCOLS[name] for name in SHOWN_PROTOCOLS]
    with progress("scores", images) as advance:
        for done, (pair, _, scores) in enumerate(score_images(methods, root, degradation, protocols), start=1):
            rows += [[s.task, s.dataset, s.image, s.protocol, s.method, s.psnr, s.ssim] for s in scores]
            advance(done, f"{pair.dataset} {pair.name}")
    return pd.DataFrame(rows, columns=IMAGES)


def read_images(path: Path) -> pd.DataFrame:
    """The scores of every image, as `ipt scores --images` wrote them.

    Raises:
        InputError: the file is missing, damaged or empty.
    """
    try:
        # Names such as 003 and 1 stay what they are.
        table = pd.read_csv(path, dtype={"image": str})[IMAGES]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; `ipt scores --images {path}` writes it") from None
    except (KeyError, ValueError):
        raise InputError(f"{path} is damaged; write it anew by `ipt scores --images {path}`") from None
    if table.empty:
        raise InputError(f"{path} holds no score; write it anew by `ipt scores --images {path}`")
    return table


def means(images: pd.DataFrame) -> pd.DataFrame:
    """Means per set: rows (task, dataset, protocol, knowing, images, psnr, ssim), rounded as they are recorded."""
    table = images.groupby(KEYS, sort=False).agg(
        images=("image", "count"), psnr=("psnr", "mean"), ssim=("ssim", "mean")
    )
    return table.round({"psnr": 4, "ssim": 5}).reset_index()


def differences(found: pd.DataFrame, recorded: pd.DataFrame) -> list[str]:
    """One line for each row of the recorded table that was not found again within :data:`TOLERANCE`."""
    both = recorded.merge(found, on=KEYS, how="outer", suffixes=("_recorded", ""), indicator=True, sort=False)
    return [line for row in both.to_dict("records") for line in _differing(row)]


def _differing(row: dict) -> Iterator[str]:
    where = " ".join(str(row[key]) for key in KEYS)
    if row["_merge"] != "both":
        yield f"{where}: {'not recorded' if row['_merge'] == 'right_only' else 'recorded, and not found'}"
        return
    if row["images"] != row["images_recorded"]:
        yield f"{where}: {row['images']} images, recorded are {row['images_recorded']}"
    for measure, tolerance in TOLERANCE.items():
        # Turned round, so that what is no number differs too.
        if not abs(row[measure] - row[f"{measure}_recorded"]) <= tolerance:
            yield f"{where}: {measure} {row[measure]:.4f}, recorded {row[f'{measure}_recorded']:.4f}"


def read_recorded(weights: Path) -> pd.DataFrame:
    """The recorded scores of a release.

    Raises:
        InputError: there are none, or they are damaged.
    """
    path = weights / SCORES
    try:
        table = pd.read_csv(path)
        return table[[*KEYS, "images", *TOLERANCE]]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: nothing to compare with; `ipt scores --record` writes it") from None
    except (KeyError, ValueError):
        raise InputError(f"{path} is damaged; get it again, or write it anew by `ipt scores --record`") from None


def record(weights: Path, table: pd.DataFrame) -> None:
    """Write the scores of a release beside it, and into its model card where that has a place for them.

    Raises:
        InputError: the card has the beginning of that place and not its end.
    """
    if MARKS.in_page(weights / CARD):
        MARKS.fill(weights / CARD, as_markdown(table))
    write_whole(weights / SCORES, table.to_csv(index=False, lineterminator="\n").encode())


def as_markdown(table: pd.DataFrame) -> str:
    """A table with a row per set, by its first protocol: input, restored when told the task, and when not."""
    shown = table[table.protocol == table.dataset.map(first_protocol)]
    lines = [
        "| task | set | images | input, dB / SSIM | told the task | damage guessed | told: gain, dB |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for (task, dataset), rows in shown.groupby(["task", "dataset"], sort=False):
        by = rows.set_index("knowing")
        cells = [f"{by.psnr[k]:.2f} / {by.ssim[k]:.3f}" for k in (INPUT, TOLD, GUESSED)]
        gain = by.psnr[TOLD] - by.psnr[INPUT]
        lines.append(f"| {task} | {dataset} | {by.images[TOLD]} | {' | '.join(cells)} | {gain:+.2f} |")
    return "\n".join(lines) + "\n"


def _through(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        given = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        return network(given)[0].permute(1, 2, 0).numpy()
