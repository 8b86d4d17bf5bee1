"""Label sets are read from lists, joined labels and columns of 0 and 1, and refused where they are not clear."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset, data_identity, describe, load, load_evaluation, open_evaluation

SETS = [["a"], ["a", "b"], [], ["b", "c"], ["c"]] * 12
TEXTS = [f"text number {at}" for at in range(len(SETS))]


def table(folder: Path, columns: dict[str, list[Any]], suffix: str = ".jsonl") -> str:
    """Write a table with the texts and these columns; return its path."""
    path = folder / f"table{suffix}"
    rows = [dict(zip(["text", *columns], row, strict=True)) for row in zip(TEXTS, *columns.values(), strict=True)]
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        lines = [",".join(["text", *columns]), *(",".join(f'"{cell}"' for cell in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def sets_of(dataset: Dataset) -> list[list[str]]:
    """The labels of every row, by name."""
    return [[dataset.names[at] for at in np.flatnonzero(row)] for row in dataset.truth(np.arange(len(dataset.texts)))]


FORMS: dict[str, tuple[dict[str, list[Any]], str, dict[str, Any]]] = {
    "lists": ({"label": SETS}, ".jsonl", {"multi_label": True}),
    "joined": ({"label": ["; ".join(one) for one in SETS]}, ".csv", {"multi_label": True}),
    "separator": ({"label": ["/".join(one) for one in SETS]}, ".csv", {"label_separator": "/"}),
    "JSON": ({"label": [json.dumps(one).replace('"', '""') for one in SETS]}, ".csv", {"multi_label": True}),
    "Python": ({"label": [str(one) for one in SETS]}, ".csv", {"multi_label": True}),
    "indicators": (
        {name: [int(name in one) for one in SETS] for name in "abc"},
        ".csv",
        {"label_columns": ("a", "b", "c")},
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_sets(form: str, tmp_path: Path) -> None:
    columns, suffix, settings = FORMS[form]
    dataset = load(DataTable(source=table(tmp_path, columns, suffix), **settings))
    assert dataset.id2label == {0: "a", 1: "b", 2: "c"}
    assert sets_of(dataset) == SETS
    assert data_identity(dataset)["data"]["multi_label"] is True
    (used,) = (line for line in describe(dataset) if line.startswith("columns "))
    assert ("labels 'a', 'b', 'c'" if form == "indicators" else "label 'label'") in used


def test_a_separator_that_no_value_has_is_a_warning(tmp_path: Path) -> None:
    joined = table(tmp_path, {"label": [";".join(one) for one in SETS]}, ".csv")
    words = "no value in column 'label' has the separator '/' (data.label_separator)"
    assert words in " ".join(load(DataTable(source=joined, label_separator="/")).report.notes)
    assert words not in " ".join(load(DataTable(source=joined, label_separator=";")).report.notes)


def test_rows_without_a_label_next_to_joined_ones_may_be_label_sets(tmp_path: Path) -> None:
    joined = table(tmp_path, {"label": [";".join(one) for one in SETS]}, ".csv")
    with pytest.raises(UserError, match=r"12 of 60 rows have no label.* 'a;b' are several.*--set multi_label=true"):
        load(DataTable(source=joined))
    single = table(tmp_path, {"label": ["".join(one[:1]) for one in SETS]}, ".csv")
    with pytest.raises(UserError, match=r"12 of 60 rows have no label.*--unlabeled\.$"):
        load(DataTable(source=single))


def test_splits_have_every_label_and_the_report_counts_labels(tmp_path: Path) -> None:
    dataset = load(DataTable(source=table(tmp_path, {"label": SETS}), multi_label=True))
    assert all(dataset.truth(rows).any(0).all() for rows in dataset.split.values())
    assert dataset.report.class_counts["train"]["a"] == int(dataset.truth(dataset.split["train"])[:, 0].sum())
    assert any("multi-label" in line for line in describe(dataset))
    folds = [
        load(DataTable(source=table(tmp_path, {"label": SETS}), multi_label=True, folds=5, fold=at)) for at in (1, 2)
    ]
    assert not {*folds[0].split["test"].tolist()} & {*folds[1].split["test"].tolist()}


def test_labels_of_held_out_rows_only_come_last_and_are_never_learned(tmp_path: Path) -> None:
    split = ["train"] * 50 + ["test"] * 10
    sets = [*SETS[:50], *([["a", "new"]] * 10)]
    dataset = load(DataTable(source=table(tmp_path, {"label": sets, "s": split}), multi_label=True, split_column="s"))
    assert dataset.unseen == ("new",)
    assert len(dataset.id2label) == 3
    assert dataset.truth(dataset.split["test"])[:, 3].all()


MISTAKES: dict[str, tuple[dict[str, list[Any]], str, dict[str, Any], list[str]]] = {
    "two separators": ({"label": ["a;b|c"] * 60}, ".csv", {"multi_label": True}, ["not clear", "label_separator"]),
    "broken list": ({"label": ["[a, b"] * 59 + ["['a', ]x]"]}, ".csv", {"multi_label": True}, ["row 60", "not a list"]),
    "nested": ({"label": [["a", ["b"]]] * 60}, ".jsonl", {"multi_label": True}, ["row 1", "['b']"]),
    "one label": ({"label": [["a"]] * 60}, ".jsonl", {"multi_label": True}, ["at least two labels", "'a'"]),
    "ids": ({"label": [f"id{at}" for at in range(60)]}, ".csv", {"multi_label": True}, ["60 different labels"]),
    "not 0 or 1": (
        {"a": [0, 1] * 30, "b": [0, 2] * 30},
        ".csv",
        {"label_columns": ("a", "b")},
        ["row", "column 'b'", "'2'", "0 or 1"],
    ),
    "both": ({"label": SETS}, ".jsonl", {"label_columns": ("a", "b"), "label_separator": ";"}, ["label_separator"]),
    "unknown column": ({"label": SETS}, ".jsonl", {"label_columns": ("a", "label")}, ["no column 'a'"]),
    "unknown label": (
        {"label": SETS},
        ".jsonl",
        {"multi_label": True, "labels": ("a", "b")},
        ["row 4", "'c'", "Known"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str, tmp_path: Path) -> None:
    columns, suffix, settings, parts = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        load(DataTable(source=table(tmp_path, columns, suffix), **settings))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_file_to_evaluate_may_have_indicators_or_new_labels(tmp_path: Path) -> None:
    id2label = {0: "a", 1: "b", 2: "c"}
    indicators = {name: [int(name in one) for one in SETS] for name in "abc"}
    opened = open_evaluation(table(tmp_path, indicators, ".csv"), sets=list("abc"))
    assert load_evaluation(opened, id2label).labels.sum() == sum(map(len, SETS))
    found = load_evaluation(
        open_evaluation(table(tmp_path, {"label": [["a", "x"], *SETS[1:]]}), sets=list("abc")), id2label
    )
    assert found.unseen == ("x",)
    assert found.labels.shape == (60, 4)
