# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Restore your own photograph
#
# The finished network (backbone and task biases of `models/modulation`) on an image of yours, of any size. Name your
# file and what is wrong with it (second cell), then run all. With no file, a test photograph is damaged first, so that
# the result can also be scored.

# %%
from pathlib import Path

import torch
from IPython.display import display

from instruct_ipt import params
from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.images import read_image, to_bytes, to_float, write_image
from instruct_ipt.data.prepared import photographs
from instruct_ipt.evaluation.protocol import PROTOCOLS
from instruct_ipt.notebooks import EXECUTED, enter, new_figure, shown
from instruct_ipt.paths import MODELS, PREPARED, SELECTION
from instruct_ipt.report.style import PAGE_IN, bare, styled
from instruct_ipt.training.build import build_modulation, rank_rule, read_selection
from instruct_ipt.training.checkpoint import load_weights

# %%
PHOTO = ""  # for example "/home/me/rainy.jpg"; empty: a photograph of the test split
TASK = "derain"  # denoise, deblur, derain, dehaze or desnow

photo = Path(PHOTO).resolve() if PHOTO else None
enter()
configuration = params.load()

# %% [markdown]
# ## Load the network, choose the task
#
# One file holds the backbone and every task's biases. `fold(TASK)` gives a plain copy of the backbone with the bias of
# the task written into its weights: it needs no task and is as large and as fast as the backbone alone. The second
# `fold()` merges branches that only training needs.

# %%
rule = rank_rule(configuration.modulation.rule, configuration.modulation.value)
model = build_modulation(configuration.backbone, configuration.seed, read_selection(SELECTION), rule)
load_weights(MODELS / "modulation" / "weights.safetensors", model)


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


network = model.eval().fold(TASK)
print(f"Backbone: {size(model.backbone):,} parameters; biases: {model.parameters_per_task():,.0f} per task.")
print(f"With {TASK} folded in: {size(network):,}; with its branches merged: {size(network.fold()):,}.")

# %% [markdown]
# ## Restore
#
# Sides are padded to what the network needs and cut back, so that every size works. Memory grows with the number of
# pixels; scale a photograph of tens of megapixels down first.

# %%
truth = None
if photo:
    given = to_float(read_image(photo))
else:
    name, truth = photographs(PREPARED, "test", limit=1)[0]
    given = degrade_named(TASK, truth, name, configuration.degradation)


def restored(by: torch.nn.Module):
    """`given` restored, float32 (H, W, 3), clipped to [0, 1]."""
    with torch.inference_mode():
        output = by(torch.from_numpy(given).permute(2, 0, 1)[None])
    return output[0].permute(1, 2, 0).clamp(0, 1).numpy()


result = restored(network)
out = EXECUTED / "restored.png"
write_image(out, to_bytes(result))
height, width = result.shape[:2]
print(f"{width} x {height} pixels, written to {out}")

# %% [markdown]
# Left before, right after. Look at edges and at flat areas: has the damage gone, and has detail gone with it? If the
# photograph hardly changes, the network may not know this kind or strength of damage: it has learned from the ranges in
# `params.yaml` alone, and at a small profile from few images.

# %%
pictures = {"given": given, f"restored ({TASK})": result} | ({"truth": truth} if truth is not None else {})
with styled():
    figure = new_figure(PAGE_IN / len(pictures) * height / width + 0.25)
    for axes, (title, image) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        axes.imshow(image.clip(0, 1))
        axes.set(title=title)
        bare(axes)

display(shown(figure, alt=f"The photograph before and after restoration ({TASK})."))
if truth is not None:
    before, after = (PROTOCOLS["rgb"].score(image, truth)[0] for image in (given, result))
    kind = "closer to" if after > before else "no closer to"
    print(f"PSNR {before:.2f} -> {after:.2f} dB: the result is {kind} the truth than the input.")

# %% [markdown]
# ## How strongly, and as which task
#
# The bias can be scaled: 0 is the bare backbone, 1 what was trained, 1.5 the most that is allowed. And every task can
# be tried: a network that knows its tasks apart should change a picture less, or worse, when it is told the wrong one.
# Where the truth is known, PSNR stands above each picture.

# %%
tries = {f"strength {strength:g}": model.fold(TASK, strength) for strength in (0.0, 0.5, 1.0, 1.5)}
tries |= {f"as {task}": model.fold(task) for task in model.tasks if task != TASK}
outputs = {title: restored(by) for title, by in tries.items()}
with styled():
    rows = -(-len(outputs) // 4)
    figure = new_figure(rows * (PAGE_IN / 4 * height / width + 0.25))
    grid = figure.subplots(rows, 4, squeeze=False).flat
    for axes in grid:
        axes.set_axis_off()
    for axes, (title, image) in zip(figure.axes, outputs.items(), strict=False):
        score = f": {PROTOCOLS['rgb'].score(image, truth)[0]:.2f} dB" if truth is not None else ""
        axes.imshow(image)
        axes.set_title(title + score)

shown(
    figure,
    alt=f"The photograph restored with other strengths of {TASK}, and as each of the other tasks.",
)
