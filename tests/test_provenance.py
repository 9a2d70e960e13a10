"""Digests and records: an edit is noticed, a reworded message is not an edit."""

from __future__ import annotations

import json

from instruct_ipt import provenance
from instruct_ipt.stage_table import STAGES


def test_digest_ignores_the_order_of_keys_and_sees_every_value():
    assert provenance.digest({"a": 1, "b": [1, 2]}) == provenance.digest({"b": [1, 2], "a": 1})
    assert provenance.digest({"a": 1}) != provenance.digest({"a": 2})


def test_manifest_lists_every_file_by_content_and_leaves_the_records_out(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "b.txt").write_text("b")
    (tmp_path / "provenance.json").write_text("{}")
    manifest = provenance.manifest_of(tmp_path)
    # echo -n b | sha256sum
    assert manifest == {"inner/b.txt": "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d"}


def test_differences_name_the_key_the_code_and_the_input():
    old = {"params": {"a": {"b": 1}}, "code_digest": "x", "inputs": {"f": "1"}}
    assert provenance.differences(old, old) == []
    new = {"params": {"a": {"b": 2}}, "code_digest": "y", "inputs": {"f": "2"}}
    found = provenance.differences(old, new)
    assert found == ["a.b was 1, is 2", "source code was edited", "input f changed"]


def test_a_damaged_record_counts_as_none(tmp_path):
    path = tmp_path / "provenance.json"
    assert provenance.read_record(path) is None
    path.write_text('{"params": ')
    assert provenance.read_record(path) is None
    path.write_text(json.dumps({"params": {}, "code_digest": "", "inputs": {}}))
    assert provenance.read_record(path) is not None


def test_code_files_follow_imports_into_functions_and_leave_plumbing_out():
    files = provenance.code_files(*STAGES["train_modulation"].modules)
    assert {"training/loop.py", "modulation/modulated.py", "backbone/unet.py", "data/degradations.py"} <= set(files)
    assert not {"cli.py", "pipeline.py", "tracking.py", "params.py", "errors.py", "stage_table.py"} & set(files)
    assert not any(name.startswith(("report/", "stages/evaluate")) for name in files)


def test_templates_count_as_code_of_the_report():
    assert any(name.endswith(".j2") for name in provenance.code_files(*STAGES["report"].modules))
