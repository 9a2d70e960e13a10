"""The stages of the full replication, as a table: what each reads, what it writes, which parameters it may see.

`dvc.yaml` says the same to DVC; a test holds the two equal. Each stage is one file in this folder with one function
``run(context)``: a function from a params section and input files to outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Stage:
    """One stage of the replication.

    Attributes:
        name: name in `dvc.yaml` and on the command line.
        module: module under ``instruct_ipt.stages`` that holds ``run``.
        sections: params sections it may read.
        inputs: files of earlier stages that it depends on (manifests rather than the big files they list).
        outputs: what it writes: one folder, or files.
        help: the line shown by ``ipt --help``.
        also: modules that it runs in another process, whose code is therefore its code too.
        sources: folders of source files (not made by a stage) that it reads.
        in_place: whether it writes its outputs where they stay, so that a killed run goes on where it was.
    """

    name: str
    module: str
    sections: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    help: str
    also: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    in_place: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the stage writes one folder (with its records inside) or single files (records named after it)."""
        return len(self.outputs) == 1 and not Path(self.outputs[0]).suffix

    @property
    def provenance(self) -> Path:
        """Where the stage's ``provenance.json`` stands."""
        if self.is_folder:
            return Path(self.outputs[0]) / "provenance.json"
        return Path(self.outputs[0]).parent / f"{self.name}.provenance.json"

    @property
    def modules(self) -> tuple[str, ...]:
        """Full names of the modules whose code makes its outputs."""
        return (f"instruct_ipt.stages.{self.module}", *self.also)


_PREPARED = "data/prepared/manifest.json"
_CATALOGUE = ("data/catalogue",)
_SELECTION = "models/selection.json"
_TRAINING = ("seed", "degradation", "backbone", "training")


def _training(arm: str, sections: tuple[str, ...], inputs: tuple[str, ...], text: str) -> Stage:
    return Stage(f"train_{arm}", f"train_{arm}", _TRAINING + sections, (_PREPARED, *inputs), (f"models/{arm}",), text)


_ALL: tuple[Stage, ...] = (
    Stage(
        "fetch", "fetch", ("data",), (), ("data/raw",), "Copy or download the images.",
        sources=_CATALOGUE, in_place=True,
    ),
    Stage(
        "prepare", "prepare", ("seed", "data", "degradation"), ("data/raw/manifest.json",), ("data/prepared",),
        "Split by image and make the degraded pairs.", sources=_CATALOGUE,
    ),
    _training("shared", (), (), "Train one network on all tasks, no biases."),
    Stage(
        "sensitivity", "sensitivity", ("seed", "degradation", "backbone", "training", "sensitivity"),
        (_PREPARED, "models/shared/manifest.json"),
        ("results/sensitivity.csv", "results/task_conflict.csv", "results/sensitivity_agreement.csv", _SELECTION),
        "Search and select task-sensitive weights.",
    ),
    Stage(
        "experts", "experts", (*_TRAINING, "experts"), (_PREPARED, "models/shared/manifest.json"), ("models/experts",),
        "Fine-tune the shared network per task.",
    ),
    _training("full", ("rank",), (_SELECTION,), "Train backbone and unfactored biases together."),
    Stage(
        "rank", "rank", ("seed", "degradation", "backbone", "training", "rank"),
        (_PREPARED, _SELECTION, *(f"models/{arm}/manifest.json" for arm in ("shared", "full", "experts"))),
        ("results/rank_energy.csv", "results/rank_effective.csv", "results/rank_strategy.csv"),
        "PCA rank analysis of biases and deltas.",
    ),
    _training("modulation", ("modulation",), (_SELECTION,), "Train backbone and low-rank biases together."),
    _training("film", ("modulation",), (_SELECTION,), "Train the rival FiLM at an equal budget."),
    Stage(
        "evaluate", "evaluate", ("seed", "degradation", "backbone", "modulation", "evaluation", "training"),
        (_PREPARED, _SELECTION, *(f"models/{m}/manifest.json" for m in ("shared", "experts", "film", "modulation"))),
        (
            "results/benchmark.csv", "results/per_image.csv", "results/cost.csv",
            "results/samples.csv", "results/samples",
        ),
        "Score every method on held-out photographs.",
    ),
    Stage(
        "instruction", "instruction", ("seed", "instruction"), (), ("results/instruction.csv", "models/instruction"),
        "Fit and measure the reader of instructions.",
    ),
    Stage(
        "estimator", "estimator", ("seed", "degradation", "estimator"), (_PREPARED,),
        ("results/estimator.csv", "models/estimator"), "Fit and measure the guess from the image.",
    ),
    Stage(
        "demo", "demo", ("demo", "training"),
        (_SELECTION, "models/modulation/manifest.json", "results/instruction.csv", "results/samples.csv"),
        ("results/demo.csv", "results/demo"), "Restore one photograph per task by a sentence.",
    ),
    Stage(
        "train_diffusion", "train_diffusion", ("seed", "training", "diffusion"), (_PREPARED,), ("models/diffusion",),
        "Train one denoiser to fill in, in several ways.",
    ),
    Stage(
        "diffusion", "diffusion", ("seed", "training", "diffusion"), (_PREPARED, "models/diffusion/manifest.json"),
        (
            "results/diffusion.csv", "results/diffusion_per_image.csv", "results/diffusion_samples.csv",
            "results/diffusion",
        ),
        "Fill in held-out photographs and score it.",
    ),
    Stage(
        "ablations", "ablations",
        ("degradation", "backbone", "modulation", "training", "diffusion", "instruction", "ablations"),
        (_PREPARED, _SELECTION),
        (
            "ablations/summary.csv", "ablations/per_image.csv", "ablations/history.csv", "ablations/instruction.csv",
        ),
        "Run the ablation grid through Snakemake.",
        also=tuple(f"instruct_ipt.stages.{name}" for name in ("cell", "diffusion_cell", "reader_cell")),
    ),
    Stage(
        "claims", "claims", ("claims",), ("ablations/summary.csv", "ablations/per_image.csv"), ("results/claims.csv",),
        "Judge the paper's claims by the scores of the grid.",
    ),
    Stage(
        "figures", "figures", ("degradation", "seed", "diffusion"),
        (
            _PREPARED, _SELECTION,
            *(
                f"results/{name}.csv"
                for name in (
                    "sensitivity", "task_conflict", "rank_energy", "rank_strategy", "per_image", "samples", "demo",
                    "diffusion_samples",
                )
            ),
            "ablations/summary.csv", "ablations/history.csv",
            *(f"models/{arm}/manifest.json" for arm in ("shared", "film", "modulation")),
        ),
        ("figures",), "Draw the figures from result files.",
    ),
    Stage(
        "tables", "tables", ("data",),
        (
            _SELECTION,
            *(
                f"results/{name}.csv"
                for name in (
                    "sensitivity", "rank_strategy", "benchmark", "per_image", "cost", "instruction", "diffusion",
                    "diffusion_per_image",
                )
            ),
            "ablations/summary.csv", "ablations/per_image.csv", "ablations/instruction.csv",
        ),
        ("tables",),
        "Write the tables as CSV, Markdown and LaTeX.",
    ),
    Stage(
        "report", "report",
        (
            "seed", "data", "degradation", "backbone", "modulation", "training", "experts", "sensitivity", "rank",
            "evaluation", "instruction", "estimator", "demo", "diffusion", "claims", "ablations",
        ),
        (
            _PREPARED, "results/benchmark.csv", "results/claims.csv", "results/samples.csv",
            "results/diffusion_samples.csv", "figures/manifest.json", "tables/manifest.json",
        ),
        ("report",), "Write the one-page report.",
    ),
)  # fmt: skip

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ALL}


def maker_of(path: str) -> Stage | None:
    """The stage that writes ``path`` (a file or something inside an output folder), or None for a source file."""
    for stage in _ALL:
        for out in stage.outputs:
            if path == out or path.startswith(out + "/"):
                return stage
    return None
