"""The report: claims, sliders, figures, tables, parameters and data as one file that opens from disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from instruct_ipt.data.photographs import BUNDLED
from instruct_ipt.errors import InputError
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.embedded import figure, photograph
from instruct_ipt.report.figure4 import shown_samples
from instruct_ipt.report.figures import FIGURES
from instruct_ipt.report.fillings import fillings
from instruct_ipt.report.html import write_html
from instruct_ipt.report.shown_tables import shown_tables
from instruct_ipt.report.style import METHOD_LABELS, METHODS
from instruct_ipt.report.tables import images_per_set, read_benchmark, snow_note
from instruct_ipt.tasks import TASKS

VERDICTS = ("supported", "contradicted", "inconclusive")


def write_page(root: Path, out: Path, params: Mapping[str, Any]) -> None:
    """Write the report as one file: every picture embedded, no network, the same bytes from the same files.

    Args:
        root: folder that holds `results`, `figures`, `tables` and `data/prepared` as the stages write them.
        out: file to write, for example `report/index.html`; its folder is made.
        params: section of `params.yaml` -> its plain values, for the profile of the results.

    Raises:
        InputError: a result file, a table or a picture is missing or not as its stage writes it.
    """
    results = root / "results"
    judged = claims(results / "claims.csv")
    write_html(
        "page.html.j2",
        out,
        summary=summarise(results / "benchmark.csv"),
        claims=judged,
        verdicts={verdict: sum(claim["verdict"] == verdict for claim in judged) for verdict in VERDICTS},
        labels=METHOD_LABELS,
        sliders=sliders(results),
        fillings=fillings(results),
        figures=shown_figures(root / "figures"),
        tables=shown_tables(root / "tables"),
        params=params,
        sections={name: as_yaml({name: value}) for name, value in params.items()},
        studies=[name for name, value in params["ablations"].items() if isinstance(value, Mapping)],
        data=data_facts(root / "data" / "prepared"),
        credits=[photo for photo in BUNDLED if photo.split == "test"] if params["data"]["level"] == "bundled" else [],
    )


def as_yaml(value: Any) -> str:
    """``value`` as it would stand in `params.yaml`."""
    return yaml.safe_dump(value, sort_keys=False, default_flow_style=None, allow_unicode=True, width=40)


# ---- numbers --------------------------------------------------------------------------------------------------------


def summarise(benchmark: pd.DataFrame | Path) -> dict[str, Any]:
    """The gains of every method, from `results/benchmark.csv`.

    Returns:
        ``profile``, ``protocol`` (names); ``images`` (per set, text), ``snow`` (a note); ``seeds`` (count); ``tasks``;
        ``gains``: method to task to gain in PSNR over the degraded image in dB (noise: mean over its levels); ``mean``:
        method to mean over tasks. NaN where a method has no score.
    """
    scores = read_benchmark(benchmark)
    scores = scores.assign(gain=scores.psnr - scores.psnr_input)
    tasks = in_order(list(scores.task), TASKS)
    methods = [method for method in in_order(list(scores.method), METHODS) if method != "input"]
    table = scores.groupby(["method", "task"]).gain.mean()
    gains = {m: {t: float(table.get((m, t), np.nan)) for t in tasks} for m in methods}
    return {
        "profile": str(scores.profile.iloc[0]),
        "protocol": str(scores.protocol.iloc[0]),
        "images": images_per_set(scores),
        "snow": snow_note(scores),
        "seeds": int(scores.seed.nunique()),
        "tasks": tasks,
        "gains": gains,
        "mean": {method: float(np.mean(list(row.values()))) for method, row in gains.items()},
    }


def claims(source: pd.DataFrame | Path) -> list[dict[str, Any]]:
    """The claims of the paper as they are shown, from `results/claims.csv`, decided ones first.

    Returns:
        Per claim: ``statement``, ``verdict``, ``note``; ``effect`` with its interval and unit (text, "" where nothing
        could be estimated), ``margin`` (text), ``n`` (what stands behind it, text) and ``plot``: positions in per cent
        of a scale that all claims of a unit share, None where there is no interval.

    Raises:
        InputError: a column is missing, or a verdict is unknown.
    """
    text, numbers = ("statement", "unit", "verdict"), ("effect", "ci_low", "ci_high", "n_images", "n_seeds", "margin")
    table = read_result(source, "results/claims.csv", text, numbers)
    if unknown := set(table.verdict) - set(VERDICTS):
        raise InputError(f"results/claims.csv has the verdict `{unknown.pop()}`; known are: {', '.join(VERDICTS)}")
    ends = table[["effect", "ci_low", "ci_high", "margin"]].abs().max(axis=1)
    drawn = (table.ci_low < table.ci_high) & np.isfinite(ends)
    scales = ends[drawn].groupby(table.unit[drawn]).max()
    shown = [
        {
            "statement": row.statement,
            "verdict": row.verdict,
            "note": row.note if isinstance(row.note, str) else "",
            "effect": _effect(row),
            "margin": f"{row.margin:g} {row.unit}",
            "n": _behind(row),
            "plot": _plot(row, scales[row.unit]) if with_interval else None,
        }
        for row, with_interval in zip(table.itertuples(), drawn, strict=True)
    ]
    return sorted(shown, key=lambda claim: VERDICTS.index(claim["verdict"]))


def _effect(row: Any) -> str:
    if np.isnan(row.effect):
        return ""
    if row.ci_low == row.ci_high:
        return f"{row.effect:.2f} {row.unit}"
    interval = "" if np.isnan(row.ci_low) else f" [{_signed(row.ci_low)}, {_signed(row.ci_high)}]"
    return f"{_signed(row.effect)}{interval} {row.unit}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _behind(row: Any) -> str:
    if not row.n_seeds:
        return ""
    seeds = f"{row.n_seeds} seed{'s' * (row.n_seeds > 1)}"
    images = f"{row.n_images} images, {seeds}" if row.n_images else seeds
    return f"{images}; {row.interval}" if isinstance(row.interval, str) else images


def _plot(row: Any, largest: float) -> dict[str, str]:
    """Positions of effect, interval and margins, in per cent of a scale a bit wider than plus and minus ``largest``."""
    values = {"at": row.effect, "low": row.ci_low, "high": row.ci_high}
    values |= {"margin_low": -row.margin, "margin_high": row.margin}
    return {name: f"{50 + 46 * value / largest:.2f}" for name, value in values.items()}


def data_facts(prepared: Path) -> dict[str, Any]:
    """What the networks saw, from `data/prepared`.

    Returns:
        ``digest``: SHA-256 of `manifest.json`, which holds the hash of every file; ``files``: how many those are;
        ``sets``: per split and data set ``split``, ``dataset``, ``content`` and ``images`` (count).

    Raises:
        InputError: a file is missing.
    """
    manifest = prepared / "manifest.json"
    if not manifest.is_file():
        raise InputError(f"{manifest.as_posix()} does not exist; `dvc repro prepare` makes it")
    content = manifest.read_bytes()
    sets = [*_training_sets(prepared / "train" / "index.csv"), *_scored_sets(prepared / "index.csv")]
    return {"digest": hashlib.sha256(content).hexdigest(), "files": len(json.loads(content)), "sets": sets}


def _training_sets(index: Path) -> list[dict[str, Any]]:
    names = {"clean": "clean images, degraded on the fly", "input": "real pairs", "mask": "snow masks"}
    table = read_result(index, "index.csv", ("name", "dataset", "kind"), ())
    counts = table[table.kind != "target"].groupby(["dataset", "kind"], sort=False).size()
    return [
        {"split": "train", "dataset": dataset, "content": names[kind], "images": int(count)}
        for (dataset, kind), count in counts.items()
    ]


def _scored_sets(index: Path) -> list[dict[str, Any]]:
    table = read_result(index, "index.csv", ("split", "task", "dataset", "name", "layout"), ())
    return [
        {
            "split": split,
            "dataset": dataset,
            "content": ", ".join(in_order(list(part.task), TASKS)),
            "images": int(part.name.nunique()),
        }
        for (split, dataset), part in table[table.layout != "picture"].groupby(["split", "dataset"], sort=False)
    ]


# ---- pictures -------------------------------------------------------------------------------------------------------


def sliders(results: Path) -> list[dict[str, Any]]:
    """Before/after pictures of every task: one photograph each, degraded against weight modulation.

    Args:
        results: folder with `samples.csv` and the pictures it names.

    Returns:
        Per task, in the fixed order of tasks: ``task``, ``dataset``, ``image``, ``before`` and ``after`` (pictures),
        ``psnr_before`` and ``psnr_after`` in dB.
    """
    found = {}
    for part in shown_samples(results / "samples.csv"):
        rows = part.drop_duplicates("method").set_index("method")
        if "modulation" in rows.index:
            found[rows.task.iloc[0]] = _slider(rows, results)
    return [found[task] for task in in_order(list(found), TASKS)]


def _slider(rows: pd.DataFrame, results: Path) -> dict[str, Any]:
    facts = {key: rows[key].iloc[0] for key in ("task", "dataset", "image")}
    for name, method in (("before", "input"), ("after", "modulation")):
        facts |= {name: photograph(results / rows.file[method]), f"psnr_{name}": float(rows.psnr[method])}
    return facts


def shown_figures(folder: Path) -> list[dict[str, Any]]:
    """The figures that stand in ``folder``, in the order of the registry.

    Returns:
        Per figure: ``about`` (its entry in the registry), ``picture``, ``files`` (names that exist: CSV, SVG, PNG).
    """
    found = []
    for about in FIGURES:
        if (folder / f"{about.name}.png").is_file():
            beside = (folder / f"{about.name}{suffix}" for suffix in (".csv", ".svg", ".pdf", ".png"))
            files = [path.name for path in beside if path.is_file()]
            found.append({"about": about, "picture": figure(folder, about.name), "files": files})
    return found
