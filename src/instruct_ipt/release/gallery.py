"""`ipt gallery`: photographs of the benchmark sets, restored, chosen before anybody saw a result.

The list is in git (`docs/release/gallery.csv`), the pictures are not: their terms forbid it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from instruct_ipt.data.images import to_bytes, write_image
from instruct_ipt.data.prepared import Pair, pairs, pictures, read_index
from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.protocol import PROTOCOLS, first_protocol
from instruct_ipt.evaluation.validation import middle_level
from instruct_ipt.params import DegradationParams
from instruct_ipt.progress import progress
from instruct_ipt.release.scores import INPUT, TOLD, Restoring
from instruct_ipt.release.sets import degradation_of, indexed_images, without_level
from instruct_ipt.report.html import write_html
from instruct_ipt.restoration.files import in_a_row
from instruct_ipt.tasks import TASKS

LIST = Path("docs/release/gallery.csv")
COLUMNS = ["task", "dataset", "name", "why"]
BY_RULE, WORST, NO_TRUTH = "chosen by its name", "the lowest gain of its set", "no ground truth exists"
PER_SET = 2


def choose(root: Path) -> pd.DataFrame:
    """The list, by a rule that sees names alone: of every set the images whose SHA-256 of the name is smallest.

    Of photographs without ground truth all are taken.

    Args:
        root: folder of the index of test images.
    """
    rows = [row for row in read_index(root) if row.split == "test"]
    shown = [[row.task, row.dataset, row.name, NO_TRUTH] for row in rows if row.layout == "picture"]
    for task, dataset in dict.fromkeys((row.task, row.dataset) for row in rows if row.layout != "picture"):
        names = [row.name for row in rows if (row.task, row.dataset) == (task, dataset)]
        drawn = sorted(names, key=lambda name: hashlib.sha256(f"{dataset}/{name}".encode()).hexdigest())
        shown += [[task, dataset, name, BY_RULE] for name in drawn[:PER_SET]]
    table = pd.DataFrame(shown, columns=COLUMNS)
    return table.sort_values("task", key=lambda column: column.map(TASKS.index), kind="stable", ignore_index=True)


def with_failures(listed: pd.DataFrame, images: pd.DataFrame, middle: float) -> pd.DataFrame:
    """The list, and after it the image of each set that gained least.

    Args:
        listed: from `choose`.
        images: scores of every image, from `ipt scores --images`.
        middle: the level of noise that the gallery shows, in 1/255; images of other levels do not count.
    """
    told_level = images.dataset.str.partition("-sigma")[2]
    shown = (images.protocol == images.dataset.map(first_protocol)) & told_level.isin(["", f"{middle:g}"])
    scored = images[shown].assign(dataset=images.dataset.map(without_level))
    wide = scored.pivot_table(index=["task", "dataset", "image"], columns="knowing", values="psnr", sort=False)
    gain = (wide[TOLD] - wide[INPUT]).rename("gain").reset_index()
    worst = gain.loc[gain.groupby(["task", "dataset"], sort=False).gain.idxmin()]
    worst = worst.rename(columns={"image": "name"}).assign(why=WORST)[COLUMNS]
    kept = listed[listed.why != WORST]
    return pd.concat([kept, worst], ignore_index=True)


def write_list(root: Path, degradation: DegradationParams, images: pd.DataFrame | None) -> pd.DataFrame:
    """Choose, and write :data:`LIST`; with the scores of every image also what went worst."""
    table = choose(root)
    if images is not None:
        table = with_failures(table, images, middle_level(degradation))
    write_whole(LIST, table.to_csv(index=False, lineterminator="\n").encode())
    return table


def read_list() -> pd.DataFrame:
    """The list.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        return pd.read_csv(LIST, dtype=str)[COLUMNS]
    except FileNotFoundError:
        raise InputError(f"{LIST} does not exist; `ipt gallery --choose` writes it") from None
    except (KeyError, ValueError):
        raise InputError(f"{LIST} is damaged; get it again, or write it anew by `ipt gallery --choose`") from None


def render(weights: Path, out: Path) -> Path:
    """Restore what the list names, told the task; write before, after and truth side by side, and a page of them.

    Args:
        weights: folder of a release.
        out: folder for the pictures; git ignores `gallery`.

    Returns:
        The page.

    Raises:
        InputError: the images are not fetched, there is no such release, or the list names an image that is not there.
    """
    listed = read_list()
    degradation = degradation_of(weights)
    root, release = indexed_images(degradation), Restoring(weights)
    found = {(p.task, without_level(p.dataset), p.name): p for p in _pairs(root, degradation, listed)}
    for row in listed.itertuples(index=False):
        if (row.task, row.dataset, row.name) not in found:
            raise InputError(f"{LIST} names {row.dataset} {row.name}, which is not there; `ipt gallery --choose`")
    shown = []
    with progress("gallery", len(listed)) as advance:
        for done, row in enumerate(listed.itertuples(index=False), start=1):
            shown.append(_picture(found[row.task, row.dataset, row.name], release, out, row.why))
            advance(done, f"{row.dataset} {row.name}")
    groups = {task: [item for item in shown if item["task"] == task] for task in TASKS}
    write_html("gallery.html.j2", out / "index.html", groups=groups)
    return out / "index.html"


def _picture(pair: Pair, release: Restoring, out: Path, why: str) -> dict[str, object]:
    restored = release.told(pair)
    without = why == NO_TRUTH
    parts = [pair.input, restored] if without else [pair.input, restored, pair.target]
    file = f"{pair.task}/{pair.dataset}-{pair.name}.png"
    write_image(out / file, in_a_row(*map(to_bytes, parts)))
    facts = {
        "task": pair.task,
        "dataset": pair.dataset,
        "name": pair.name,
        "why": why,
        "file": file,
        "parts": len(parts),
    }
    score = PROTOCOLS[first_protocol(pair.dataset)].score
    scores = None if without else [score(part, pair.target)[0] for part in (pair.input, restored)]
    return facts | {"scores": scores, "gain": None if scores is None else scores[1] - scores[0]}


def _pairs(root: Path, degradation: DegradationParams, listed: pd.DataFrame) -> Iterable[Pair]:
    """The listed images; noise at the middle level, and for those without ground truth the input in its place."""
    middle = middle_level(degradation)
    wanted = {(row.task, row.dataset, row.name) for row in listed.itertuples(index=False)}
    named = {(task, f"{data}-sigma{middle:g}" if task == "denoise" else data, name) for task, data, name in wanted}
    for task in TASKS:
        yield from pairs(root, "test", task, degradation, [middle], only=named)
    for row, image in pictures(root):
        yield Pair(row.task, row.dataset, row.name, image, image)
