"""The structure of the package: imports go downward, and no module outside `methods` names a method."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import randout
from randout.methods.base import GOLD_LOSS
from randout.methods.builtin import METHODS

ROOT = Path(randout.__file__).parent
LAYERS = [  # packages, lowest first: a package imports from the packages of earlier rows
    {"core"},
    {"data", "stats", "paper"},
    {"storage"},
    {"models.kernels", "trackers"},
    {"models", "reporting"},
    {"methods"},
    {"training", "baselines"},
    {"exports"},
    {"integrations", "experiments.run", "testing"},
    {"experiments.sharing"},
    {"experiments.search", "experiments.shrink", "experiments.shards"},
    {"experiments.study"},
    {"experiments.reproduction"},
    {"experiments"},
    {"api"},
    {"sklearn"},
    {"cli"},
    {"__main__"},
]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path != ROOT / "__init__.py"
}


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of this package that a module imports: absolute or relative, at its top or inside a function."""
    path = MODULES[name]
    here = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("randout.") for alias in node.names if alias.name.startswith("randout.")}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = here[: len(here) - node.level + 1]
            elif (node.module or "").split(".")[0] == "randout":
                base = []
            else:
                continue
            names = (node.module or "").split(".") if node.level else (node.module or "").split(".")[1:]
            module = ".".join([*base, *filter(None, names)])
            within = {f"{module}.{alias.name}" if module else alias.name for alias in node.names}
            found |= {one if one in MODULES else module for one in within}
    return frozenset(found - {""})  # the package itself: __version__ and public names


def package(name: str) -> str:
    """The package of a module: the longest of `LAYERS` that its name begins with."""
    return max((one for row in LAYERS for one in row if f"{name}.".startswith(f"{one}.")), key=len, default=name)


def test_packages_import_downward_only() -> None:
    rank = {name: row for row, names in enumerate(LAYERS) for name in names}
    for name in MODULES:
        assert package(name) in rank, f"{name} belongs to no package of LAYERS"
        for other in imports(name):
            ours, theirs = package(name), package(other)
            assert ours == theirs or rank[theirs] < rank[ours], f"{name} imports {other}, which is not below it"


def test_there_are_at_most_eight_layers_of_packages() -> None:
    below: dict[str, set[str]] = {}
    for name in MODULES:
        below.setdefault(name.split(".")[0], set()).update(other.split(".")[0] for other in imports(name))

    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in below[name] - {name}), default=0)

    assert max(depth(name) for name in set(below) - {"api", "sklearn", "cli", "__main__"}) <= 8


def test_there_is_no_circle_of_modules() -> None:
    """Imports inside functions count too."""
    done: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(imports(name)):
                walk(other, (*way, name))
            done.add(name)

    for name in MODULES:
        walk(name, ())


def test_methods_import_the_interface_and_never_one_another() -> None:
    shared = {
        "base",
        "builtin",
        "catalog",
        "compatibility",
        "functional",
        "hidden_noise",
        "plugins",
        "registry",
        "target_losses",
        "terms",
    }
    for name in MODULES:
        if name.startswith("methods.") and name.removeprefix("methods.") not in shared:
            allowed = {
                f"methods.{shared}" for shared in ("base", "functional", "hidden_noise", "target_losses", "terms")
            }
            allowed |= {
                "core.errors",
                "core.lazy",
                "core.rng",
                "models.outputs",
                "models.hooks",
                "models.kernels.dropout",
            }
            allowed |= {"models.kernels.block"} if name == "methods.metadistil" else set()  # its second backward pass
            assert imports(name) <= allowed, name


def test_the_report_reads_folders_and_never_what_trains() -> None:
    code = "import sys, randout.reporting.page; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


WITHOUT_POSIX = """
import importlib, os, pkgutil, signal, sys
import pytest

import randout

def import_all():
    package = importlib.import_module("randout")
    for module in pkgutil.walk_packages(package.__path__, "randout."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)

import_all()  # with the packages that randout needs, which have their own code for Windows
for name in [name for name in sys.modules if name.partition(".")[0] == "randout"]:
    del sys.modules[name]
for name in ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"):
    sys.modules[name] = None  # `import` then raises ModuleNotFoundError
for module, names in (
    (os, "fork forkpty getuid geteuid killpg mkfifo sched_getaffinity setsid sysconf O_NONBLOCK"),
    (signal, "SIGALRM SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 alarm pthread_sigmask"),
):
    for name in names.split():
        vars(module).pop(name, None)
import_all()
print("imported")
"""


@pytest.mark.slow
def test_all_modules_can_be_imported_without_what_windows_lacks() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", WITHOUT_POSIX], capture_output=True, text=True)
    assert done.stdout == "imported\n", done.stderr


def test_no_module_outside_methods_names_a_method() -> None:
    """Neither a method's name, nor one of its settings, nor its table; the loss on gold labels and the package have
    the names of methods too, and say so themselves.
    """
    names = set(METHODS) - {GOLD_LOSS, "randout"}
    place = re.compile("|".join(rf"(^|methods\.){re.escape(name)}\.\w" for name in {*METHODS} - {"randout"}))
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent == ROOT / "methods":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value.strip():
                assert node.value not in names, f"{path.name}: {node.value}"
                assert not place.search(node.value), f"{path.name}: {node.value}"
            if isinstance(node, ast.Constant) and node.value == GOLD_LOSS:
                assert path == ROOT / "methods" / "base.py", path.name


def test_nothing_that_is_saved_or_loaded_is_pickled() -> None:
    for path in (ROOT / "baselines").glob("*.py"):
        names = {
            node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)
        }
        found = imported(path)
        assert not found & {"pickle", "joblib", "dill", "cloudpickle", "skops"}, path.name
        assert "torch.load" not in path.read_text(encoding="utf-8")
        assert "eval" not in names


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found
