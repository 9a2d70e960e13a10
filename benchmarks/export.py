"""Exported networks beside torch: time of one image, the same threads.

    python -m benchmarks.export

Needs a finished replication or a release, and the extra `export`. Takes a few minutes on two cores. Writes
`export.json` beside this file and the block of figures in `docs/export.md`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from instruct_ipt.restoration import Restorer
from instruct_ipt.restoration.export import BOUND, FORMATS, SIZES, Run, export, run_exported

from .pages import filled, write
from .restore import machine
from .suite import show
from .timing import ratio

RESULTS = Path(__file__).parent / "export.json"
PAGE = Path(__file__).parents[1] / "docs/export.md"
THREADS, PAIRS = 2, 20
TASK = "derain"
IMAGES = ((128, 128), (480, 320), (321, 481))


def measure(weights: Path, pairs: int = PAIRS) -> dict[str, Any]:
    """Ratios of time to torch's for each image, and how far each file's results are from torch's."""
    restorer, rows, files = Restorer.load(weights, "cpu"), [], {}
    network = restorer.network(TASK)
    with TemporaryDirectory() as scratch, torch.inference_mode():
        for format in FORMATS:
            path = Path(scratch, f"net{FORMATS[format]}")
            done = export(restorer, TASK, format, path)
            files[format] = {"kb": round(done.bytes / 1000), "difference": done.difference}
        runs = {
            "ONNX Runtime": run_exported(Path(scratch, "net.onnx")),
            "TorchScript": run_exported(Path(scratch, "net.pt")),
        }
        for name, run in runs.items():
            for height, width in IMAGES:
                rows.append(_row(name, run, network, torch.rand(1, 3, height, width), pairs))
                print(show(rows[-1]), flush=True)
    where = machine() | {"onnxruntime": version("onnxruntime"), "onnx": version("onnx")}
    return {"files": files, "rows": [asdict(row) for row in rows], "machine": where}


def _row(name: str, run: Run, network: torch.nn.Module, image: torch.Tensor, pairs: int) -> Any:
    size = f"{image.shape[3]} x {image.shape[2]}"
    return ratio(f"{name} / torch, {size}", lambda: run(image), lambda: network(image), pairs=pairs)


def block(kept: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| time, folded network of one task | median | quartiles |", "|---|---:|---|"]
    for row in kept["rows"]:
        quartiles = f"{row['low']:.2f} to {row['high']:.2f}, {row['pairs']} pairs"
        lines.append(f"| {row['what']} | {row['median']:.2f} | {quartiles} |")
    lines += ["", "| format | size, kB | largest distance from torch |", "|---|---:|---:|"]
    for format, found in kept["files"].items():
        lines.append(f"| {format} | {found['kb']} | {found['difference']:.1e} |")
    where = kept["machine"]
    lines += [
        "",
        f"Distances over {len(SIZES)} sizes of images, values in [0, 1], bound {BOUND:g}. {where['cpu']},"
        f" {where['threads']} threads; torch {where['torch']}, onnxruntime {where['onnxruntime']}, onnx"
        f" {where['onnx']}.",
    ]
    if "note" in kept:
        lines += ["", kept["note"]]
    return "\n".join(lines)


def page(text: str, kept: Mapping[str, Any]) -> str:
    """`text` with its block of figures replaced."""
    return filled(text, "python -m benchmarks.export", block(kept))


def main() -> None:
    """Measure, keep, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="a release or a replication's")
    arguments = parser.parse_args()
    torch.set_num_threads(THREADS)
    kept = measure(arguments.weights)
    write(RESULTS, json.dumps(kept, indent=2) + "\n")
    write(PAGE, page(PAGE.read_text(encoding="utf-8"), kept))


if __name__ == "__main__":
    main()
