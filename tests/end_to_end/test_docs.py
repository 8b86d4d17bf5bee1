"""README and documentation are executed: every command and Python block, on tiny stand-ins for the models they name."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import randout
from conftest import Run
from randout.methods import catalog
from randout.testing.models import build, build_decoder, toy_texts
from support.label_sets import write_label_sets
from support.markers import marked_slow
from support.shards import write_shards

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
STUDIES = (ROOT / "docs" / "how-to" / "run-studies.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "explanation" / "results.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/[thre]*/*.md")) if "results" not in path.parts),
]
ELSEWHERE = {"docs/how-to/run-studies.md", "docs/how-to/add-a-method.md"}  # executed by tests of their own
EXTRA = {"docs/how-to/deploy.md": "onnxscript"}  # pages that need the packages of an extra
HUB_PAGE = "docs/how-to/share-on-the-hub.md"  # executed with a model hub on this machine
SLOW = {  # that train many models
    f"docs/how-to/{name}.md"
    for name in (
        "choose-models",
        "come-from-other-tools",
        "deploy",
        "run-in-parallel",
        "scikit-learn",
        "share-on-the-hub",
        "use-methods",
        "views-and-cross-fitting",
    )
}
WORDS = {"svm", "cnn"}  # students that have no epochs of an encoder
TINY = ["--set", "epochs=1", "--set", "precision=float32"]


def blocks(kind: str, document: str = README) -> list[str]:
    """The fenced blocks of a document whose opening line is exactly `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A folder in which the names of README and pages exist: tables, encoders (minilm, minilm-l6, big-encoder) and chat-model."""
    folder = tmp_path_factory.mktemp("readme")
    for name, seed in (("reviews.csv", 0), ("films.csv", 0), ("films-new.csv", 1)):
        texts, labels = toy_texts(120, seed)
        rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        (folder / name).write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
        answers = [
            {"text": text, "prediction": label, "confidence": 0.9} for text, label in zip(texts, labels, strict=True)
        ]
        lines = "".join(json.dumps(one) + "\n" for one in answers)
        (folder / name.replace(".csv", "-answers.jsonl")).write_text(lines, encoding="utf-8")
    texts, labels = toy_texts(120, 0)
    for name, header, cells in (
        ("pairs.csv", "premise,hypothesis", toy_texts(120, 1)[0]),
        ("sentences.csv", "text,position", [f"{at % 8}/8" for at in range(120)]),
    ):
        lines = [f"{header},label", *(",".join(row) for row in zip(texts, cells, labels, strict=True))]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "films-unlabelled.csv").write_text("\n".join(["text", *toy_texts(40, 2)[0]]) + "\n", encoding="utf-8")
    write_label_sets(folder / "tickets.csv", seed=0)
    write_label_sets(folder / "tickets-new.csv", 40, seed=1)
    write_shards(folder / "texts", seed=3)
    build("bert", folder / "minilm", hidden_size=128)  # the paper's noise is on up to 128 units
    shutil.copytree(tiny_model("roberta"), folder / "big-encoder")
    build_decoder("qwen3", folder / "chat-model")
    shutil.copytree(tiny_model("bert"), folder / "cache" / "models" / "minilm-l6")
    return folder


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`place` as the working folder, with its own caches."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("RANDOUT_CACHE", str(place / "cache"))
    return place


def commands_of(document: str) -> list[str]:
    """The lines of a document's `sh` blocks that call randout."""
    return [line for block in blocks("sh", document) for line in block.splitlines() if line.startswith("randout ")]


README_SLOW = [line for line in commands_of(README) if line.split()[1] in ("compare", "report", "export")]


@pytest.fixture
def runs(there: Path, command: Run) -> Path:
    """`there` with the runs runs/first and runs/second, made by the README's own commands."""
    made = [line for line in commands_of(README) if " -o runs/first" in line or " -o runs/second" in line]
    assert [line.split()[1] for line in made] == ["train", "train"]
    for line in made:
        if not (there / line.partition(" -o ")[2].split()[0]).exists():
            _carry_out([line], command)
    for written in [*there.glob("*.labelled.csv"), *there.glob("scored.csv"), *there.glob("paper.toml")]:
        written.unlink()  # by another page: files of the user's are never overwritten
    return there


def test_the_readme_is_short_and_has_commands() -> None:
    assert len(README.splitlines()) < 150
    assert len(commands_of(README)) >= 7


@pytest.mark.parametrize("name", marked_slow(sorted(set(PAGES) - ELSEWHERE), *SLOW))
def test_every_command_of_a_page_works(name: str, request: pytest.FixtureRequest) -> None:
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])
    if name == HUB_PAGE:
        request.getfixturevalue("model_hub")
    commands = commands_of((ROOT / name).read_text(encoding="utf-8"))
    if name == "README.md":
        commands = [line for line in commands if line not in README_SLOW]
    if commands:
        request.getfixturevalue("runs")
        _carry_out(commands, request.getfixturevalue("command"))


@pytest.mark.slow
def test_every_slow_command_of_the_readme_works(runs: Path, command: Run) -> None:
    assert len(README_SLOW) >= 3
    _carry_out(README_SLOW, command)


@pytest.mark.slow
def test_every_command_and_study_of_the_page_on_studies_works(runs: Path, command: Run) -> None:
    commands = commands_of(STUDIES)
    assert {shlex.split(line)[1] for line in commands} == {"search", "compare", "cv"}
    (study,) = blocks("toml", STUDIES)
    (runs / "four-arms.toml").write_text(study.replace("[1, 2, 3, 4, 5]", "[1, 2]"), encoding="utf-8")
    _carry_out([*commands, "randout compare four-arms.toml --dry-run"], command)


def _carry_out(commands: list[str], command: Run) -> None:
    """Each in this process, those that train with one epoch; none may fail."""
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        trains = words[0] in ("train", "search", "cv") or (words[0] == "compare" and "--student" in words)
        trains = trains and not WORDS & set(words)
        if words[0] == "export" and "--form" not in words:  # of a tiny model, int8 may be outside its tolerance
            words += ["--form", "float32", "--form", "int8"]
        code, _, error = command(*words, *(TINY if trains else []))
        assert code == 0, f"{line}: {error}"


@pytest.mark.parametrize(
    "name", marked_slow([name for name in PAGES if blocks("python", (ROOT / name).read_text(encoding="utf-8"))], *SLOW)
)
def test_every_python_block_of_a_page_works(
    name: str, runs: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(*words: Any, settings: Any = None, **named: Any) -> Any:
        return randout_train(*words, settings={"epochs": 1} | dict(settings or {}), **named)

    randout_train = randout.train
    monkeypatch.setattr(randout, "train", train)
    if name in EXTRA:
        pytest.importorskip(EXTRA[name])
    if name == HUB_PAGE:
        request.getfixturevalue("model_hub")
    code = "\n".join(blocks("python", (ROOT / name).read_text(encoding="utf-8")))
    exec(compile(code, name, "exec"), {"__name__": "page"})


def test_the_python_blocks_cover_what_users_call() -> None:
    code = "\n".join(block for name in PAGES for block in blocks("python", (ROOT / name).read_text(encoding="utf-8")))
    for call in (
        "randout.train(",
        "randout.load(",
        "applied(",
        "randout.attached(",
        "randout.for_trainer(",
        "pipeline(",
    ):
        assert call in code, call


def test_commands_of_the_documents_have_real_options() -> None:
    """Every `--option` that a document shows is one of a randout command."""
    known = {"--help", "--install-completion", "--version"} | {
        option for command in cli_commands().values() for parameter in command.params for option in parameter.opts
    }
    for name in PAGES:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            if "python " in line or line.startswith("#SBATCH"):
                continue  # a script of the repository, an option of SLURM
            line = re.sub(r"\bray (start|get-auth-token)[^#`]*", "", line)
            line = re.sub(r"`tensorboard --logdir [^`]*`", "", line)
            line = re.sub(r"torchrun .*? (-m randout|script\.py)", "", line)
            for option in re.findall(r"(?:`| )(--[a-z][a-z-]+)", line):
                assert option in known, f"{name}: {option}"


def cli_commands() -> dict[str, Any]:
    """Every command of the program by its words, such as "runs show"."""
    from typer.main import get_command

    from randout.cli.app import app

    found, todo = {}, [("", get_command(app))]
    while todo:
        words, command = todo.pop()
        found[words] = command
        todo += [(f"{words} {name}".strip(), child) for name, child in getattr(command, "commands", {}).items()]
    return found


def test_the_studies_behind_the_results_can_be_read() -> None:
    from randout.experiments.study.spec import arm_config, read_study
    from randout.methods.builtin import METHODS

    found = [
        path for path in (ROOT / "docs" / "results").glob("*.toml") if "[arms." in path.read_text(encoding="utf-8")
    ]
    assert found
    for path in found:
        study = read_study(path)
        epochs = {arm_config(study, arm, METHODS).train.epochs for arm in study.arms}
        assert epochs == {0} or study.name == "rhmd-fast", f"{path.name}: train to convergence (epochs auto)"
        assert len(study.seeds) >= 5, f"{path.name}: a verdict needs five seeds"


def test_the_page_on_methods_lists_all_of_them() -> None:
    guide = (ROOT / "docs" / "how-to" / "use-methods.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| method \|.*\n((?:\|.*\n)+)", guide, re.MULTILINE)
    named = [name for row in table.splitlines()[1:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(catalog.entries())


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _as_printed(folder: Path) -> list[dict[str, str]]:
    """The arms of a study's report as the page of results prints them, from the report's tables."""
    units, found = _rows(folder / "tables" / "units-2.csv"), []
    arms = _rows(folder / "tables" / "summary.csv")
    (baseline,) = (row["model"] for row in arms if row["verdict"] == "baseline")
    for row in arms:
        low, high = row["its 95 % interval, low"], row["its 95 % interval, high"]
        seeds = [f"{float(unit['accuracy %']):.2f}" for unit in units if unit["model"] == row["model"]]
        found.append(
            {
                "arm": row["model"],
                "test accuracy": f"{float(row['accuracy %']):.2f} %",
                f"against {baseline}": f"{float(row['difference']):+.2f}" if row["difference"] else "",
                "95 % interval": f"{float(low):+.2f} to {float(high):+.2f}" if low else "",
                "by seed": ", ".join(seeds),
            }
        )
    return found


def _results_tables(document: str) -> list[tuple[str, list[dict[str, str]]]]:
    """(the line above it, its rows by column) of every table of a document that has arms."""
    found = []
    for title, table in re.findall(r"^(\S.*)\n\n(\| arm \|(?:.*\n)+?)(?!\|)", document, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        named = [dict(zip(head, row, strict=True)) for row in rows]
        found.append((title, [row | {"arm": row["arm"].lower()} for row in named]))
    return found


def test_the_tables_of_results_are_those_of_the_reports() -> None:
    """Each table of arms is one report's, number for number, and what stands above it counts that report's test rows."""
    reports = {
        path.name: path for path in (ROOT / "docs" / "results").iterdir() if (path / "tables" / "units-2.csv").exists()
    }
    tables = _results_tables(RESULTS)
    assert len(tables) == RESULTS.count("\n| arm |")
    assert "\n| arm |" not in README
    for title, rows in tables:
        names = [name for name, path in reports.items() if _as_printed(path) == rows]
        assert len(names) == 1, f"{title}: its numbers are those of the reports {names}"
        (test,) = (row for row in _rows(reports.pop(names[0]) / "tables" / "splits.csv") if row["split"] == "test")
        assert f"({int(test['rows']):,} test " in title


@pytest.mark.parametrize("document", [README, RESULTS], ids=["README", "results"])
def test_a_bold_score_is_that_of_a_report(document: str) -> None:
    found = re.findall(r"\*\*([\d.]+) %\*\*", document)
    summaries = [row for path in (ROOT / "docs" / "results").glob("*/tables/summary.csv") for row in _rows(path)]
    assert found
    assert set(found) <= {f"{float(row['accuracy %']):.2f}" for row in summaries}


def test_the_row_of_the_readme_on_the_defaults_is_one_of_the_benchmark() -> None:
    """README and benchmarks/README.md are updated together: the row and its header are copied from there."""
    benchmark = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8").splitlines()
    (shown,) = re.findall(
        r"^<!-- one row of the table .*?-->\n(.*?)^<!-- end of the row -->", README, re.MULTILINE | re.DOTALL
    )
    header, line, row = shown.splitlines()
    at = benchmark.index(header)
    assert benchmark[at + 1] == line
    table = benchmark[at + 2 : next(i for i in range(at, len(benchmark)) if not benchmark[i].startswith("|"))]
    assert row in table, "copy a row of the table in benchmarks/README.md, section 'The defaults', into README.md"
