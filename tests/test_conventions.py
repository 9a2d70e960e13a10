"""Public names carry types and docstrings, and what takes tensors states their shapes. Read from the sources alone."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from instruct_ipt import provenance

PACKAGE = Path(provenance.source_root())
WITH_SHAPES = ("backbone", "modulation", "adaptation")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Item:
    """A public function, method or class of a module.

    Attributes:
        path: of the file.
        node: its definition.
        owner: the class around a method.
    """

    path: Path
    node: Function | ast.ClassDef
    owner: ast.ClassDef | None = None

    def __str__(self) -> str:
        name = f"{self.owner.name}.{self.node.name}" if self.owner else self.node.name
        return f"{self.path.as_posix()}:{self.node.lineno} {name}"


class Sources:
    """The definitions of some Python files.

    Args:
        sources: path -> text.
    """

    def __init__(self, sources: dict[Path, str]) -> None:
        self.trees = {path: ast.parse(text) for path, text in sources.items()}
        self.classes = {c.name: c for tree in self.trees.values() for c in tree.body if isinstance(c, ast.ClassDef)}

    def items(self) -> Iterator[Item]:
        """Public definitions at the top of public modules, and the methods of public classes; no nested functions."""
        for path, tree in self.trees.items():
            if any(part.startswith("_") and part != "__init__.py" for part in path.parts):
                continue
            for node in tree.body:
                if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
                    yield Item(path, node)
                    if isinstance(node, ast.ClassDef):
                        methods = (m for m in node.body if isinstance(m, Function) and not m.name.startswith("_"))
                        yield from (Item(path, method, node) for method in methods)

    def ancestors(self, node: ast.ClassDef) -> Iterator[ast.ClassDef | str]:
        """A class's bases, nearest first: definitions where they are among the sources, else names."""
        for base in node.bases:
            name = ast.unparse(base).split("[")[0].split(".")[-1]
            known = self.classes.get(name)
            yield known or name
            if known:
                yield from self.ancestors(known)

    def docstring(self, item: Item) -> str:
        """The docstring of an item, of a method it overrides, or what its class says: of `forward`, of a schema's."""
        own = ast.get_docstring(item.node) or ""
        if own or item.owner is None:
            return own
        for base in self.ancestors(item.owner):
            for method in base.body if isinstance(base, ast.ClassDef) else []:
                if isinstance(method, Function) and method.name == item.node.name and ast.get_docstring(method):
                    return ast.get_docstring(method) or ""
        about = ast.get_docstring(item.owner) or ""
        return about if item.node.name == "forward" and states_shape(about) else ""

    def is_schema(self, node: ast.ClassDef) -> bool:
        """Whether a class is a pydantic model: there the names and comments of params.yaml are the documentation."""
        return "BaseModel" in {base for base in self.ancestors(node) if isinstance(base, str)}


def unannotated(function: Function, method: bool) -> list[str]:
    """What lacks a type: parameters (but self and cls) and the return value."""
    arguments = function.args
    given = [*arguments.posonlyargs, *arguments.args]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
    given = given[1:] if method and not static else given
    given += [*arguments.kwonlyargs, *filter(None, (arguments.vararg, arguments.kwarg))]
    return [a.arg for a in given if a.annotation is None] + (["return"] if function.returns is None else [])


_ENTRY = re.compile(r"\.\.\.|\*?((\d+|[A-Z]) )?\w+( ?[*/+-] ?\w+)*( or \w+)?")
_MARK = re.compile(r"(\.\.\.|\d+|[A-Z]|\*shape|rows|cols)(?!\w)")


def states_shape(text: str) -> bool:
    """Whether a docstring holds a shape, such as (N, C, H, W), (G, *shape), (N,) or (1 or N, T)."""
    for content in re.findall(r"\(([^()]*,[^()]*)\)", text):
        entries = [entry.strip() for entry in content.split(",") if entry.strip()]
        if all(_ENTRY.fullmatch(entry) for entry in entries) and any(_MARK.match(entry) for entry in entries):
            return True
    return "shape of the weight" in text or "any shape" in text


def _names(annotations: Iterator[ast.expr | None]) -> set[str]:
    return {
        inner.id if isinstance(inner, ast.Name) else inner.attr
        for annotation in annotations
        if annotation is not None
        for inner in ast.walk(annotation)
        if isinstance(inner, ast.Name | ast.Attribute)
    }


def handles_tensors(node: Function | ast.ClassDef) -> bool:
    """Whether a function takes or returns tensors, or a class holds them in annotated fields."""
    if isinstance(node, ast.ClassDef):
        return "Tensor" in _names(f.annotation for f in node.body if isinstance(f, ast.AnnAssign))
    arguments = (inner.annotation for inner in ast.walk(node.args) if isinstance(inner, ast.arg))
    return "Tensor" in _names(iter([*arguments, node.returns]))


def missing_types(sources: Sources) -> list[str]:
    """Public functions and methods, constructors too, with a parameter or return value that has no type."""
    found = []
    for item in sources.items():
        functions = [item.node] if not isinstance(item.node, ast.ClassDef) else []
        if isinstance(item.node, ast.ClassDef):
            functions = [m for m in item.node.body if isinstance(m, Function) and m.name == "__init__"]
        method = item.owner is not None or isinstance(item.node, ast.ClassDef)
        for function in functions:
            if lacking := unannotated(function, method):
                found.append(f"{item}: no type for {', '.join(lacking)}")
    return found


def missing_docstrings(sources: Sources) -> list[str]:
    """Public functions, methods and classes without a docstring; a schema's fields are documented in params.yaml."""
    return [
        f"{item}: no docstring"
        for item in sources.items()
        if not sources.docstring(item)
        and not (isinstance(item.node, ast.ClassDef) and sources.is_schema(item.node))
        and not (item.owner is not None and sources.is_schema(item.owner))
    ]


def missing_shapes(sources: Sources) -> list[str]:
    """What handles tensors and states no shape, neither in its docstring nor in that of its class."""
    return [
        f"{item}: takes or returns tensors and states no shape"
        for item in sources.items()
        if handles_tensors(item.node)
        and not states_shape(sources.docstring(item))
        and not (item.owner is not None and states_shape(ast.get_docstring(item.owner) or ""))
    ]


def read(*rooms: str) -> Sources:
    """The package's files, or those of some rooms."""
    files = [f for room in rooms or (".",) for f in sorted((PACKAGE / room).rglob("*.py"))]
    assert files
    return Sources({f.relative_to(PACKAGE): f.read_text(encoding="utf-8") for f in files})


def test_public_names_have_types() -> None:
    assert missing_types(read()) == []


def test_public_names_have_docstrings() -> None:
    assert missing_docstrings(read()) == []


def test_what_handles_tensors_states_their_shapes() -> None:
    assert missing_shapes(read(*WITH_SHAPES)) == []


GOOD = '''
class Base:
    """Doubles (N, C)."""
    def __init__(self, size: int) -> None: ...
    def call(self, x: Tensor) -> Tensor:
        """Twice x, (N, C)."""
    def _inner(self, x): ...
class Child(Base):
    """More."""
    x: int
    def call(self, x: Tensor) -> Tensor: ...
class Layer(nn.Module):
    """(N, C) -> (N, C)."""
    def forward(self, x: Tensor) -> Tensor: ...
class Section(BaseModel):
    def checked(self) -> int: ...
def run(path: Path, *names: str, **more: int) -> None:
    """Run."""
    def nested(x): ...
def _hidden(x): ...
'''

BAD: dict[str, tuple[str, str, str]] = {
    "parameter": ("types", "x.py:2 run: no type for b", 'def run(a: int, b) -> None:\n    """Run."""'),
    "keyword": ("types", "x.py:2 run: no type for c, b", 'def run(*b, c=1) -> None:\n    """Run."""'),
    "return": ("types", "x.py:2 run: no type for return", 'def run():\n    """Run."""'),
    "method": (
        "types",
        "x.py:4 A.run: no type for b",
        'class A:\n    """A."""\n    def run(self, b) -> int:\n        """R."""',
    ),
    "static": (
        "types",
        "x.py:5 A.run: no type for b",
        'class A:\n    """A."""\n    @staticmethod\n    def run(b) -> int:\n        """R."""',
    ),
    "constructor": (
        "types",
        "x.py:2 A: no type for b",
        'class A:\n    """A."""\n    def __init__(self, b) -> None: ...',
    ),
    "function": ("docstrings", "x.py:2 run: no docstring", "def run() -> None: ..."),
    "class": ("docstrings", "x.py:2 A: no docstring", "class A: ..."),
    "override": (
        "docstrings",
        "x.py:4 A.forward: no docstring",
        'class A(nn.Module):\n    """A layer."""\n    def forward(self, x: int) -> int: ...',
    ),
    "tensor": (
        "shapes",
        "x.py:2 run: takes or returns tensors and states no shape",
        'def run(x: dict[str, torch.Tensor]) -> None:\n    """Runs (fast, simple) x (see above, or below)."""',
    ),
    "field": (
        "shapes",
        "x.py:2 A: takes or returns tensors and states no shape",
        'class A:\n    """Holds x."""\n    x: Tensor | None',
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_rule_finds_what_it_forbids_and_nothing_else(kind: str) -> None:
    rules = {"types": missing_types, "docstrings": missing_docstrings, "shapes": missing_shapes}
    good = Sources({Path("good.py"): GOOD})
    assert all(rule(good) == [] for rule in rules.values())
    rule, expected, text = BAD[kind]
    assert rules[rule](Sources({Path("x.py"): f"\n{text}\n"})) == [expected]
    assert rules[rule](Sources({Path("_private/x.py"): f"\n{text}\n"})) == []


SHAPES = ("(N, 3, H, W)", "(G, *shape)", "(N,)", "(1 or N, T)", "(T, out, r)", "(N, H / 2, 4 C)", "(..., C)")
PROSE = ("(Hu et al. 2022, arXiv 2106.09685)", "(see above, or below)", "(N samples)", "(fast, simple)", "f(x)", "(A)")


@pytest.mark.parametrize("text", [*SHAPES, *PROSE])
def test_a_shape_is_told_from_prose(text: str) -> None:
    assert states_shape(f"Takes x, {text}.") == (text in SHAPES)


def test_the_lock_pins_everything_that_is_needed_and_nothing_that_breaks(root: Path) -> None:
    lines = (root / "requirements.lock").read_text(encoding="utf-8").splitlines()[1:]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    names = [line.split("==")[0].lower() for line in lines]
    assert len(set(names)) == len(names)
    locked = {re.sub(r"[._-]+", "-", name) for name in names}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {re.split(r"[<>=]", name)[0] for name in needed} <= locked
    assert not locked & {"torchvision", "timm"}
