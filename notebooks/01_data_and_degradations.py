# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Data and degradations
#
# What the networks learn from and are judged on: where the photographs come from, what each damage looks like, and how
# far it takes a photograph from the truth. Everything is read from `data/prepared` and `results`, which `make repro`
# makes. Nothing here trains.

# %%
import pandas as pd
import seaborn as sns
from IPython.display import display

from instruct_ipt import params
from instruct_ipt.analysis.claims import photograph_of
from instruct_ipt.data.degradations import degrade_named
from instruct_ipt.data.prepared import photographs
from instruct_ipt.notebooks import enter, new_figure, shown
from instruct_ipt.paths import PREPARED, RESULTS
from instruct_ipt.report import in_order, read_result
from instruct_ipt.report.contact_sheet import contact_sheet
from instruct_ipt.report.style import TASK_COLOURS, bare, styled
from instruct_ipt.tasks import TASKS

enter()
configuration = params.load()

# %% [markdown]
# ## Which images
#
# Three splits. The networks learn from *train*; every choice (which weights, which rank, which setting) is made on
# *validation*; *test* is only ever scored. The first table counts training images, the second counts images with ground
# truth per task. Noise is not stored: it is made from the clean image when a pair is read, at each of its levels.
#
# Names of one photograph's crops end in a number; the last line looks for photographs that stand in two splits of one
# set.

# %%
train = read_result(PREPARED / "train/index.csv", "", ("name", "dataset", "kind"), ())
index = read_result(PREPARED / "index.csv", "", ("split", "task", "dataset", "name", "layout"), ())
index = index[index.layout != "picture"]
display(train.groupby(["dataset", "kind"], sort=False).size().rename("training images").to_frame())
display(index.pivot_table(index=["split", "dataset"], columns="task", values="name", aggfunc="nunique")[list(TASKS)])

splits = pd.concat([train.assign(split="train"), index])[["split", "dataset", "name"]]
splits["photograph"] = splits.name.map(photograph_of)
twice = splits.groupby(["dataset", "photograph"]).split.nunique().loc[lambda n: n > 1]
print(f"Photographs in more than one split: {', '.join(name for _, name in twice.index) if len(twice) else 'none'}")

# %% [markdown]
# ## What each damage looks like
#
# The clean photograph, then its five damaged versions, made by the same function that makes the training patches. Look
# at what is lost. Noise changes every pixel by itself and leaves edges where they are. Blur takes detail away and adds
# nothing. Rain and snow cover some pixels and leave others alone. Haze keeps detail and takes contrast, the more the
# farther away. These are not five strengths of one problem; that is why one set of shared weights may find them hard to
# serve at once.

# %%
images = photographs(PREPARED, "test", limit=2)
shown(lambda folder: contact_sheet(images, configuration.degradation, folder))

# %% [markdown]
# ## From the weakest to the strongest
#
# Every damage has ranges in `params.yaml`, and each image draws its own values from them. Below, one key per task is
# held at the low and then at the high end of its range; the other keys are drawn from the same random numbers. A
# network has to restore all that lies between without being told where it is.

# %%
KEYS = {"denoise": "sigma", "deblur": "support", "derain": "density", "dehaze": "beta", "desnow": "density"}
name, photograph = images[0]
height, width = photograph.shape[:2]
window = photograph[height // 4 : height // 4 + 160, width // 4 : width // 4 + 240]


def held(task: str, key: str, value: float):
    """The window, damaged with one key of its task held at a value."""
    section = getattr(configuration.degradation, task).model_copy(update={key: [value, value]})
    return degrade_named(task, window, name, configuration.degradation.model_copy(update={task: section}))


with styled():
    figure = new_figure(1.62 * len(TASKS))
    for line, task in zip(figure.subplots(len(TASKS), 3), TASKS, strict=True):
        values = getattr(getattr(configuration.degradation, task), KEYS[task])
        cells = {"clean": window}
        cells |= {f"{KEYS[task]} = {end:g}": held(task, KEYS[task], end) for end in (min(values), max(values))}
        for axes, (title, image) in zip(line, cells.items(), strict=True):
            axes.imshow(image.clip(0, 1))
            axes.set(title=title)
            bare(axes)
        line[0].set_ylabel(task)

shown(
    figure,
    alt="One window of a photograph per task: clean, with the weakest and with the strongest damage of its range.",
)

# %% [markdown]
# ## How hard each set is
#
# PSNR of the *degraded* test images: one dot per image, the line marks the mean. Lower means farther from the truth
# before anything is restored. PSNR sums squared errors and knows nothing else: an even shift of brightness can cost
# more than grain that the eye finds worse. So compare methods within a column, not columns with each other.

# %%
scores = read_result(RESULTS / "per_image.csv", "", ("method", "task", "dataset", "protocol", "image"), ("psnr",))
given = scores[(scores.method == "input") & (scores.protocol == scores.protocol.iloc[0])]
given = given.assign(set=given.task + "\n" + given.dataset)
order = [name for task in in_order(list(given.task), TASKS) for name in given[given.task == task].set.unique()]
with styled():
    figure = new_figure(2.4)
    axes = figure.subplots()
    look = {
        "x": "set",
        "y": "psnr",
        "hue": "task",
        "order": order,
        "palette": TASK_COLOURS,
        "legend": False,
        "ax": axes,
    }
    sns.stripplot(given, jitter=False, size=4, **look)
    means = given.groupby("set").psnr.mean()
    for place, column in enumerate(order):
        axes.hlines(means[column], place - 0.25, place + 0.25, color="black", lw=1)
    axes.set(xlabel="", ylabel="PSNR of the degraded image (dB)")

display(
    shown(
        figure,
        alt="Dot chart: PSNR of every degraded test image, one column per task and set.",
    )
)
by_distance = [name.replace("\n", ", ") for name in means.sort_values().index]
print(f"Farthest from the truth: {by_distance[0]} ({means.min():.1f} dB).")
print(f"Nearest to it: {by_distance[-1]} ({means.max():.1f} dB).")
print(f"Protocol {given.protocol.iloc[0]}, {given.image.nunique()} different images. Its rules: docs/protocols.md.")
