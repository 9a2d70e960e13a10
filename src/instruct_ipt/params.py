"""The one configuration, `params.yaml`: read here, checked here, nowhere else.

The file has two halves: sections that hold at every scale, and four *profiles* that hold the scale. Every key stands
in exactly one half; :func:`load` merges the chosen profile into the sections and checks the result.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from instruct_ipt.disk import write_whole
from instruct_ipt.errors import InputError
from instruct_ipt.paths import PARAMS
from instruct_ipt.tasks import TASKS

PROFILES: tuple[str, ...] = ("smoke", "quick", "study", "paper")
GROUPS: tuple[str, ...] = (
    "attention.qkv", "attention.proj", "ffn.in", "ffn.depthwise", "ffn.out",
    "norm", "downsample", "upsample", "head", "tail",
)  # fmt: skip
PROTOCOL_NAMES: tuple[str, ...] = ("rgb", "rgb-crop16", "rgb-shift", "y-limited")
METHODS: tuple[str, ...] = (
    "shared", "experts", "film", "prompt", "gate", "adapter", "task_norm", "task_head", "full", "constant",
    "proportional",
)  # fmt: skip
DENOISERS: tuple[str, ...] = ("shared", "film", "frozen", "synchronous", "experts")
STRATEGIES: tuple[str, ...] = ("synchronous", "frozen", "two_stage", "shared", "experts")

TaskName = Literal["denoise", "deblur", "derain", "dehaze", "desnow"]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]


def _ordered(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("a range [low, high] with low <= high is needed")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]


def _shares(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] < 0 or values[1] > 1:
        raise ValueError("both ends must lie in [0, 1]")
    return values


def _not_negative(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] < 0:
        raise ValueError("both ends must be at least 0")
    return values


def _angles(values: tuple[float, float]) -> tuple[float, float]:
    if max(map(abs, values)) > 60:
        raise ValueError("both ends must lie in [-60, 60] degrees")
    return values


def _odd(values: tuple[float, float]) -> tuple[float, float]:
    if any(value != int(value) or int(value) % 2 == 0 or value < 3 for value in values):
        raise ValueError("odd whole numbers of at least 3 are needed")
    return values


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("every seed may stand here once")
    return values


ShareRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_shares)]
SizeRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_not_negative)]
AngleRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_angles)]
OddRange = Annotated[tuple[float, float], AfterValidator(_ordered), AfterValidator(_odd)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are refused, values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class DataParams(Section):
    level: Literal["bundled", "benchmark", "paper"]
    custom: list[str]
    procedural: Annotated[int, Field(ge=0)]
    procedural_size: Annotated[int, Field(ge=64)]
    validation_size: Annotated[int, Field(ge=32)]
    validation_crops: Count


class NoiseParams(Section):
    sigma: Annotated[list[Positive], Field(min_length=1)]


class BlurParams(Section):
    support: OddRange
    anxiety: SizeRange
    gamma: Positive
    noise: SizeRange = (0.0, 0.0)  # packs released before it was thought of do not name it


class RainParams(Section):
    length: SizeRange
    angle: AngleRange
    density: SizeRange
    width: SizeRange
    opacity: ShareRange
    veil: ShareRange


class HazeParams(Section):
    beta: SizeRange
    airlight: ShareRange
    relief: ShareRange


class SnowParams(Section):
    size: SizeRange
    density: SizeRange
    motion: SizeRange
    opacity: ShareRange
    veil: ShareRange


class DegradationParams(Section):
    denoise: NoiseParams
    deblur: BlurParams
    derain: RainParams
    dehaze: HazeParams
    desnow: SnowParams


class BackboneParams(Section):
    kind: Literal["ipt", "naf"]
    preset: Literal["tiny", "quick", "small", "base"]
    checkpoint: bool


class ModulationParams(Section):
    rule: Literal["constant", "proportional"]
    value: Positive

    @model_validator(mode="after")
    def _rank_is_possible(self) -> ModulationParams:
        check_rank(self.rule, self.value)
        return self


class LossParams(Section):
    l1: Annotated[float, Field(ge=0.0)]
    frequency: Annotated[float, Field(ge=0.0)]

    @model_validator(mode="after")
    def _some_term(self) -> LossParams:
        terms = {name: getattr(self, name) for name in type(self).model_fields}
        if not any(terms.values()):
            raise ValueError(f"one of {', '.join(terms)} must be above 0: else nothing is learned")
        return self


class RateParams(Section):
    backbone: Positive
    biases: Positive


class PatchPhase(Section):
    share: Annotated[float, Field(gt=0.0, le=1.0)]
    size: Annotated[int, Field(ge=16, multiple_of=8)]


def _fill_the_run(patches: list[PatchPhase]) -> list[PatchPhase]:
    total = sum(phase.share for phase in patches)
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"the shares must sum to 1, they sum to {total:g}")
    return patches


Patches = Annotated[list[PatchPhase], Field(min_length=1), AfterValidator(_fill_the_run)]


class FinishLossParams(LossParams):
    psnr: Annotated[float, Field(ge=0.0)]


def _of_all_tasks(weights: dict[str, float]) -> dict[str, float]:
    if set(weights) != set(TASKS):
        raise ValueError(f"needs exactly these keys: {', '.join(TASKS)}")
    return weights


TaskWeights = Annotated[dict[TaskName, Positive], AfterValidator(_of_all_tasks)]
RealShares = Annotated[dict[TaskName, Share], AfterValidator(_of_all_tasks)]


class TrainingParams(Section):
    steps: Count
    batch_per_task: Count
    patches: Patches
    validate_every: Count
    checkpoint_every: Count
    threads: Count
    workers: Annotated[int, Field(ge=0)]
    real_share: Share
    precision: Literal["fp32", "bf16"]
    task_weights: TaskWeights
    loss: LossParams
    learning_rate: RateParams
    warmup: Share
    weight_decay: Annotated[float, Field(ge=0.0)]
    clip: Positive
    ema: Annotated[float, Field(ge=0.0, lt=1.0)]


class ExpertsParams(Section):
    steps: Count
    batch: Count


class ReleaseParams(Section):
    steps: Count
    learning_rate: RateParams
    patches: Patches


class FinishParams(ReleaseParams):
    real_share: RealShares
    task_weights: TaskWeights
    loss: FinishLossParams


class SensitivityParams(Section):
    groups: list[Literal[GROUPS]]  # type: ignore[valid-type]
    seeds: Seeds
    steps: Count
    batches: Count
    batch: Count
    learning_rate: Positive
    budget: Annotated[float, Field(gt=0.0, le=1.0)]


class RankParams(Section):
    constant: Annotated[list[Count], Field(min_length=1)]
    steps_share: Annotated[float, Field(gt=0.0, le=1.0)]


class EvaluationParams(Section):
    protocols: Annotated[list[Literal[PROTOCOL_NAMES]], Field(min_length=1)]  # type: ignore[valid-type]


def _runs(values: tuple[int, int]) -> tuple[int, int]:
    if not 1 <= values[0] <= values[1]:
        raise ValueError("[shortest, longest] with 1 <= shortest <= longest is needed")
    return values


Runs = Annotated[tuple[int, int], AfterValidator(_runs)]


class InstructionParams(Section):
    encoder: Annotated[str, Field(min_length=1)]
    characters: Runs
    words: Runs
    least: Count
    fills: Count
    variants: Count
    typos: Share
    held_out: Annotated[float, Field(gt=0.0, lt=0.5)]
    freedom: Positive
    calibration: Literal["temperature", "isotonic"]
    accepted_at_most: Share


# Figure 3 has room for that many letters.
Sentences = Annotated[dict[TaskName, Annotated[str, Field(min_length=1, max_length=60)]], Field(min_length=1)]


class EstimatorParams(Section):
    windows: Count
    size: Annotated[int, Field(ge=32)]
    draws: Annotated[int, Field(ge=0)]
    freedom: Positive


def _some_missing(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] <= 0 or values[1] >= 1:
        raise ValueError("both ends must lie between 0 and 1: something is missing, and something is known")
    return values


MissingRange = Annotated[ShareRange, AfterValidator(_some_missing)]


class MissingParams(Section):
    inpaint: MissingRange
    outpaint: MissingRange


class DiffusionParams(Section):
    rank: Count
    weights: Annotated[list[Literal["attention", "convolution"]], Field(min_length=1)]
    share: MissingParams
    sampler: Literal["ddim", "edm"]
    sampler_steps: Annotated[int, Field(ge=1, le=1000)]
    preset: Literal["tiny", "quick", "study"]
    size: Annotated[int, Field(ge=32, multiple_of=16)]
    steps: Count
    batch_per_task: Count
    learning_rate: RateParams
    windows: Count
    draws: Count
    shown: Count


class PairedClaimParams(Section):
    margin: Annotated[float, Field(ge=0.0)]
    unit: Literal["dB", "SSIM"]


class CostClaimParams(Section):
    margin: Positive
    unit: Literal["%", "parameters"]


class ClaimsParams(Section):
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)]
    correction: Literal["holm", "none"]
    images: Literal["sampled", "fixed"]
    features_fail: PairedClaimParams
    gap_matters: PairedClaimParams
    sensitive_beats_random: PairedClaimParams
    constant_beats_proportional: PairedClaimParams
    synchronous_beats_frozen: PairedClaimParams
    synchronous_beats_two_stage: PairedClaimParams
    modulated_denoiser: PairedClaimParams
    cost_is_humble: CostClaimParams


class MlflowParams(Section):
    log_weights: bool
    samples_every: Annotated[int, Field(ge=0)]


class RankGrid(Section):
    constant: list[Count]
    proportional: list[Annotated[float, Field(gt=0.0, le=1.0)]]


class StrategyGrid(Section):
    settings: list[Literal[STRATEGIES]]  # type: ignore[valid-type]


class AdaptationGrid(Section):
    rank: Count
    five: list[Literal[METHODS]]  # type: ignore[valid-type]
    noise: list[Literal[METHODS]]  # type: ignore[valid-type]


class SensitivityGrid(Section):
    settings: list[Literal["shared", "selected", "all"]]
    random: Annotated[int, Field(ge=0)]


def _two_tasks(pair: str) -> str:
    names = pair.split("+")
    if len(names) != 2 or names[0] == names[1] or not set(names) <= set(TASKS):
        raise ValueError(f"two tasks with a + between are needed, of {', '.join(TASKS)}")
    return pair


class TaskGapGrid(Section):
    pairs: list[Annotated[str, AfterValidator(_two_tasks)]]
    methods: list[Literal[METHODS]]  # type: ignore[valid-type]


class DiffusionGrid(Section):
    steps: Count
    settings: list[Literal[DENOISERS]]  # type: ignore[valid-type]


def _changes(setting: dict[str, Any]) -> dict[str, Any]:
    """What a setting changes in the section `instruction`, checked as that section is."""
    hints = get_type_hints(InstructionParams, include_extras=True)
    for key, value in setting.items():
        if key not in hints:
            raise ValueError(f"{key} is no key of the section instruction; allowed: {', '.join(hints)}")
        try:
            TypeAdapter(hints[key], config=ConfigDict(allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            raise ValueError(f"{key}: {error.errors()[0]['msg']}") from None
    return setting


SettingName = Annotated[str, Field(pattern=r"^[a-z_]+$")]


class AblationParams(Section):
    steps: Count
    batch_per_task: Count
    patch: Annotated[int, Field(ge=16, multiple_of=8)]
    seeds: Seeds
    threads: Count
    rank: RankGrid
    strategy: StrategyGrid
    adaptation: AdaptationGrid
    sensitivity: SensitivityGrid
    task_gap: TaskGapGrid
    diffusion: DiffusionGrid
    instruction: dict[SettingName, Annotated[dict[str, Any], AfterValidator(_changes)]]


class Params(Section):
    """The whole configuration after the chosen profile has been merged in."""

    profile: Literal["smoke", "quick", "study", "paper"]
    seed: Annotated[int, Field(ge=0)]
    data: DataParams
    degradation: DegradationParams
    backbone: BackboneParams
    modulation: ModulationParams
    training: TrainingParams
    experts: ExpertsParams
    release: ReleaseParams
    finish: FinishParams
    sensitivity: SensitivityParams
    rank: RankParams
    evaluation: EvaluationParams
    instruction: InstructionParams
    estimator: EstimatorParams
    demo: Sentences
    diffusion: DiffusionParams
    claims: ClaimsParams
    mlflow: MlflowParams
    ablations: AblationParams


SECTIONS: tuple[str, ...] = tuple(name for name in Params.model_fields if name != "profile")


def check_rank(rule: str, value: float) -> None:
    """Refuse a rank that cannot be: constant needs a whole number >= 1, proportional a share in (0, 1]."""
    if rule == "constant" and (value < 1 or value != int(value)):
        raise ValueError(f"rule `constant` needs a whole rank of at least 1, got {value:g}")
    if rule == "proportional" and not 0 < value <= 1:
        raise ValueError(f"rule `proportional` needs a share in (0, 1], got {value:g}")


def load(path: Path = PARAMS, profile: str | None = None) -> Params:
    """Read `params.yaml`, merge the profile it names (or ``profile``) and check everything.

    Raises:
        InputError: one line that names the file, the key, what is wrong and what is allowed.
    """
    raw = _read(path)
    profiles = raw.pop("profiles", None)
    if not isinstance(profiles, dict) or set(profiles) != set(PROFILES):
        raise InputError(f"{path}: `profiles` must hold exactly {', '.join(PROFILES)}")
    named = raw.get("profile")
    chosen = profile or named
    # What the file names has to be right even where another is asked for.
    for name in (named, chosen):
        if name not in PROFILES:
            raise InputError(f"{path}: profile: {reprlib.repr(name)} does not exist; allowed: {', '.join(PROFILES)}")
    resolved = {}
    # Every profile is checked, not only the chosen one: a typo in `study` should not wait for the day it is used.
    for name in (*PROFILES, chosen):
        resolved = _check(path, _merge(path, raw | {"profile": name}, profiles[name], name), name)
    return resolved


def set_profile(profile: str, path: Path = PARAMS) -> bool:
    """Write ``profile`` into the `profile:` line of ``path``, leaving every other byte; True if that changed it.

    Raises:
        InputError: no such profile, or the file cannot be read or has no such line.
    """
    if profile not in PROFILES:
        raise InputError(f"profile {profile!r} does not exist; allowed: {', '.join(PROFILES)}")
    lines = _text(path).splitlines(keepends=True)
    index = next((i for i, line in enumerate(lines) if line.startswith("profile:")), None)
    if index is None:
        raise InputError(f"{path}: has no `profile:` line at the top level")
    old = lines[index].split(":", 1)[1].split("#")[0].strip()
    if old == profile:
        return False
    lines[index] = lines[index].replace(f" {old}", f" {profile}", 1)
    write_whole(path, "".join(lines).encode())
    return True


def restrict(params: Params, sections: Iterable[str]) -> dict[str, Any]:
    """The named sections as plain values (JSON types), the profile's name always among them."""
    values = params.model_dump(mode="json")
    return {"profile": params.profile} | {name: values[name] for name in sections}


class View:
    """A stage's window on the parameters: only the sections it declared can be read.

    Raises:
        AttributeError: a section was read that the stage does not declare (and DVC would therefore not track).
    """

    def __init__(self, params: Params, sections: Iterable[str]) -> None:
        self.profile: str = params.profile
        for name in sections:
            setattr(self, name, getattr(params, name))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"params section {name!r} is read but not declared by this stage")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; run from the repository's root") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read(path: Path) -> dict[str, Any]:
    text = _text(path)
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: is not valid YAML: it is nested too deeply") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: must be a mapping of sections")
    return raw


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error: PyYAML would silently keep the last."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        """One node; an alias is refused, for a few lines of them stand for more values than there is memory."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "write the value out; aliases are not read", mark)
        return super().compose_node(parent, index)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; what a tag or a date like 2024-99-99 raises becomes an error that names its line."""
        try:
            value = super().construct_object(node, deep)
            # Seeds and counts end up in 64 bits.
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ValueError("a whole number of more than 63 bits")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise yaml.constructor.ConstructorError(None, None, f"no value: {error}", node.start_mark) from None
        return value


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        try:
            twice = key in mapping
        except TypeError:
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be plain text", key_node.start_mark
            ) from None
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def _merge(path: Path, base: dict[str, Any], profile: Any, name: str, prefix: str = "") -> dict[str, Any]:
    """Deep union of two mappings that may not share a leaf."""
    if not isinstance(profile, dict):
        raise InputError(f"{path}: profiles.{name}{prefix} must be a mapping")
    merged = dict(base)
    for key, value in profile.items():
        where = f"{prefix}.{key}"
        if key not in merged:
            merged[key] = value
        elif isinstance(merged[key], dict) and isinstance(value, dict):
            merged[key] = _merge(path, merged[key], value, name, where)
        else:
            raise InputError(f"{path}: {where[1:]} is given twice, in its section and in profiles.{name}; keep one")
    return merged


def _check(path: Path, values: dict[str, Any], profile: str) -> Params:
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        raise InputError(_first_problem(path, error, profile)) from None


def _first_problem(path: Path, error: ValidationError, profile: str) -> str:
    # A misspelt key is both unknown and missing; the unknown one is what the person wrote.
    problem = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in problem["loc"] if part != "[key]") or "(top level)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(problem["loc"]))
        return f"{path}: {key} is not a known key (profile {profile}); allowed here: {known}"
    if problem["type"] == "missing":
        return f"{path}: {key} is missing (profile {profile})"
    given = problem["input"]
    shown = f", got {reprlib.repr(given)}" if not isinstance(given, dict) else ""
    return f"{path}: {key} (profile {profile}): {message}{shown}"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    model: Any = Params
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None:
            break
        model = field.annotation
    return list(getattr(model, "model_fields", {}))
