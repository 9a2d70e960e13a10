"""`ipt diffusion`: every way to make one denoiser serve several tasks, scored on held-out photographs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from instruct_ipt.data.images import to_bytes, to_float, write_image
from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.diffusion.features import inception_scores, perceptual
from instruct_ipt.diffusion.fill import condition
from instruct_ipt.diffusion.learning import Asked, fill_in
from instruct_ipt.diffusion.metrics import diversity, hole_l1, hole_psnr, hole_ssim, seam, sliced_wasserstein
from instruct_ipt.diffusion.sampling import sample
from instruct_ipt.diffusion.store import load_denoiser
from instruct_ipt.paths import MODELS, RESULTS
from instruct_ipt.stages._denoising import asked_of

if TYPE_CHECKING:
    from instruct_ipt.modulation import TaskModel
    from instruct_ipt.pipeline import Context

PER_IMAGE = ("method", "strategy", "task", "profile", "seed", "image", "psnr", "ssim", "l1", "seam", "diversity")
SUMMARY = (
    "method", "strategy", "task", "profile", "seed", "images", "psnr", "psnr_carried", "ssim", "l1", "seam",
    "seam_real", "diversity", "swd", "fid", "kid", "lpips", "params_added", "params_total",
)  # fmt: skip
SAMPLES = ("task", "image", "method", "file", "psnr")
_MEANS = ("psnr", "ssim", "l1", "seam", "diversity")
_FOLDER = "diffusion"
INPUT, TRUTH, STEPS = "input", "truth", "steps"


def run(context: Context) -> None:
    """Write `results/diffusion.csv`, a row per image, and the pictures that figure 5 and the report show."""
    params, out = context.params, context.out / RESULTS
    torch.set_num_threads(params.training.threads)
    asked = asked_of("test", params.diffusion)
    rows, summary, pictures = [], [], {}
    for method in METHODS:
        found, scores = _method(method, asked, params)
        rows += scores
        summary += [_summary(method, task, asked, found, scores, params) for task in FILL_TASKS]
        pictures[method] = found
    out.mkdir(parents=True, exist_ok=True)
    _write(pd.DataFrame(rows, columns=list(PER_IMAGE)), out / "diffusion_per_image.csv")
    _write(pd.DataFrame(summary, columns=list(SUMMARY)), out / "diffusion.csv")
    _write(pd.DataFrame(_samples(asked, pictures, out, params), columns=list(SAMPLES)), out / "diffusion_samples.csv")


def _networks(method: str) -> dict[str, TaskModel]:
    """Task -> the network that serves it."""
    folder = MODELS / "diffusion" / method
    if method == "experts":
        return {task: load_denoiser(folder / task)[0] for task in FILL_TASKS}
    return dict.fromkeys(FILL_TASKS, load_denoiser(folder)[0])


def _method(method: str, asked: list[Asked], params: Any) -> tuple[list[np.ndarray], list[dict[str, Any]]]:
    """The first answer to every question, as an 8-bit file would hold it, and the scores of each."""
    networks, diffusion = _networks(method), params.diffusion
    found, rows = [], []
    for task in FILL_TASKS:
        part = [a for a in asked if a.task == task]
        draws = [
            fill_in(networks[task], task, part, diffusion.sampler_steps, diffusion.sampler, draw)
            for draw in range(diffusion.draws)
        ]
        for number, question in enumerate(part):
            answers = [to_float(to_bytes(draw[number])) for draw in draws]
            found.append(answers[0])
            rows.append(_facts(method, params) | {"task": task} | _scores(question, answers))
    return found, rows


def _facts(method: str, params: Any) -> dict[str, Any]:
    return {"method": method, "strategy": METHODS[method], "profile": params.profile, "seed": params.seed}


def _scores(question: Asked, answers: list[np.ndarray]) -> dict[str, Any]:
    """Of one question: the first answer is scored, all of them for how much they differ."""
    truth, missing = question.truth, question.fill.missing
    return {
        "image": question.name,
        "psnr": hole_psnr(answers[0], truth, missing),
        "ssim": hole_ssim(answers[0], truth, missing),
        "l1": hole_l1(answers[0], truth, missing),
        "seam": seam(answers[0], missing),
        "diversity": diversity(answers, missing) if len(answers) > 1 else float("nan"),
    }


def _summary(
    method: str, task: str, asked: list[Asked], found: list[np.ndarray], rows: list[dict[str, Any]], params: Any
) -> dict[str, Any]:
    chosen = [i for i, question in enumerate(asked) if question.task == task]
    pictures, truths = [found[i] for i in chosen], [asked[i].truth for i in chosen]
    means = pd.DataFrame([rows[i] for i in chosen])[list(_MEANS)].mean()
    sets = inception_scores(pictures, truths) | {"lpips": perceptual(pictures, truths)}
    counted = json.loads((MODELS / "diffusion" / method / "metrics.json").read_text(encoding="utf-8"))
    return (
        _facts(method, params)
        | {"task": task, "images": len(chosen), **means.to_dict(), **sets}
        | {"swd": sliced_wasserstein(pictures, truths)}
        | {"psnr_carried": float(np.mean([_carried_psnr(asked[i]) for i in chosen]))}
        | {"seam_real": float(np.nanmean([seam(asked[i].truth, asked[i].fill.missing) for i in chosen]))}
        | {key: counted[key] for key in ("params_added", "params_total")}
    )


def _carried_psnr(question: Asked) -> float:
    """PSNR of what a network begins with: the known pixels, carried smoothly into the missing ones."""
    known = condition([question.fill])[0, :3].permute(1, 2, 0).numpy()
    return hole_psnr(question.fill.complete(known * 0.5 + 0.5), question.truth, question.fill.missing)


# ---- pictures -------------------------------------------------------------------------------------------------------


def _samples(asked: list[Asked], pictures: dict[str, list[np.ndarray]], out: Path, params: Any) -> list[dict[str, Any]]:
    """Rows of `diffusion_samples.csv`: for each task the photographs next to the median PSNR over all methods."""
    rows, network = [], _networks("synchronous")[FILL_TASKS[0]]
    for task in FILL_TASKS:
        for index in _middle(task, asked, pictures, params.diffusion.shown):
            question = asked[index]
            shown = {INPUT: question.fill.known, TRUTH: question.truth}
            shown |= {method: found[index] for method, found in pictures.items()}
            shown |= _growing(network, question, params)
            for name, picture in shown.items():
                file = Path(_FOLDER, task, question.name, f"{name}.png")
                write_image(out / file, to_bytes(picture))
                score = hole_psnr(picture, question.truth, question.fill.missing)
                rows.append({"task": task, "image": question.name, "method": name, "file": file, "psnr": score})
    return rows


def _middle(task: str, asked: list[Asked], pictures: dict[str, list[np.ndarray]], count: int) -> list[int]:
    """Positions of the ``count`` questions whose PSNR, averaged over the methods, is nearest to the task's median."""
    members = [i for i, question in enumerate(asked) if question.task == task]
    score = {
        i: np.mean([hole_psnr(found[i], asked[i].truth, asked[i].fill.missing) for found in pictures.values()])
        for i in members
    }
    median = float(np.median(list(score.values())))
    # The rule is settled before a picture is seen; equals fall in the order of the photographs.
    return sorted(sorted(members, key=lambda i: abs(score[i] - median))[:count])


def _growing(network: TaskModel, question: Asked, params: Any) -> dict[str, np.ndarray]:
    """What the synchronous network guesses after each pass of the sampler: ``steps-01``, ``steps-02``, ..."""
    found: dict[str, np.ndarray] = {}

    def note(number: int, guesses: list[np.ndarray]) -> None:
        found[f"{STEPS}-{number:02d}"] = guesses[0]

    diffusion, ask = params.diffusion, ([question.fill], [question.seed])
    sample(network, question.task, *ask, diffusion.sampler_steps, diffusion.sampler, observe=note)
    return found


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
