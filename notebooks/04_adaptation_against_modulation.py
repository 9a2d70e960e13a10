# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Changing features or changing weights?
#
# Two families give one network several tasks. *Feature adaptation* shares all weights and changes what flows through
# them (FiLM, prompts, gates, adapters). *Weight modulation* adds a task bias to the weights. The paper claims that the
# first fails where tasks lie far apart. Read from `ablations/summary.csv`, `results/claims.csv`,
# `results/per_image.csv` and `results/samples`.

# %%
from IPython.display import Markdown, display

from instruct_ipt.notebooks import enter, shown, verdicts
from instruct_ipt.paths import ABLATIONS, RESULTS
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.figure4 import figure4
from instruct_ipt.report.gains import figure_gains, image_gains
from instruct_ipt.report.studies import SETS, figure_pareto, figure_task_gap, pareto_points
from instruct_ipt.report.style import METHOD_LABELS, METHODS
from instruct_ipt.tasks import TASKS

enter()

# %% [markdown]
# ## At equal size, on far and on near tasks
#
# Same backbone, same data, same steps; only the place where a task enters differs. Left: five dissimilar tasks. Right,
# for comparison, three noise levels as tasks, which resemble each other. Up is better, left is cheaper. Filled markers
# were brought to one size, so compare those with each other; hollow ones stand at their natural size. Weight modulation
# is called `constant` or `proportional`, by its rank rule. With one seed there are no bars, and two markers that stand
# close may change places in another training.

# %%
display(shown(lambda folder: figure_pareto(ABLATIONS / "summary.csv", folder)))
points = pareto_points(
    read_result(
        ABLATIONS / "summary.csv", "", ("study", "setting", "task"), ("seed", "psnr", "params_added", "params_total")
    )
)
for name, part in points.groupby("task_set", sort=False):
    best = part.loc[part.psnr.idxmax()]
    shared = part[part.method == "shared"]
    over = f", {best.psnr - shared.psnr.iloc[0]:+.2f} dB over one shared network" if len(shared) else ""
    print(f"{SETS.get(name, name)}: highest is {best.method} ({best.psnr:.2f} dB{over}; seeds: {best.seeds}).")

# %% [markdown]
# ## The paper's claims about it
#
# Effect, 95 % interval, verdict. `features_fail`: modulation is better on the five tasks. `gap_matters`: and its lead
# is larger there than on near tasks, which is what the paper's explanation asks for. `cost_is_humble`: a count, not a
# measurement. "inconclusive" means that this run cannot tell, neither that the claim is wrong nor that it is right;
# with one seed it is the only verdict there is.

# %%
verdicts("features_fail", "gap_matters", "cost_is_humble")

# %% [markdown]
# ## Two tasks at a time
#
# Each pair of tasks is a study of its own. The more the gradients of the two disagree, the higher the pair stands. If a
# task bias helps the more the farther tasks are apart, the markers of modulation move right from line to line upwards,
# and farther than those of features. Few pairs make few lines: look whether they contradict, and do not expect a law. A
# pair without its shared network has no gain to show.

# %%
shown(lambda folder: figure_task_gap(ABLATIONS / "summary.csv", RESULTS / "task_conflict.csv", folder))

# %% [markdown]
# ## On the test photographs
#
# From here on the main training, much longer than a cell of the grid, and images that no choice has seen. One dot per
# image and method: gain in PSNR over the degraded image; below zero a method did harm. A line joins the dots of one
# image, a bar marks the mean. The spread within a column is that of the photographs. Follow the lines instead: where
# all of them rise from one method to the next, the second is better on these images; where they cross, do not read much
# into the means.

# %%
display(shown(lambda folder: figure_gains(RESULTS / "per_image.csv", folder)))
gains = image_gains(RESULTS / "per_image.csv")
tasks, methods = in_order(list(gains.task), TASKS), in_order(list(gains.method), METHODS)
means = gains.groupby(["task", "method"]).gain.mean().unstack()[methods].loc[tasks]
display(means.round(2))
for task, row in means.iterrows():
    print(f"{task}: highest mean gain {METHOD_LABELS[row.idxmax()]} ({row.max():+.2f} dB).")
harmed = gains[gains.gain < 0]
print(f"Harmed: {len(harmed)} of {len(gains)} restored images.")
if len(harmed):
    display(harmed.groupby(["task", "method"]).size().rename("harmed").to_frame())

# %% [markdown]
# ## Look at them
#
# Photographs with the median gain of their set, chosen by that rule and not by hand. The window with the largest damage
# is enlarged. Look for what PSNR does not weigh: leftover streaks, colour casts, texture that was smoothed away.

# %%
display(shown(lambda folder: figure4(RESULTS / "samples.csv", RESULTS, folder)))
Markdown("All test sets, PSNR and SSIM: `tables/table04.md`.")
