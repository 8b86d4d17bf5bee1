"""Doubtful labels of label sets: planted mistakes are found, and the table of them can be corrected and fed back."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import randout
from conftest import Run
from randout.core.config import DataTable
from randout.data.dataset import Dataset, load
from randout.experiments.label_set_issues import set_of_copies
from randout.storage.label_issues import SetIssues
from support.label_sets import toy_label_sets
from support.tables import write_rows

ROWS, LABELS = 240, ["health", "money", "sport"]
FORMS: dict[str, dict[str, Any]] = {
    "joined": {"data.label_separator": "|"},
    "indicators": {"data.label_columns": LABELS},
    "lists": {"data.multi_label": True},
}


def planted_sets() -> tuple[list[str], list[list[str]], list[list[str]]]:
    """Texts, and the given and the right label set of each: in a tenth, one label is missing or superfluous."""
    texts, right = toy_label_sets(ROWS, 0)
    draw = np.random.default_rng(1)
    given = [list(labels) for labels in right]
    for row in draw.permutation(ROWS - 3)[: ROWS // 10].tolist():
        given[row] = sorted({*given[row]} ^ {str(draw.choice(LABELS))})
    for copy in (ROWS - 2, ROWS - 1):  # the text of the row before these in other capitals, once with another set
        texts[copy], right[copy] = texts[ROWS - 3].upper(), right[ROWS - 3]
    given[ROWS - 2], given[ROWS - 1] = right[ROWS - 3], sorted({*right[ROWS - 3]} ^ {"money"})
    return texts, given, right


def write(folder: Path, form: str, texts: Sequence[str], sets: Sequence[Sequence[str]]) -> Path:
    """Write a table whose label sets have one of `FORMS`."""
    rows: list[dict[str, Any]] = [{"text": text} for text in texts]
    for row, labels in zip(rows, sets, strict=True):
        joined = {"joined": "|".join(labels), "lists": list(labels)}
        row |= {name: int(name in labels) for name in LABELS} if form == "indicators" else {"label": joined[form]}
    if form == "lists":
        path = folder / "data.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path
    return write_rows(folder / "data.csv", rows)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def examined(path: Path, form: str = "joined", **more: Any) -> SetIssues:
    found = randout.label_issues(path, settings=FORMS[form], **more)
    assert isinstance(found, SetIssues)
    return found


def read(path: Path, form: str, corrections: str = "") -> Dataset:
    settings = {name.removeprefix("data."): value for name, value in FORMS[form].items()}
    return load(DataTable(source=str(path), corrections=corrections, **settings))


@pytest.mark.parametrize("form", FORMS)
def test_planted_mistakes_are_found_and_the_table_corrects_them(form: str, tmp_path: Path) -> None:
    """The suggestions, copied to the column of corrections, give the right label sets in every form of the data."""
    texts, given, right = planted_sets()
    path = write(tmp_path, form, texts, given)
    found = examined(path, form, out=tmp_path / "issues")
    wrong = {str(row) for row in range(1, ROWS + 1) if given[row - 1] != right[row - 1]}
    listed = {one.row for one in found.issues}
    assert len(listed & wrong) / len(wrong) > 0.8
    copies, likely = found.issues[:3], found.issues[3:]
    assert [(one.row, one.copies) for one in copies] == [(str(row), 1) for row in range(ROWS - 2, ROWS + 1)]
    assert all(one.suggested_labels == right[ROWS - 3] for one in copies)
    hits = [one.suggested_labels == right[int(one.row) - 1] for one in likely]
    assert np.mean(hits) > 0.8
    for one in likely:
        assert one.missing or one.superfluous
        assert {*one.suggested_labels} == {*one.labels} - {*one.superfluous} | {*one.missing}
    doubts = [
        min(
            [1 - one.probabilities[name] for name in one.missing]
            + [one.probabilities[name] for name in one.superfluous]
        )
        for one in likely
    ]
    assert doubts == sorted(doubts)

    table = tmp_path / "issues" / "label-issues.csv"
    rows = rows_of(table)
    assert {row["corrected_label"] for row in rows} == {""}
    assert {"[]"} < {row["suggested_label"] for row in rows} | {row["label"] for row in rows}
    assert any(row["label"] == ("money|sport" if form == "joined" else "money; sport") for row in rows)
    for row in rows:
        row["corrected_label"] = row["suggested_label"]
    write_rows(table, rows)
    plain, corrected = read(path, form), read(path, form, str(table))
    for one in found.issues:
        at = corrected.row_ids.index(one.row)
        assert [name for name, has in zip(LABELS, corrected.strata[at], strict=True) if has] == one.suggested_labels
    changed = sum(one.labels != one.suggested_labels for one in found.issues)
    assert corrected.report.corrected == changed == (corrected.strata != plain.strata).any(1).sum()
    for name, positions in plain.split.items():
        assert np.array_equal(corrected.split[name], positions), name
    assert corrected.sha256 != plain.sha256


def test_the_command_its_report_and_a_run_with_corrections(run: Run, tmp_path: Path) -> None:
    texts, given, _ = planted_sets()
    path = write(tmp_path, "joined", texts, given)
    data = ["--set", "data.label_separator=|"]
    code, out, error = run("label-issues", path, *data, "-o", "issues", "--folds", 4)
    assert code == 0, error
    assert "1 group of the same text with different label sets (3 rows)" in out
    assert "of 720 decisions on a row and a label" in out
    assert "of these issues in the test split" in out
    assert f"randout train {path} --set 'data.label_separator=|' --corrections issues/label-issues.csv" in out
    page = (tmp_path / "issues" / "report.md").read_text(encoding="utf-8")
    assert "expected superfluous" in page
    assert "bound" not in page
    code, out, _ = run("label-issues", path, *data, "-o", "other", "--folds", 4, "--json")
    assert code == 0
    made = json.loads(out)
    found = examined(path, folds=4)
    assert (made["likely_wrong"], made["wrong"]["estimate"]) == (found.likely_wrong, found.wrong.estimate)
    assert [one["label"] for one in made["labels"]] == LABELS
    table = tmp_path / "issues" / "label-issues.csv"
    rows = rows_of(table)
    for row in rows:
        row["corrected_label"] = row["suggested_label"] if row["reason"] == "likely wrong" else ""
    write_rows(table, rows)
    code, _, error = run("label-issues", path, *data, "-o", "issues")
    assert code == 2
    assert "is not overwritten" in error
    words = ["train", path, *data, "--student", "svm", "--set", "classifier.min_df=1", "-o", "runs/corrected"]
    code, _, error = run(*words, "--corrections", table)
    assert code == 0, error
    record = json.loads((tmp_path / "runs" / "corrected" / "run.json").read_text(encoding="utf-8"))
    assert record["data_report"]["corrected"] == sum(bool(row["corrected_label"]) for row in rows)
    code, out, error = run("label-issues", path, *data, "--corrections", table, "-o", "again")
    assert code == 0, error
    assert f"corrected   {record['data_report']['corrected']} label sets before this" in out


def test_a_named_student_is_trained_for_each_fold(tmp_path: Path) -> None:
    texts, given, right = planted_sets()
    path = write(tmp_path, "joined", texts, given)
    settings = FORMS["joined"] | {"classifier.min_df": 1}
    found = randout.label_issues(path, student="svm", folds=3, settings=settings, runs=tmp_path / "runs")
    assert len(list((tmp_path / "runs").glob("*/run.json"))) == 3
    wrong = {str(row) for row in range(1, ROWS + 1) if given[row - 1] != right[row - 1]}
    assert len({one.row for one in found.issues} & wrong) / len(wrong) > 0.8


def test_labels_that_no_model_can_know_are_not_examined(tmp_path: Path, run: Run) -> None:
    """A label of three rows, and one that the texts say nothing about."""
    texts, sets, _ = planted_sets()
    draw = np.random.default_rng(0)
    for row, labels in enumerate(sets):
        labels += ["rare"] * (row % 80 == 0) + ["chance"] * bool(draw.random() < 0.2)
    path = tmp_path / "data.csv"
    write_rows(path, [{"text": text, "label": ";".join(own)} for text, own in zip(texts, sets, strict=True)])
    code, out, error = run("label-issues", path, "--set", "multi_label=true", "--json")
    assert code == 0, error
    assert "2 labels not examined: 'chance' (the model learned too little about it); 'rare' (fewer than 5" in error
    found = json.loads(out)
    by_name = {one["label"]: one for one in found["labels"]}
    assert by_name["rare"]["rows"] == 3
    assert by_name["rare"]["explained"] is None
    assert by_name["chance"]["explained"] < 0.05
    for name in ("rare", "chance"):
        assert by_name[name]["expected_missing"] is None
        assert found["issues"]
        assert not any(name in {*one["missing"], *one["superfluous"], *one["probabilities"]} for one in found["issues"])
    assert found["wrong"]["decisions"] == 3 * ROWS
    columns = rows_of(tmp_path / "label-issues" / "label-issues.csv")[0]
    assert [name for name in columns if name.startswith("probability_")] == [f"probability_{name}" for name in LABELS]


def test_texts_that_say_nothing_have_no_issues(tmp_path: Path, run: Run) -> None:
    rows = [{"text": f"only text number{at}", "label": ["a", "b", "a;b"][at % 3]} for at in range(60)]
    write_rows(tmp_path / "data.csv", rows)
    code, out, error = run("label-issues", "data.csv", "--set", "multi_label=true")
    assert code == 0, error
    assert "no label was examined" in out
    assert "2 labels not examined" in error
    assert rows_of(tmp_path / "label-issues" / "label-issues.csv") == []


def test_most_copies_decide_then_probabilities_then_the_first_copy() -> None:
    sets = np.array([[1, 0, 1, 1, 0], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 1, 0]], dtype=bool)
    shares = np.array([0.1, 0.9, 0.8, np.nan, np.nan])
    assert set_of_copies(sets, shares).tolist() == [True, False, True, True, False]


def test_folds_keep_groups_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a group, and copies, are never predicted by a model that learned another row of the group."""
    from randout.baselines import SVM, Labelled

    texts, sets = toy_label_sets(120, 0)
    texts = [*texts, *texts[:20]]
    sets = [*sets, *sets[:20]]
    rows = [
        {"text": f"{text} row{at}" if at < 120 else f"{text} row{at - 120}", "label": ";".join(own), "group": at % 40}
        for at, (text, own) in enumerate(zip(texts, sets, strict=True))
    ]
    path = write_rows(tmp_path / "data.csv", rows)
    learned: list[set[str]] = []
    fit: Callable[..., Any] = SVM.fit

    def spy(self: SVM, train: Labelled, *rest: Any) -> Any:
        learned.append({*train.texts})
        return fit(self, train, *rest)

    monkeypatch.setattr(SVM, "fit", spy)
    randout.label_issues(path, folds=4, settings={"data.multi_label": True, "data.group_column": "group"})
    assert len(learned) == 4
    group_of = {row["text"]: row["group"] for row in rows[:120]}
    held = [{*group_of} - own for own in learned]
    assert set.union(*held) == {*group_of}
    linked: dict[Any, set[int]] = {}
    for fold, own in enumerate(held):
        for text in own:
            linked.setdefault(group_of[text], set()).add(fold)
    assert all(len(folds) == 1 for folds in linked.values())
