"""The layers of the library, read off its imports: each imports only from those before it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "synthgrad"
# Modules and packages, from the ground up. Modules of one package may import each other; "" is
# the library's front, synthgrad/__init__.py.
ORDER = [
    "errors",
    "_checks",
    "_sharing",
    "_optimizers",
    "checkpoint",
    "_extra_state",
    "types",
    "_finite",
    "_formulas",
    "functional",
    "context",
    "_graph",
    "_loss_scale",
    "feedback",
    "_values",
    "_nest",
    "_prediction",
    "_guards",
    "interface",
    "inputs",
    "_sandbox",
    "_step_guard",
    "decouple",
    "schedule",
    "recurrent",
    "multirate",
    "parameters",
    "probe",
    "distributed",
    "",
    "lab",
]
FILES = {path.relative_to(SRC): path for path in sorted(SRC.rglob("*.py"))}
LIBRARY = [path for path in FILES if path.parts[0] != "lab"]


def _layer(path: Path) -> str:
    """The module or package that a file belongs to."""
    return {"__init__.py": ""}.get(path.parts[0], path.parts[0].removesuffix(".py"))


def _is_for_readers_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Everything inside that can run, in functions as well."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.If) and _is_for_readers_only(node) and child not in node.orelse:
            continue
        yield child
        yield from _statements(child)


def _imports(source: str, package: list[str]) -> set[str]:
    """The full names of the modules, or names in them, that a source imports at run time."""
    found = set()
    for node in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def _imports_of(path: Path) -> set[str]:
    return _imports(FILES[path].read_text(encoding="utf-8"), ["synthgrad", *path.parent.parts])


def _target(name: str) -> str:
    """The layer that an import from synthgrad reaches."""
    first = [*name.split("."), ""][1]
    return first if first in ORDER else ""


def test_the_order_names_every_module_and_nothing_else():
    assert {_layer(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_module_imports_only_from_the_layers_before_its_own(path):
    own = _layer(path)
    ours = {name for name in _imports_of(path) if name.split(".")[0] == "synthgrad"}
    above = {n for n in ours if ORDER.index(_target(n)) > ORDER.index(own)}
    assert not above
    packages = ("feedback", "schedule", "recurrent", "multirate", "distributed", "lab")
    if own not in packages:  # then nothing beside it either
        assert own not in {_target(name) for name in ours}


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_the_library_needs_the_standard_library_and_torch(path):
    # The command's first module is beside the package, and needs the standard library alone.
    outside = {name.split(".")[0] for name in _imports_of(path)} - sys.stdlib_module_names
    allowed = {"synthgrad", "synthgrad_cli", "torch"} | (
        {"jaxtyping"} if path.name == "types.py" else set()
    )
    assert outside <= allowed


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_short_and_says_what_it_is(path):
    assert len(FILES[path].read_text(encoding="utf-8").splitlines()) <= 500
    assert path.stem not in ("utils", "common", "helpers", "misc")


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("import torch.nn, os", "synthgrad", {"torch.nn", "os"}),
        ("from synthgrad import audit, probe", "synthgrad", {"synthgrad.audit", "synthgrad.probe"}),
        ("from synthgrad.lab.runs.run import run", "synthgrad", {"synthgrad.lab.runs.run.run"}),
        ("def f():\n  class A:\n    import numpy", "synthgrad", {"numpy"}),
        ("try:\n  import a\nexcept E:\n  import b\nelse:\n  import c", "synthgrad", {*"abc"}),
        ("if TYPE_CHECKING:\n  import a\nelse:\n  import b", "synthgrad", {"b"}),
        ("if typing.TYPE_CHECKING:\n  if x:\n    import a", "synthgrad", set()),
        ("from . import critic", "synthgrad.feedback", {"synthgrad.feedback.critic"}),
        ("from .base import F", "synthgrad.feedback", {"synthgrad.feedback.base.F"}),
        ("from ..lab import x", "synthgrad.feedback", {"synthgrad.lab.x"}),
    ],
)
def test_no_import_escapes_the_reader(source, package, found):
    assert _imports(source, package.split(".")) == found
