"""The benchmark's tables, from scores worked out by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from instruct_ipt.evaluation.benchmark import BENCHMARK, median_gain_image, summarise


@pytest.fixture
def images() -> pd.DataFrame:
    base = {"strategy": "x", "task": "derain", "dataset": "bundled", "protocol": "rgb", "profile": "smoke", "seed": 0}
    psnr = {"input": [20, 20, 20], "modulation": [21, 25, 23]}
    rows = [
        base | {"method": m, "image": name, "psnr": value, "ssim": value / 100}
        for m, values in psnr.items()
        for name, value in zip("abc", values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_means_counts_and_the_input_beside_them(images):
    costs = pd.DataFrame({"method": ["input", "modulation"], "params_total": [0, 10], "params_per_task": [0.0, 2.0]})
    table = summarise(images, costs)
    assert list(table.columns) == BENCHMARK
    row = table.set_index("method").loc["modulation"]
    assert (row.psnr, row.ssim, row.psnr_input, row.ssim_input) == pytest.approx((23, 0.23, 20, 0.2))
    assert (row.images, row.params_total, row.params_per_task) == (3, 10, 2.0)


def test_the_shown_image_is_the_one_with_the_median_gain(images):
    assert median_gain_image(images).image.tolist() == ["c"]


def test_sets_of_different_size_have_their_own_median(images):
    alone = images[images.image == "b"].assign(dataset="other")
    both = pd.concat([alone, images])
    found = median_gain_image(both).set_index("dataset").image
    assert found.to_dict() == {"other": "b", "bundled": "c"}
