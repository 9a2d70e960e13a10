# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Training, and when each part learns
#
# *Synchronous* training updates backbone and task biases in every step. The alternatives: biases on a *frozen* backbone
# that was trained first, or first the backbone and then both (*two-stage*). The paper claims that general and
# task-specific knowledge separate by themselves when both learn at once. Read from `models/*/history.csv`,
# `ablations/summary.csv` and `results/claims.csv`.

# %%
import pandas as pd
from IPython.display import Markdown, display

from instruct_ipt.notebooks import enter, new_figure, shown, table, verdicts
from instruct_ipt.paths import ABLATIONS, MODELS
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.curves import figure_training
from instruct_ipt.report.study_tables import STRATEGIES
from instruct_ipt.report.style import BLUE, ORANGE, styled

enter()

# %% [markdown]
# ## Training curves
#
# PSNR on the validation split against the step. What is scored is the moving average of the weights, which is also what
# is kept. Look whether the curves still rise at the end: then the order of methods may change with more steps. Look too
# whether a task falls while others rise: a sign that tasks compete for the shared weights.

# %%
histories = {name: MODELS / name / "history.csv" for name in ("shared", "film", "modulation")}
display(shown(lambda folder: figure_training(histories, folder)))
for name, path in histories.items():
    curve = read_result(path, "", ("task",), ("step", "psnr")).pivot_table(index="step", columns="task", values="psnr")
    mean, late = curve.mean(axis=1), curve.iloc[-2:]
    rise = mean.iloc[-1] - mean.iloc[-2] if len(mean) > 1 else float("nan")
    falling = [task for task in curve if late[task].iloc[-1] < curve[task].max() - 0.1]
    print(
        f"{name}: mean {mean.iloc[-1]:.2f} dB after {curve.index[-1]} steps, {rise:+.2f} dB since the one before;"
        f" tasks that end more than 0.1 dB below their best: {', '.join(falling) or 'none'}"
    )

# %% [markdown]
# ## Strategies at equal steps
#
# The cells of the grid: shorter than the main training, but alike in everything except who learns when. `experts` are
# five networks that share the steps between them: what separate weights can do, if each of them has had enough steps.

# %%
table("table09")

# %% [markdown]
# ## Who holds the knowledge?
#
# Orange: the backbone alone, with its biases switched off (strength 0). Blue: the network as trained, each task with
# its bias. The gap is what the biases hold. `shared` and `experts` have no biases and one dot.
#
# - `frozen`: its backbone was trained to work alone, for half the steps, and then left as it was.
# - `synchronous`: nothing asks the backbone to be good by itself. A backbone that does badly alone and well with its
#   biases has moved knowledge into them. One that does nearly as well alone has left its biases little to do.

# %%
cells = read_result(
    ABLATIONS / "summary.csv", "", ("study", "setting", "task"), ("seed", "psnr", "psnr_backbone", "params_added")
)
cells = cells[cells.study == "strategy"]
means = cells.groupby("setting")[["psnr", "psnr_backbone"]].mean()
order = in_order(list(means.index), STRATEGIES)
means = means.loc[order]
with styled():
    figure = new_figure(0.42 * len(order) + 0.7)
    axes = figure.subplots()
    for place, (_, row) in enumerate(means.iterrows()):
        if pd.notna(row.psnr_backbone):
            axes.plot([row.psnr_backbone, row.psnr], [place, place], color="#BBBBBB", lw=2, zorder=1)
    axes.scatter(means.psnr_backbone, range(len(means)), color=ORANGE, marker="s", s=26, label="backbone alone")
    axes.scatter(means.psnr, range(len(means)), color=BLUE, s=30, label="as trained")
    axes.set_yticks(range(len(order)), [name.replace("_", "-") for name in order])
    axes.set_ylim(len(order) - 0.5, -0.5)
    axes.set_xlabel("validation PSNR, mean of tasks and seeds (dB)")
    axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1))

display(
    shown(
        figure,
        alt="Dot chart: PSNR of the backbone alone and of the network as trained, one line per strategy.",
    )
)
for name, row in means.dropna().iterrows():
    print(f"{name}: the biases account for {row.psnr - row.psnr_backbone:+.2f} dB.")
print(f"Highest mean: {means.psnr.idxmax()}.")

# %% [markdown]
# ## Verdicts

# %%
display(Markdown("By the rules of `docs/claims.md`:"))
display(verdicts("synchronous_beats_frozen", "synchronous_beats_two_stage"))
