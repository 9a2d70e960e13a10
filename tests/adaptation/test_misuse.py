"""A size below one and a backbone without the layers that a rival needs are errors that say so."""

from __future__ import annotations

import pytest
from torch import nn

from instruct_ipt.adaptation import BottleneckAdapter, ChannelGate, Film, Prompt, TaskHead, TaskNorm

from .cnn import SmallCnn

TASKS = ("denoise", "derain")


@pytest.mark.parametrize(
    ("rival", "word"), [(Film, "hidden"), (ChannelGate, "hidden"), (Prompt, "width"), (BottleneckAdapter, "width")]
)
def test_a_size_below_one_is_refused(rival: type, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} is 0"):
        rival(SmallCnn(), TASKS, 0)


def test_task_norm_needs_a_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallCnn, "weight_groups", lambda net: {"norm": ["temperature"]})
    with pytest.raises(ValueError, match="no normalisation layer"):
        TaskNorm(SmallCnn(), TASKS)


def test_a_task_head_needs_plain_convolutions() -> None:
    net = SmallCnn()
    net.tail = nn.Conv2d(8, 3, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match="tail is Conv2d.*zero-padded"):
        TaskHead(net, TASKS)
