"""One pass over several tasks against a pass per task: outputs, gradients, and networks that must not have it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from instruct_ipt.backbone import build_backbone
from instruct_ipt.modulation import Modulated, RankRule, TaskChoice, modulate, modulated

TASKS = ("denoise", "derain", "desnow")
UNEQUAL = torch.tensor([0, 2, 0, 1, 2, 0])
EQUAL = torch.tensor([2, 0, 1, 1, 0, 2])


def _model(network: nn.Module, rule: RankRule | None = None, scale: float = 0.3) -> Modulated:
    names = [name for name, _ in network.named_parameters()]
    model = modulate(network, TASKS, names, rule or RankRule("constant", 2), torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.bias_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(scale * noise)
    return model


def _passes(model: Modulated, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The result of `run` and how often the backbone was called, without the proof (which is made before)."""
    run()
    calls: list[None] = []
    handle = model.backbone.register_forward_hook(lambda *_: calls.append(None))
    result = run()
    handle.remove()
    return result, len(calls)


def _alone(model: Modulated, x: Tensor, index: Tensor) -> Tensor:
    return torch.cat([model(x[i : i + 1], int(task)) for i, task in enumerate(index)])


class _Scale(nn.Module):
    """A 1-D weight outside any norm."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class _Everything(nn.Module):
    """Weights used as no `nn.Linear` would: chunked, padded, added, scaled, multiplied from the right, broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 12, 6))
        self.stacked = nn.Parameter(torch.randn(12, 6))
        self.right = nn.Parameter(torch.randn(6, 6))
        self.kernel3, self.kernel5 = nn.Parameter(torch.randn(6, 1, 3)), nn.Parameter(torch.randn(6, 1, 5))
        self.temperature = nn.Parameter(torch.randn(2, 1, 1))
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x + self.position)
        first, second = self.stacked.chunk(2)
        x = F.linear(x, first) * torch.sigmoid(F.linear(x, second)) + x @ self.right
        kernel = self.kernel5 + F.pad(self.kernel3 + 1.0, (1, 1))
        x = F.conv1d(x.transpose(1, 2), kernel, padding=2, groups=6).transpose(1, 2)
        heads = x.reshape(-1, 3, 2, 6).transpose(1, 2)  # windows of 3 tokens: (N * 8, 2, 3, 6) in the order of samples
        heads = heads * self.temperature.clamp(max=1.0).exp()
        return (heads / (1.0 + self.temperature.square()) - self.temperature.softmax(0)).reshape(x.shape)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (4,)),
    "linear on tokens": (lambda: nn.Linear(4, 3, bias=False), (2, 2, 4)),
    "conv": (lambda: nn.Conv2d(2, 3, 3, padding=1), (2, 3, 4)),
    "strided conv": (lambda: nn.Conv2d(2, 3, 3, stride=(2, 1), padding=1), (2, 5, 4)),
    "dilated conv": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1, dilation=2), (2, 5, 6)),
    "grouped conv": (lambda: nn.Conv2d(4, 4, (1, 3), groups=2), (4, 3, 5)),
    "depthwise conv": (lambda: nn.Conv2d(3, 3, 3, groups=3, padding=1), (3, 4, 4)),
    "transposed conv": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), (2, 3, 2)),
    "layer norm": (lambda: nn.LayerNorm(4), (3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (4, 3)),
    "scale": (_Scale, (3, 4)),
    "everything": (_Everything, (12, 6)),
    "backbone": (lambda: build_backbone("tiny"), (3, 11, 9)),
}


@pytest.mark.parametrize("index", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_one_pass_gives_outputs_and_gradients_of_a_pass_per_task(
    kind: str, index: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[kind]
    once = _model(build().double())
    turns = copy.deepcopy(once)
    x = torch.randn(len(index), *shape, dtype=torch.float64, requires_grad=True)
    output, passes = _passes(once, lambda: once(x, index))
    assert passes == 1
    with monkeypatch.context() as patch:
        patch.setattr(modulated, "proves_exact", lambda *_: False)
        expected, passes = _passes(turns, lambda: turns(x, index))
    assert passes == 3
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    pull = torch.randn(output.shape, dtype=torch.float64)
    grads = torch.autograd.grad((output * pull).sum(), [x, *once.parameters()])
    references = torch.autograd.grad((expected * pull).sum(), [x, *turns.parameters()])
    for name, grad, reference in zip(["x", *dict(once.named_parameters())], grads, references, strict=True):
        # float64: far inside the 1e-5 that training in float32 may differ by.
        torch.testing.assert_close(grad, reference, rtol=0, atol=1e-9 * float(reference.abs().max()) + 1e-12, msg=name)


@pytest.mark.parametrize("index", [EQUAL, UNEQUAL], ids=["equal", "unequal"])
def test_float32_gradients_of_the_backbone_differ_by_rounding_only(
    index: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    once = _model(build_backbone("tiny"), scale=0.05)
    turns = copy.deepcopy(once)
    x = torch.rand(len(index), 3, 16, 16)
    once(x, index).square().mean().backward()
    monkeypatch.setattr(modulated, "proves_exact", lambda *_: False)
    turns(x, index).square().mean().backward()
    for (name, one), other in zip(once.named_parameters(), turns.parameters(), strict=True):
        assert float((one.grad - other.grad).norm()) <= 1e-5 * float(other.grad.norm()) + 1e-9, name


CHOICES: dict[str, TaskChoice] = {
    "named": "derain",
    "equal": EQUAL,
    "unequal": UNEQUAL,
    "soft": torch.tensor([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0], [0.2, 0.5, 0.3]]).repeat(2, 1),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if kind not in ("everything", "backbone")])
def test_gradients_are_those_of_finite_differences(kind: str, choice: str) -> None:
    torch.manual_seed(0)
    build, shape = NETWORKS[kind]
    model = _model(build().double())
    names, values = zip(*model.named_parameters(), strict=True)
    x = torch.randn(len(UNEQUAL), *shape, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x, CHOICES[choice], 1.5))

    assert torch.autograd.gradcheck(run, (x, *values), fast_mode=True)


class _SamplesSecond(nn.Module):
    """(N, L, C) -> (N, L, C) through (L, N, C), as sequence models have it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class _Unknown(nn.Module):
    """A weight in functions that are in no table: an embedding, a list, an assignment in place."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use, self.weight = use, nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        if self.use == "embedding":
            return x + F.embedding(torch.arange(6), self.weight)
        if self.use == "list":
            return torch.stack([torch.cat([sample, self.weight]) for sample in x])
        return x.clone().add_(self.weight)


IN_TURN: dict[str, Callable[[], nn.Module]] = {
    "samples on the second axis": _SamplesSecond,
    "batch statistics": lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(4, 4)),
    "list": lambda: _Unknown("list"),
    "in place": lambda: _Unknown("in place"),
}


@pytest.mark.parametrize("kind", IN_TURN)
def test_what_one_pass_cannot_do_is_done_in_turn(kind: str) -> None:
    torch.manual_seed(0)
    model = _model(IN_TURN[kind]())
    x = torch.randn(6, 6, 4)
    output, passes = _passes(model, lambda: model(x, UNEQUAL))
    assert passes == 3
    for task in range(3):
        torch.testing.assert_close(output[task == UNEQUAL], model(x[task == UNEQUAL], task))


def test_an_embedding_of_constant_indices_is_exact() -> None:
    model = _model(_Unknown("embedding"))
    x = torch.randn(6, 6, 4)
    torch.testing.assert_close(model(x, UNEQUAL), _alone(model, x, UNEQUAL))


def test_the_proof_leaves_no_trace() -> None:
    model = _model(nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(4, 4)))
    turns = copy.deepcopy(model)
    x = torch.randn(6, 6, 4)
    outputs, states = [], []
    for each, times in ((model, 1), (turns, 1)):
        torch.manual_seed(3)
        if each is turns:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(modulated, "proves_exact", lambda *_: False)
                outputs.append(each(x, UNEQUAL))
        else:
            outputs.append(each(x, UNEQUAL))
        states.append(torch.get_rng_state())
        assert int(each.backbone[0].num_batches_tracked) == 3 * times
    assert torch.equal(*outputs) and torch.equal(*states)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, turns.get_buffer(name)), name


def test_a_proof_is_made_once_per_shape_and_never_trusts_biases_that_are_still_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fresh = modulate(_SamplesSecond(), TASKS, ["layer.weight"], RankRule("constant", 1))
    made: list[bool] = []
    original = modulated.proves_exact
    monkeypatch.setattr(modulated, "proves_exact", lambda *args: made.append(original(*args)) or made[-1])
    for length in (6, 6, 12):
        fresh(torch.randn(6, length, 4), UNEQUAL)
    assert made == [False, False]


def test_autocast_works_in_bfloat16_and_keeps_the_result_close() -> None:
    model = _model(build_backbone("tiny"), scale=0.03)
    x = torch.rand(6, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (output, passes), projected = _passes(model, lambda: model(x, UNEQUAL)), F.linear(x, x.new_ones(2, 16))
    assert passes == 1 and projected.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), model(x, UNEQUAL), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", ["ipt", "naf"])
def test_one_pass_and_gradient_checkpointing_go_together(kind: str) -> None:
    torch.manual_seed(0)
    plain = _model(build_backbone("tiny", kind).double(), scale=0.05)
    x = torch.rand(6, 3, 16, 16, dtype=torch.float64)
    grads = []
    for checkpoint in (False, True):
        plain.backbone.checkpoint = checkpoint
        output, passes = _passes(plain, lambda: plain(x, UNEQUAL))
        assert passes == 1
        grads.append(torch.autograd.grad(output.square().mean(), list(plain.parameters())))
    for name, one, other in zip(dict(plain.named_parameters()), *grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12, msg=name)
