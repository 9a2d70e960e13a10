# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Which weights are task-sensitive?
#
# The method adds task biases to some weights only. Which ones is searched for: take the network that all tasks share,
# free one *weight group* at a time (for example all `attention.qkv` weights), fine-tune it on one task, and note what
# the task gains on validation images. Read from `results/sensitivity.csv`, `results/task_conflict.csv` and
# `models/selection.json`.

# %%
import json

import numpy as np
from IPython.display import Markdown, display
from scipy import stats

from instruct_ipt.notebooks import enter, shown, verdicts
from instruct_ipt.paths import ABLATIONS, RESULTS, SELECTION
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.heatmaps import figure_conflict, figure_sensitivity
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import read_selection

enter()
found = read_result(
    RESULTS / "sensitivity.csv", "", ("estimator", "task", "group"), ("seed", "gain_db", "freed_params", "score")
)
exact = found[found.estimator == "exact"]
tasks = in_order(list(exact.task), TASKS)
ranked = exact.groupby("group", sort=False).gain_db.mean().sort_values(ascending=False, kind="stable").index

# %% [markdown]
# ## The search
#
# Left: gain in dB. Right: the same per 100 000 freed parameters, since a large group gains more easily; what is noise
# in a tiny group is magnified there too. The groups are ordered by their mean gain over the tasks, the best on top.
# Purple is a gain, orange a loss.
#
# - A row that is purple throughout: weights that every task wants changed. A row that is purple for one task only:
#   weights that this task needs for itself.
# - A loss is possible: the few steps of the search may not suffice, or fit the training images and not the others.
# - Rows that hardly differ: the search found no difference that its number of steps and images could show.

# %%
display(shown(lambda folder: figure_sensitivity(RESULTS / "sensitivity.csv", SELECTION, folder)))
means = exact.groupby("group").gain_db.mean()
print(
    f"Largest mean gain: {ranked[0]} ({means[ranked[0]]:+.2f} dB); smallest: {ranked[-1]} ({means[ranked[-1]]:+.2f})."
)
print(f"{(exact.gain_db < 0).sum()} of {len(exact)} searches ended with a loss; seeds: {exact.seed.nunique()}.")

# %% [markdown]
# ## What was selected
#
# The groups with the largest mean gain are taken in turn, as long as they fit a budget: a share of the backbone's
# parameters. A group without a gain is left out; one that does not fit is passed over. `sensitivity.groups` in
# `params.yaml` overrules the search, and then the line below says so.

# %%
chosen = read_selection(SELECTION)
facts = json.loads(SELECTION.read_text(encoding="utf-8"))
sizes = exact.groupby("group").freed_params.first()
share = sizes[chosen].sum() / sizes.sum()
print(f"Chosen by: {facts['chosen_by']}. They hold {share:.0%} of the backbone's parameters.")
display(
    exact.groupby("group")
    .agg(mean_gain_db=("gain_db", "mean"), parameters=("freed_params", "first"))
    .loc[ranked]
    .assign(selected=lambda t: ["yes" if group in chosen else "" for group in t.index])
    .round(3)
)

# %% [markdown]
# ## Two cheap estimates of the same
#
# The search trains once per group and task. `fisher` (mean squared gradient) and `conflict` (how far a task's gradient
# points away from the others') train nothing. Spearman's correlation tells whether an estimate puts the groups in the
# same order as the search: 1 is the same order, 0 no relation, -1 the opposite one. With few groups a large value comes
# by chance easily; the last column therefore asks whether it is out of the ordinary at the 5 % level, and says "cannot
# tell" where it is not. Several such tests are made here, so one "same order" alone is weak evidence.

# %%
agreement = read_result(
    RESULTS / "sensitivity_agreement.csv", "", ("estimator", "task"), ("spearman", "n_groups", "times_cheaper")
)
agreement = agreement[agreement.task.isin(tasks)]
freedom = agreement.n_groups - 2
t = agreement.spearman * np.sqrt(freedom / (1 - agreement.spearman**2).clip(lower=1e-12))
clear = 2 * stats.t.sf(t.abs(), freedom) < 0.05
order = np.where(clear, np.where(agreement.spearman > 0, "same order", "opposite order"), "cannot tell")
columns = ["spearman", "n_groups", "times_cheaper", "order"]
display(agreement.assign(order=order).set_index(["estimator", "task"])[columns].round(2))
for estimator, part in agreement.assign(order=order).groupby("estimator", sort=False):
    print(f"{estimator}: {(part.order == 'same order').sum()} of {len(part)} tasks in the order of the search.")

# %% [markdown]
# ## Do the tasks pull apart?
#
# Cosine between the gradients of two tasks on the shared network. 1: a step that helps one helps the other. 0: they do
# not care about each other. Below 0: they harm each other. Noise in the gradients draws every value towards 0. The
# paper's argument is that distant tasks need weights of their own; this is how distant these ones are. Right: the same
# by weight group. A group whose cosines are low for many pairs is where a task bias should have most to do.

# %%
display(shown(lambda folder: figure_conflict(RESULTS / "task_conflict.csv", folder)))
conflict = read_result(RESULTS / "task_conflict.csv", "", ("task_a", "task_b", "group"), ("cosine",))
whole = conflict[conflict.group == "all"].pivot_table(index="task_a", columns="task_b", values="cosine")
whole = whole.loc[tasks, tasks]
pairs = whole.where(np.triu(np.ones(whole.shape, bool), 1)).stack().dropna().sort_values()
print(f"Farthest apart: {' and '.join(pairs.index[0])} ({pairs.iloc[0]:+.2f}).")
print(f"Closest: {' and '.join(pairs.index[-1])} ({pairs.iloc[-1]:+.2f}).")
print(f"{(pairs < 0).sum()} of {len(pairs)} pairs harm each other.")

# %% [markdown]
# ## Does the selection pay?
#
# The test of a selection is a random one: biases on as many weights that were drawn by lot. The cells below were
# trained alike and scored on the validation split. If the draws do as well as the selection, then the search has not
# paid, whatever the heat map looks like.

# %%
cells = read_result(ABLATIONS / "summary.csv", "", ("study", "setting", "task"), ("seed", "psnr", "params_added"))
cells = cells[cells.study == "sensitivity"]
per_setting = cells.groupby("setting", sort=False)
display(per_setting.agg(mean_psnr_db=("psnr", "mean"), params_added=("params_added", "first")).round(2))
display(Markdown("What the rules of `docs/claims.md` make of it:"))
display(verdicts("sensitive_beats_random"))
