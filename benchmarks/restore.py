"""What restoring costs, and what tiles do to it: memory, time, seams, and the dependence on the tile.

    python -m benchmarks.restore

Needs a finished replication or a release. Takes a quarter of an hour on two quiet cores. Writes `restore.json` beside
this file and the block of figures in `docs/restore.md`.

The pictures are the bundled test photographs, mirrored into a mosaic where more pixels are needed and then damaged.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from instruct_ipt import params
from instruct_ipt.backbone import KINDS, build_backbone
from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.images import read_image, to_bytes, to_float
from instruct_ipt.data.photographs import BUNDLED, locate
from instruct_ipt.modulation import RankRule, modulate
from instruct_ipt.restoration import DEFAULT_TILE, Restorer
from instruct_ipt.restoration.batch import Settings, plan, run
from instruct_ipt.restoration.tiling import Span
from instruct_ipt.tasks import TASKS

from .pages import filled, write

RESULTS = Path(__file__).parent / "restore.json"
PAGE = Path(__file__).parents[1] / "docs" / "restore.md"
PARAMS = Path(__file__).parents[1] / "params.yaml"
THREADS = 2
SIZES = ((6000, 4000, None), (3000, 2000, 512), (3000, 2000, None), (3000, 2000, 1024), (3000, 2000, 1536))
TILES = (256, 512, DEFAULT_TILE, 0)
PRESETS = {"quick": 768, "small": 256, "base": 192}
SMALL, SIDE, ROUNDS = 48, 256, 3
LIMIT_MIB = 3 * 1024


def photographs() -> dict[str, np.ndarray]:
    """The bundled test photographs, uint8 (H, W, 3)."""
    return {photo.name: read_image(locate(photo)) for photo in BUNDLED if photo.split == "test"}


def mosaic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """`image` mirrored at its edges until it fills (height, width, 3)."""
    rows, columns = -(-height // image.shape[0]), -(-width // image.shape[1])
    strip = np.concatenate([image[:, ::-1] if i % 2 else image for i in range(columns)], axis=1)
    return np.concatenate([strip[::-1] if i % 2 else strip for i in range(rows)])[:height, :width]


def costs(weights: Path) -> list[dict[str, Any]]:
    """Time and peak memory of `ipt restore` on large photographs, each in a process of its own."""
    rows = []
    image = photographs()["flower"]
    with TemporaryDirectory() as folder:
        for width, height, tile in SIZES:
            source, target = Path(folder, f"{width}.jpg"), Path(folder, "out.jpg")
            Image.fromarray(mosaic(image, height, width)).save(source, quality=95)
            command = [sys.executable, "-m", "instruct_ipt", "restore", source, "-o", target, "--force", "-t", "derain"]
            command += ["--weights", weights, *(["--tile", str(tile)] if tile else [])]
            begun = time.perf_counter()
            process = subprocess.Popen(
                [str(part) for part in command], env=os.environ | {"OMP_NUM_THREADS": str(THREADS)}
            )
            _, status, usage = os.wait4(process.pid, 0)
            if status:
                raise SystemExit(f"restoring {width} x {height} failed")
            seconds, peak = time.perf_counter() - begun, usage.ru_maxrss / 1024
            print(f"{width} x {height}, tile {tile or DEFAULT_TILE}: {seconds:.0f} s, {peak:.0f} MiB", flush=True)
            rows.append(
                {"width": width, "height": height, "tile": tile or DEFAULT_TILE, "seconds": seconds, "mib": peak}
            )
    return rows


def working_bytes(preset: str, tile: int) -> float:
    """Bytes per pixel of a tile that restoring takes beside the picture and the row of tiles, in this fresh process.

    Nine tiles of several sizes, since what the allocator cannot give back between them is part of what it costs.
    """
    torch.set_num_threads(THREADS)
    network = modulate(build_backbone(preset), TASKS, ["tail.bias"], RankRule("full"))
    restorer, side = Restorer(network, "cpu"), 5 * tile // 2
    restorer.restore(np.zeros((32, 32, 3), np.uint8), "derain")
    # Not the peak so far: building a large network may have taken more than a tile does.
    before, image = _resident(), np.zeros((side, side, 3), np.uint8)
    restorer.restore(image, "derain", tile=tile)
    return (_peak() - before - 2 * image.nbytes - 24 * side * tile) / tile**2


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def tile_memory() -> dict[str, float]:
    """Preset -> bytes per pixel of a tile, each measured in a process of its own."""
    found = {}
    for preset, tile in PRESETS.items():
        code = f"from benchmarks.restore import working_bytes; print(working_bytes({preset!r}, {tile}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        found[preset] = float(done.stdout)
        print(f"{preset}: {found[preset]:.0f} bytes per pixel of a tile", flush=True)
    return found


def step_ratio(image: np.ndarray, spans: list[Span]) -> float:
    """Mean step between neighbouring columns of (H, W) where one tile fades into the next, over that elsewhere."""
    steps = np.abs(np.diff(image.astype(np.float64), axis=1)).mean(axis=0)
    ramp = np.zeros(len(steps), bool)
    for before, after in zip(spans, spans[1:], strict=False):
        ramp[after.first - 1 : before.last] = True
    return float(steps[ramp].mean() / steps[~ramp].mean())


def tiles(restorer: Restorer) -> list[dict[str, Any]]:
    """PSNR on each tile size, distance from the untiled result, and the steps across borders against those inside."""
    settings = params.load(PARAMS, "quick").degradation
    rows = []
    for task in TASKS:
        found: dict[int, list[tuple[float, float, float]]] = {tile: [] for tile in TILES}
        for name, image in photographs().items():
            clean = mosaic(image, 2 * image.shape[0], 2 * image.shape[1])
            given = to_bytes(degrade_named(task, to_float(clean), name, settings))
            results = {tile: restorer.restore(given, task, tile=tile).astype(np.float64) for tile in TILES}
            whole = results[0]
            for tile, result in results.items():
                psnr = 10 * math.log10(255**2 / ((result - clean) ** 2).mean())
                found[tile].append((psnr, float(np.abs(result - whole).mean()), _seam(restorer, result, whole, tile)))
        for tile, values in found.items():
            psnr, away, seam = (float(column) for column in np.mean(values, axis=0))
            rows.append({"task": task, "tile": tile, "psnr": psnr, "away": away, "seam": seam})
            print(f"{task} tile {tile}: {psnr:.2f} dB, {away:.2f} levels from whole, seam {seam:.3f}", flush=True)
    return rows


def _seam(restorer: Restorer, result: np.ndarray, whole: np.ndarray, tile: int) -> float:
    """`step_ratio` of a tiled result over that of the untiled one, which has no borders; both axes together."""
    if tile == 0:
        return 1.0
    grey, reference = result.mean(axis=2), whole.mean(axis=2)
    ratios = []
    for a, b in ((grey, reference), (grey.T, reference.T)):
        spans = restorer.spans(a.shape[1], tile)
        if len(spans) > 1:
            ratios.append(step_ratio(a, spans) / step_ratio(b, spans))
    return float(np.mean(ratios))


def batch(restorer: Restorer) -> dict[str, float]:
    """Seconds for many small pictures, one at a time with all threads and several at a time with one thread each."""
    image = photographs()["coffee"]
    rng = np.random.default_rng(0)
    taken: dict[int, list[float]] = {1: [], THREADS: []}
    with TemporaryDirectory() as folder:
        source = Path(folder, "in")
        source.mkdir()
        for index in range(SMALL):
            y, x = (int(rng.integers(0, side - SIDE)) for side in image.shape[:2])
            Image.fromarray(image[y : y + SIDE, x : x + SIDE]).save(source / f"{index}.png")
        settings = Settings("denoise", force=True)
        torch.set_num_threads(THREADS)
        for _ in range(ROUNDS):
            for workers, seconds in taken.items():
                jobs = plan([str(source)], str(Path(folder, "out")), None, settings)
                begun = time.perf_counter()
                outcomes = list(run(jobs, restorer, settings, workers))
                seconds.append(time.perf_counter() - begun)
                assert len(outcomes) == SMALL and all(outcome.error is None for _, outcome in outcomes)
    ratios = [one / many for one, many in zip(*taken.values(), strict=True)]
    found = {"single": median(taken[1]), "several": median(taken[THREADS]), "ratio": median(ratios)}
    print(f"{SMALL} small pictures: {found}", flush=True)
    return found


PARTS: dict[str, Callable[[Restorer, Path], Any]] = {
    "costs": lambda restorer, weights: costs(weights),
    "tile_memory": lambda restorer, weights: tile_memory(),
    "tiles": lambda restorer, weights: tiles(restorer),
    "batch": lambda restorer, weights: batch(restorer),
}


def machine() -> dict[str, Any]:
    """What the figures depend on, beside the code."""
    cpu = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip("\t: ")
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    return {"cpu": cpu, "threads": THREADS, **versions}


def block(kept: dict[str, Any]) -> str:
    """The figures as Markdown; parts that were not measured are left out."""
    parts = {"costs": _costs_shown, "tile_memory": _memory_shown, "tiles": _tiles_shown, "batch": _batch_shown}
    shown = [parts[part](kept) for part in parts if part in kept]
    where, loads = kept["machine"], ", ".join(f"{part} {load:.1f}" for part, load in kept["load"].items())
    shown.append(f"{where['cpu']}, {where['threads']} threads; python {where['python']}, torch {where['torch']}.")
    if loads:
        shown.append(f"Load when each part began (above 1, other work ran beside it and slowed it): {loads}.")
    if "note" in kept:
        shown.append(kept["note"])
    return "\n\n".join(shown)


def _costs_shown(kept: dict[str, Any]) -> str:
    lines = ["| photograph | megapixels | tile | seconds | peak memory, MiB |", "|---|---:|---:|---:|---:|"]
    for row in kept["costs"]:
        pixels, size = row["width"] * row["height"] / 1e6, f"{row['width']} x {row['height']}"
        lines.append(f"| {size} | {pixels:.0f} | {row['tile']} | {row['seconds']:.0f} | {row['mib']:.0f} |")
    within = "within" if max(row["mib"] for row in kept["costs"]) <= LIMIT_MIB else "**beyond**"
    lines.append(
        f"\nJPEG to JPEG by `ipt restore`, backbone `{kept['preset']}`; the largest is {within} the bound of"
        f" {LIMIT_MIB / 1024:.0f} GiB."
    )
    return "\n".join(lines)


def _memory_shown(kept: dict[str, Any]) -> str:
    lines = ["| backbone | bytes per pixel of a tile (K) | at the default tile, MiB |", "|---|---:|---:|"]
    for preset, size in kept["tile_memory"].items():
        lines.append(f"| `{preset}` | {size:.0f} | {size * DEFAULT_TILE**2 / 2**20:.0f} |")
    return "\n".join(lines)


def _tiles_shown(kept: dict[str, Any]) -> str:
    cells = {(row["task"], row["tile"]): row for row in kept["tiles"]}
    tables = []
    for key, title, form in (
        ("psnr", "PSNR, dB, on tiles of", "{:.2f}"),
        ("away", "mean distance from the whole image's result, in levels of 255", "{:.2f}"),
        ("seam", "steps across borders over steps inside", "{:.3f}"),
    ):
        columns = [tile for tile in TILES if tile or key == "psnr"]
        lines = [f"| {title} | {' | '.join(str(tile or 'whole') for tile in columns)} |"]
        lines.append("|---|" + "---:|" * len(columns))
        for task in TASKS:
            if (task, 0) in cells:
                values = " | ".join(form.format(cells[task, tile][key]) for tile in columns)
                lines.append(f"| {task} | {values} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _batch_shown(kept: dict[str, Any]) -> str:
    many, threads = kept["batch"], kept["machine"]["threads"]
    return (
        f"{SMALL} pictures of {SIDE} x {SIDE}: {many['single']:.1f} s one after another with {threads} threads,"
        f" {many['several']:.1f} s with {threads} at a time, {many['ratio']:.2f} times as fast (median of {ROUNDS}"
        " pairs)."
    )


def page(text: str, kept: dict[str, Any]) -> str:
    """`text` with its block of figures replaced."""
    return filled(text, "python -m benchmarks.restore", block(kept))


def main() -> None:
    """Measure the parts named on the command line (all without a name), keep them, and write them into the docs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restore", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"any of {', '.join(PARTS)}; all without a name")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="a release or a replication's")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept["machine"] = machine()
    if not arguments.parts:
        kept.pop("note", None)
    torch.set_num_threads(THREADS)
    restorer = Restorer.load(arguments.weights, "cpu")
    presets = (config for family in KINDS.values() for config in family.items())
    kept["preset"] = next(name for name, config in presets if config == restorer.config)
    for part in arguments.parts or PARTS:
        kept.setdefault("load", {})[part] = os.getloadavg()[0]
        kept[part] = PARTS[part](restorer, arguments.weights)
        write(RESULTS, json.dumps(kept, indent=2) + "\n")
        write(PAGE, page(PAGE.read_text(encoding="utf-8"), kept))


if __name__ == "__main__":
    main()
