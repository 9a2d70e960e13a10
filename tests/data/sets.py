"""A small benchmark level, generated: the same sets and layouts as the real one, a few tiny images each."""

from __future__ import annotations

import atexit
import csv
import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_ipt.data.dead_leaves import dead_leaves

ROOT = Path(__file__).resolve().parents[2]
MIRROR = os.environ.get("IPT_TEST_MIRROR")
# Resolved at import: tests change the working directory.
REAL = (ROOT / MIRROR).resolve() if MIRROR else None
needs_real = pytest.mark.skipif(REAL is None, reason="IPT_TEST_MIRROR names no folder of real benchmark images")

PER_SPLIT = {"train": 3, "validation": 2, "test": 2}


def small_catalogue(folder: Path, size: int = 72) -> tuple[Path, Path]:
    """(catalogue, mirror) below ``folder``: the real descriptions with few generated files."""
    catalogue, mirror = folder / "catalogue", folder / "mirror"
    shutil.copytree(_original(size) / "catalogue", catalogue)
    shutil.copytree(_original(size) / "mirror", mirror)
    return catalogue, mirror


@functools.cache
def _original(size: int) -> Path:
    """The folder that is copied, for its pictures take most of a second; it goes when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="catalogue-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _write(folder / "catalogue", folder / "mirror", size)
    return folder


def _write(catalogue: Path, mirror: Path, size: int) -> None:
    catalogue.mkdir()
    source = ROOT / "data/catalogue"
    for name in ("benchmark.yaml", "paper.yaml"):
        shutil.copy(source / name, catalogue / name)
    with (source / "benchmark.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    kept, seen, seeds = [], {}, {}
    for row in rows:
        group = seen.setdefault((row["set"], row["split"], row["part"]), [])
        if len(group) < PER_SPLIT[row["split"]] and row["part"] != "aux":
            group.append(row)
            kept.append(_made(row, mirror, seeds, size))
    with (catalogue / "benchmark.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept)


def _made(row: dict[str, str], mirror: Path, seeds: dict[tuple[str, str], int], size: int) -> dict[str, str]:
    """Write a picture for ``row``: one scene per stem, the same for input and target."""
    path = mirror / row["path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = seeds.setdefault((row["set"], path.stem), len(seeds))
    scene = (dead_leaves(np.random.default_rng(seed), size) * 255).astype(np.uint8)
    if row["part"] == "input":
        scene = scene // 2 + 60
    if row["part"] == "both":
        scene = np.concatenate([scene, scene // 2 + 60], axis=1)
    if row["part"] == "mask":
        scene = np.where(scene > 180, 255, 0).astype(np.uint8)
    Image.fromarray(scene).save(path)
    data = path.read_bytes()
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return row | facts | {"width": scene.shape[1], "height": scene.shape[0]}
