# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Filling in what is missing
#
# The method is not bound to restoration. Here the network is a diffusion denoiser, and its tasks are three ways to fill
# in: *inpaint* (holes), *outpaint* (beyond the border) and *upscale* (four times as wide and high). Again one network
# serves them all, and again the question is where a task should enter. Read from `results/diffusion.csv`,
# `results/diffusion_per_image.csv`, `results/diffusion_samples.csv`, `models/diffusion` and `results/claims.csv`.

# %%
import numpy as np
from IPython.display import Markdown, display

from instruct_ipt import params
from instruct_ipt.data.prepared import photographs
from instruct_ipt.notebooks import enter, new_figure, shown, table, verdicts
from instruct_ipt.paths import MODELS, PREPARED, RESULTS
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.figure5 import LABELS, ROW_TASKS, figure5, filled_picture, mask_sheet
from instruct_ipt.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILION, bare, styled
from instruct_ipt.stages._masks import shown_masks

enter()
configuration = params.load()
samples = read_result(RESULTS / "diffusion_samples.csv", "", ("task", "image", "method", "file"), ("psnr",))
tasks = in_order(list(samples.task), ROW_TASKS)

# %% [markdown]
# ## What is asked
#
# Grey is missing; below each window stands how much of it. Strokes leave something known beside every missing pixel, a
# whole side leaves it on one side only, so that the farther away, the freer the answer. Upscaling is not shown: there a
# small picture is known, and no pixel of the large one.

# %%
shown(lambda folder: mask_sheet(*shown_masks(photographs(PREPARED, "test"), configuration.diffusion), folder))

# %% [markdown]
# ## What comes back
#
# A row per photograph, a column per way to give one network three tasks; the experts are a network per task. The
# photographs are those whose PSNR, averaged over the methods, is nearest to the median. Look at three things. Does the
# filling go on where the known part stops: edges, shades, grain? Is there a border to be seen? And is it a thing, or
# only a texture? A small network that saw few photographs can continue what is there and cannot know what is not.

# %%
shown(lambda folder: figure5(RESULTS / "diffusion_samples.csv", RESULTS, folder))

# %% [markdown]
# ## Pass by pass
#
# The sampler begins with noise. At each pass the network guesses the whole answer, a little of the noise is taken away
# accordingly, and it is asked again. The report has a slider over all passes; here are some of them, of the network
# with weight modulation. The first guesses are made from noise alone and can only be an average of all that could be
# there, which is blurred; later ones settle for one answer.

# %%
steps = samples[samples.method.str.startswith("steps-")]
steps = steps.assign(number=steps.method.str.removeprefix("steps-").astype(int))
first = steps.groupby("task").image.first()
last = int(steps.number.max())
picked = sorted(set(np.rint(np.linspace(1, last, min(last, 6))).astype(int).tolist()))
with styled():
    figure = new_figure((7.2 / len(picked) + 0.15) * len(tasks) + 0.1)
    grid = figure.subplots(len(tasks), len(picked), squeeze=False)
    for line, task in zip(grid, tasks, strict=True):
        part = steps[(steps.task == task) & (steps.image == first[task])].set_index("number")
        for axes, number in zip(line, picked, strict=True):
            axes.imshow(filled_picture(RESULTS / part.file[number]), interpolation="nearest")
            axes.set(title=f"pass {number} of {last}" if task == tasks[0] else "")
            bare(axes)
        line[0].set_ylabel(task)

shown(figure, alt="Rows of guesses, one per filling task: what the network answers after more and more passes.")

# %% [markdown]
# PSNR along the way, mean over the photographs above. It sums squared errors, and the average of all possible answers
# has the smallest expected one. So a curve that falls from left to right does not mean that the pictures become worse:
# it means that PSNR prefers blur to a sharp answer that is another one than the truth. Compare methods with it at the
# same pass, and use the pictures for everything else.

# %%
COLOURS = {"shared": ORANGE, "film": PURPLE, "frozen": VERMILION, "synchronous": BLUE, "experts": GREEN}
DASHES = dict(zip(tasks, ("solid", "dashed", "dotted"), strict=True))
curves = steps.pivot_table(index="number", columns="task", values="psnr")[tasks]
with styled():
    figure = new_figure(2.2, width=4.5)
    axes = figure.subplots()
    for task in tasks:
        axes.plot(curves.index, curves[task], label=task, ls=DASHES[task], color=BLUE)
    axes.set(xlabel="pass of the sampler", ylabel="PSNR of the missing pixels (dB)")
    axes.legend()

display(shown(figure, alt="Line chart: PSNR of the missing pixels against the pass, one line per filling task."))
for task in tasks:
    print(f"{task}: highest after pass {curves[task].idxmax()} of {last}; at the end {curves[task].iloc[-1]:.2f} dB.")

# %% [markdown]
# ## All numbers
#
# `SWD` compares patches of the filled pictures with patches of photographs, whatever their place, and so forgives an
# answer that is likely but not the truth. `Seam` is how much stronger the picture changes across the border of the mask
# than among missing pixels; the caption says what photographs themselves have. `Diversity` is how far two draws differ:
# nothing at all would be a network that knows only one answer.

# %%
table("table11")

# %% [markdown]
# ## Window by window
#
# PSNR minus that of the shared network on the same window: one dot per window, a bar at the mean. Dots on both sides of
# zero mean that the sign depends on the window; then look at the interval in the table before the mean. Windows are cut
# from few photographs, and those of one photograph resemble each other.

# %%
scores = read_result(RESULTS / "diffusion_per_image.csv", "", ("method", "task", "image"), ("psnr",))
wide = scores.pivot_table(index=["task", "image"], columns="method", values="psnr")
methods = [name for name in COLOURS if name in wide and name != "shared"]
gains = wide[methods].sub(wide.shared, axis=0)
with styled():
    figure = new_figure(2.3)
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True), tasks, strict=True):
        part = gains.loc[task]
        for row in part.to_numpy():
            axes.plot(range(len(methods)), row, color=GREY, lw=0.5, alpha=0.5, zorder=1)
        for place, name in enumerate(methods):
            axes.scatter([place] * len(part), part[name], s=10, color=COLOURS[name], zorder=2)
            axes.hlines(part[name].mean(), place - 0.3, place + 0.3, color=COLOURS[name], lw=1.6, zorder=3)
        axes.axhline(0, color="black", lw=0.5)
        axes.set_xticks(range(len(methods)), [LABELS[name].replace(" ", "\n") for name in methods])
        axes.set(title=f"{task}, n = {len(part)}", xlim=(-0.6, len(methods) - 0.4))
    figure.axes[0].set_ylabel("gain over the shared network (dB)")

display(shown(figure, alt="Dot charts, one per filling task: gain of each method over the shared network per window."))
for task in tasks:
    better = (gains.loc[task].synchronous > gains.loc[task].film).sum()
    print(f"{task}: weight modulation above FiLM on {better} of {len(gains.loc[task])} windows.")

# %% [markdown]
# ## Long enough?
#
# What the moving average of the weights scores on validation windows, with a short sampling. A network that still rises
# at the end was not trained to its end, and the order of the methods may change with more steps. (The experts are left
# out: their histories are those of several networks.)

# %%
for name in [name for name in COLOURS if name != "experts"]:
    history = read_result(MODELS / "diffusion" / name / "history.csv", "", ("task",), ("step", "psnr"))
    mean = history.groupby("step").psnr.mean()
    rise = f", {mean.iloc[-1] - mean.iloc[-2]:+.2f} since the point before" if len(mean) > 1 else ""
    print(f"{LABELS[name]}: mean {mean.iloc[-1]:.2f} dB after {mean.index[-1]} steps{rise}.")

# %% [markdown]
# ## Verdict
#
# The claim about it: a denoiser with weight modulation fills in better than one whose features are adapted by FiLM, at
# equal size. It is judged by the shorter trainings of the ablation grid, on validation windows, by the rules of
# `docs/claims.md`. "inconclusive" means that this run cannot tell.

# %%
display(verdicts("modulated_denoiser"))
Markdown("With a photograph of yours: `ipt inpaint photo.jpg --mask mask.png`, `ipt outpaint photo.jpg --right 200`.")
