"""What an output was made with: parameters, code and inputs, as digests that can be compared later.

Two small files stand beside every output. ``manifest.json`` holds content hashes only; later stages depend on it.
``provenance.json`` holds the parameters used, the digest of the code and of the inputs; nothing depends on it, so that
an edited comment does not retrain the world. DVC hashes parameters and sources *after* a command ends; these files are
written from what was read *before* it began, and that is how an edit during a run is noticed.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from instruct_ipt.disk import write_whole

PACKAGE = "instruct_ipt"

# Modules that cannot change a byte of an output: messages, places, progress bars, records, and the schema, whose values
# are recorded themselves. They do not count as code of a stage, or rewording a message would retrain the world.
PLUMBING = {
    "__init__.py", "disk.py", "errors.py", "params.py", "paths.py", "progress.py", "provenance.py", "runs.py",
    "stage_table.py", "stopwatch.py", "tracking.py",
}  # fmt: skip


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex SHA-256 of a JSON-serialisable value, independent of the order of mapping keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def manifest_of(folder: Path) -> dict[str, str]:
    """Relative POSIX path -> SHA-256 of every file under ``folder``, sorted, the two record files left out."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in ("manifest.json", "provenance.json"))
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as sorted, indented JSON under a temporary name, then rename."""
    write_whole(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def source_root() -> Path:
    """The folder of the installed package's sources."""
    spec = importlib.util.find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


@functools.cache
def code_files(*modules: str) -> tuple[str, ...]:
    """Package source files that ``modules`` reach through imports, themselves included; relative paths, sorted.

    Imports inside functions count; imports under ``if TYPE_CHECKING`` do not, for they never run.
    """
    root, seen, todo = source_root(), set(), list(modules)
    while todo:
        name = todo.pop()
        path = _module_file(root, name)
        if path is None or path in seen:
            continue
        seen.add(path)
        # Importing a module runs the __init__ of each package above it.
        todo += [name.rsplit(".", 1)[0]] if "." in name else []
        todo += _imports(root / path, name, is_package=path.endswith("__init__.py"))
    # A template is code too: it counts with the modules of its folder.
    templates = {p.relative_to(root).as_posix() for s in seen for p in (root / s).parent.glob("*.j2")}
    return tuple(sorted(name for name in (seen | templates) - PLUMBING if not _is_blank(root / name)))


def _is_blank(path: Path) -> bool:
    """Whether a module holds nothing but its docstring, as most ``__init__.py`` do."""
    if path.name != "__init__.py":
        return False
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)


def code_digest(modules: Iterable[str]) -> str:
    """Digest of the contents of :func:`code_files`."""
    root = source_root()
    return digest({name: sha256_file(root / name) for name in code_files(*modules)})


def record(sections: Mapping[str, Any], modules: Iterable[str], inputs: Iterable[Path]) -> dict[str, Any]:
    """The content of ``provenance.json``: parameters used, digest of the code, hashes of the inputs as they are now."""
    return {
        "params": dict(sections),
        "params_digest": digest(sections),
        "code_digest": code_digest(modules),
        "inputs": {path.as_posix(): sha256_file(path) for path in inputs},
    }


def differences(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records, a short phrase each; empty when they agree."""
    found = [
        f"{key} was {_short(old)}, is {_short(new)}"
        for key, old, new in _changed_leaves(recorded["params"], now["params"])
    ]
    if recorded["code_digest"] != now["code_digest"]:
        found.append("source code was edited")
    for path in sorted({*recorded["inputs"], *now["inputs"]}):
        if recorded["inputs"].get(path) != now["inputs"].get(path):
            found.append(f"input {path} changed")
    return found


def _changed_leaves(old: Any, new: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(prefix[1:], old, new)]
    keys = sorted({*old, *new})
    return [leaf for key in keys for leaf in _changed_leaves(old.get(key), new.get(key), f"{prefix}.{key}")]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _module_file(root: Path, name: str) -> str | None:
    if name == PACKAGE:
        return "__init__.py"
    relative = name.removeprefix(PACKAGE + ".").replace(".", "/")
    for candidate in (f"{relative}.py", f"{relative}/__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


@functools.cache
def _imports(path: Path, module: str, is_package: bool) -> tuple[str, ...]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(n) for block in ast.walk(tree) if _is_type_checking(block) for n in ast.walk(block)}
    names: list[str] = []
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base_of(node, module, is_package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] == PACKAGE and name != module)


def _base_of(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Absolute name of the module that a `from ... import` names; relative dots count from the importing package."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    above = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*above, node.module] if node.module else above)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def read_record(path: Path) -> dict[str, Any] | None:
    """A ``provenance.json``, or None when it is missing or damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and {"params", "code_digest", "inputs"} <= set(value) else None
