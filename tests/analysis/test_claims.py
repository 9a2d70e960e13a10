"""The table of claims: against scipy and sums by hand, with settings missing, and whatever order the rows have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from instruct_ipt import params
from instruct_ipt.analysis.claims import COLUMNS, PER_IMAGE, judge, photograph_of
from instruct_ipt.data.catalogue import load_catalogue
from instruct_ipt.diffusion import FILL_TASKS
from instruct_ipt.errors import InputError
from instruct_ipt.pipeline import Context
from instruct_ipt.stages import claims as stage
from instruct_ipt.stages import prepare
from instruct_ipt.tasks import TASKS
from tests.helpers import ROOT

NOISE = ("denoise-15", "denoise-25", "denoise-50")
IMAGES = ("china-0", "china-1", "validation-leaves-000", "validation-leaves-001")
CLAIMS = [
    "features_fail",
    "gap_matters",
    "sensitive_beats_random",
    "constant_beats_proportional",
    "synchronous_beats_frozen",
    "synchronous_beats_two_stage",
    "modulated_denoiser",
    "cost_is_humble",
]
# Setting -> level in dB. Every paper claim holds by at least 2 dB.
HOLDS = {
    "adaptation/five-constant": 9.0,
    "adaptation/five-film": 6.0,
    "adaptation/five-prompt": 5.0,
    "adaptation/five-proportional": 7.0,
    "adaptation/five-shared": 20.0,
    "adaptation/noise-constant": 6.0,
    "adaptation/noise-film": 5.5,
    "adaptation/noise-prompt": 6.0,
    "sensitivity/selected": 9.0,
    "sensitivity/random-0": 6.0,
    "sensitivity/random-1": 6.1,
    "sensitivity/random-2": 5.9,
    "strategy/synchronous": 9.0,
    "strategy/frozen": 6.0,
    "strategy/two_stage": 7.0,
    "diffusion/synchronous": 9.0,
    "diffusion/film": 6.0,
    "diffusion/shared": 20.0,
}
FAILS = {name: -level for name, level in HOLDS.items()}


def rules(**changes):
    """The repository's rules with some keys changed; ``margin`` and ``unit`` change for every paired claim."""
    section = params.load(ROOT / "params.yaml", "smoke").claims
    own = {key: value for key, value in changes.items() if key not in ("margin", "unit")}
    shared = {key: value for key, value in changes.items() if key in ("margin", "unit")}
    paired = {name: getattr(section, name).model_copy(update=shared) for name in CLAIMS[:-1]}
    return section.model_copy(update=paired | own)


def scores(levels, seeds=(0, 1, 2), spread=0.02, images=IMAGES, profile="smoke") -> pd.DataFrame:
    """A `per_image.csv`: level + what the image gives + what the seed gives + noise, from a generator per setting."""
    rows = []
    for name, level in levels.items():
        study, setting = name.split("/")
        rng = np.random.default_rng(list(name.encode()))
        tasks = FILL_TASKS if study == "diffusion" else NOISE if setting.startswith("noise") else TASKS
        for seed in seeds:
            of_seed = spread * rng.normal()
            for t, task in enumerate(tasks):
                for i, image in enumerate(images):
                    psnr = 20 + level + 3 * i + t + of_seed + spread * rng.normal()
                    rows.append([profile, study, setting, seed, task, image, psnr, psnr / 100])
    return pd.DataFrame(rows, columns=list(PER_IMAGE))


def summary(added=1000, total=11000, seeds=(0, 1, 2)) -> pd.DataFrame:
    rows = [["smoke", "adaptation", "five-constant", seed, task, added, total] for seed in seeds for task in TASKS]
    columns = ["profile", "study", "setting", "seed", "task", "params_added", "params_total"]
    return pd.DataFrame(rows, columns=columns)


def table(levels=None, section=None, counts=None, **how) -> pd.DataFrame:
    """The table of claims by name."""
    frame = levels if isinstance(levels, pd.DataFrame) else scores(HOLDS if levels is None else levels, **how)
    return judge(frame, summary() if counts is None else counts, "smoke", section or rules()).set_index("claim")


def per_seed(frame: pd.DataFrame, first: str, second: str, metric="psnr") -> np.ndarray:
    """Paired differences of two settings, a value per seed; written without the package."""
    means = []
    for name in (first, second):
        study, setting = name.split("/")
        part = frame[(frame.study == study) & (frame.setting == setting)]
        of_tasks = part.groupby(["seed", "task"])[metric].mean()
        means.append(of_tasks.groupby("seed").mean())
    return (means[0] - means[1]).to_numpy()


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_columns_and_claims_are_the_contract():
    found = judge(scores(HOLDS), summary(), "smoke", rules())
    assert list(found.columns) == list(COLUMNS) and list(found.claim) == CLAIMS
    assert list(found.columns[:9]) == (
        ["claim", "statement", "effect", "unit", "ci_low", "ci_high", "n_images", "n_seeds", "verdict"]
    )  # fmt: skip
    assert (found.n_seeds == 3).all() and found.set_index("claim").n_images["features_fail"] == 5 * len(IMAGES)
    assert found.set_index("claim").n_images["gap_matters"] == (5 + 3) * len(IMAGES)
    assert (found.n_photographs[:-1] == 3).all()


def test_the_data_give_the_verdict():
    assert (table(HOLDS).verdict == "supported").all()
    assert (table(FAILS).verdict[:-1] == "contradicted").all()
    nothing = dict.fromkeys(HOLDS, 7.0)
    assert (table(nothing).verdict[:-1] == "inconclusive").all()


def test_an_effect_inside_the_margin_is_not_supported_however_certain():
    levels = dict.fromkeys(HOLDS, 7.0) | {"strategy/synchronous": 7.05}
    found = table(levels, spread=1e-6).loc["synchronous_beats_frozen"]
    assert 0 < found.ci_low < found.ci_high < 0.1 and found.verdict == "inconclusive"
    assert table(levels, rules(margin=0.01), spread=1e-6).verdict["synchronous_beats_frozen"] == "supported"


def test_with_fixed_images_every_number_is_students_t_over_seeds():
    frame = scores(HOLDS, spread=0.5)
    found = table(frame, rules(images="fixed", correction="none")).loc["constant_beats_proportional"]
    values = per_seed(frame, "adaptation/five-constant", "adaptation/five-proportional")
    reference = stats.ttest_1samp(values, 0.1)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.effect == pytest.approx(values.mean()) and found.interval == "seeds, Student t"
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(reference.pvalue) and found.p_adjusted == found.p_value


def test_sampled_images_widen_the_interval_by_what_the_photographs_differ():
    frame = scores(HOLDS, spread=0.3)
    # Photographs on which the first setting is better and others on which it is worse.
    first = (frame.setting == "synchronous") & frame.image.str.startswith("china")
    frame.loc[first, "psnr"] += 2.0
    both = [table(frame, rules(images=images)).loc["synchronous_beats_frozen"] for images in ("fixed", "sampled")]
    fixed, sampled = both
    assert fixed.effect == sampled.effect and sampled.interval == "seeds and images, Student t"
    assert sampled.ci_low < fixed.ci_low - 1 and sampled.ci_high > fixed.ci_high + 1


def test_tasks_weigh_equally_however_many_images_they_have():
    frame = scores({"strategy/synchronous": 2.0, "strategy/frozen": 0.0}, spread=0.0)
    frame.loc[(frame.setting == "synchronous") & (frame.task == "derain"), "psnr"] += 5.0
    few = frame[(frame.task != "derain") | (frame.image != "china-0")]
    assert table(few).effect["synchronous_beats_frozen"] == pytest.approx(2 + 5 / 5)


def test_holm_over_the_tested_claims_by_hand():
    frame = scores(HOLDS, spread=0.3)
    found = table(frame)[:-1]
    left, expected, largest = len(found), {}, 0.0
    for claim, p in found.p_value.sort_values().items():
        largest = max(largest, min(1.0, left * p))
        expected[claim] = largest
        left -= 1
    assert found.p_adjusted.to_dict() == pytest.approx(expected)
    assert ((found.verdict == "supported") == (found.p_adjusted <= 0.05)).all()
    assert (found.p_adjusted > found.p_value).any() and {*found.verdict} == {"supported", "inconclusive"}


def test_claims_that_cannot_be_tested_do_not_count_in_the_correction():
    two = {name: HOLDS[name] for name in ("strategy/synchronous", "strategy/frozen", "strategy/two_stage")}
    found = table(two, spread=0.4)
    p = found.p_value.dropna().sort_values()
    assert len(p) == 2 and found.p_adjusted[p.index[0]] == pytest.approx(2 * p.iloc[0])


def test_the_order_of_rows_changes_nothing():
    frame, counts = scores(HOLDS, spread=0.3), summary()
    mixed = judge(frame.sample(frac=1, random_state=1), counts.sample(frac=1, random_state=2), "smoke", rules())
    pd.testing.assert_frame_equal(mixed, judge(frame, counts, "smoke", rules()), check_exact=True)


def test_other_profiles_and_columns_do_not_count():
    frame = pd.concat([scores(HOLDS), scores(FAILS, profile="quick").assign(more=1)])
    pd.testing.assert_frame_equal(table(frame), table(HOLDS))


# ---- what is compared -----------------------------------------------------------------------------------------------


def test_features_fail_is_measured_against_the_best_rival_there_is():
    frame = scores(HOLDS, spread=0.3)
    found = table(frame).loc["features_fail"]
    assert found.effect == pytest.approx(per_seed(frame, "adaptation/five-constant", "adaptation/five-film").mean())
    assert "against film, the best of 2" in found.note
    better = HOLDS | {"adaptation/five-adapter": 9.5}
    found = table(better).loc["features_fail"]
    assert found.effect == pytest.approx(-0.5, abs=0.05) and found.verdict == "contradicted"
    assert "adapter" in found.note


def test_one_uncertain_rival_is_enough_to_doubt():
    """Film looks best and is certain; the prompt looks worse by a hair, but its seeds scatter by decibels."""
    levels = {"adaptation/five-constant": 9.0, "adaptation/five-film": 6.0, "adaptation/five-prompt": 5.9}
    frame = scores(levels, spread=0.01)
    frame.loc[frame.setting == "five-prompt", "psnr"] += frame.seed.map({0: -3.0, 1: 0.0, 2: 3.0})
    found = table(frame).loc["features_fail"]
    assert "against film" in found.note and found.ci_low < 0 and found.verdict == "inconclusive"
    alone = table(frame[frame.setting != "five-prompt"]).loc["features_fail"]
    assert alone.verdict == "supported"


def test_gap_matters_is_a_difference_of_differences():
    frame = scores(HOLDS, spread=0.3)
    far = per_seed(frame, "adaptation/five-constant", "adaptation/five-film")
    near = per_seed(frame, "adaptation/noise-constant", "adaptation/noise-prompt")
    found = table(frame).loc["gap_matters"]
    assert found.effect == pytest.approx((far - near).mean())
    assert "film on five tasks and prompt on noise levels" in found.note
    one = {name: level for name, level in HOLDS.items() if not name.endswith("noise-prompt")}
    frame = scores(one, spread=0.3)
    found = table(frame, rules(images="fixed")).loc["gap_matters"]
    near = per_seed(frame, "adaptation/noise-constant", "adaptation/noise-film")
    # Only film stands on both task sets, so that the interval is Student's.
    interval = stats.ttest_1samp(far - near, 0).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))


def test_a_modulated_denoiser_is_compared_with_one_of_adapted_features_on_the_filling_tasks():
    frame = scores(HOLDS, spread=0.3)
    found = table(frame).loc["modulated_denoiser"]
    values = per_seed(frame, "diffusion/synchronous", "diffusion/film")
    assert found.effect == pytest.approx(values.mean()) and found.n_images == len(FILL_TASKS) * len(IMAGES)
    # What the restoration networks score counts nothing here, though their settings bear the same names.
    frame.loc[frame.study == "strategy", "psnr"] += 5.0
    assert table(frame).effect["modulated_denoiser"] == found.effect
    without = table(frame[frame.study != "diffusion"]).loc["modulated_denoiser"]
    assert without.verdict == "inconclusive" and "study diffusion has no" in without.note


def test_random_draws_count_as_a_source_of_variation():
    frame = scores(HOLDS, spread=0.01)
    near = table(frame).loc["sensitive_beats_random"]
    values = [per_seed(frame, "sensitivity/selected", f"sensitivity/random-{k}").mean() for k in range(3)]
    assert near.effect == pytest.approx(np.mean(values)) and near.interval == "seeds and images and draws, Student t"
    half = stats.sem(values) * stats.t.ppf(0.975, 2)
    assert half <= near.ci_high - near.effect <= 1.2 * half
    one = table({name: HOLDS[name] for name in ("sensitivity/selected", "sensitivity/random-0")})
    found = one.loc["sensitive_beats_random"]
    assert found.verdict == "inconclusive" and "one random draw" in found.note and found.ci_low > 0.1
    assert np.isnan(found.p_value)


def test_the_cost_is_counted():
    found = table(counts=summary(added=1000, total=11000)).loc["cost_is_humble"]
    # 1000 for five tasks beside a backbone of 10000.
    assert found.effect == found.ci_low == found.ci_high == 2.0 and found.interval == "exact count"
    assert found.verdict == "supported" and found.n_images == 0 and "at most 5 %" in found.statement
    assert table(counts=summary(added=4000, total=14000)).verdict["cost_is_humble"] == "contradicted"
    cost = rules().cost_is_humble.model_copy(update={"unit": "parameters", "margin": 150})
    found = table(section=rules(cost_is_humble=cost)).loc["cost_is_humble"]
    assert found.effect == 200 and found.verdict == "contradicted" and found.unit == "parameters"
    for counts in (summary().drop(columns="params_total"), summary()[:0]):
        found = table(counts=counts).loc["cost_is_humble"]
        assert np.isnan(found.effect) and found.verdict == "inconclusive" and found.note


def test_counts_that_contradict_each_other_are_refused():
    mixed = summary()
    mixed.loc[0, "params_added"] = 7
    with pytest.raises(InputError, match="summary.csv: five-constant needs one params_added"):
        table(counts=mixed)
    with pytest.raises(InputError, match="no column params_added"):
        table(counts=summary().drop(columns="params_added"))


# ---- what is missing ------------------------------------------------------------------------------------------------


def test_one_seed_is_labelled_and_never_decides():
    found = table(HOLDS, seeds=(3,))[:-1]
    assert (found.interval == "images only, one seed").all() and (found.verdict == "inconclusive").all()
    assert (found.n_seeds == 1).all() and found.p_value.isna().all() and found.note.str.contains("one seed").all()
    assert (found.ci_low < found.effect).all() and (found.effect < found.ci_high).all()
    fixed = table(HOLDS, rules(images="fixed"), seeds=(3,))[:-1]
    pd.testing.assert_frame_equal(fixed, found)


def test_one_seed_and_single_photographs_are_students_t_over_images():
    images = tuple(f"p{i}-0" for i in range(6))
    frame = scores({"strategy/synchronous": 2.0, "strategy/frozen": 0.0}, seeds=(0,), spread=1.0, images=images)
    found = table(frame).loc["synchronous_beats_frozen"]
    wide = frame.pivot_table(index="image", columns="setting", values="psnr")
    values = (wide.synchronous - wide.frozen).to_numpy()
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("missing", HOLDS)
def test_a_missing_setting_makes_its_claims_inconclusive_and_leaves_the_others(missing):
    found = table({name: level for name, level in HOLDS.items() if name != missing})
    for claim, row in found.iterrows():
        if row.verdict == "inconclusive":
            assert np.isnan(row.effect) and missing.split("/")[1] in row.note, (claim, row.note)
            assert row.n_seeds == row.n_images == 0
    needed = {"adaptation/five-constant", "adaptation/noise-constant", "adaptation/five-proportional"}
    needed |= {"sensitivity/selected", *(name for name in HOLDS if name.startswith("strategy"))}
    needed |= {"diffusion/synchronous", "diffusion/film"}
    assert (found.verdict == "inconclusive").any() == (missing in needed)


def test_an_empty_grid_is_no_error():
    found = table(scores({}), counts=summary()[:0])
    assert list(found.index) == CLAIMS and (found.verdict == "inconclusive").all() and found.effect.isna().all()
    assert (found.note != "").all()
    no_rivals = {"adaptation/five-constant": 1.0, "adaptation/noise-constant": 1.0, "sensitivity/selected": 1.0}
    notes = table(no_rivals).note
    assert "five-film, five-prompt, five-gate, five-adapter" in notes["features_fail"]
    assert "random-<k>" in notes["sensitive_beats_random"]
    apart = no_rivals | {"adaptation/five-film": 0.0, "adaptation/noise-gate": 0.0}
    assert "both task sets" in table(apart).note["gap_matters"]


def test_only_seeds_that_all_settings_have_are_compared():
    frame = scores(HOLDS, spread=0.3)
    short = frame[(frame.setting != "frozen") | (frame.seed != 2)]
    found = table(short, rules(images="fixed")).loc["synchronous_beats_frozen"]
    values = per_seed(frame[frame.seed != 2], "strategy/synchronous", "strategy/frozen")
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.n_seeds == 2 and (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert "without seed 2" in found.note
    apart = frame[(frame.setting != "frozen") | (frame.seed == 2)]
    apart = apart[(apart.setting != "synchronous") | (apart.seed != 2)]
    found = table(apart).loc["synchronous_beats_frozen"]
    assert found.n_seeds == 0 and found.verdict == "inconclusive" and "no seed" in found.note


def test_frames_of_one_sequence_are_one_photograph_and_said_so():
    frame = scores(HOLDS, spread=0.2)
    frame.loc[frame.task == "deblur", "image"] = frame.image.map(dict(zip(IMAGES, range(4), strict=True))).map(
        lambda k: f"train001_{k:08d}-0"
    )
    found = table(frame).loc["features_fail"]
    assert "taken as they are: deblur" in found.note and found.interval == "seeds and images, Student t"
    assert found.n_images == 20 and found.n_photographs == 4
    frame["image"] = frame.image.map({name: f"only-{k}" for k, name in enumerate(sorted(set(frame.image)))})
    sampled, fixed = (table(frame, rules(images=images)) for images in ("sampled", "fixed"))
    assert sampled.loc["features_fail"].interval == "seeds, Student t"
    pd.testing.assert_frame_equal(sampled.drop(columns="note"), fixed.drop(columns="note"))
    one = table(frame[frame.seed == 0]).loc["features_fail"]
    assert np.isnan(one.ci_low) and one.interval == "" and one.verdict == "inconclusive"


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: pd.concat([f, f[:1]]), ["adaptation/five-constant/0/denoise/china-0", "scored twice"]),
        (lambda f: f.assign(psnr=f.psnr.mask(f.index == 3, np.inf)), ["no finite score", "validation-leaves-001"]),
        (lambda f: f.assign(ssim=f.ssim.astype(object).mask(f.index == 3, "n/a")), ["no finite score"]),
        (lambda f: f.drop(columns="ssim"), ["no column ssim"]),
        (lambda f: f.drop(index=0), ["seeds of five-constant", "denoise/china-0"]),
        (
            lambda f: f[(f.setting != "frozen") | (f.task != "derain") | (f.image != "china-1")],
            ["synchronous and frozen", "derain/china-1"],
        ),
    ],
)
def test_scores_that_cannot_be_paired_are_one_line(change, words):
    with pytest.raises(InputError) as caught:
        table(change(scores(HOLDS)))
    message = str(caught.value)
    assert message.startswith("ablations/per_image.csv") and "\n" not in message and "dvc repro" in message
    assert all(word in message for word in words), message


def test_no_key_of_the_rules_is_without_effect():
    frame = scores(HOLDS, spread=0.3)
    base = table(frame)
    wide = table(frame, rules(confidence=0.99))
    assert (wide.ci_low[:-1] < base.ci_low[:-1]).all()
    assert (table(frame, rules(correction="none")).p_adjusted[:-1] == base.p_value[:-1]).all()
    ssim = table(frame, rules(unit="SSIM", margin=0.001))
    assert ssim.effect["features_fail"] == pytest.approx(base.effect["features_fail"] / 100)
    assert (ssim.unit[:-1] == "SSIM").all() and (ssim.margin[:-1] == 0.001).all()
    assert (table(frame, rules(margin=3.5)).verdict[:-1] == "inconclusive").all()


# ---- photographs and the stage --------------------------------------------------------------------------------------


def test_crops_are_traced_to_their_photographs_as_prepare_names_them():
    picture = np.zeros((200, 300, 3), np.uint8)
    crops = prepare._crops({"china": picture, "left-02": picture}, 64, 8)
    assert len(crops) == 8 and {photograph_of(name) for name in crops} == {"china", "left-02"}
    smoke = params.load(ROOT / "params.yaml", "smoke")
    leaves = list(prepare._procedural(smoke, 2, "validation-leaves"))
    assert [photograph_of(name) for name in leaves] == leaves
    assert photograph_of("validation-leaves-100") == "validation-leaves-100"
    stems = {
        name: {
            photograph_of(f"{entry.stem}-{k}")
            for entry in found.entries
            if entry.split == "validation"
            for k in (0, 11)
        }
        for name, found in load_catalogue(ROOT / "data/catalogue").items()
    }
    assert stems["REDS_train"] == {"train001"} and len(stems["BSD400_clean"]) == len(stems["Rain800_train"]) == 8
    assert stems["SOTS_indoor_train"] == {"1425_6", "1426_9", "1427_2", "1429_8"}
    assert photograph_of("GOPR0374_11_00-000007-1") == "GOPR0374_11_00"


def test_the_stage_writes_the_table(workspace):
    Path("ablations").mkdir()
    scores(HOLDS, spread=0.3, images=("0001", "0002", "0003")).to_csv("ablations/per_image.csv", index=False)
    summary().to_csv("ablations/summary.csv", index=False)
    view = params.View(params.load(), ["claims"])
    stage.run(Context(view, Path("out"), Path("none"), None))
    written = pd.read_csv("out/results/claims.csv")
    assert list(written.columns) == list(COLUMNS) and list(written.claim) == CLAIMS
    assert (written.verdict == "supported").any() and (written.n_photographs[:-1] == 3).all()
    (Path("ablations") / "per_image.csv").write_text(",".join(PER_IMAGE) + "\n", encoding="utf-8")
    stage.run(Context(view, Path("out"), Path("none"), None))
    lines = (Path("out/results/claims.csv")).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 9 and lines[1].split(",")[2:6] == ["", "dB", "", ""]
