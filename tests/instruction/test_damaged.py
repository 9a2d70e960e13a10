"""A reader and an estimator whose arrays do not fit are refused when they are loaded, not when they are used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from instruct_ipt.errors import InputError
from instruct_ipt.instruction import Estimator, Reader
from tests.torture.hoards import make_estimator, make_reader

READER = (Reader, make_reader, "head", "instruction reader")
ESTIMATOR = (Estimator, make_estimator, "estimator", "damaged estimator")
ARRAYS = [(READER, name) for name in ("weight", "bias", "knots", "idf.0")]
ARRAYS += [(ESTIMATOR, name) for name in ("mean", "scale", "weight", "bias")]


@pytest.mark.parametrize(("guide", "name"), ARRAYS, ids=[f"{guide[2]}-{name}" for guide, name in ARRAYS])
@pytest.mark.parametrize("harm", [lambda a: a * np.float32("nan"), lambda a: a[:1], lambda a: a.astype(np.int32)])
def test_a_guide_whose_arrays_do_not_fit_is_refused(tmp_path, guide, name, harm):
    kind, make, file, said = guide
    make(tmp_path)
    kind.load(tmp_path)
    path = tmp_path / f"{file}.safetensors"
    arrays = load_file(path)
    save_file(arrays | {name: np.ascontiguousarray(harm(arrays[name]))}, path)
    with pytest.raises(InputError, match=said):
        kind.load(tmp_path)


@pytest.mark.parametrize("threshold", ["x", float("nan"), 7, 10**400])
def test_a_reader_with_no_threshold_is_refused(tmp_path, threshold):
    make_reader(tmp_path)
    values = json.loads((tmp_path / "reader.json").read_text(encoding="utf-8"))
    (tmp_path / "reader.json").write_text(json.dumps(values | {"threshold": threshold}), encoding="utf-8")
    with pytest.raises(InputError, match="instruction reader"):
        Reader.load(tmp_path)
