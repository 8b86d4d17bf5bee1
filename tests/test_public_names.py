"""Tests and benchmarks use the public names of the package: none that begins with an underscore."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import randout

PACKAGE = Path(randout.__file__).parent
ROOT = Path(__file__).parents[1]
BY_NAME = {"getattr", "setattr", "delattr", "hasattr", "setitem", "delitem", "object", "patch", "attrgetter"}
PRIVATE = re.compile(r"_(?!_)\w+")


def private_names(sources: Iterable[str]) -> set[str]:
    """Names with a leading underscore that the sources define: functions, classes, variables, methods and attributes."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    found.add(name)
                case ast.Name(id=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                    found.add(name)
    return {name for name in found if PRIVATE.fullmatch(name)}


def uses(source: str, private: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of every private name of the package in the source of a test.

    A name counts as one of the package if it is imported from it, or if it is an attribute with a name in `private` of
    anything but `self`, as in `module._name`, `Class(...)._name` and `setattr(module, "_name", ...)`. `private` is what the
    package defines, so private names of other libraries do not count.
    """
    tree = ast.parse(source)
    own = private_names([source])
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.split(".")[0] == "randout":
                parts = [*module.split("."), *(alias.name for alias in names)]
                yield from ((node.lineno, part) for part in parts if PRIVATE.fullmatch(part))
            case ast.Import(names=names):
                dotted = [alias.name for alias in names if alias.name.split(".")[0] == "randout"]
                yield from ((node.lineno, part) for part in ".".join(dotted).split(".") if PRIVATE.fullmatch(part))
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if name in own:
                pass
            case ast.Attribute(attr=name) if name in private:
                yield node.lineno, name
            case ast.Call(func=ast.Attribute(attr=called) | ast.Name(id=called), args=words) if called in BY_NAME:
                texts = [word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)]
                parts = [part for text in texts for part in text.split(".")]
                yield from ((node.lineno, part) for part in parts if part in private)


def test_no_private_name_of_the_package_is_used() -> None:
    private = private_names(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in ("tests", "benchmarks", "docs/site")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, name in uses(path.read_text(encoding="utf-8"), private)
    ]
    assert not found, "private names of the package:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "from randout.training.loop import _step",
        "from randout._core import files",
        "import randout.core._files",
        "loop._step(1)",
        "Method(sigma=1)._step(1)",
        "monkeypatch.setattr(loop, '_step', None)",
        "monkeypatch.setattr('randout.training.loop._step', None)",
        "getattr(loop, '_step')",
    ],
)
def test_a_private_name_is_found(line: str) -> None:
    private = private_names(["def _step(n): ...", "class A:\n    def f(self):\n        self._kept = 1", "_last = []"])
    assert private == {"_step", "_kept", "_last"}
    assert [at for at, _ in uses(f"import os\n{line}", private)] == [2]


@pytest.mark.parametrize(
    "line",
    [
        "model.config._attn_implementation",
        "from torch._C import _x",
        "def _step(n): ...",
        "loop.step(1)",
        "found['_step']",
        "self.__dict__",
    ],
)
def test_names_of_others_are_not(line: str) -> None:
    assert not list(uses(line, {"_step"}))
