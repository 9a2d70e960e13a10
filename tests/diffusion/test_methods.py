"""The ways that are compared have one size, start as one network, and learn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from instruct_ipt.diffusion import FILL_TASKS, METHODS
from instruct_ipt.diffusion.denoiser import PRESETS, build_denoiser
from instruct_ipt.diffusion.fill import carried, condition, packed
from instruct_ipt.diffusion.learning import DenoiserTrainer, FillValidation, questions, velocity_loss
from instruct_ipt.diffusion.methods import build_method
from instruct_ipt.diffusion.metrics import hole_psnr
from instruct_ipt.diffusion.sampling import sample
from instruct_ipt.diffusion.schedule import SPREAD, likely_picture
from instruct_ipt.diffusion.windows import FillStream, window
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule
from instruct_ipt.training.phases import Phase, phases_of

from .denoisers import KINDS, SHARE, card, picture, stirred

RULE = RankRule("constant", 4)


def inputs(samples: int = 3) -> torch.Tensor:
    asked = questions({"a": picture()}, SHARE)[:samples]
    noise = torch.randn(samples, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return packed(noise, condition([a.fill for a in asked]), torch.tensor([10.0, 500.0, 999.0])[:samples])


@pytest.mark.parametrize("preset", ["tiny", "quick"])
def test_methods_that_add_something_add_the_same(preset):
    added = {m: build_method(m, preset, 0, RULE, KINDS).added_parameters() for m in METHODS}
    assert added["shared"] == added["experts"] == 0
    assert added["frozen"] == added["synchronous"] > 0
    assert abs(added["film"] / added["synchronous"] - 1) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_network_is_its_denoiser(method):
    model = build_method(method, "tiny", 3, RULE, KINDS).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.backbone.unet.conv_out.weight)  # else every guess is grey
        x = inputs()
        for task in FILL_TASKS:
            assert torch.equal(model(x, task), model.backbone(x))
        assert model(x, task).shape == (3, 3, 32, 32)


@pytest.mark.parametrize("preset", PRESETS)
def test_both_kinds_of_weights_are_found(preset):
    groups = build_denoiser(preset).weight_groups()
    assert all(".to_" in name for name in groups["attention"]) and groups["attention"]
    assert len(groups["convolution"]) > 4
    assert not any("conv_in" in name or "conv_out" in name for name in groups["convolution"])


def test_one_pass_serves_a_mixed_batch():
    model, x = stirred(), inputs()
    with torch.no_grad():
        mixed = model(x, torch.tensor([0, 1, 2]))
        alone = torch.cat([model(x[i : i + 1], i) for i in range(3)])
    # Of a time with little noise, v is the picture's rounding some forty times over.
    torch.testing.assert_close(mixed, alone, atol=1e-4, rtol=1e-4)
    assert all(model._proofs.values())


def test_the_loss_counts_the_missing_pixels():
    target, missing = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    missing[:, :, :2] = 1
    output = torch.zeros(2, 3, 4, 4)
    output[0, :, 0, 0] = 2.0  # one of eight missing pixels is off by 2
    output[1, :, 3, 3] = 2.0  # one of eight known ones
    assert velocity_loss(output, target, missing).tolist() == pytest.approx([4 / 8, 0.1 * 4 / 8])


def test_an_unknown_method_is_refused():
    with pytest.raises(KeyError, match="known: shared, film"):
        build_method("lora", "tiny", 0, RULE, KINDS)


# ---- training -------------------------------------------------------------------------------------------------------


def settings(steps: int, **changes: object) -> SimpleNamespace:
    usual = {
        "steps": steps,
        "batch_per_task": 2,
        "patches": [SimpleNamespace(share=1.0, size=32)],
        "validate_every": steps,
        "checkpoint_every": 10**9,
        "threads": 1,
        "workers": 0,
        "precision": "fp32",
        "task_weights": dict.fromkeys(FILL_TASKS, 1.0),
        "learning_rate": SimpleNamespace(backbone=0.002, biases=0.002),
        "warmup": 0.03,
        "weight_decay": 0.0,
        "clip": 1.0,
        "ema": 0.99,
    }
    return SimpleNamespace(**usual | changes)


def images(count: int = 3, size: int = 48) -> list[np.ndarray]:
    return [(picture(seed, size) * 255).astype(np.uint8) for seed in range(count)]


@pytest.mark.parametrize("method", ["film", "frozen", "synchronous"])
def test_training_moves_what_it_should(method):
    model = card(method).build(0)
    with torch.no_grad():
        # At zero it would let no gradient through to a frozen network's biases.
        torch.nn.init.normal_(model.backbone.unet.conv_out.weight, std=0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = DenoiserTrainer(model, FillStream(images(), SHARE, 0), settings(4))
    phases = [Phase(4, False, True)] if method == "frozen" else phases_of("synchronous", 4)
    trainer.train(phases)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert any(not name.startswith("backbone.") for name in moved)
    assert any(name.startswith("backbone.") for name in moved) == (method != "frozen")


def test_training_follows_from_its_seed():
    def run() -> dict[str, torch.Tensor]:
        model = card().build(0)
        asked = questions({"a": picture(7)}, SHARE)
        validation = FillValidation(asked, "ddim")
        trainer = DenoiserTrainer(model, FillStream(images(), SHARE, 0), settings(3), validate=validation)
        history = trainer.train(phases_of("synchronous", 3))
        assert [row[1] for row in history] == list(FILL_TASKS) and all(np.isfinite(row[3]) for row in history)
        assert set(validation.samples) == set(FILL_TASKS)
        return model.state_dict()

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_image_is_learned_by_heart():
    """At convergence on a data set of one picture, what is missing of it comes back."""
    truth = picture(5)

    model = card("shared").build(0)
    stream = FillStream([(truth * 255).astype(np.uint8)], SHARE, 0, tasks=("inpaint",))
    trainer = DenoiserTrainer(
        model, stream, settings(260, batch_per_task=8, learning_rate=SimpleNamespace(backbone=0.006, biases=0.006))
    )
    trainer.train([Phase(260, True, False, ("inpaint",))])
    asked = questions({"by heart": truth}, SHARE, ("inpaint",))
    (found,) = sample(model.eval(), "inpaint", [asked[0].fill], [1], 10)
    assert hole_psnr(found, truth, asked[0].fill.missing) > 25


# ---- the stream -----------------------------------------------------------------------------------------------------


def test_what_is_known_is_carried_smoothly_into_what_is_missing():
    rows, columns = np.mgrid[:32, :32] / 31
    slope = torch.from_numpy(np.stack([rows, columns, rows + columns - 1]).astype(np.float32))[None]
    hole = torch.zeros(1, 1, 32, 32)
    hole[..., 10:20, 12:24] = 1
    found = carried(torch.where(hole == 1, 9.0, slope), hole)
    known = (hole == 0).expand_as(slope)
    assert torch.equal(found[known], slope[known]), "bit for bit, and the pixels of the hole count for nothing"
    assert (found - slope).abs().max() < 0.25
    flat = carried(torch.where(hole == 1, -1.0, torch.full_like(slope, 0.3)), hole)
    torch.testing.assert_close(flat, torch.full_like(slope, 0.3), atol=1e-5, rtol=0)
    batch = carried(torch.cat([slope, slope]), torch.cat([hole, torch.ones_like(hole)]))
    small = torch.nn.functional.avg_pool2d(slope, 4)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(batch[1:], 4)[..., 1:-1, 1:-1], small[..., 1:-1, 1:-1])


def test_the_likely_picture_is_the_posterior_mean_of_normal_pixels():
    """Against the product of the two normal densities on a grid, in float64."""
    expected, noisy, a = 0.2, -0.4, 0.7
    grid = np.linspace(-3, 3, 60_001)
    logarithm = -((grid - expected) ** 2) / (2 * SPREAD**2) - (noisy - np.sqrt(a) * grid) ** 2 / (2 * (1 - a))
    density = np.exp(logarithm - logarithm.max())
    one = torch.ones(1, 3, 1, 1)
    found = likely_picture(noisy * one, expected * one, torch.tensor([a]))
    assert found.flatten()[0].item() == pytest.approx((grid * density).sum() / density.sum(), abs=1e-5)
    assert torch.equal(likely_picture(noisy * one, expected * one, torch.tensor([0.0])), expected * one)


def test_batches_follow_from_seed_and_step():
    counts = dict.fromkeys(FILL_TASKS, 2)
    one, same, other = (FillStream(images(), SHARE, seed).batch(5, 32, counts) for seed in (0, 0, 1))
    assert np.array_equal(one.input, same.input) and np.array_equal(one.target, same.target)
    assert not np.array_equal(one.input, other.input)
    assert one.input.shape == (6, 32, 32, 8) and one.target.shape == (6, 32, 32, 4)
    assert one.input.dtype == one.target.dtype == np.float32
    assert one.task.tolist() == [0, 0, 1, 1, 2, 2]


def test_input_and_target_of_a_batch_belong_together():
    """From the noisy planes and the velocity the picture can be had, and where it is known it is what is shown."""
    from instruct_ipt.diffusion.schedule import signal

    batch = FillStream(images(), SHARE, 0).batch(0, 32, {"inpaint": 4})
    a = signal().double().numpy()[batch.input[..., 7].astype(int)][..., None]
    clean = np.sqrt(a) * batch.input[..., :3] - np.sqrt(1 - a) * batch.target[..., :3]
    known = batch.input[..., 6] == 0
    np.testing.assert_allclose(clean[known], batch.input[..., 3:6][known], atol=1e-4)
    assert (batch.input[..., 3:6][~known] == 0).all()
    assert np.array_equal(batch.input[..., 6], batch.target[..., 3])


def test_windows_are_of_one_size_whatever_the_photograph():
    rng = np.random.default_rng(0)
    for shape in ((20, 90, 3), (64, 64, 3), (200, 300, 3)):
        assert window(rng.integers(0, 256, shape, dtype=np.uint8), rng, 64).shape == (64, 64, 3)


def test_no_photograph_is_said():
    with pytest.raises(InputError, match="no training image"):
        FillStream([], SHARE, 0)
