"""params.yaml: every mistake is one line naming the key and what is allowed, before any work."""

from __future__ import annotations

import ast
import copy
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from instruct_ipt import params
from instruct_ipt.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
VALID = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


def problem(tmp_path: Path, change) -> str:
    """The message that `load` gives for the repository's file after `change(values)`."""
    values = copy.deepcopy(VALID)
    change(values)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_repositorys_file_is_valid_at_every_profile_and_stands_at_quick():
    assert VALID["profile"] == "quick"
    for profile in params.PROFILES:
        assert params.load(ROOT / "params.yaml", profile).profile == profile


CASES = {
    "unknown key": (lambda v: v["training"].update(lr=1), ["training.lr", "not a known key", "learning_rate"]),
    "unknown section": (lambda v: v.update(optimizer={}), ["optimizer", "not a known key", "training"]),
    "unknown key in an unused profile": (
        lambda v: v["profiles"]["paper"]["training"].update(step=3),
        ["training.step", "paper", "steps"],
    ),
    "wrong type": (lambda v: v["training"].update(clip="much"), ["training.clip", "number", "much"]),
    "odd window": (lambda v: v["degradation"]["deblur"].update(support=[8, 21]), ["degradation.deblur.support", "odd"]),
    "rank of zero": (lambda v: v["modulation"].update(value=0), ["modulation.value", "greater than 0"]),
    "half a rank": (lambda v: v["modulation"].update(value=2.5), ["modulation", "whole rank"]),
    "share above one": (lambda v: v["modulation"].update(rule="proportional", value=4), ["modulation", "(0, 1]"]),
    "no such task": (
        lambda v: v["training"]["task_weights"].update(colourise=1),
        ["task_weights", "denoise", "desnow"],
    ),
    "no term in the loss": (
        lambda v: v["finish"]["loss"].update(l1=0.0, frequency=0.0, psnr=0.0),
        ["finish.loss", "one of l1, frequency, psnr must be above 0"],
    ),
    "a task without a share of real pairs": (
        lambda v: v["finish"]["real_share"].pop("desnow"),
        ["finish.real_share", "needs exactly these keys", "desnow"],
    ),
    "more than all pairs real": (
        lambda v: v["finish"]["real_share"].update(deblur=1.2),
        ["finish.real_share.deblur", "1.2"],
    ),
    "a task without a weight": (
        lambda v: v["finish"]["task_weights"].pop("derain"),
        ["finish.task_weights", "needs exactly these keys", "derain"],
    ),
    "no such profile": (lambda v: v.update(profile="huge"), ["profile", "huge", "smoke, quick, study, paper"]),
    "no such group": (lambda v: v["sensitivity"].update(groups=["ffn.mid"]), ["sensitivity.groups", "ffn.in"]),
    "a seed given twice": (
        lambda v: v["profiles"]["study"]["sensitivity"].update(seeds=[0, 1, 0]),
        ["sensitivity.seeds", "study", "once"],
    ),
    "empty range": (
        lambda v: v["degradation"]["dehaze"].update(beta=[2, 1]),
        ["degradation.dehaze.beta", "low <= high"],
    ),
    "missing key": (lambda v: v["training"].pop("ema"), ["training.ema", "missing"]),
    "key in both halves": (
        lambda v: v["profiles"]["quick"].update(seed=3),
        ["seed", "given twice", "profiles.quick"],
    ),
    "patches do not fill the run": (
        lambda v: v["profiles"]["quick"]["training"].update(patches=[{"share": 0.5, "size": 64}]),
        ["training", "sum to 1", "0.5"],
    ),
    "no profiles": (lambda v: v.pop("profiles"), ["profiles", "smoke"]),
    "profile is not a mapping": (lambda v: v["profiles"].update(smoke=3), ["profiles.smoke", "mapping"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_with_the_key_and_what_is_allowed(name, tmp_path):
    change, words = CASES[name]
    message = problem(tmp_path, change)
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("profile: [", ["not valid YAML"]),
        ("just text", ["mapping"]),
        ("a: 1\na: 2\n", ["'a'", "twice"]),
        ("[1]: 2\n", ["key must be plain"]),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(text, words, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        params.load(path)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("2024-99-99", "no value: month must be.*line 7"),
        ("!!bool maybe", "no value.*line 7"),
        ("&a [*a]", "aliases are not read.*line 7"),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
        ("0x" + "f" * 5000, "more than 63 bits.*line 7"),
        ("1" + "0" * 30, "more than 63 bits.*line 7"),
        ("9" * 5000, "no value.*line 7"),
        (".nan", "seed"),
        ("!!python/object/apply:os.getcwd []", "line 7"),
        ("'" + "x" * 5000 + "'", "seed .*got 'xxx"),
    ],
)
def test_a_value_that_yaml_or_memory_chokes_on_is_one_short_line(value, words, tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(text.replace("\nseed: 0", f"\nseed: {value}", 1), encoding="utf-8")
    with pytest.raises(InputError, match=words) as caught:
        params.load(tmp_path / "params.yaml")
    assert len(str(caught.value)) < 500 and str(caught.value).isprintable()


def test_no_number_may_be_infinite(tmp_path):
    assert "training.clip" in problem(tmp_path, lambda v: v["training"].update(clip=float("inf")))
    readers = {"odd": {"freedom": float("inf")}}
    assert "freedom" in problem(tmp_path, lambda v: v["profiles"]["smoke"]["ablations"].update(instruction=readers))


def test_a_key_with_a_line_break_is_still_one_line(tmp_path):
    assert "new line" in problem(tmp_path, lambda v: v["training"].update({"new\nline": 1}))


def test_the_profile_of_the_file_is_checked_where_another_is_asked_for(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("profile: quick", "profile: quik", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="'quik' does not exist"):
        params.load(tmp_path / "params.yaml", "smoke")


def test_what_is_no_file_is_one_line(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        params.load(tmp_path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        params.load(tmp_path / "params.yaml")


def test_setting_the_profile_changes_one_word_and_keeps_the_comments(workspace):
    before = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    assert params.set_profile("study") and not params.set_profile("study")
    after = Path("params.yaml").read_text(encoding="utf-8").splitlines()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1 and changed[0][1].startswith("profile: study ") and "make repro" in changed[0][1]
    with pytest.raises(InputError, match="smoke, quick, study, paper"):
        params.set_profile("large")
    Path("params.yaml").unlink()
    with pytest.raises(InputError, match="params.yaml does not exist; run from"):
        params.set_profile("smoke")


def test_a_stage_cannot_read_a_section_it_does_not_declare():
    view = params.View(params.load(ROOT / "params.yaml"), ["training"])
    assert view.training.steps > 0 and view.profile == "quick"
    with pytest.raises(AttributeError, match="evaluation.*not declared"):
        _ = view.evaluation


def leaf_names(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(t, type)]
        nested = [t for t in inner if issubclass(t, BaseModel)]
        names |= leaf_names(nested[0]) if nested else {name}
    return names


def test_every_key_is_read_somewhere_in_the_package():
    """A key that no line of code reads as an attribute is a dead option."""
    read: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        if path.name == "params.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert leaf_names(params.Params) - read == set()
