"""Mutation testing: does a test fail when the code is changed?

    python benchmarks/mutate.py --page benchmarks/README.md

Runs the mutants of `mutate.toml`: named ones, each a serious mistake that the tests must find, and generated ones (a
changed operator, condition, number or call), a fixed sample per module. Every mutant is tried in a temporary copy of the
sources, never in the checkout: the tests that cover its module run until the first failure, on one thread, within a time
limit. A mutant that no test detects survives.

Progress is appended to a file (`--progress`) after each mutant, so an interrupted run resumes. A killed
mutant is not tried again; a survivor is tried again when its tests change. `--page` writes the table of counts and
survivors between two markers of a Markdown file. Each mutant runs in a fork of a process that has torch
and transformers imported, so this needs a POSIX system.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import contextlib
import functools
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = Path("src") / "randout"
START, END = "<!-- mutate.py: start -->", "<!-- mutate.py: end -->"
SEED = 12
SLOWEST = 4.0  # time limit of a mutant: this factor times the time on unchanged code, plus `GRACE`
GRACE = 20.0  # seconds
COMPARED: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
COMPUTED: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
SWAPPED = {"min": "max", "any": "all", "floor": "ceil", "zeros": "ones", "minimum": "maximum", "argmin": "argmax"}
SWAPPED |= {value: key for key, value in SWAPPED.items()}
SKIPPED = (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)  # their parts are not mutated


@dataclass(frozen=True)
class Mutant:
    """A changed source of one file. name: unique, and stable while the code around it is unchanged."""

    name: str
    group: str  # "named", or the file
    file: str  # below the package
    source: str
    tests: tuple[str, ...]


def generated(source: str) -> Iterator[tuple[str, Callable[[], str]]]:
    """(name, function that returns the changed source) of every generated mutant of a module, by line."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    for where, parent, field, index in list(_places(tree)):
        old = _get(parent, field, index)
        for new in _replacements(old):
            name = f"{where}: {_shown(old, new)}"
            seen[name] = seen.get(name, 0) + 1
            name += f" ({seen[name]})" if seen[name] > 1 else ""
            yield name, functools.partial(_changed, tree, (parent, field, index), old, new)


def _changed(tree: ast.AST, place: tuple[ast.AST, str, int | None], old: ast.AST, new: ast.AST) -> str:
    """Source code of a tree with one node replaced."""
    _put(*place, new)
    code = ast.unparse(ast.fix_missing_locations(tree))
    _put(*place, old)
    return code


def _places(node: ast.AST, where: str = "module") -> Iterator[tuple[str, ast.AST, str, int | None]]:
    """(function, parent, field, index) of every node that may be replaced, except annotations and messages."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        where = node.name if where == "module" else f"{where}.{node.name}"
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, SKIPPED):
                continue
            yield where, node, field, index
            if not isinstance(child, ast.Raise):  # mutated as a whole, not its message
                yield from _places(child, where)


def _replacements(node: ast.AST) -> list[ast.AST]:
    """Replacements of a node, usually none or one."""
    match node:
        case ast.Compare(left, [one], rest) if type(one) in COMPARED:
            return [ast.Compare(left, [COMPARED[type(one)]()], rest)]
        case ast.BinOp(left, operator, right) if type(operator) in COMPUTED:
            return [ast.BinOp(left, COMPUTED[type(operator)](), right)]
        case ast.AugAssign(target, operator, value) if type(operator) in COMPUTED:
            return [ast.AugAssign(target, COMPUTED[type(operator)](), value)]
        case ast.BoolOp(operator, values):
            return [ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)]
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            return [operand]
        case ast.IfExp(test, body, other):
            return [ast.IfExp(test, other, body)]
        case ast.If(ast.Name("TYPE_CHECKING")):  # only type checkers read it
            return []
        case ast.If(test, body, other):
            return [ast.If(ast.Constant(value), body, other) for value in (True, False)]
        case ast.Constant(bool() as value):
            return [ast.Constant(not value)]
        case ast.Constant(int() as value):
            return [ast.Constant(value + 1)]
        case ast.Constant(float() as value):
            return [ast.Constant(2 * value or 1.0)]
        case ast.Name(name) | ast.Attribute(_, name) if name in SWAPPED:
            if isinstance(node, ast.Name):
                return [ast.Name(SWAPPED[name])]
            return [ast.Attribute(node.value, SWAPPED[name])]
        case ast.Expr(ast.Call()) | ast.Raise():
            return [ast.Pass()]
        case ast.Continue():
            return [ast.Break()]
    return []


def _get(parent: ast.AST, field: str, index: int | None) -> Any:
    value = getattr(parent, field)
    return value if index is None else value[index]


def _put(parent: ast.AST, field: str, index: int | None, new: ast.AST) -> None:
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new


def _shown(old: ast.AST, new: ast.AST, width: int = 60) -> str:
    """Describe a change as `before` -> `after`, shortened to the part around the first difference."""
    pair = [ast.unparse(ast.fix_missing_locations(node)).splitlines()[0].replace("`", "'") for node in (old, new)]
    longest = max(map(len, pair))
    if longest > width:
        differ = next((at for at, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), 0)
        start = max(0, min(differ - width // 2, longest - width))
        pair = [
            (".." if start else "") + line[start : start + width] + (".." if len(line) > start + width else "")
            for line in pair
        ]
    return f"`{pair[0]}` -> `{pair[1]}`"


def check(plan: dict[str, Any]) -> None:
    """Raise SystemExit for names of `mutate.toml` that are not in the code: modules, tests, and mutants with a reason."""
    wrong: list[str] = []
    made: set[str] = set()
    for module in plan["module"]:
        path = ROOT / PACKAGE / module["file"]
        if path.is_file():
            made |= {f"{module['file']}, {name}" for name, _ in generated(path.read_text(encoding="utf-8"))}
        else:
            wrong.append(f"module {module['file']!r}: no such file")
    for part in [*plan["named"], *plan["module"]]:
        for test in part["tests"]:
            name, _, function = test.partition("::")
            path = ROOT / "tests" / name
            if not path.is_file() or (function and f"def {function}(" not in path.read_text(encoding="utf-8")):
                wrong.append(f"{part['file']}: no test {test!r}")
    for name in plan.get("reasons", {}):
        if name not in made:
            wrong.append(f"reason for {name!r}: no module of the list has this mutant")
    if wrong:
        raise SystemExit("mutate.toml: adapt it to the code\n" + "\n".join(wrong))


def mutants(plan: dict[str, Any], only: Sequence[str] = ()) -> list[Mutant]:
    """Named mutants and the sample of each module. only: these files, and named ones only if it contains "named".

    Raises SystemExit where a named mutant's code is no longer there.
    """
    found = []
    for one in plan["named"] if not only or "named" in only else []:
        source = (ROOT / PACKAGE / one["file"]).read_text(encoding="utf-8")
        if source.count(one["old"]) != 1:
            raise SystemExit(
                f"mutate.toml: {one['name']!r}: `old` occurs {source.count(one['old'])} times in {one['file']}, expected "
                "once; adapt it to the code"
            )
        changed = source.replace(one["old"], one["new"])
        ast.parse(changed)
        found.append(Mutant(f"{one['file']}, {one['name']}", "named", one["file"], changed, tuple(one["tests"])))
    for module in plan["module"]:
        if only and module["file"] not in only:
            continue
        source = (ROOT / PACKAGE / module["file"]).read_text(encoding="utf-8")
        every = list(generated(source))
        draw = random.Random(f"{SEED} {module['file']}")
        chosen = range(len(every))
        if 0 < module["sample"] < len(every):
            chosen = sorted(draw.sample(chosen, module["sample"]))
        for at in chosen:
            name, changed = every[at]
            name = f"{module['file']}, {name}"
            found.append(Mutant(name, module["file"], module["file"], changed(), tuple(module["tests"])))
    return found


class Copy:
    """A temporary copy of the sources and tests, with one mutated file at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ignored = shutil.ignore_patterns("__pycache__", ".*", "plots", "results")
        for name in ("src", "tests", "benchmarks", "docs", "pyproject.toml", "README.md"):
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, folder / name, ignore=ignored)
            elif (ROOT / name).exists():
                shutil.copy(ROOT / name, folder / name)
        compileall.compile_dir(folder / "src", quiet=1)

    def run(self, tests: Sequence[str], limit: float) -> tuple[str, float, str]:
        """("passed", "failed", "timeout" or "error", seconds, the end of what pytest printed)."""
        printed = self.folder / "printed.txt"
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            os.setsid()  # so that its own children end with it
            self._pytest(tests, printed)
        status = None
        while status is None:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = {0: "passed", 1: "failed", 2: "failed"}.get(os.waitstatus_to_exitcode(code), "error")
            elif time.monotonic() - began > limit:
                status = "timeout"
            else:
                time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status == "timeout":
            os.waitpid(child, 0)
        text = printed.read_text(encoding="utf-8", errors="replace") if printed.exists() else ""
        return status, time.monotonic() - began, text[-2000:]

    def _pytest(self, tests: Sequence[str], printed: Path) -> None:
        """Run the tests in this (child) process and exit."""
        code = 3
        try:
            output = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.chdir(self.folder)
            sys.path[:0] = [str(self.folder / "src"), str(self.folder / "tests")]
            for name in [name for name in sys.modules if name.partition(".")[0] == "randout"]:
                del sys.modules[name]
            os.environ["PYTHONPATH"] = str(self.folder / "src")
            import pytest

            files = [str(self.folder / "tests" / name) for name in tests]
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:anyio"]
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that `warm` imported
            code = int(pytest.main([*options, *files]))
            import randout

            if not str(randout.__file__).startswith(str(self.folder)):
                code = 3
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def mutate(self, file: str, source: str | None) -> None:
        """Write a mutant's source to the copy; None restores the source of the checkout."""
        path = self.folder / PACKAGE / file
        # Bytecode of a mutant with the same size and second would be reused for the next one.
        for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            stale.unlink()
        path.write_text(source or (ROOT / PACKAGE / file).read_text(encoding="utf-8"), encoding="utf-8")


def warm() -> None:
    """Import once what nearly every test needs, but nothing of this package, which every child imports from the copy."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import _hypothesis_pytestplugin  # noqa: F401
    import hypothesis.strategies  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics
    import sklearn.model_selection  # noqa: F401
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: F401
    from transformers.models.bert import modeling_bert, tokenization_bert  # noqa: F401
    from transformers.models.roberta import modeling_roberta, tokenization_roberta  # noqa: F401

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # keeps children from scanning the libraries' objects for garbage


def digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


@functools.cache  # of the files as they are when the run starts, as its copy is
def of_tests(tests: tuple[str, ...]) -> str:
    """Digest of what a survivor depends on: its tests and shared test code."""
    shared = sorted(path.name for path in (ROOT / "tests").glob("*.py") if not path.name.startswith("test_"))
    files = [name.partition("::")[0] for name in [*shared, *tests]]
    return digest(*tests, *((ROOT / "tests" / name).read_text(encoding="utf-8") for name in files))


def known(progress: Path) -> dict[str, dict[str, Any]]:
    """Latest result of each mutant, by name."""
    if not progress.exists():
        return {}
    rows = [json.loads(line) for line in progress.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return {row["name"]: row for row in rows}


def is_valid(mutant: Mutant, row: dict[str, Any] | None) -> bool:
    """Whether a result is still valid: same code, and killed or run by the same tests."""
    if row is None or row["code"] != digest(mutant.source):
        return False
    return row["result"] == "killed" or row["tests"] == of_tests(mutant.tests)


def carry_out(every: Sequence[Mutant], progress: Path, limit: float | None = None) -> None:
    """Run every mutant without a valid result. limit: seconds per mutant, instead of the limit from the unchanged code.

    Raises SystemExit where tests fail on the unchanged code.
    """
    rows = known(progress)
    left = [mutant for mutant in every if not is_valid(mutant, rows.get(mutant.name))]
    if not left:
        return
    warm()
    progress.parent.mkdir(parents=True, exist_ok=True)
    usual: dict[tuple[str, ...], float] = {}
    with tempfile.TemporaryDirectory() as folder, progress.open("a", encoding="utf-8") as stream:
        copy = Copy(Path(folder))
        for at, mutant in enumerate(left, 1):
            if mutant.tests not in usual:
                result, seconds, text = copy.run(mutant.tests, 600.0)
                if result != "passed":
                    raise SystemExit(f"{text}\n{' '.join(mutant.tests)}: {result} on the unchanged code")
                usual[mutant.tests] = seconds
            copy.mutate(mutant.file, mutant.source)
            try:
                result, seconds, text = copy.run(mutant.tests, limit or SLOWEST * usual[mutant.tests] + GRACE)
            finally:
                copy.mutate(mutant.file, None)
            named = {"passed": "survived", "failed": "killed", "timeout": "timeout", "error": "error"}[result]
            row = {"name": mutant.name, "code": digest(mutant.source), "tests": of_tests(mutant.tests)}
            row |= {"result": named, "seconds": round(seconds, 1)}
            failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
            row["by"] = failed[0].split(" - ")[0].split("/")[-1] if failed else ""
            stream.write(json.dumps(row) + "\n")
            stream.flush()
            print(
                f"{at}/{len(left)} {named:8} {seconds:6.1f} s  {mutant.name}  {row['by']}", file=sys.stderr, flush=True
            )


def page(
    every: Sequence[Mutant], rows: dict[str, dict[str, Any]], reasons: dict[str, str], places: dict[str, int]
) -> str:
    """Markdown table of counts and survivors. places: total number of possible mutants of each file."""
    lines = ["| what | mutants, of all | killed | survived | timed out |", "|---|---|---|---|---|"]
    total = [0, 0, 0, 0]
    for group in dict.fromkeys(mutant.group for mutant in every):
        of = [rows[mutant.name]["result"] for mutant in every if mutant.group == group if mutant.name in rows]
        counts = [len(of), of.count("killed"), of.count("survived") + of.count("error"), of.count("timeout")]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        whole = f", of {places[group]}" if group in places else ""
        what = "named mutants" if group == "named" else f"`{group}`"
        lines.append(f"| {what} | {counts[0]}{whole} | {counts[1]} | {counts[2]} | {counts[3]} |")
    lines += [f"| all | {total[0]} | {total[1]} | {total[2]} | {total[3]} |", ""]
    stay = [mutant for mutant in every if mutant.name in rows and rows[mutant.name]["result"] in ("survived", "error")]
    if stay:
        lines += ["| survivor | why it stays |", "|---|---|"]
        lines += [f"| {_cell(mutant.name)} | {_cell(reasons.get(mutant.name, 'not explained'))} |" for mutant in stay]
    else:
        lines.append("No mutant survived.")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def write_page(path: Path, made: str) -> None:
    """Write the table between the markers of a file. Raises SystemExit if they are missing."""
    text = path.read_text(encoding="utf-8")
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        raise SystemExit(f"{path}: expected the lines {START!r} and {END!r}")
    path.write_text(f"{before}{START}\n\n{made}\n{END}{after}", encoding="utf-8")


def main(words: Sequence[str] | None = None) -> None:
    about = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--progress", type=Path, default=ROOT / "build" / "mutants.jsonl", help="results file, one per line"
    )
    parser.add_argument("--only", default="", help='files, comma-separated, and "named"; default: all')
    parser.add_argument("--first", type=int, default=0, help="most mutants to run; 0: all")
    parser.add_argument("--limit", type=float, default=None, help="time limit per mutant in seconds")
    parser.add_argument(
        "--page", type=Path, default=None, help="Markdown file to write the table to; default: print it"
    )
    parser.add_argument("--list", action="store_true", help="list the mutants and exit")
    asked = parser.parse_args(words)
    plan = tomllib.loads((Path(__file__).parent / "mutate.toml").read_text(encoding="utf-8"))
    check(plan)
    every = mutants(plan, [name for name in asked.only.split(",") if name])
    every = every[: asked.first] if asked.first else every
    if asked.list:
        print("\n".join(mutant.name for mutant in every))
        return
    carry_out(every, asked.progress, asked.limit)
    places = {
        module["file"]: sum(1 for _ in generated((ROOT / PACKAGE / module["file"]).read_text(encoding="utf-8")))
        for module in plan["module"]
    }
    made = page(every, known(asked.progress), plan.get("reasons", {}), places)
    if asked.page:
        write_page(asked.page, made)
    else:
        print(made)


if __name__ == "__main__":
    main()
