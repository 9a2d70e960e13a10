# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. What rank do the task biases need?
#
# A task bias is stored as two thin factors. How thin they may be is asked of biases that were trained *without*
# factors: their singular values say how much of a bias its best rank-r approximation keeps. Read from
# `results/rank_*.csv` and `ablations/summary.csv`.

# %%
from IPython.display import Markdown, display

from instruct_ipt.notebooks import enter, shown, table, verdicts
from instruct_ipt.paths import RESULTS
from instruct_ipt.report import read_result
from instruct_ipt.report.figure2 import figure2, rank_budgets

enter()
NAMES = {"bias": "task biases, trained unfactored", "expert": "what full fine-tuning changed"}

# %% [markdown]
# ## Figure 2: energy, layer by layer
#
# *Energy* at rank r is the share of the squared singular values that the first r hold; 100 % is the whole bias. Two
# rules for choosing r are compared at nearly equal parameters: the same r everywhere (constant, blue), and a share of
# the matrix's smaller side (proportional, red).
#
# - Top: one panel per budget, layers in the order in which data flows. Line: mean over tasks; band: least to most over
#   tasks. The darker the background, the deeper in the U-Net, and the larger the matrices.
# - Where a line dips, the rule starves those layers. A proportional rank gives small matrices very few directions and
#   large ones many; a constant rank covers small matrices well and large ones thinly.
# - Bottom: the mean over layers against parameters, and the PSNR of the network after its biases were cut, without any
#   training after the cut. Dotted: not cut.

# %%
shown(lambda folder: figure2(RESULTS / "rank_energy.csv", RESULTS / "rank_strategy.csv", folder))

# %% [markdown]
# ## Which rule keeps more
#
# The same in words, for the biases and for the *experts* (what fine-tuning the whole network on one task changed, a
# second look at the question in which nothing was selected). Energy is a matter of weights and PSNR of pictures: the
# two may disagree, because not every direction of a weight matters to the output. Where they do, believe the pictures.

# %%
budgets = rank_budgets(RESULTS / "rank_strategy.csv")
for source, rows in budgets[budgets.rule != "full"].groupby("source", sort=False):
    print(f"{NAMES.get(source, source)}:")
    for rank, pair in rows.groupby("budget"):
        rules = pair.drop_duplicates("rule").set_index("rule")
        if {"constant", "proportional"} <= set(rules.index):
            energy, psnr = (
                rules[column]["constant"] - rules[column]["proportional"] for column in ("energy_mean", "psnr")
            )
            print(f"  rank {rank:2.0f}: constant minus proportional {100 * energy:+5.1f} % points, {psnr:+5.2f} dB")

# %% [markdown]
# ## How flat are the spectra?
#
# Medians over layers and tasks. `effective_rank` counts directions that carry weight (the exponential of the entropy of
# the singular values: equal ones count fully, one alone counts once); `rank90` and `rank99` are the ranks that keep 90
# % and 99 % of the energy; `full_rank` is what the matrix could have. Where `rank90` is near `full_rank`, the spectrum
# is flat and a low rank has to throw much away; biases that were trained briefly, on few images, hold much noise and
# tend to be flat.

# %%
spectra = read_result(
    RESULTS / "rank_effective.csv", "", ("source", "group"), ("full_rank", "effective_rank", "rank90", "rank99")
)
medians = spectra.groupby(["source", "group"], sort=False)[["full_rank", "effective_rank", "rank90", "rank99"]].median()
medians["rank90 / full"] = medians.rank90 / medians.full_rank
display(medians.round(2))
for source, part in medians.groupby("source", sort=False):
    ratio = part["rank90 / full"].droplevel("source")
    print(f"{NAMES.get(source, source)}: most compressible {ratio.idxmin()}, least {ratio.idxmax()} (rank90 / full).")

# %% [markdown]
# ## Trained at a rank, instead of cut to it
#
# Cutting asks what a finished bias can spare. Training with few directions asks another question: what they can learn
# when they have no more. Table 3 has both, as far as the grid of this profile trained them; the network may need far
# less rank than the spectra suggest.

# %%
display(table("table03"))
display(Markdown("What the rules of `docs/claims.md` say of the paper's choice, a constant rank:"))
display(verdicts("constant_beats_proportional"))
