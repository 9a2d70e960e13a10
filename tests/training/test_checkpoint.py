"""Files that hold weights are believed only as far as they are whole: what the harness of tests/torture found."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from instruct_ipt.errors import InputError
from instruct_ipt.training.build import read_selection
from instruct_ipt.training.checkpoint import Checkpoints, load_weights, save_weights


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        (torch.tensor([1.0, float("nan")]), "bias is not finite"),
        (torch.tensor([1, 2], dtype=torch.int32), "bias is torch.int32, not torch.float32"),
        (torch.tensor([1.0, 2.0, 3.0]), "size mismatch for bias"),
    ],
)
def test_weights_of_another_type_or_not_finite_are_refused(tmp_path, bias, words):
    save_weights(tmp_path / "w.safetensors", {"weight": torch.ones(2, 3), "bias": bias})
    with pytest.raises(InputError, match=f"w.safetensors: does not fit this network: .*{words}"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(3, 2))


class Touch:
    """A pickle that makes a file when it is obeyed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("payload", ["pickle", "nothing"])
def test_a_checkpoint_whose_digest_fits_is_still_not_obeyed(tmp_path, capsys, payload):
    store = Checkpoints(tmp_path)
    store.save(1, {"step": 1})
    content = pickle.dumps(Touch(tmp_path / "planted")) if payload == "pickle" else b""
    (tmp_path / "step-00000002.pt").write_bytes(hashlib.sha256(content).digest() + content)
    assert store.latest() == {"step": 1}
    assert "step-00000002.pt is damaged" in capsys.readouterr().err
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("groups", ["norm", ["text"], [["norm"]], {"norm": 1}, [{}]])
def test_a_selection_names_groups_of_weights(tmp_path, groups):
    (tmp_path / "selection.json").write_text(json.dumps({"groups": groups}), encoding="utf-8")
    with pytest.raises(InputError, match="selection.json: is not a selection"):
        read_selection(tmp_path / "selection.json")
