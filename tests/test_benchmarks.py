"""The benchmarks' own rules; nothing here measures time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import diffusion, export, own_task
from benchmarks.__main__ import PAGE, RESULTS, page
from benchmarks.backbone import apart, kept_bytes, naf_pair, plain_restormer
from benchmarks.modulation import as_in_training, evenly, peft_layers, peft_run
from benchmarks.peers import call_projections
from benchmarks.restore import LIMIT_MIB, step_ratio
from benchmarks.restore import PAGE as RESTORE_PAGE
from benchmarks.restore import RESULTS as RESTORE_RESULTS
from benchmarks.restore import page as restore_page
from benchmarks.timing import Row, exact, ratio
from instruct_ipt.backbone import build_backbone
from instruct_ipt.restoration.tiling import spans as cut
from instruct_ipt.tasks import TASKS

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_shows_what_the_kept_results_say():
    assert PAGE.read_text(encoding="utf-8") == page(json.loads(RESULTS.read_text(encoding="utf-8")))


def test_the_page_on_restoring_shows_what_its_kept_results_say():
    kept, text = json.loads(RESTORE_RESULTS.read_text(encoding="utf-8")), RESTORE_PAGE.read_text(encoding="utf-8")
    assert text == restore_page(text, kept)


@pytest.mark.parametrize(
    ("module", "kept"),
    [(own_task, own_task.FACTS), (export, export.RESULTS), (diffusion, diffusion.RESULTS)],
)
def test_the_pages_of_single_benchmarks_show_what_their_kept_results_say(module, kept):
    text = module.PAGE.read_text(encoding="utf-8")
    assert text == module.page(text, json.loads(kept.read_text(encoding="utf-8")))


def test_the_scores_of_the_own_task_are_means_of_its_kept_images():
    scores = pd.read_csv(own_task.SCORES)
    found = json.loads(own_task.FACTS.read_text(encoding="utf-8"))["scores"]["test"]
    means = scores.groupby("method")[["psnr", "ssim"]].mean()
    assert means.index.size == len(found) and scores.image.nunique() == 3
    for method, (psnr, ssim) in found.items():
        assert means.loc[method].tolist() == pytest.approx([psnr, ssim], abs=0.00501)


def test_kept_memory_of_restoring_is_within_the_bound_and_within_the_stated_formula():
    kept = json.loads(RESTORE_RESULTS.read_text(encoding="utf-8"))
    assert any(row["width"] * row["height"] >= 24e6 and row["mib"] <= LIMIT_MIB for row in kept["costs"])
    for row in kept["costs"]:
        width, pixels, tile = row["width"], row["width"] * row["height"], row["tile"]
        stated = 350 * 2**20 + 14 * pixels + 24 * width * tile + kept["tile_memory"][kept["preset"]] * tile**2
        assert row["mib"] * 2**20 <= stated, row


def test_steps_at_ramps_are_told_from_those_elsewhere():
    spans = cut(400, 200, 64, 8)
    image = np.random.default_rng(0).normal(size=(300, 400))
    assert step_ratio(image, spans) == pytest.approx(1, abs=0.02)
    middle = (spans[0].last + spans[1].first) // 2
    image[:, middle:] += 20
    assert step_ratio(image, spans) > 1.2


def test_no_kept_verdict_differs_from_its_numbers():
    for found in json.loads(RESULTS.read_text(encoding="utf-8")).values():
        for row in found["rows"]:
            facts = dict(row)
            assert facts.pop("holds") == Row(**facts).holds


def test_a_ratio_is_the_median_over_pairs_in_alternating_order():
    calls: list[str] = []
    row = ratio("a / b", lambda: calls.append("a"), lambda: calls.append("b"), 1e9, pairs=4)
    assert "".join(calls) == "abba" * 3 and row.pairs == 4 and row.low <= row.median <= row.high and row.holds
    assert exact("x", 2.0, 1.0).holds is False and exact("x", 2.0).holds is None
    assert Row("x", 0.1, 0.1, 0.1, -0.3, ">=", "dB").holds


def test_peers_are_as_large_as_what_they_are_compared_with():
    def size(model: torch.nn.Module) -> int:
        return sum(p.numel() for p in model.parameters())

    ours, plain = naf_pair()
    assert size(plain) == pytest.approx(size(ours), rel=0.02)
    assert size(plain_restormer()) == pytest.approx(size(build_backbone("small")), rel=0.06)


def test_peers_compute_the_same_function():
    torch.manual_seed(0)
    backbone, x = build_backbone("tiny").eval(), torch.rand(2, 3, 40, 40)
    with torch.inference_mode():
        expected = backbone(x)
        torch.testing.assert_close(apart(backbone)(x), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(call_projections(backbone)(x), expected, rtol=0, atol=1e-5)


def test_peft_gives_each_sample_its_own_adapter_on_every_layer_it_supports():
    torch.manual_seed(0)
    backbone, x = build_backbone("tiny").eval(), torch.rand(2, 3, 40, 40)
    layers = peft_layers(backbone, every=True)
    assert any(name.endswith("qkv") for name in layers) and not any("depthwise" in name for name in layers)
    run = peft_run(backbone, layers)
    with torch.inference_mode():
        both = run(x, ["denoise", "dehaze"])
        for sample, task in enumerate(("denoise", "dehaze")):
            alone = run(x[sample : sample + 1], [task])
            torch.testing.assert_close(both[sample : sample + 1], alone, rtol=0, atol=1e-5)
        assert not torch.allclose(run(x, ["denoise", "denoise"])[1], both[1], atol=1e-5)


def test_batches_hold_every_task():
    assert torch.bincount(evenly(20)).tolist() == [4] * 5
    uneven = torch.bincount(as_in_training(20), minlength=len(TASKS))
    assert uneven.sum() == 20 and uneven.argmax() == 0 and uneven.min() >= 1


def test_checkpointing_keeps_fewer_bytes():
    patch = torch.rand(1, 3, 32, 32)
    on, off = (build_backbone("tiny", checkpoint=flag) for flag in (True, False))
    assert kept_bytes(on, patch) < 0.5 * kept_bytes(off, patch)
