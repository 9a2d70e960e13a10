"""Protocols score as scikit-image and formulas written out do, and their rules are the ones they are named for."""

from __future__ import annotations

import csv
import dataclasses
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage import data
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from instruct_ipt.errors import InputError
from instruct_ipt.evaluation.protocol import PROTOCOLS, first_protocol, luma, nearest_shift, psnr

DOCS = Path(__file__).parents[2] / "docs"
RGB, CROP16, Y = PROTOCOLS["rgb"], PROTOCOLS["rgb-crop16"], PROTOCOLS["y-limited"]
SHIFT = PROTOCOLS["rgb-shift"]


@pytest.fixture
def pair():
    """(output, target): a photograph as float32 (61, 75, 3), and it with an error that leaves [0, 1]."""
    target = data.chelsea()[100:161, 80:155].astype(np.float32) / np.float32(255)
    error = np.random.default_rng(0).normal(0, 0.2, target.shape)
    return (target + error).astype(np.float32), target


def as_file(image: np.ndarray) -> np.ndarray:
    """The uint8 pixels of an image that was saved."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def gaussian_window() -> np.ndarray:
    ramp = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    window = np.outer(ramp, ramp)
    return window / window.sum()


def brute_ssim(a: np.ndarray, b: np.ndarray, window: np.ndarray, peak: float, covariance: float) -> float:
    """SSIM of one channel by equations 13 to 17 of Wang et al. 2004, window by window; ``covariance`` scales them."""
    side, c1, c2 = len(window), (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for top, left in product(range(a.shape[0] - side + 1), range(a.shape[1] - side + 1)):
        x, y = a[top : top + side, left : left + side], b[top : top + side, left : left + side]
        mx, my = np.sum(window * x), np.sum(window * y)
        vx, vy = (covariance * np.sum(window * (v - m) ** 2) for v, m in ((x, mx), (y, my)))
        cov = covariance * np.sum(window * (x - mx) * (y - my))
        values.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))
    return float(np.mean(values))


# --- scores


@pytest.mark.parametrize("protocol", [RGB, CROP16], ids=lambda p: p.name)
def test_rgb_scores_are_scikit_images_to_the_last_bit(pair, protocol):
    output, target = pair
    shown, truth = np.clip(output.astype(np.float64), 0, 1), target.astype(np.float64)
    assert protocol.score(output, target) == (
        peak_signal_noise_ratio(truth, shown, data_range=1.0),
        structural_similarity(truth, shown, data_range=1.0, channel_axis=2, win_size=7),
    )


def test_y_scores_are_scikit_images_on_the_luma_of_saved_files(pair):
    y_shown, y_truth = (rgb2ycbcr(as_file(image))[..., 0] for image in pair)
    ssim = structural_similarity(
        y_truth, y_shown, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    expected = (peak_signal_noise_ratio(y_truth, y_shown, data_range=255), ssim)
    assert Y.score(*pair) == pytest.approx(expected, abs=1e-6)


def test_rgb_scores_are_the_formulas_written_out(pair):
    output, target = (image[:15, :17].astype(np.float64) for image in pair)
    shown = np.clip(output, 0, 1)
    by_channel = [brute_ssim(shown[..., c], target[..., c], np.full((7, 7), 1 / 49), 1.0, 49 / 48) for c in range(3)]
    expected = (-10 * np.log10(np.mean((shown - target) ** 2)), np.mean(by_channel))
    assert RGB.score(output, target) == pytest.approx(expected, abs=1e-6)


def test_y_scores_are_the_formulas_written_out(pair):
    crops = [as_file(image[:15, :17]).astype(np.float64) for image in pair]
    shown, truth = (16 + (65.481 * i[..., 0] + 128.553 * i[..., 1] + 24.966 * i[..., 2]) / 255 for i in crops)
    ssim = brute_ssim(shown, truth, gaussian_window(), 255.0, 1.0)
    expected = (20 * np.log10(255 / np.sqrt(np.mean((shown - truth) ** 2))), ssim)
    assert Y.score(*(image[:15, :17] for image in pair)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_an_equal_image_scores_perfectly(pair, protocol):
    assert protocol.score(pair[1], pair[1]) == (float("inf"), pytest.approx(1.0))


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_values_outside_the_range_are_clipped_before_scoring(pair, protocol):
    _, target = pair
    beyond = np.where(target > 0.5, 7.0, -7.0)
    assert protocol.score(beyond, target) == protocol.score(np.clip(beyond, 0, 1), target)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda p: p.name)
def test_a_grey_image_scores_as_the_same_image_in_three_channels(pair, protocol):
    output, target = (image[..., 0] for image in pair)
    expected = protocol.score(*(np.repeat(image[..., None], 3, axis=2) for image in (output, target)))
    assert protocol.score(output, target) == expected
    assert protocol.score(output[..., None], target[..., None]) == expected


@pytest.mark.parametrize(("protocol", "side"), [(RGB, 7), (CROP16, 7), (Y, 11)], ids=lambda v: getattr(v, "name", v))
def test_an_image_smaller_than_the_window_is_named_in_one_line(protocol, side):
    fits, small = np.zeros((side, 30, 3)), np.zeros((30, side - 1, 3))
    assert protocol.score(fits, fits)[1] == pytest.approx(1.0)
    with pytest.raises(InputError, match=f"^protocol {protocol.name} .*{side} x {side} px.*is {side - 1} x 30;.*$"):
        protocol.score(small, small)


def test_the_curve_psnr_is_the_same_measure(pair):
    assert psnr(*pair) == pytest.approx(RGB.score(*pair)[0], abs=1e-6)


# --- luma


@pytest.mark.parametrize(
    ("rgb", "expected"),
    [
        ((255, 255, 255), 235.0),
        ((0, 0, 0), 16.0),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
        ((255, 255, 0), 210.034),
        ((128, 128, 128), 16 + 219 * 128 / 255),
        ((51, 102, 204), 100.4902),  # 16 + 0.2 * 65.481 + 0.4 * 128.553 + 0.8 * 24.966
        ((153, 204, 51), 163.1242),  # 16 + 0.6 * 65.481 + 0.8 * 128.553 + 0.2 * 24.966
    ],
)
def test_luma_has_its_published_values(rgb, expected):
    image = np.array(rgb, np.float64).reshape(1, 1, 3) / 255
    assert luma(image).item() == pytest.approx(expected, abs=1e-9)
    assert luma(image).item() == pytest.approx(rgb2ycbcr(image)[0, 0, 0], abs=1e-9)


def test_limited_range_luma_scores_higher_than_full_range_by_a_constant(pair):
    full = dataclasses.replace(Y, luma_range=(0, 255))
    assert Y.score(*pair)[0] - full.score(*pair)[0] == pytest.approx(20 * np.log10(255 / 219), abs=1e-9)


def test_whole_number_luma_is_that_of_an_8_bit_ycbcr_image(pair):
    y_shown, y_truth = (np.rint(rgb2ycbcr(as_file(image))[..., 0]) for image in pair)
    found = dataclasses.replace(Y, luma_bits=8).score(*pair)[0]
    assert found == pytest.approx(20 * np.log10(255 / np.sqrt(np.mean((y_shown - y_truth) ** 2))), abs=1e-6)


# --- the rules on hand-made pixels


def test_noise_is_left_alone_or_clipped_and_truncated():
    levels = np.array([-30.0, -0.2, 0.0, 0.9, 1.0, 99.5, 99.99, 100.0, 254.9, 255.0, 255.4, 400.0], np.float32)
    noisy = levels.reshape(1, -1, 1).repeat(3, axis=2) / np.float32(255)
    assert RGB.noisy(noisy).tobytes() == Y.noisy(noisy).tobytes() == noisy.tobytes()
    found = CROP16.noisy(noisy)
    assert found.dtype == np.float32
    assert np.rint(found[0, :, 0] * 255).tolist() == [0, 0, 0, 0, 1, 99, 99, 100, 254, 255, 255, 255]


def test_every_8_bit_value_survives_truncation():
    levels = np.arange(256, dtype=np.float32).reshape(1, -1, 1).repeat(3, axis=2) / np.float32(255)
    assert CROP16.noisy(levels).tobytes() == levels.tobytes()


def test_an_output_is_rounded_to_8_bits_where_the_rule_says_so():
    target = np.full((16, 16, 3), 100, np.float32) / np.float32(255)
    nearly, further = (target + np.float32(step / 255) for step in (0.4, 0.6))
    assert Y.score(nearly, target)[0] == float("inf")
    assert Y.score(further, target)[0] == pytest.approx(20 * np.log10(255 / (219 / 255)), abs=1e-6)
    assert RGB.score(nearly, target)[0] == pytest.approx(20 * np.log10(255 / 0.4), abs=1e-4)


def test_input_and_target_are_cropped_to_the_same_centred_window():
    rows, columns = np.mgrid[:37, :50]
    target = np.stack((rows, columns, rows), axis=2).astype(np.float32)
    given, cropped = CROP16.prepare(target + 1, target)
    assert cropped.shape == (32, 48, 3)
    assert cropped[0, 0].tolist() == [2, 1, 2], "5 rows and 2 columns too many: 2 and 1 go at the top and left"
    assert (given == cropped + 1).all()


@pytest.mark.parametrize("protocol", [RGB, Y], ids=lambda p: p.name)
def test_without_a_multiple_nothing_is_cropped(pair, protocol):
    for after, before in zip(protocol.prepare(*pair), pair, strict=True):
        np.testing.assert_array_equal(after, before)


def test_an_image_below_the_multiple_is_named_in_one_line():
    image = np.zeros((15, 40, 3), np.float32)
    with pytest.raises(
        InputError, match="^protocol rgb-crop16 crops to multiples of 16 px and an image is 40 x 15;.*$"
    ):
        CROP16.prepare(image, image)


def test_a_border_is_cut_before_scoring(pair):
    output, target = pair
    spoiled = output.copy()
    spoiled[:4], spoiled[-4:], spoiled[:, :4], spoiled[:, -4:] = 0, 0, 0, 0
    assert dataclasses.replace(RGB, border=4).score(spoiled, target) == RGB.score(
        output[4:-4, 4:-4], target[4:-4, 4:-4]
    )


# --- shifts


def shifted(image: np.ndarray, down: float, right: float) -> np.ndarray:
    """SciPy's linear interpolation at every pixel's place and so much beside it."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float64)
    places = (rows + down, columns + right)
    return np.stack([map_coordinates(image[..., c], places, order=1, mode="nearest") for c in range(3)], axis=2)


def test_the_nearest_shift_is_that_of_trying_all(pair):
    output, target = (np.clip(image[:40, :44], 0, 1).astype(np.float64) for image in pair)
    quarters, inner = np.arange(-2, 2.25, 0.25), np.s_[5:-5, 5:-5]
    moved = shifted(output, 0.75, -1.5)
    tried = [shifted(moved, down, right)[inner] for down, right in product(quarters, repeat=2)]
    best = min(tried, key=lambda image: np.sum((image - target[inner]) ** 2))
    np.testing.assert_allclose(nearest_shift(moved[3:-3, 3:-3], target[inner]), best, atol=1e-12)


@pytest.mark.parametrize("move", [(0, 0), (5, -5), (-3, 4)])
def test_an_image_that_lies_beside_the_truth_is_perfect_up_to_5_px(pair, move):
    _, target = pair
    assert SHIFT.score(np.roll(target, move, axis=(0, 1)), target) == (float("inf"), pytest.approx(1.0))


def test_further_away_it_is_not(pair):
    _, target = pair
    assert SHIFT.score(np.roll(target, 6, axis=0), target)[0] < 40


def test_where_no_shift_is_better_the_scores_are_those_without_a_border(pair):
    _, target = pair
    output = 0.9 * target
    assert SHIFT.score(output, target) == RGB.score(output[15:-15, 15:-15], target[15:-15, 15:-15])


def test_the_set_that_others_score_with_a_shift_is_shown_so():
    assert first_protocol("Levin09") == "rgb-shift" and first_protocol("CBSD68-sigma25") == "rgb"


# --- identity


def test_a_protocol_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RGB.border = 4


# A digest that changes means that numbers under the old rule stand beside numbers under the new one: give the protocol
# another name instead.
@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("rgb", "558501cc81875b1c2e556ca9b694825175885c73b017dd1c4428a4781540b997"),
        ("rgb-crop16", "632bd92c76c39c1494e3a296c689b79d6c6f42df7b43878d743a05ffdb47d5db"),
        ("rgb-shift", "8c77b11a94280185b2b38aca67592968309b060e58cbdfe64a61f5c78b6a0de1"),
        ("y-limited", "425896340459418f066cb0ed1df41c149b8c48ca48f173c1e4b7218254b8f3de"),
    ],
)
def test_the_rules_are_the_ones_of_the_stored_digest(name, digest):
    assert PROTOCOLS[name].name == name
    assert PROTOCOLS[name].digest == digest


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "other"}, {"noise_clip": True}, {"noise_bits": 8}, {"multiple": 8}, {"output": "none"},
        {"colour": "rgb"}, {"luma_range": (0, 255)}, {"luma_bits": 8}, {"border": 4}, {"ssim": "uniform-7"},
        {"max_shift": 1},
    ],
    ids=str,
)  # fmt: skip
def test_every_rule_counts_in_the_digest(rule):
    assert dataclasses.replace(Y, **rule).digest != Y.digest
    assert set(rule) <= {field.name for field in dataclasses.fields(Y)}


def test_the_wording_of_the_caption_is_no_rule():
    assert dataclasses.replace(Y, description="other words").digest == Y.digest


def test_protocols_share_an_input_only_where_their_rules_for_it_agree():
    assert RGB.input_rule == Y.input_rule != CROP16.input_rule


# --- the documented sizes


def test_the_document_quotes_the_measured_table():
    page = (DOCS / "protocols.md").read_text(encoding="utf-8")
    with (DOCS / "protocols.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    lines = [
        f"| {row['effect']} | {row['output']} | {row['psnr']} | {row['psnr_change']} "
        f"| {row['psnr_change_min']} to {row['psnr_change_max']} | {row['ssim_change']} |"
        for row in rows
    ]
    assert [line for line in page.splitlines() if line in lines] == lines
    assert all(f"`{protocol.digest[:12]}`" in page for protocol in PROTOCOLS.values())
