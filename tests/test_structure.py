"""The structure of the package: imports go one way, and the loop names no method."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import randout
from randout.methods.base import SUPERVISED
from randout.methods.builtin import METHODS

ROOT = Path(randout.__file__).parent
LAYERS = [  # a module may import from its own row and the rows above
    {"errors", "families", "hardware", "intervals", "lazy", "outputs", "wording"},
    {"run_names"},
    {"files", "terminal", "fonts", "parsing", "encoding_advice", "in_memory", "splits"},
    {"dropout", "progress", "published", "keys", "losses", "streams", "memory", "gradient_guard", "model_files"},
    {"archives", "arrow_table", "json_tables"},
    {"tables", "runs", "seen"},
    {"columns", "coda19", "config", "execution"},
    {"table_blocks"},
    {"writing"},
    {"labels"},
    {"datasets", "record"},
    {"described"},
    {"data_report", "sources"},
    {"division"},
    {"data", "metrics", "packing"},
    {"statistics", "sites", "predictions", "block", "words", "attention", "pooled"},
    {"crossed", "optimism", "secondary", "encoder"},
    {"verdicts"},
    {"figures", "tokens", "diagnostics"},
    {"method"},
    {"heads", "model_sources", "hidden_noise", "registry"},
    {"followed", "already_trained"},
    {"session"},
    {"methods", "loop", "models", "inference", "classifiers", "given"},
    {"request"},
    {"recipe", "baseline"},
    {"foreign"},
    {"trainer"},
    {"checkpoint", "soft_labels"},
    {"tokenising", "leaks"},
    {"defaults"},
    {"prepare"},
    {"replay", "run_diagnostics"},
    {"saved", "study_diagnostics"},
    {"labelling", "scoring", "student", "teacher_gap"},
    {"teacher", "trained"},
    {"choice"},
    {"job", "grid", "shelf"},
    {"study"},
    {"reproduction", "search_request"},
    {"tpe", "results", "trials"},
    {"beside"},
    {"searching", "finished_runs"},
    {"comparison"},
    {"reporting", "workflow"},
    {"reproduce"},
    {"studies"},
    {"api", "demo", "doctor", "testing"},
    {"cli_report", "cli_tools"},
    {"cli_search", "cli_methods", "cli_train"},
    {"cli_reproduce", "cli_studies"},
    {"cli"},
]


PACKAGES = {"methods", "classifiers", "reporting", "testing"}


def imports(path: Path) -> set[str]:
    """Names of the package's modules that a file imports when it is loaded (not inside functions)."""
    found: set[str] = set()
    package = path.parent if path.parent != ROOT else None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            if package is not None and node.level == 1:
                names = [package.name]
            found.update(names)
    return found


def test_imports_go_one_way() -> None:
    rank = {name: row for row, names in enumerate(LAYERS) for name in names}
    modules = {path.stem: path for path in ROOT.glob("*.py") if path.stem != "__init__"}
    assert set(modules) == set(rank) - PACKAGES, "a module without its place in LAYERS"
    for package in ("classifiers", "testing"):
        modules |= {f"{package}/{path.stem}": path for path in (ROOT / package).glob("*.py")}
    for name, path in modules.items():
        for other in imports(path):
            assert rank[other] <= rank[name.split("/")[0]], f"{name} imports {other}, which stands above it"


def test_methods_import_the_interface_and_never_one_another() -> None:
    for path in (ROOT / "methods").glob("*.py"):
        if path.stem != "__init__":
            assert imports(path) <= {
                "method",
                "outputs",
                "lazy",
                "errors",
                "losses",
                "keys",
                "hidden_noise",
            }, path.name


def test_the_report_reads_folders_and_never_what_trains() -> None:
    for path in (ROOT / "reporting").glob("*.py"):
        known = {
            "reporting",
            "diagnostics",
            "errors",
            "files",
            "fonts",
            "metrics",
            "statistics",
            "predictions",
            "record",
        }
        known |= {"runs", "run_names", "seen", "published", "teacher_gap", "wording"}
        assert imports(path) <= known, path.name
    code = "import sys, randout.reporting.page; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_no_module_outside_the_shelf_names_a_method() -> None:
    """Neither a method's name, nor one of its settings, nor its table; the loss on gold labels and the package have
    the names of methods too, and say so themselves.
    """
    names = set(METHODS) - {SUPERVISED, "randout"}
    place = re.compile("|".join(rf"(^|methods\.){re.escape(name)}\.\w" for name in {*METHODS} - {"randout"}))
    for path in sorted(ROOT.rglob("*.py")):
        if path.parent.name == "methods":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value.strip():
                assert node.value not in names, f"{path.name}: {node.value}"
                assert not place.search(node.value), f"{path.name}: {node.value}"
            if isinstance(node, ast.Constant) and node.value == SUPERVISED:
                assert path.stem == "method", path.name


def test_nothing_that_is_saved_or_loaded_is_pickled() -> None:
    for path in (ROOT / "classifiers").glob("*.py"):
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
