"""The network of one task as one file, for other programs: ONNX, TorchScript, or plain weights.

Every file is held against the network it was made of before it gets its name: a file that differs by more than `BOUND`
is never left behind.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from instruct_ipt.backbone import UShape
from instruct_ipt.disk import complaint, whole
from instruct_ipt.errors import InputError
from instruct_ipt.modulation import BACKBONE_FILE
from instruct_ipt.modulation.pack import fill, write_safetensors

from .restorer import Restorer, Task
from .traceable import Traceable
from .weights import build_from, describe_architecture

FORMATS: dict[str, str] = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
"""What is written, and how its files are called."""
SIZES: tuple[tuple[int, int, int], ...] = ((1, 64, 64), (1, 97, 130), (2, 37, 53), (1, 160, 257), (1, 8, 8), (1, 1, 5))
"""(N, H, W) of the images on which a file is compared: square or not, multiples of the windows or not, one or two."""
BOUND = 1e-4
"""How far a value in [0, 1] may differ from the network's: a fortieth of a level of 255."""
OPSET = 18
"""Version of ONNX's operators; ONNX Runtime reads it since 1.14."""
_RECORDED = (2, 40, 56)
_KEY = "export"
_VERSION = 1

Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        path: of the file.
        bytes: its size.
        difference: largest distance from the network, over all of `SIZES`, values in [0, 1].
    """

    path: Path
    bytes: int
    difference: float


def export(
    restorer: Restorer, task: Task, format: str, path: Path, strength: float = 1.0, force: bool = False
) -> Exported:
    """Write the folded network for `task` as one file: float32 (N, 3, H, W) in [0, 1] -> the same shape, not clipped.

    Args:
        restorer: the network.
        task, strength: as in `Restorer.restore`.
        format: a key of `FORMATS`.
        path: of the file; its suffix is that of the format.
        force: whether a file that exists may be replaced.

    Raises:
        InputError: unknown format or task, a name that does not fit, a file that exists, a package that is missing, or
            a result that differs from the network by more than `BOUND`; nothing is written then.
    """
    _check_path(format, path, force)
    if format == "onnx":
        _need_onnx()
    network = restorer.network(task, strength)
    shares = {name: weight for name, weight in restorer.task_weights(task).items() if weight > 0}
    facts = {"tasks": shares, "strength": strength, "architecture": describe_architecture(network)}
    try:
        with whole(path) as temporary:
            _WRITERS[format](network, temporary, facts)
            difference = largest_difference(network, _READERS[format](temporary))
            if not difference <= BOUND:
                raise InputError(
                    f"{path} is not written: as {format} the network gives values that differ by {difference:.1e}, more"
                    f" than {BOUND:g}; take another format, and report this"
                )
    except OSError as error:
        raise InputError(complaint(error) or f"{path} cannot be written: {error}") from error
    return Exported(path, path.stat().st_size, difference)


def largest_difference(network: nn.Module, run: Run) -> float:
    """The largest |run(x) - network(x)| over random images of all `SIZES`; infinite where a result is not finite."""
    generator, found = torch.Generator().manual_seed(0), 0.0
    for count, height, width in SIZES:
        image = torch.rand(count, 3, height, width, generator=generator)
        with torch.inference_mode():
            distance = float((run(image) - network(image)).abs().max())
        found = max(found, distance) if distance < float("inf") else float("inf")
    return found


def load_exported(path: Path) -> nn.Module:
    """The folded network of an exported safetensors file: (N, 3, H, W) -> (N, 3, H, W). Nothing in it is executed.

    Raises:
        InputError: the file is missing, damaged or none of these.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_KEY, "null"))
        if not isinstance(facts, dict) or facts.get("format_version") != _VERSION:
            raise ValueError(f"it says nothing of an export of format {_VERSION}")
        architecture = facts.get("architecture")
        if not isinstance(architecture, dict):
            raise ValueError("it does not say how to build its network")
        weights = load_file(path)
        network = build_from(architecture, sum(value.numel() for value in weights.values()), folded=True)
        fill(network, weights)
    except (OSError, ValueError, RuntimeError, RecursionError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} is no exported network: {reason}; write it again with `ipt export`") from error
    return network.eval().requires_grad_(False)


def run_exported(path: Path) -> Run:
    """A function that runs an exported file on the CPU with torch's number of threads: (N, 3, H, W) -> (N, 3, H, W).

    Args:
        path: its suffix says which format it is of.

    Raises:
        InputError: another suffix.
    """
    for format, suffix in FORMATS.items():
        if path.suffix == suffix:
            return _READERS[format](path)
    raise InputError(f"{path} is none of {', '.join(FORMATS.values())}")


def _check_path(format: str, path: Path, force: bool) -> None:
    if format not in FORMATS:
        raise InputError(f"format {format!r} is not written; allowed: {', '.join(FORMATS)}")
    if path.suffix.lower() != FORMATS[format]:
        raise InputError(f"{path}: a file of format {format} ends in {FORMATS[format]}; name it so")
    if format == "safetensors" and (path.parent / BACKBONE_FILE).exists():
        raise InputError(f"{path} would stand among the packs of a release and be taken for one; name another folder")
    if path.exists() and not force:
        raise InputError(f"{path} exists; give --force to replace it")


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"format onnx needs a package that is missing ({error.name}): pip install 'instruct-ipt[export]'"
        ) from None


def _write_safetensors(network: UShape, path: Path, facts: Mapping[str, Any]) -> None:
    header = {_KEY: json.dumps({"format_version": _VERSION, **facts}, sort_keys=True)}
    write_safetensors(path, network.state_dict(), header)


def _write_torchscript(network: UShape, path: Path, facts: Mapping[str, Any]) -> None:
    with _quiet():
        recorded = torch.jit.trace(Traceable(network), torch.rand(_RECORDED[0], 3, *_RECORDED[1:]), check_trace=False)
        content = io.BytesIO()
        # Not to the file itself: on a full disk torch raises an error that does not say so.
        torch.jit.save(recorded, content, _extra_files={f"{_KEY}.json": json.dumps(facts, sort_keys=True)})
    path.write_bytes(content.getvalue())


def _write_onnx(network: UShape, path: Path, facts: Mapping[str, Any]) -> None:
    import onnx

    content = io.BytesIO()
    axes = {0: "batch", 2: "height", 3: "width"}
    with _quiet():
        # The exporter that records a run. The newer one (dynamo=True) needs onnxscript, which this one does not.
        torch.onnx.export(
            Traceable(network),
            (torch.rand(_RECORDED[0], 3, *_RECORDED[1:]),),
            content,
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["restored"],
            dynamic_axes={"image": axes, "restored": axes},
        )
    model = onnx.load_from_string(content.getvalue())
    onnx.helper.set_model_props(model, {_KEY: json.dumps(facts, sort_keys=True)})
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


class _quiet(warnings.catch_warnings):
    """Tracing warns of every number that it takes as fixed; whether the result holds for other sizes is checked."""

    def __enter__(self) -> None:  # type: ignore[override]
        super().__enter__()
        warnings.simplefilter("ignore")


def _run_torchscript(path: Path) -> Run:
    with _quiet():
        return torch.jit.load(str(path), map_location="cpu")


def _run_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


_WRITERS: dict[str, Callable[[UShape, Path, Mapping[str, Any]], None]] = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "safetensors": _write_safetensors,
}
_READERS: dict[str, Callable[[Path], Run]] = {
    "onnx": _run_onnx,
    "torchscript": _run_torchscript,
    "safetensors": load_exported,
}
