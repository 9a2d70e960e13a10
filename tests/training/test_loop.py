"""The loop: it learns, it resumes to the same bits, it frees what the phase says, it stops on nonsense."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from instruct_ipt.errors import InputError
from instruct_ipt.modulation import RankRule
from instruct_ipt.params import FinishLossParams
from instruct_ipt.tasks import TASKS
from instruct_ipt.training.build import build_modulation, build_rival, build_shared, cost
from instruct_ipt.training.checkpoint import Checkpoints, load_weights, save_weights
from instruct_ipt.training.loop import MAX_SKIPPED, Trainer, swapped, write_history
from instruct_ipt.training.losses import restoration_loss
from instruct_ipt.training.phases import Phase
from tests.helpers import smoke, stream

GROUPS = ["attention.qkv", "ffn.in", "norm"]


def settings(**changes):
    base = {"steps": 6, "validate_every": 2, "checkpoint_every": 2, "threads": 1}
    return smoke().training.model_copy(update=base | changes)


def model(kind: str = "modulation"):
    if kind == "shared":
        return build_shared("tiny", 0)
    modulation = build_modulation("tiny", 0, GROUPS, RankRule("constant", 2))
    return modulation if kind == "modulation" else build_rival("film", "tiny", 0, modulation.added_parameters())


def validate(network):
    total = sum(float(p.detach().double().sum()) for p in network.parameters())
    return dict.fromkeys(TASKS, total)


def bits(network) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def assert_equal_bits(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", ["shared", "modulation", "film"])
def test_every_trainable_parameter_receives_a_gradient(kind):
    network = model(kind)
    # Zero-initialised factors block each other's gradient on the very first step: that is how LoRA starts.
    with torch.no_grad():
        for parameter in network.bias_parameters():
            parameter.add_(0.01)
    network.set_trainable(backbone=True, biases=True)
    batch = stream().batch(0, 32, dict.fromkeys(TASKS, 1))
    Trainer(network, stream(), settings())._losses(batch)[0].backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not without


@pytest.mark.parametrize("kind", ["shared", "modulation", "film"])
def test_training_lowers_the_loss(kind):
    network = model(kind)
    trainer = Trainer(network, stream(), settings(steps=60))
    batch = stream().batch(10_000, 32, dict.fromkeys(TASKS, 2))
    with torch.no_grad():
        before = float(trainer._losses(batch)[0])
    trainer.train([Phase(60, True, True)])
    with torch.no_grad():
        assert float(trainer._losses(batch)[0]) < 0.9 * before


class Stop(Exception):
    """Stands in for a kill."""


class Noting:
    """The small stream, noting which steps it was asked for."""

    def __init__(self):
        self.steps = []

    def batch(self, step, patch, counts):
        self.steps.append(step)
        return stream().batch(step, patch, counts)


PHASES = [Phase(6, True, False), Phase(6, False, True)]


@pytest.fixture(scope="module")
def uninterrupted():
    """Bits and history of a training that was never killed."""
    network = model()
    history = Trainer(network, stream(), settings(), validate).train(PHASES)
    return bits(network), history


@pytest.mark.parametrize("killed_at", [2, 3, 5, 6, 7, 8])
def test_a_killed_run_ends_with_the_same_bits_as_one_never_killed(killed_at, uninterrupted, tmp_path):
    whole, history = uninterrupted

    class Dying:
        def __init__(self):
            self.inner = stream()

        def batch(self, step, patch, counts):
            if step > killed_at:
                raise Stop
            return self.inner.batch(step, patch, counts)

    with pytest.raises(Stop):
        Trainer(model(), Dying(), settings(), validate, tmp_path / "c").train(PHASES)
    resumed, asked = model(), Noting()
    again = Trainer(resumed, asked, settings(), validate, tmp_path / "c").train(PHASES)
    assert_equal_bits(whole, bits(resumed))
    assert again == history
    repeated = killed_at + 1 - min(asked.steps)
    assert 0 <= repeated < settings().checkpoint_every, "from one checkpoint to the next, also where a phase ends"


def test_a_finished_training_is_not_done_again(tmp_path):
    """A stage with five trainings that is killed in the fifth has four of them already."""
    phases = [Phase(3, True, False), Phase(3, False, True)]
    whole = model()
    history = Trainer(whole, stream(), settings(), validate, tmp_path).train(phases)
    again, asked = model(), Noting()
    with torch.no_grad():
        next(again.parameters()).add_(1)
    assert Trainer(again, asked, settings(), validate, tmp_path).train(phases) == history
    assert_equal_bits(bits(whole), bits(again))
    assert asked.steps == []


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, capsys):
    store = Checkpoints(tmp_path)
    for step in (2, 4, 6):
        store.save(step, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000004.pt", "step-00000006.pt"]
    newest = tmp_path / "step-00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-7])
    assert store.latest() == {"step": 4}
    assert "damaged" in capsys.readouterr().err


def test_only_what_the_phase_frees_changes():
    network = model()
    start = bits(network)
    Trainer(network, stream(), settings()).train([Phase(4, False, True)])
    now = bits(network)
    changed = {name for name in start if not torch.equal(start[name], now[name])}
    assert changed and all(name.startswith("biases.") for name in changed)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    runs = []
    for seed in (0, 0, 1):
        network = model()
        Trainer(network, stream(seed), settings()).train([Phase(4, True, True)])
        runs.append(bits(network))
    assert_equal_bits(runs[0], runs[1])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


class Poisoned:
    """The small stream; in some steps the first sample of haze is ``value`` all over, in one image "bad"."""

    def __init__(self, steps, value=math.nan):
        self.steps, self.value = steps, value

    def batch(self, step, patch, counts):
        batch = stream().batch(step, patch, counts)
        if step not in self.steps:
            return batch
        given, index = batch.input.copy(), int(np.argmax(batch.task == TASKS.index("dehaze")))
        given[index] = self.value
        return replace(batch, input=given, names=tuple("bad" if i == index else "good" for i in range(len(given))))


def test_a_loss_that_is_not_finite_is_skipped_and_then_stops_with_step_task_and_image(tmp_path, capsys):
    network = model("shared")
    message = rf"^the loss .* {MAX_SKIPPED + 1} steps in a row, last at step {2 + MAX_SKIPPED} \(dehaze: bad\); look"
    with pytest.raises(InputError, match=message):
        Trainer(network, Poisoned(range(2, 40)), settings(), None, tmp_path).train([Phase(40, True, False)])
    assert all(torch.isfinite(p).all() for p in network.parameters())
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "(dehaze: bad) is skipped, its loss is not finite" in line]) == MAX_SKIPPED
    kept = Checkpoints(tmp_path).latest()
    assert all(tensor.isfinite().all() for tensor in kept["model"].values()), "what came before can be gone on with"


def test_skipped_steps_change_nothing_and_are_bounded_in_all():
    """One bad step among many costs that step; a bad one every second step is no accident."""
    network = model("shared")
    Trainer(network, Poisoned([1]), settings()).train([Phase(2, True, False)])
    other = model("shared")
    Trainer(other, stream(), settings()).train([Phase(1, True, False)])
    assert all(torch.isfinite(p).all() for p in network.parameters())
    with pytest.raises(InputError, match=rf"in {MAX_SKIPPED + 1} steps, more than {MAX_SKIPPED}, last at step 11 "):
        Trainer(model("shared"), Poisoned(range(1, 40, 2)), settings()).train([Phase(40, True, False)])


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(monkeypatch):
    """The loss is finite, and its derivative is not: the root of zero."""
    whole = Trainer._losses

    def losses(self, batch):
        loss, errors = whole(self, batch)
        return (loss + (loss * 0).sqrt() if batch.names[-1] == "good" else loss), errors

    monkeypatch.setattr(Trainer, "_losses", losses)
    network = model("shared")
    trainer = Trainer(network, Poisoned([2], 0.5), settings())
    trainer.train([Phase(4, True, False)])
    assert all(torch.isfinite(p).all() for p in network.parameters())
    assert (trainer.run.skipped, trainer.run.skipped_in_all) == (0, 1)
    with pytest.raises(InputError, match=r"the gradient .* \(denoise: good; .* and \d+ more\)"):
        Trainer(model("shared"), Poisoned(range(40), 0.5), settings()).train([Phase(40, True, False)])


def test_swapped_weights_come_back_bit_for_bit():
    network = model("shared")
    start = bits(network)
    with swapped(network, [torch.zeros_like(p) for p in network.parameters()]):
        assert all(not p.any() for p in network.parameters())
    assert_equal_bits(start, bits(network))


def test_history_has_a_row_per_validation_and_task(tmp_path):
    network = model("shared")
    seen = []
    rows = Trainer(network, stream(), settings(), validate, observe=lambda s, m: seen.append((s, m))).train(
        [Phase(6, True, False)]
    )
    assert [row[0] for row in rows] == [s for s in (2, 4, 6) for _ in TASKS] and [s for s, _ in seen] == [2, 4, 6]
    assert set(seen[0][1]) == {f"{task}/{kind}" for task in TASKS for kind in ("psnr", "loss")}
    write_history(tmp_path / "history.csv", rows)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "step,task,loss,psnr,lr" and len(lines) == 1 + len(rows)


def test_the_frequency_term_is_the_plain_transforms_distance():
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 8, 10), torch.rand(2, 3, 8, 10)
    difference = np.fft.rfft2(a.double().numpy(), norm="ortho") - np.fft.rfft2(b.double().numpy(), norm="ortho")
    expected = 0.5 * np.abs(a.double().numpy() - b.double().numpy()).mean()
    expected += 0.2 * np.stack([np.abs(difference.real), np.abs(difference.imag)]).mean()
    assert float(restoration_loss(a, b, 0.5, 0.2)) == pytest.approx(expected, rel=1e-5)


def test_the_logarithm_of_each_samples_error_counts_as_its_psnr_does():
    """Float64; a factor and the floor under the error apart it is the mean PSNR, and gradients follow the dB.

    Of an error that nobody sees they take no notice.
    """
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(3, 3, 6, 7, dtype=torch.float64, generator=generator)
    errors = torch.tensor([0.5, 0.1, 0.0005], dtype=torch.float64).reshape(3, 1, 1, 1)
    output = (target + errors).requires_grad_()
    plain, whole = (restoration_loss(output, target, 0.5, 0.2, weight) for weight in (0.0, 0.3))
    added = float((whole - plain).detach())
    decibels = [-10 * math.log10(float(e) ** 2 + (2 / 255) ** 2) for e in errors]
    assert added == pytest.approx(-0.3 * np.mean(decibels) * math.log(10) / 10, rel=1e-9)
    restoration_loss(output, target, 0.0, 0.0, 1.0).backward()
    relative = (output.grad * errors).sum((1, 2, 3))
    assert relative[0] == pytest.approx(float(relative[1]), rel=0.01), "five times the error, the same pull"
    assert relative[2] < 0.01 * relative[0]
    assert torch.isfinite(restoration_loss(target, target, 1.0, 0.05, 1.0))


def test_a_weight_of_the_logarithm_changes_what_is_learnt():
    """A section without the term trains as one in which it weighs nothing."""
    base = settings().loss
    ends = []
    for loss in (base, *(FinishLossParams(**vars(base), psnr=weight) for weight in (0.0, 0.5))):
        network = model()
        Trainer(network, stream(), settings(loss=loss)).train([Phase(3, True, True)])
        ends.append(bits(network))
    assert_equal_bits(ends[0], ends[1])
    assert any(not torch.equal(ends[0][name], ends[2][name]) for name in ends[0])


def test_weights_are_written_whole_and_refused_when_they_do_not_fit(tmp_path):
    network = model()
    save_weights(tmp_path / "w.safetensors", network.state_dict())
    other = copy.deepcopy(network)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    load_weights(tmp_path / "w.safetensors", other)
    assert_equal_bits(bits(network), bits(other))
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]
    with pytest.raises(InputError, match="does not fit"):
        load_weights(tmp_path / "w.safetensors", model("shared"))
    (tmp_path / "w.safetensors").write_bytes(b"\x00" * 10)
    with pytest.raises(InputError, match="not a readable"):
        load_weights(tmp_path / "w.safetensors", network)
    with pytest.raises(InputError, match="does not exist"):
        load_weights(tmp_path / "none.safetensors", network)


def test_rivals_meet_the_parameter_budget_and_costs_are_counted_from_the_models():
    modulation, film = model(), model("film")
    assert cost(film)["params_added"] == pytest.approx(cost(modulation)["params_added"], rel=0.1)
    total = sum(p.numel() for p in modulation.parameters())
    assert cost(modulation)["params_total"] == total
    assert cost(model("shared")) == {
        "params_total": total - cost(modulation)["params_added"],
        "params_added": 0,
        "params_per_task": 0,
    }
