"""Every figure by name: what it shows, in words, and the command that makes it. Who draws it stands in its own file.

A figure is `figures/<name>.png` and `.svg`, beside the CSV it was drawn from (`<name>.csv`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: file name in `figures/` without suffix.
        title: heading, without a full stop at its end.
        caption: what it shows and how to read it; whole sentences of plain text.
        alt: what it shows, for somebody who does not see it.
        command: shell command that draws it again from what the replication made.
        columns: width in print: 1 = single column (3.5 in), 2 = double column (7.2 in).
    """

    name: str
    title: str
    caption: str
    alt: str
    command: str
    columns: Literal[1, 2] = 2


FIGURES: tuple[Figure, ...] = (
    Figure(
        "fig1_framework",
        "Figure 1. Framework",
        "One backbone restores all tasks. Its task-sensitive weights W carry a low-rank bias per task, up times down, "
        "and the instruction says which one is added. In training the loss's gradient reaches the backbone and the "
        "biases of the tasks in the batch at once. Photographs: test split, median gain.",
        "Diagram: a degraded photograph enters a U-shaped backbone and leaves restored; an instruction picks one of "
        "five low-rank task biases, which is added to the backbone's weights; dashed arrows show the gradient reaching "
        "both.",
        "dvc repro figures",
    ),
    Figure(
        "fig2_rank",
        "Figure 2. Energy kept by each rank rule",
        "Top: share of each task bias's energy kept by a constant rank r and by a rank proportional to the matrix "
        "(share ρ) at nearly equal parameters. Line: mean over the five tasks; band: least to most. The darker the "
        "background, the deeper the U-Net stage; ticks below say which weight group a layer belongs to. Bottom: mean "
        "energy and validation PSNR after truncation against parameters.",
        "Line charts over the network's layers: cumulative energy kept by the constant and by the proportional rank "
        "rule at up to three budgets, then mean energy and PSNR against parameters. The values are in fig2_rank.csv.",
        "dvc repro rank figures",
    ),
    Figure(
        "fig3_instruction",
        "Figure 3. One network, commanded by a sentence",
        "Each strip: what a person says (params.yaml: demo), what the reader takes it for, the degraded photograph, "
        "and what comes back. Photographs: test split, median gain; PSNR of the whole photograph as an 8-bit picture.",
        "Five pairs of photographs, degraded and restored, each under a sentence and what was understood. The "
        "sentences and PSNR values are in fig3_instruction.csv.",
        "dvc repro demo figures",
    ),
    Figure(
        "fig4_comparison",
        "Figure 4. Methods side by side",
        "Photographs of the test split with the median gain. Below each: PSNR of the whole photograph. The zoomed "
        "window is the one where the degraded picture differs most from the clean one, so that the choice favours no "
        "method.",
        "Rows of photographs by task; columns: degraded, shared network, FiLM, weight modulation, clean; a corner of "
        "each shows an enlarged window. The PSNR values are in fig4_comparison.csv.",
        "dvc repro evaluate figures",
    ),
    Figure(
        "fig5_diffusion",
        "Figure 5. One denoiser, several ways to fill in",
        "Photographs of the test split with missing pixels (grey; for upscaling a picture of a quarter of the size), "
        "and what each way of adapting one diffusion denoiser fills in, all at equal steps; FiLM and the biases are of "
        "one size. Known pixels are those of the photograph, bit for bit. Photographs: PSNR nearest to the median.",
        "Rows of small photographs: inpainting, outpainting and upscaling; columns: what was given, shared network, "
        "FiLM, frozen network with biases, weight modulation, experts, photograph. The PSNR values are in "
        "fig5_diffusion.csv.",
        "dvc repro diffusion figures",
    ),
    Figure(
        "fig_sensitivity",
        "Task-sensitive weights",
        "Validation PSNR gained by fine-tuning one weight group of the shared network on one task alone, and the same "
        "per 100 000 freed parameters; means over seeds, the most sensitive group first. A filled dot marks the groups "
        "that carry task biases.",
        "Two heat maps, weight groups by tasks: gain in PSNR and gain per freed parameter. The values are in "
        "fig_sensitivity.csv.",
        "dvc repro sensitivity figures",
    ),
    Figure(
        "fig_conflict",
        "Where tasks disagree",
        "Cosine between the gradients of two tasks on the shared network: 1 where they pull the same way, negative "
        "where one task's step harms the other. Left: all weights together. Right: each weight group by itself.",
        "Heat maps: cosine of the gradients for every pair of tasks, over all weights and by weight group. The values "
        "are in fig_conflict.csv.",
        "dvc repro sensitivity figures",
    ),
    Figure(
        "fig_gains",
        "Gain per image",
        "Gain in PSNR over the degraded image, one dot per test image and method; a thin line joins the dots of one "
        "image, a bar marks the mean.",
        "Dot charts, one per test set: gain in PSNR of each method, the dots of one image joined. The values are in "
        "fig_gains.csv.",
        "dvc repro evaluate figures",
    ),
    Figure(
        "fig_pareto",
        "What added parameters buy",
        "PSNR on the validation split against the parameters that all tasks together add to one backbone. Filled "
        "markers are brought to one size, hollow ones stand at their natural size. Bars: least to most over seeds.",
        "Scatter charts, one for the dissimilar tasks and one for the noise levels: PSNR of every method against its "
        "added parameters. The values are in fig_pareto.csv.",
        "dvc repro ablations figures",
    ),
    Figure(
        "fig_task_gap",
        "The gap between two tasks",
        "Gain in validation PSNR over one shared network, for pairs of tasks: the more the gradients of the two "
        "disagree on the shared network, the higher the pair stands.",
        "Dot chart, one line per pair of tasks, ordered by the conflict of their gradients: gain in PSNR of each "
        "method over the shared network. The values are in fig_task_gap.csv.",
        "dvc repro ablations figures",
        columns=1,
    ),
    Figure(
        "fig_training",
        "Training curves",
        "PSNR on the validation split against the training step, per task and on average.",
        "Line charts, one per task and one of their mean: validation PSNR of the shared network, FiLM and weight "
        "modulation against the step. The values are in fig_training.csv.",
        "dvc repro train_shared train_film train_modulation figures",
    ),
    Figure(
        "fig_training_seeds",
        "Training curves over seeds",
        "The same methods in the shorter trainings of the ablation grid, which repeats them with every seed of the "
        "profile: validation PSNR against the step. Line: mean over seeds; band: least to most, where there are "
        "several.",
        "Line charts, one per task and one of their mean: validation PSNR of the three methods against the step, with "
        "a band over seeds. The values are in fig_training_seeds.csv.",
        "dvc repro ablations figures",
    ),
    Figure(
        "data_degradations",
        "The degradations",
        "Test photographs, clean and with each degradation as the networks see it.",
        "Rows of photographs; columns: clean, then one per task with its degradation. The PSNR values are in "
        "data_degradations.csv.",
        "dvc repro prepare figures",
    ),
    Figure(
        "data_masks",
        "What is missing",
        "Windows of test photographs with each kind of mask; below each the share of the area that is missing. A mask "
        "is a distance to a random shape, cut where that share lies below it.",
        "Rows of small photographs with grey parts: strokes, boxes, holes, one side, all sides. The shares are in "
        "data_masks.csv.",
        "dvc repro prepare figures",
    ),
)
"""In the order in which they are shown."""
