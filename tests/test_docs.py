"""README and guide are run: every command and every Python block, on tiny stand-ins for the models they name."""

from __future__ import annotations

import csv
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import Run, build, toy_texts
from randout import shelf

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
STUDIES = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
TINY = ["--set", "epochs=1", "--set", "precision=float32"]


def blocks(kind: str, document: str = README) -> list[str]:
    """The fenced blocks of a document whose opening line is exactly `kind`."""
    return re.findall(rf"^```{re.escape(kind)}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Any) -> Path:
    """A folder in which the names of README and pages exist: tables, and the encoders minilm, minilm-l6, big-encoder."""
    folder = tmp_path_factory.mktemp("readme")
    for name, seed in (("reviews.csv", 0), ("films.csv", 0), ("films-new.csv", 1)):
        texts, labels = toy_texts(120, seed)
        rows = [f"{text},{label}" for text, label in zip(texts, labels, strict=True)]
        (folder / name).write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    (folder / "films-unlabelled.csv").write_text("\n".join(["text", *toy_texts(40, 2)[0]]) + "\n", encoding="utf-8")
    build("bert", folder / "minilm", hidden_size=128)  # the paper's noise is on up to 128 units
    shutil.copytree(tiny_model("roberta"), folder / "big-encoder")
    shutil.copytree(tiny_model("bert"), folder / "cache" / "models" / "minilm-l6")
    return folder


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`place` as the working folder, with its own caches."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("RANDOUT_CACHE", str(place / "cache"))
    return place


def test_every_command_of_the_readme_works(there: Path, command: Run) -> None:
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("randout ")]
    assert len(commands) >= 10
    _carry_out(commands, command)


def test_every_command_and_study_of_the_page_on_studies_works(there: Path, command: Run) -> None:
    for seed, run in ((1, "first"), (1, "second")):
        preset = "plain" if run == "first" else "randout"
        made = f"randout train reviews.csv -o runs/{run} --student minilm --preset {preset} --seed {seed}"
        if not (there / "runs" / run).exists():
            _carry_out([made], command)
    commands = [line for block in blocks("sh", STUDIES) for line in block.splitlines() if line.startswith("randout ")]
    assert {shlex.split(line)[1] for line in commands} == {"search", "compare", "cv"}
    (study,) = blocks("toml", STUDIES)
    (there / "four-arms.toml").write_text(study.replace("[1, 2, 3, 4, 5]", "[1, 2]"), encoding="utf-8")
    _carry_out([*commands, "randout compare four-arms.toml --dry-run"], command)


def _carry_out(commands: list[str], command: Run) -> None:
    """Each in this process, those that train with one epoch; none may fail."""
    for line in commands:
        words = shlex.split(line, comments=True)[1:]
        trains = words[0] in ("train", "search", "cv") or (words[0] == "compare" and "--student" in words)
        code, _, error = command(*words, *(TINY if trains else []))
        assert code == 0, f"{line}: {error}"


def test_every_python_block_of_the_readme_works(there: Path, command: Run) -> None:
    if not (there / "runs" / "first").exists():
        _carry_out(["randout train films.csv -o runs/first"], command)
    code = "\n".join(blocks("python")).replace('"epochs": 2', '"epochs": 1, "precision": "float32"')
    assert "applied_to" in code
    assert "pipeline" in code
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_every_python_block_of_the_guide_works(there: Path) -> None:
    code = "\n".join(blocks("python", GUIDE))
    assert "attached" in code
    assert "for_trainer" in code
    exec(compile(code, "guide.md", "exec"), {"__name__": "guide"})


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_commands_of_the_documents_have_real_options() -> None:
    """Every `--option` that a document shows for randout is one that the command has."""
    from typer.main import get_command

    from randout.cli import app

    command = get_command(app)
    known = {option for p in command.params for option in p.opts}
    known |= {option for sub in command.commands.values() for p in sub.params for option in p.opts}  # type: ignore[attr-defined]
    known |= {option for sub in command.commands["runs"].commands.values() for p in sub.params for option in p.opts}  # type: ignore[attr-defined]
    for document in [ROOT / "README.md", ROOT / "docs" / "guide.md"]:
        for line in document.read_text(encoding="utf-8").splitlines():
            for option in re.findall(r"(?:`| )(--[a-z][a-z-]+)", line):
                assert option in known, f"{document.name}: {option}"


def test_the_studies_behind_the_results_can_be_read() -> None:
    from randout.methods import METHODS
    from randout.study import arm_config, read_study

    found = [
        path for path in (ROOT / "docs" / "results").glob("*.toml") if "[arms." in path.read_text(encoding="utf-8")
    ]
    assert found
    for path in found:
        study = read_study(path)
        if study.screening:
            assert study.arms.keys() == {"plain", *shelf.chosen([shelf.ALL])}
            continue
        assert {arm_config(study, arm, METHODS).train.epochs for arm in study.arms} == {1}
        assert len(study.seeds) >= 3


def test_the_guide_lists_the_shelf() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| method \|.*\n((?:\|.*\n)+)", guide, re.MULTILINE)
    named = [name for row in table.splitlines()[1:] for name in re.findall(r"`([\w-]+)`", row.split("|")[1])]
    assert sorted(named) == sorted(shelf.entries())


def test_the_page_of_the_screening_is_its_report() -> None:
    """Every row of docs/results/methods.md is one of the report's, in its order, and no verdict is given."""
    page = (ROOT / "docs" / "results" / "methods.md").read_text(encoding="utf-8")
    assert page.splitlines()[2].startswith("**Screening: no verdict.**")
    summary = _rows(ROOT / "docs" / "results" / "rhmd-shelf" / "tables" / "summary.csv")
    printed = []
    for row in summary:
        low, high = row["its 95 % interval, low"], row["its 95 % interval, high"]
        apart = [f"{float(row['difference']):+.2f}", f"{float(low):+.2f} to {float(high):+.2f}"] if low else ["", ""]
        printed.append(["`" + row["model"].replace(" (", "` (", 1) + ("" if "(" in row["model"] else "`")])
        printed[-1] += [f"{float(row['accuracy %']):.2f} %", *apart]
    (table,) = re.findall(r"^\| method \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] == printed
    assert {row["verdict"] for row in summary} <= {"baseline", "screening: no verdict"}
    later = {"contrastive", "supervised-contrastive"}  # than the screening, as its page says
    assert set(shelf.chosen([shelf.ALL])) - later <= {row["model"].partition(" ")[0] for row in summary}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _as_printed(folder: Path) -> list[dict[str, str]]:
    """The arms of a study's report as the README prints them, from the report's tables."""
    units, found = _rows(folder / "tables" / "units-2.csv"), []
    for row in _rows(folder / "tables" / "summary.csv"):
        low, high = row["its 95 % interval, low"], row["its 95 % interval, high"]
        seeds = [f"{float(unit['accuracy %']):.2f}" for unit in units if unit["model"] == row["model"]]
        found.append(
            {
                "arm": row["model"],
                "test accuracy": f"{float(row['accuracy %']):.2f} %",
                "against plain": f"{float(row['difference']):+.2f}" if row["difference"] else "",
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


def test_the_results_of_the_readme_are_those_of_the_reports() -> None:
    """Each table of arms is one report's, number for number, and what stands above it counts that report's test rows."""
    reports = {
        path.name: path for path in (ROOT / "docs" / "results").iterdir() if (path / "tables" / "units-2.csv").exists()
    }
    tables = _results_tables(README)
    assert len(tables) == README.count("\n| arm |") > 0
    for title, rows in tables:
        names = [name for name, path in reports.items() if _as_printed(path) == rows]
        assert len(names) == 1, f"{title}: its numbers are those of the reports {names}"
        (test,) = (row for row in _rows(reports.pop(names[0]) / "tables" / "splits.csv") if row["split"] == "test")
        assert f"({int(test['rows']):,} test " in title


def test_a_bold_score_of_the_readme_is_that_of_a_report() -> None:
    found = re.findall(r"\*\*([\d.]+) %\*\*", README)
    summaries = [row for path in (ROOT / "docs" / "results").glob("*/tables/summary.csv") for row in _rows(path)]
    assert found
    assert set(found) <= {f"{float(row['accuracy %']):.2f}" for row in summaries}
