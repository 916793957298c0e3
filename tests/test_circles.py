"""No two files import each other in a circle, and nobody reaches into another's private modules.

Imports for annotations alone count as well: whoever reads a file follows them too.
"""

import ast
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
FILES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SRC / "synthgrad").rglob("*.py"))
}
PACKAGES = {name for name, path in FILES.items() if path.name == "__init__.py"}


def imported(source: str, package: str) -> set[str]:
    """Every module, or name in one, that a source imports: at run time, in functions, for types.

    Args:
        source: the file's text.
        package: the one that it is in, which relative imports begin at.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
    return found


def _package(name: str) -> str:
    return name if name in PACKAGES else name.rpartition(".")[0]


def imports_of(name: str) -> set[str]:
    return imported(FILES[name].read_text(encoding="utf-8"), _package(name))


def file_of(name: str) -> str | None:
    """The file that an imported name leads to: the longest part of it that is one."""
    while name and name not in FILES:
        name = name.rpartition(".")[0]
    return name or None


def arrows(names: list[str]) -> dict[str, set[str]]:
    """From each file to those that it imports, without the packages' fronts.

    A front gathers the names of its package's files; who imports one of these by the front is
    taken to import the file.
    """
    found = {}
    for name in names:
        targets = {file_of(i) for i in imports_of(name)}
        targets |= {
            file_of(inner)
            for i in imports_of(name)
            if (front := file_of(i)) in PACKAGES and front in FILES
            for inner in imports_of(front)
            if inner.rpartition(".")[2] == i.rpartition(".")[2]
        }
        found[name] = {t for t in targets if t in FILES and t not in PACKAGES and t != name}
    return found


def circles(arrows: dict[str, set[str]]) -> list[tuple[str, ...]]:
    """The groups of names that can reach each other."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in arrows.get(todo.pop(), set()) - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reach = {name: reached(name) for name in arrows}
    return sorted(
        {tuple(sorted(o for o in reach[n] if n in reach.get(o, set()))) for n in reach} - {()}
    )


def test_no_two_files_import_each_other_in_a_circle():
    assert circles(arrows([name for name in FILES if name not in PACKAGES])) == []


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _home(name: str) -> str:
    """The package that a private module belongs to."""
    parts = name.split(".")
    first = next(i for i, part in enumerate(parts) if part.startswith("_"))
    return ".".join(parts[:first])


@pytest.mark.parametrize("name", FILES)
def test_private_modules_are_imported_inside_their_package_only(name):
    private = {file_of(i) for i in imports_of(name)} - {None}
    private = {target for target in private if _is_private(str(target))}
    assert not {t for t in private if not f"{name}.".startswith(f"{_home(str(t))}.")}


OUTSIDE = [name for name in FILES if name.split(".")[1:2] in (["lab"], ["integrations"])]


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_lab_and_integrations_use_public_names_only(name):
    """Of the library; a name is public that a package's front, or a public module, has."""
    own = ".".join(name.split(".")[:2])
    wrong = []
    for full in imports_of(name):
        target = file_of(full)
        if target is None or target.startswith(own):
            continue
        attribute = full.rpartition(".")[2]
        if _is_private(target) or (full != target and attribute.startswith("_")):
            wrong.append(full)
            continue
        front = ".".join(target.split(".")[:2])
        # A package's names are those of its front; its files are its own affair.
        if front in PACKAGES and front != "synthgrad" and target != front:
            wrong.append(full)
    assert not wrong


@pytest.mark.parametrize(
    ("source", "package", "found"),
    [
        ("if TYPE_CHECKING:\n  from a.b import c", "p", {"a.b.c"}),
        ("def f():\n  import a", "p", {"a"}),
        ("from . import x", "p.q", {"p.q.x"}),
        ("from ..r import x", "p.q", {"p.r.x"}),
    ],
)
def test_no_import_escapes_the_reader(source, package, found):
    assert imported(source, package) == found


def test_a_circle_is_found_however_long_it_is():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [("a", "b", "c")]
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []


def test_every_file_is_looked_at():
    assert sys.modules["synthgrad"].__name__ in FILES
    assert len(FILES) > 50
