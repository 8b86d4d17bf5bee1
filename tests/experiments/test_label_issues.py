"""Doubtful labels: planted mistakes and conflicting copies are found, and the table of them can be corrected and fed back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import randout
from conftest import Run
from randout.testing.models import toy_texts
from support.tables import write_rows

ROWS = 240


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], set[str]]:
    """A table with a tenth of wrong labels and two pairs of conflicting copies; right labels and rows with a copy by row."""
    texts, labels = toy_texts(ROWS, 0)
    names, draw = sorted(set(labels)), np.random.default_rng(0)
    given = list(labels)
    for row in draw.permutation(ROWS - 4)[: ROWS // 10].tolist():
        given[row] = names[(names.index(labels[row]) + int(draw.integers(1, len(names)))) % len(names)]
    for row in (ROWS - 4, ROWS - 2):  # two rows with the same text, in other capitals, and different labels
        texts[row + 1] = texts[row].upper()
        labels[row + 1] = labels[row]
        given[row], given[row + 1] = labels[row], names[(names.index(labels[row]) + 1) % len(names)]
    path = tmp_path_factory.mktemp("planted") / "data.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *zip(texts, given, strict=True)])
    right = {str(row): label for row, label in enumerate(labels, 1) if label != given[row - 1]}
    return path, right, {str(row) for row in range(ROWS - 3, ROWS + 1)}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_planted_mistakes_are_found_corrected_and_counted(
    planted: tuple[Path, dict[str, str], set[str]], run: Run, tmp_path: Path
) -> None:
    path, right, copies = planted
    before = path.read_bytes()
    code, out, error = run("label-issues", path, "-o", "issues")
    assert code == 0, error
    assert path.read_bytes() == before
    table = tmp_path / "issues" / "label-issues.csv"
    rows = rows_of(table)
    assert {row["row"] for row in rows if row["copies"]} == copies
    assert [row["copies"] for row in rows[:4]] == ["1", "1", "2", "2"]
    likely = [row for row in rows if "likely wrong" in row["reason"]]
    found = {row["row"] for row in likely}
    assert len(found & right.keys()) / len(found) > 0.8
    assert len(found & right.keys()) / len(right) > 0.7
    assert all(row["suggested_label"] != row["label"] for row in rows if row["reason"] == "likely wrong")
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert {row["corrected_label"] for row in rows} == {""}
    assert "2 groups of the same text with different labels (4 rows)" in out
    assert "of these issues in the test split" in out

    for row in rows:
        row["corrected_label"] = right.get(row["row"], "")
    write_rows(table, rows)
    code, _, error = run("label-issues", path, "-o", "issues")
    assert code == 2
    assert "label-issues.csv was changed after the report was written and is not overwritten" in error
    corrected = sum(bool(row["corrected_label"]) for row in rows)
    code, _, error = run("label-issues", path, "-o", "again", "--corrections", table)
    assert (code, f"leaves out what {table} corrects ({corrected} labels)" in error) == (0, True), error
    words = ["train", path, "--student", "svm", "--set", "classifier.min_df=1", "--json"]
    code, out, error = run(*words, "-o", "runs/corrected", "--corrections", table)
    assert code == 0, error
    record = json.loads((tmp_path / "runs" / "corrected" / "run.json").read_text(encoding="utf-8"))
    assert record["data_report"]["corrected"] == corrected
    assert run("train", *words[1:], "-o", "runs/plain")[0] == 0
    plain = json.loads((tmp_path / "runs" / "plain" / "run.json").read_text(encoding="utf-8"))
    assert plain["fingerprint"] != record["fingerprint"]
    assert plain["identity"]["split"] == record["identity"]["split"]
    code, _, error = run("evaluate", "runs/corrected", "--split", "test")
    assert code == 0, error
    code, _, error = run(*words, "-o", "runs/corrected")
    assert code == 2
    assert "data" in error


def test_python_json_and_the_report(planted: tuple[Path, dict[str, str], set[str]], run: Run, tmp_path: Path) -> None:
    path, right, _ = planted
    found = randout.label_issues(path, out=tmp_path / "issues", folds=4)
    assert (found.rows, found.examined, found.folds) == (ROWS, ROWS, 4)
    assert found.wrong.low is not None
    assert found.wrong.low <= found.wrong.estimate
    assert found.wrong.most >= len(right) * 0.9
    assert len(found.pairs) == 3
    assert all(pair.first_rows <= pair.rows for pair in found.pairs)
    code, out, _ = run("label-issues", path, "-o", "other", "--folds", 4, "--json")
    assert code == 0
    made: dict[str, Any] = json.loads(out)
    assert made["likely_wrong"] == found.likely_wrong
    assert [one["row"] for one in made["issues"]] == [one.row for one in found.issues]
    page = (tmp_path / "issues" / "report.html").read_text(encoding="utf-8")
    assert "Ambiguous pairs of classes" in page
    assert "at most" in page
    assert (tmp_path / "issues" / "label-issues.csv").read_bytes() == (
        tmp_path / "other" / "label-issues.csv"
    ).read_bytes()


def test_a_named_student_is_trained_for_each_fold(
    planted: tuple[Path, dict[str, str], set[str]], tmp_path: Path
) -> None:
    path, right, _ = planted
    settings = {"classifier.min_df": 1}
    found = randout.label_issues(path, student="svm", folds=3, settings=settings, runs=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 3
    likely = {one.row for one in found.issues if "likely wrong" in one.reason}
    assert len(likely & right.keys()) / len(right) > 0.7


def test_a_label_that_only_the_test_file_has_is_learned_in_the_folds(tmp_path: Path) -> None:
    rows = [*zip(*toy_texts(180, 0), strict=True)]
    for name, some in (("data", [row for row in rows if row[1] != "sport"]), ("test", rows[::2])):
        with (tmp_path / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("text", "label"), *some])
    settings = {"classifier.min_df": 1, "data.test": str(tmp_path / "test.csv")}
    found = randout.label_issues(
        tmp_path / "data.csv", student="svm", folds=2, settings=settings, runs=tmp_path / "runs"
    )
    sport = sum(label == "sport" for _, label in rows[::2])
    assert found.accuracy > 0.7
    assert sum(one.label == "sport" for one in found.issues) < sport / 4


def test_what_is_refused(toy_csv: Callable[..., Path], run: Run, tmp_path: Path) -> None:
    table = toy_csv(120, 0)
    assert "expected 2 or more" in run("label-issues", table, "--folds", 1)[2]
    assert "leave them out" in run("label-issues", table, "--set", "data.folds=5", "--set", "data.fold=1")[2]
    assert "all rows are examined here" in run("label-issues", table, "--set", "data.sample=60")[2]
    code, _, error = run("label-issues", table, "--folds", 100)
    assert code == 2
    assert "cannot be divided into 100 folds" in error
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "is not overwritten" in run("label-issues", table, "-o", "mine")[2]


def test_a_model_that_learned_nothing_is_no_judge_of_labels(tmp_path: Path, run: Run) -> None:
    """Texts that say nothing about their labels; the table for corrections is read by the columns of the command."""
    rows = [(f"only text number{at}", "x", f"{at % 3 // 2}") for at in range(60)]
    with (tmp_path / "odd.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("first", "second", "kind"), *rows])
    words = ["--text-column", "first", "--text-pair", "second", "--label-column", "kind"]
    code, out, error = run("label-issues", "odd.csv", *words)
    assert code == 0, error
    assert "it learned nothing, so its doubts say nothing about the labels" in error
    assert "it learned nothing" in (tmp_path / "label-issues" / "report.md").read_text(encoding="utf-8")
    if "next" in out:
        assert f"randout train odd.csv {' '.join(words)} --corrections label-issues/label-issues.csv" in out
