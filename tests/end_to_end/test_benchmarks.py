"""Benchmarks run: a few steps each, nothing asserted about time; pages that commands make are what they make."""

from __future__ import annotations

import argparse
import ast
import csv
import importlib.util
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binomtest

from randout.methods import catalog
from support import forked

ROOT = Path(__file__).parents[2]


def run_as_main(script: Path, arguments: list[str], out: Path, forks: bool) -> None:
    """What the process of a smoke pass does, as `python script arguments > out` would. forks: its own processes are forks
    of it, which have the libraries imported, in place of fresh interpreters.
    """
    if forks:
        context = multiprocessing.get_context("fork")
        subprocess.run, multiprocessing.get_context = _forked, lambda method=None: context  # type: ignore[assignment]
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    with out.open("w", encoding="utf-8") as stream, redirect_stdout(stream):
        runpy.run_path(str(script), run_name="__main__")


def _forked(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a Python command, in a fork; its standard output is kept whatever was asked."""
    with tempfile.TemporaryFile() as out:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os._exit(_ended(command))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        out.seek(0)
        done = subprocess.CompletedProcess(command, code, out.read().decode(), "see above")
    if options.get("check"):
        done.check_returncode()
    return done


def _ended(command: list[str]) -> int:
    """The exit code of `python -m module ...`, `python -c code ...` or `python script ...`, run here."""
    python, *words = command
    assert python == sys.executable
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.argv = words if words[0].endswith(".py") else words[1:]
    try:
        if words[0] == "-c":
            exec(compile(words[1], "-c", "exec"), {"__name__": "__main__"})
        elif words[0] == "-m":
            runpy.run_module(words[1], run_name="__main__")
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


@pytest.fixture
def smoke(tmp_path: Path) -> Callable[..., Any]:
    """What a benchmark prints in its smoke pass, in a process that has the libraries imported already."""

    def passed(name: str, *more: str, forks: bool = True) -> Any:
        out = tmp_path / f"{name}.json"
        given = ["--smoke", "--json", *more]
        process = forked.started(run_as_main, ROOT / "benchmarks" / f"{name}.py", given, out, forks)
        process.join()
        assert process.exitcode == 0
        return json.loads(out.read_text(encoding="utf-8"))

    return passed


@pytest.mark.slow
def test_throughput_smoke(smoke: Callable[..., Any]) -> None:
    found = smoke("throughput")
    assert found["ratio"].keys() == {"trainer", "best", "slow"}
    assert found["share_of_floor"].keys() == {"needed", "whole"}
    assert found["memory_mib"].keys() == {"trainer", "best", "randout"}
    assert found["rounds"][0]["texts"] > found["rounds"][0]["first_texts"] > 0


def test_products_of_the_floor_are_those_of_a_step(
    tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLOP as torch counts them over a forward and backward of a plain BERT, less those of its head."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoModelForSequenceClassification

    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    products = runpy.run_path(str(ROOT / "benchmarks" / "floor.py"))["products"]
    texts, length, labels = 3, 7, 2
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model("bert"), num_labels=labels, attn_implementation="eager"
    )
    with FlopCounterMode(display=False) as counted:
        model(input_ids=torch.full((texts, length), 9)).logits.sum().backward()
    hidden, inside, heads = model.config.hidden_size, model.config.intermediate_size, model.config.num_attention_heads
    shape = (model.config.num_hidden_layers, hidden, inside, heads)

    def flop(lengths: list[int], last_first_only: bool) -> int:
        return sum(one.flop * times for one, times in products(lengths, *shape, last_first_only).items())

    head = 3 * 2 * texts * hidden * (hidden + labels)
    assert flop([length] * texts, False) == counted.get_total_flops() - head
    assert flop([1, 1], True) == flop([1, 1], False), "in texts of one token the first is all there is"
    spared = 3 * 2 * texts * (length - 1) * (2 * hidden**2 + 2 * hidden * inside + 2 * length * hidden)
    assert flop([length] * texts, False) - flop([length] * texts, True) == spared


@pytest.mark.slow
def test_export_smoke(smoke: Callable[..., Any]) -> None:
    pytest.importorskip("onnxscript")
    found = smoke("export", forks=False)
    assert found["many"].keys() == found["one"].keys() == {"pipeline", "float32", "int8"}
    assert found["checks"]["float32"]["agreement"] == 1
    assert len(found["cold"]) == 5


@pytest.mark.slow
def test_where_smoke(smoke: Callable[..., Any]) -> None:
    found = smoke("where")
    assert any("torch.addmm" in row["function"] for row in found["rows"])


@pytest.mark.slow
def test_trackers_smoke(smoke: Callable[..., Any]) -> None:
    found = smoke("trackers")
    assert found["ratio"] > 0
    assert found["steps_per_point"] == 1


@pytest.mark.slow
def test_methods_smoke(smoke: Callable[..., Any]) -> None:
    found = smoke("methods")
    assert {row["name"] for row in found["methods"]} == set(catalog.entries()) - {catalog.GOLD}


@pytest.mark.slow
def test_search_smoke(smoke: Callable[..., Any]) -> None:
    found = smoke("search")
    quality, cost = found["quality"], found["cost"]
    assert (quality["cells"], len(quality["validation"]), quality["teacher_passes"]) == (16, 16, 1)
    assert quality["steps"]["halving"] < quality["steps"]["exhaustive"] / 4
    low, high = quality["refit"]["interval"]
    assert low <= quality["refit"]["difference"] <= high
    assert (cost["configurations"], cost["passes"]) == (1344, {"in the loop": 20160, "stored": 1})
    steps = {str(size): 672 * 15 * -(-cost["rows"] // size) for size in (16, 32)}
    assert cost["steps"] == steps
    first, second, third = (way["hours"] * 3600 for way in cost["ways"].values())
    spent = cost["seconds"]
    students = sum(count * spent["student"][size] for size, count in steps.items())
    teachers = sum(count * spent["teacher"][size] for size, count in steps.items())
    assert first == pytest.approx(students + teachers)
    assert second == pytest.approx(students + spent["pass"])
    assert third == pytest.approx(0.15 * students + spent["pass"])


@pytest.mark.slow
def test_failures_smoke(smoke: Callable[..., Any]) -> None:
    """Workers that are killed end in the table of one process, and finish each run once."""
    found = smoke("failures")
    assert found["killed"] >= 1
    assert found["same"]
    assert (found["runs"], found["faults"]) == (3, [])


@pytest.mark.slow
def test_cluster_smoke(smoke: Callable[..., Any]) -> None:
    """A node that is killed costs nothing but time: the study ends as on one process, in all files."""
    pytest.importorskip("ray")
    found = smoke("cluster", forks=False)
    assert (found["calm"], found["passed"], found["done"], found["killed"]) == (True, 1, 1, 1)


@pytest.mark.slow
def test_jobs_smoke(smoke: Callable[..., Any]) -> None:
    assert smoke("jobs").keys() == {"seconds_a_run"}


@pytest.mark.slow
def test_growth_smoke(smoke: Callable[..., Any], tmp_path: Path) -> None:
    found = smoke("growth", "--plots", str(tmp_path / "plots"))
    assert set(found) == {"tokens", "batch", "model", "trials"}
    assert all(point["plain, s"] > 0 for what, points in found.items() if what != "trials" for point in points)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {f"growth-{what}.png" for what in found}


def test_the_arithmetic_of_a_step() -> None:
    """Every matrix product of a training step written out: a x b times b x c is 2 a b c, and two as large go back."""
    flop = runpy.run_path(str(ROOT / "benchmarks" / "growth.py"))["flop"]
    lengths, layers, heads, hidden, ffn = (3, 5, 5), 2, 2, 8, 12
    total = 0
    for _ in range(layers):
        for n in lengths:
            projections = [(n, hidden, hidden)] * 4  # queries, keys, values, output
            attention = [(n, hidden // heads, n), (n, n, hidden // heads)] * heads
            forward = [*projections, *attention, (n, hidden, ffn), (n, ffn, hidden)]
            total += sum(3 * 2 * a * b * c for a, b, c in forward)
    assert flop(lengths, layers, hidden, ffn) == total


@pytest.mark.slow
def test_predict_smoke(smoke: Callable[..., Any]) -> None:
    """The pipeline and randout give the same labels, by function and by command."""
    found = smoke("predict")
    assert found["same"]["differ"] == 0
    assert found["same"]["score"] < 1e-5
    assert set(found["commands"]) == {"randout predict", "randout evaluate", "pipeline"}
    assert set(found["budgets"]) == {"64", "256"}


@pytest.mark.slow
def test_ranks_smoke(smoke: Callable[..., Any]) -> None:
    """Two processes train the weights of one that adds up two parts, to the last bit."""
    found = smoke("ranks")
    assert found["same_bits"]
    assert found["sides"].keys() == {"one", "accumulated", "several"}
    assert found["sides"]["several"]["exchanged_mib"] > 0 == found["sides"]["accumulated"]["exchanged_mib"]


def test_rows_smoke(smoke: Callable[..., Any], tmp_path: Path) -> None:
    found = smoke("rows", "--plot", str(tmp_path / "rows.png"))
    assert [size["rows"] for size in found["sizes"]] == [400, 800]
    assert {part["part"] for part in found["sizes"][0]["parts"]} >= {"tokenise", "training steps", "score"}
    assert (tmp_path / "rows.png").stat().st_size > 0


def test_simulated_answers_are_read_as_soft_labels(tmp_path: Path) -> None:
    """Each file is of the form that it claims to be, and says what it should of each text."""
    answers = runpy.run_path(str(ROOT / "benchmarks" / "answers.py"))
    probabilities = np.random.default_rng(1).dirichlet([1.0, 1.0, 1.0], 200)
    texts, classes = [f"text {i}" for i in range(200)], ["bad", "fair", "good"]
    found = {}
    for path in answers["write_answers"](texts, probabilities, classes, tmp_path):
        with path.open(encoding="utf-8", newline="") as stream:
            found[path.stem] = {row["text"]: row for row in csv.DictReader(stream)}
    best = {text: classes[row.argmax()] for text, row in zip(texts, probabilities, strict=True)}
    assert {text: row["prediction"] for text, row in found["labels"].items()} == best
    assert {text: row["prediction"] for text, row in found["sure"].items()} == best
    assert all(0.8 <= float(row["confidence"]) <= 1 for row in found["sure"].values())
    np.testing.assert_allclose(float(found["exact"]["text 7"]["prob_fair"]), probabilities[7, 1], atol=1e-6)
    assert 0 < 200 - len(found["missing"]) < 60
    assert found["answers"].keys() == found["missing"].keys()
    assert all(found["exact"][text] == row for text, row in found["missing"].items())


def test_tables_with_few_labels_keep_groups_whole(tmp_path: Path) -> None:
    """Rows of one group are in one split, and no unlabelled text is a labelled or a test text."""
    few = runpy.run_path(str(ROOT / "benchmarks" / "few_labels.py"))
    source = tmp_path / "posts.csv"
    rows = [(f"post {i} on subject {i % 7}", "yes" if i % 3 else "no", i // 4) for i in range(1600)]
    with source.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label", "group"), *rows])
    out = tmp_path / "out"
    out.mkdir()
    description = tmp_path / "posts.toml"
    description.write_text(
        'name = "posts"\ntrain = "posts.csv"\ntext_column = "text"\nlabel_column = "label"\ngroup_column = "group"\n'
    )
    table, unlabelled = few["write_tables"](str(description), out)
    with table.open(encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream))
    with unlabelled.open(encoding="utf-8", newline="") as stream:
        others = {row["text"] for row in csv.DictReader(stream)}
    splits: dict[str, set[str]] = {}
    for row in written:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    counts = Counter(row["split"] for row in written)
    assert few["LABELLED"] <= counts["train"] + counts["validation"] < few["LABELLED"] + 4
    assert few["VALIDATION"] <= counts["validation"] < few["VALIDATION"] + 4
    groups = {row["group"] for row in written if row["split"] == "train"}
    assert f"train {counts['train']} rows in {len(groups)} groups" in few["described"](table)
    assert few["described"](unlabelled) == f"{len(others):,} rows"
    assert counts["test"] > 0
    assert others
    assert not others & {row["text"] for row in written}


def test_startup_smoke(smoke: Callable[..., Any]) -> None:
    assert set(smoke("startup", forks=False)) == {"python -c pass", "import randout", "randout --help"}


def test_the_page_of_claims_is_what_its_command_makes() -> None:
    claims = runpy.run_path(str(ROOT / "benchmarks" / "claims.py"))
    assert (ROOT / "docs" / "explanation" / "published-numbers.md").read_text(encoding="utf-8") == claims["page"]()


def test_claims_of_the_paper() -> None:
    claims = runpy.run_path(str(ROOT / "benchmarks" / "claims.py"))
    assert claims["gain"]("rhmd") == (1503, 1175, 1193)
    total, plain, ours = claims["gain"]("coda19")
    assert (total, ours - plain) == (15475, 85)
    for net, rows, percent, uncorrected in ((18, 1503, 4.9, 5.6), (85, 15475, 11.9, 12.1)):
        most = claims["most_discordant"](net, exact=True)
        assert round(100 * most / rows, 1) == percent
        assert round(100 * claims["most_discordant"](net, exact=False) / rows, 1) == uncorrected
        assert binomtest((most - net) // 2, most).pvalue < 0.05 <= binomtest((most + 2 - net) // 2, most + 2).pvalue


def test_scaling_smoke(smoke: Callable[..., Any], tmp_path: Path) -> None:
    """One worker does all of the work itself; twenty are about twenty times as fast; the tables are written into the page."""
    page = tmp_path / "scaling.md"
    page.write_text((ROOT / "docs" / "explanation" / "scaling.md").read_text(encoding="utf-8"), encoding="utf-8")
    one, several = smoke("scaling", "--page", str(page))["studies"]
    assert 0.99 < one["efficiency"] <= 1
    assert 10 < one["hours"] / several["hours"] < 20
    assert several["operations"] > one["operations"] > 0
    text = page.read_text(encoding="utf-8")
    assert "| 20 | 1 |" in text
    assert text.endswith(
        (ROOT / "docs" / "explanation" / "scaling.md").read_text(encoding="utf-8").split("<!-- end mark -->")[1]
    )


def test_simulation_smoke(tmp_path: Path) -> None:
    """A few simulations end in a page whose text around the tables is untouched, twice the same."""
    simulate = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{simulate['START']}\nold\n{simulate['END']}\nafter\n", encoding="utf-8")
    texts = []
    for _ in range(2):
        simulate["main"](["--simulations", "2", "--macro-f1", "1", "--groups", "1", "--page", str(page)])
        texts.append(page.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0].startswith("before\n")
    assert texts[0].endswith("\nafter\n")
    assert "old" not in texts[0].split()
    counts = len(simulate["GROUPS"])
    assert texts[0].count("\n| groups |") == 1 + 3 + 2 + 2 * counts + 1  # and the header of a table by groups


def test_simulated_arms_have_the_accuracy_they_claim() -> None:
    simulate = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))
    generator = np.random.default_rng(0)
    for mix in simulate["MIXES"]:
        means, spreads = [], []
        for _ in range(150):
            latent, groups = simulate["sample"](mix, 4, generator)
            assert groups.shape == (simulate["ROWS"],)
            right = latent > -ndtri(simulate["ACCURACY"])
            means.append(right.mean())
            spreads.append(right.mean(-1).var(axis=1, ddof=1).mean())
        assert np.mean(means) == pytest.approx(0.80, abs=0.006), mix.name
        noise = 0.16 / simulate["ROWS"]  # at most, of a run's accuracy on fixed rows
        assert mix.seed_points**2 / 1e4 * 0.8 < np.mean(spreads) < mix.seed_points**2 / 1e4 * 1.2 + noise, mix.name


def test_the_committed_simulation_is_the_whole_one() -> None:
    page = (ROOT / "docs" / "explanation" / "statistics.md").read_text(encoding="utf-8")
    simulate = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))
    made = page.partition(simulate["START"])[2].partition(simulate["END"])[0]
    assert "--simulations 2000 --macro-f1 600 --groups 1000" in made
    counts = len(simulate["GROUPS"])
    for mix in simulate["MIXES"]:
        more = 2 * counts + (mix.name == "groups") if mix.group_arm else 0
        assert made.count(f"\n| {mix.name} |") == 1 + 3 + 2 + more
    assert all(made.count(f"\n| {count} |") == 1 for count in simulate["GROUPS"])


def test_simulated_tables_name_the_targets_they_miss() -> None:
    lines = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))["group_table"]
    header, kinds = ["groups", "1 seed: coverage", "1 seed: false"], {"coverage": "coverage", "false": "false"}
    good = lines(header, [["8", "80.0", "20.0"], ["15", "93.0", "7.0"]], kinds)  # under the least there is no verdict
    assert good[-1].startswith("Targets met: from 15 groups on")
    poor = "\n".join(lines(header, [["15", "92.9", "7.1"], ["30", "", "1.0"]], kinds))
    assert "- 15 groups, 1 seed: coverage: 92.9 %, below 93 %" in poor
    assert "- 15 groups, 1 seed: false: 7.1 %, above 7 %" in poor


def test_missed_targets_are_said() -> None:
    missed = runpy.run_path(str(ROOT / "benchmarks" / "simulate.py"))["missed"]
    good = ["rows", "5", "94.0", "93.0", "90.0", "7.5", "50.0", "1.00", "80.0"]
    assert missed([good, ["rows", "3", "80.0", "80.0", "90.0", "20.0", "1.0", "1.00", "80.0"]]) == []
    assert len(missed([["rows", "10", *good[2:]]])) == 1
    assert "92.9" in missed([["rows", "5", "92.9", "93.0", "90.0", "7.6", "50.0", "1.00", "80.0"]])[0]


# ---- mutation testing


@pytest.fixture
def mutate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`benchmarks/mutate.py` as a module."""
    spec = importlib.util.spec_from_file_location("mutate", ROOT / "benchmarks" / "mutate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mutate", module)
    spec.loader.exec_module(module)
    return module


def test_named_mutants_fit_the_code(mutate: Any) -> None:
    """Each is a change of code that is there, and every module and test file that is named exists."""
    plan = tomllib.loads((ROOT / "benchmarks" / "mutate.toml").read_text(encoding="utf-8"))
    every = mutate.mutants(plan, ["named", "methods/functional.py"])
    names = [mutant.name for mutant in every]
    assert len(set(names)) == len(names)
    assert sum(mutant.group == "named" for mutant in every) == len(plan["named"]) >= 19
    mutate.check(plan)
    again = [mutant for mutant in every if mutant.group == "methods/functional.py"]
    assert again == mutate.mutants(plan, ["methods/functional.py"]), "the same sample"
    with pytest.raises(SystemExit, match=r"'x': `old` occurs 0 times in data/stratify\.py"):
        mutate.mutants(
            {"named": [{"name": "x", "file": "data/stratify.py", "old": "no such code", "new": ""}], "module": []}
        )


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (
            {"reasons": {"methods/kd.py, gone: `1` -> `2`": "equivalent"}},
            r"reason for 'methods/kd\.py, gone: `1` -> `2`'",
        ),
        ({"module": [{"file": "methods/gone.py", "tests": []}]}, r"module 'methods/gone\.py': no such file"),
        (
            {"module": [{"file": "methods/kd.py", "tests": ["test_gone.py"]}]},
            r"methods/kd\.py: no test 'test_gone\.py'",
        ),
        (
            {"module": [{"file": "methods/kd.py", "tests": ["methods/test_equations.py::test_gone"]}]},
            "no test 'methods/test_equations.py::test_gone'",
        ),
    ],
)
def test_names_that_are_not_in_the_code_are_refused(mutate: Any, part: dict[str, Any], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        mutate.check({"named": [], "module": []} | part)


SOURCE = '''"""A module."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numbers import Number

LIMIT: int = 3


def larger(a: int, b: int) -> int:
    """The larger one."""
    if a < 0 or b < 0:
        raise ValueError(f"two numbers of {0} and more")
    return a if a > b else b
'''


def test_generated_mutants_change_one_thing_each(mutate: Any) -> None:
    made = {name: changed() for name, changed in mutate.generated(SOURCE)}
    assert list(made) == [
        "module: `3` -> `4`",
        "larger: `if a < 0 or b < 0:` -> `if True:`",
        "larger: `if a < 0 or b < 0:` -> `if False:`",
        "larger: `a < 0 or b < 0` -> `a < 0 and b < 0`",
        "larger: `a < 0` -> `a <= 0`",
        "larger: `0` -> `1`",
        "larger: `b < 0` -> `b <= 0`",
        "larger: `0` -> `1` (2)",
        "larger: `raise ValueError(f'two numbers of {0} and more')` -> `pass`",
        "larger: `a if a > b else b` -> `b if a > b else a`",
        "larger: `a > b` -> `a >= b`",
    ]
    plain = ast.unparse(ast.parse(SOURCE)).splitlines()
    for name, changed in made.items():
        lines = changed.splitlines()
        assert sum(a != b for a, b in zip(plain, lines, strict=True)) == 1, name


@pytest.mark.slow
def test_mutants_are_killed_or_survive_and_a_run_goes_on(
    mutate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a project of one function, whose tests do not look at negative numbers."""
    root, progress = tmp_path / "project", tmp_path / "out" / "progress.jsonl"
    for place, text in {
        "pyproject.toml": "[tool.pytest.ini_options]\n",
        "src/randout/__init__.py": "",
        "src/randout/mod.py": SOURCE,
        "tests/test_mod.py": "from randout.mod import larger\n\n\ndef test():\n    assert larger(2, 5) == 5\n",
        "tests/test_slow.py": "def test():\n    while True:\n        pass\n",
    }.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(text)
    monkeypatch.setattr(mutate, "ROOT", root)
    monkeypatch.setattr(mutate, "warm", lambda: None)
    tests = ["test_mod.py"]
    named = {"name": "the smaller", "file": "mod.py", "old": "a > b", "new": "a < b", "tests": tests}
    plan = {"named": [named], "module": [{"file": "mod.py", "sample": 3, "tests": tests}]}
    every = mutate.mutants(plan)
    assert len(every) == 4
    mutate.carry_out(every, progress, limit=600.0)
    rows = mutate.known(progress)
    results = {name: row["result"] for name, row in rows.items()}
    assert results.pop("mod.py, the smaller") == "killed"
    fatal = {"mod.py, larger: `a if a > b else b` -> `b if a > b else a`"}
    fatal.add("mod.py, larger: `if a < 0 or b < 0:` -> `if True:`")
    assert results == {name: "killed" if name in fatal else "survived" for name in results}
    assert "survived" in results.values()
    assert (root / "src" / "randout" / "mod.py").read_text() == SOURCE

    made = mutate.page(every, rows, dict.fromkeys(results, "it is a|b"), {"mod.py": 11})
    assert "| named mutants | 1 | 1 | 0 | 0 |" in made
    assert f"| `mod.py` | 3, of 11 | {3 - list(results.values()).count('survived')} |" in made
    assert made.count("it is a\\|b") == list(results.values()).count("survived")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{mutate.START}\nold\n{mutate.END}\nafter\n")
    mutate.write_page(page, made)
    assert page.read_text() == f"before\n{mutate.START}\n\n{made}\n{mutate.END}\nafter\n"

    before = progress.read_text()
    mutate.carry_out(every, progress, limit=600.0)
    assert progress.read_text() == before, "every result still holds"
    (root / "tests" / "test_mod.py").write_text("from randout.mod import larger\n")
    mutate.of_tests.cache_clear()
    assert [mutate.is_valid(one, rows[one.name]) for one in every] == [
        rows[one.name]["result"] == "killed" for one in every
    ]
    copy = mutate.Copy(tmp_path / "copy")
    assert copy.run(["test_slow.py"], 0.3)[0] == "timeout"


@pytest.mark.slow
def test_shards_smoke(smoke: Callable[..., Any]) -> None:
    found = smoke("shards")
    assert (found["rows"], found["same_bytes"], found["exactly_once"]) == (4000, True, True)
    assert 1 <= len(found["memory"]) <= 4  # a fast machine is done before four looks
    assert min(found["memory"]) > 0


def test_planted_labels_are_counted(toy_csv: Callable[..., Path]) -> None:
    measure = runpy.run_path(str(ROOT / "benchmarks" / "label_issues.py"))["measure"]
    asked = {"wrong": 0.1, "seed": 0, "student": "", "folds": 3, "runs": Path("runs")}
    for sets in (False, True):
        found = measure(str(toy_csv(240, 0)), argparse.Namespace(**asked, sets=sets))
        assert (found["rows"], found["planted"]) == (240, 24)
        assert found["precision %"] > 50 < found["recall %"]
    assert found["at most"] == ""


@pytest.mark.slow
def test_busy_smoke(tmp_path: Path, tiny_model: Callable[[str], Path], toy_csv: Callable[..., Path]) -> None:
    command = [
        sys.executable,
        str(ROOT / "benchmarks" / "busy.py"),
        str(toy_csv(90, 0)),
        str(tiny_model("bert")),
        "--smoke",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    head, _, row = done.stdout.splitlines()
    assert (head.count("|"), row.count("|")) == (5, 5)


def test_scores_of_label_sets_are_those_of_their_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = runpy.run_path(str(ROOT / "benchmarks" / "label_sets.py"))
    sets = module["labelled"]([("Cough and stroke", "HM"), ("nothing", "NHM")], ["cough", "stroke"])
    assert sets == [("Cough and stroke", ["HM", "cough", "stroke"]), ("nothing", ["NHM"])]
    truth = module["flags"]([own for _, own in sets], ["HM", "NHM", "cough", "stroke"])
    made = module["flags"]([["HM", "cough"], []], ["HM", "NHM", "cough", "stroke"])
    sample, micro = module["f1"](truth, made)
    assert sample == pytest.approx((2 * 2 / 5 + 0) / 2)
    assert micro == pytest.approx(2 * 2 / (5 + 1))
