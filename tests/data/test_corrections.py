"""Corrections change labels as the table is read: counted, in the digest, and without moving a row to another split."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset, data_identity, load

Rows = Sequence[Sequence[Any]]


@pytest.fixture
def read(toy_csv: Callable[..., Path], tmp_path: Path) -> Callable[..., Dataset]:
    """Load 120 toy rows, with rows of corrections under a header; None: without corrections."""

    def call(rows: Rows | None = None, header: Sequence[str] = ("row", "corrected_label"), **settings: Any) -> Dataset:
        path = tmp_path / "corrections.csv"
        with path.open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([header, *(rows or ())])
        named = {} if rows is None else {"corrections": str(path)}
        return load(DataTable(source=str(toy_csv(120, 0)), **named, **settings))

    return call


def other(dataset: Dataset, row: int) -> str:
    """A label that a row does not have."""
    return dataset.names[(int(dataset.labels[row]) + 1) % len(dataset.names)]


def test_labels_are_changed_and_counted(read: Callable[..., Dataset]) -> None:
    plain = read()
    found = read([("1", other(plain, 0)), ("7", ""), ("9", other(plain, 8)), ("10", plain.names[plain.labels[9]])])
    assert np.flatnonzero(found.labels != plain.labels).tolist() == [0, 8]
    assert found.names[found.labels[0]] == other(plain, 0)
    assert found.report.corrected == found.report.counts()["corrected"] == 2
    assert "corrected" not in plain.report.counts()
    (note,) = (note for note in found.report.notes if note.startswith("corrections"))
    assert "2 labels changed by" in note
    assert "1 more are the labels of the table already" in note


def test_the_fingerprint_depends_on_the_corrected_labels_only(read: Callable[..., Dataset]) -> None:
    plain = read()
    change, same = ("1", other(plain, 0)), ("2", plain.names[plain.labels[1]])
    found = read([change])
    assert data_identity(found)["data"]["sha256"] != data_identity(plain)["data"]["sha256"]
    assert found.labelled_sha256 != plain.labelled_sha256
    again = read([same, change, ("3", "")])
    assert data_identity(again) == data_identity(found)
    assert data_identity(read([same])) == data_identity(plain)


def test_a_file_without_rows_corrects_nothing(read: Callable[..., Dataset]) -> None:
    """`randout label-issues` writes one if it finds nothing."""
    found = read([])
    assert data_identity(found) == data_identity(read())
    assert any("0 labels changed by" in note and "which has no rows" in note for note in found.report.notes)
    with pytest.raises(UserError, match="no column 'row'"):
        read([], header=("id", "corrected_label"))


def test_no_row_moves_to_another_split(read: Callable[..., Dataset]) -> None:
    plain = read()
    changed = [(str(row + 1), other(plain, row)) for row in range(0, 60, 2)]
    found = read(changed)
    for name, rows in plain.split.items():
        assert np.array_equal(found.split[name], rows), name


def test_a_misspelt_class_can_be_corrected_away(tmp_path: Path) -> None:
    texts = [f"a text number {i}" for i in range(60)]
    labels = [("good", "bad")[i % 2] for i in range(60)]
    labels[:4] = ["god"] * 4
    (tmp_path / "data.csv").write_text(
        "text,label\n" + "".join(f"{t},{y}\n" for t, y in zip(texts, labels, strict=True))
    )
    (tmp_path / "fix.csv").write_text("row,corrected_label\n" + "".join(f"{row},good\n" for row in range(1, 5)))
    found = load(DataTable(source=str(tmp_path / "data.csv"), corrections=str(tmp_path / "fix.csv")))
    assert found.names == ["bad", "good"]
    assert sum(map(len, found.split.values())) == 60


def test_rows_of_further_files_are_named_with_the_file(
    read: Callable[..., Dataset], toy_csv: Callable[..., Path]
) -> None:
    test = toy_csv(90, 1)
    plain = read(test=str(test))
    row = len(plain.texts) - 90
    row_id = plain.row_ids[row]
    assert "#" in row_id
    found = read([(row_id, other(plain, row))], test=str(test))
    assert np.flatnonzero(found.labels != plain.labels).tolist() == [row]


def test_no_row_moves_if_classes_are_numbers_or_listed(tmp_path: Path) -> None:
    """Classes are in numeric order, or in that of the list, in the split before corrections and after them."""
    rows = [(f"a text number {at}", at * 7 % 11) for at in range(200)]
    source, path = tmp_path / "data.csv", tmp_path / "fix.csv"
    with source.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    path.write_text("row,corrected_label\n" + "".join(f"{row},{(row + 3) % 11}\n" for row in range(1, 90, 3)))
    for labels in ((), tuple(str(label) for label in (10, 3, 1, 2, 0, 9, 8, 4, 5, 6, 7))):
        plain, found = (load(DataTable(source=str(source), labels=labels, corrections=one)) for one in ("", str(path)))
        assert found.report.corrected > 20
        for name, positions in plain.split.items():
            assert np.array_equal(found.split[name], positions), (labels, name)


SETS = [["a"], ["a", "b"], [], ["b", "c"], ["c"]] * 12


@pytest.fixture
def read_sets(tmp_path: Path) -> Callable[..., Dataset]:
    """Load 60 rows of label sets, joined by a separator, or with a column of 0 and 1 for each label, and corrections."""

    def call(
        rows: Rows | None = None, header: Sequence[str] = ("row", "corrected_label"), separator: str = ";"
    ) -> Dataset:
        texts = [f"text number {at}" for at in range(len(SETS))]
        cells = [[separator.join(labels)] if separator else [int(name in labels) for name in "abc"] for labels in SETS]
        source, path = tmp_path / "data.csv", tmp_path / "corrections.csv"
        head = ["text", *(["label"] if separator else "abc")]
        for file, written in ((source, [head, *([t, *c] for t, c in zip(texts, cells, strict=True))]), (path, rows)):
            with file.open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows([header, *(written or ())] if file == path else written or ())
        form: dict[str, Any] = {"multi_label": True} if separator else {"label_columns": ("a", "b", "c")}
        return load(DataTable(source=str(source), corrections="" if rows is None else str(path), **form))

    return call


def named_sets(dataset: Dataset) -> list[list[str]]:
    return [[name for name, has in zip(dataset.names, row, strict=True) if has] for row in dataset.strata]


@pytest.mark.parametrize("separator", [";", "|", ""])
def test_label_sets_are_corrected_in_every_form(read_sets: Callable[..., Dataset], separator: str) -> None:
    mark = separator or "; "
    plain = read_sets(separator=separator)
    assert plain.separator == mark
    rows = [
        ("1", f"c{mark}a"),
        ("2", "[]"),
        ("3", '["b"]'),
        ("4", ""),
        ("5", "c"),
        ("7", f"b{mark}a"),
        ("9", f" c {mark} "),
    ]
    found = read_sets(rows, separator=separator)
    assert named_sets(found) == [["a", "c"], [], ["b"], ["b", "c"], ["c"], *SETS[5:8], ["c"], *SETS[9:]]
    assert found.report.corrected == 4
    assert any(
        "4 label sets changed by" in one and "2 more are the label sets of the" in one for one in found.report.notes
    )
    for name, positions in plain.split.items():
        assert np.array_equal(found.split[name], positions), name
    assert data_identity(found) == data_identity(read_sets([*rows[:3], rows[-1], ("5", "")], separator=separator))
    assert data_identity(found)["data"]["sha256"] != data_identity(plain)["data"]["sha256"]
    assert data_identity(read_sets([("7", f"b{mark}a")], separator=separator)) == data_identity(plain)


def test_corrected_sets_in_json_lines_are_lists(read_sets: Callable[..., Dataset], tmp_path: Path) -> None:
    read_sets()
    path = tmp_path / "fix.jsonl"
    rows = [
        {"row": 1, "corrected_label": []},
        {"row": 2, "corrected_label": ["c"]},
        {"row": 3, "corrected_label": None},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = load(DataTable(source=str(tmp_path / "data.csv"), multi_label=True, corrections=str(path)))
    assert named_sets(found) == [[], ["c"], *SETS[2:]]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("61", "a")], ("row", "corrected_label"), "the data have no labelled row '61'"),
        ([("1", "a;d")], ("row", "corrected_label"), "row 1 .*'d' is not a label of the data.*separated by ';'"),
        ([("1", "a|b")], ("row", "corrected_label"), "'a|b' is not a label of the data.*separated by ';'"),
        ([("1", "[a, b]")], ("row", "corrected_label"), r"row 1 .*'\[a, b\]', which is not a list"),
        ([("1", "a;b"), ("1", "b")], ("row", "corrected_label"), "row 1 is corrected twice, to 'a;b' and to 'b'"),
        ([("1", "b", "other")], ("row", "corrected_label", "text"), "the text is not the one of this row"),
        ([("2", "b", "a;c")], ("row", "corrected_label", "label"), "the labels of this row are 'a;b', not 'a;c'"),
        ([("3", "b", "c")], ("row", "corrected_label", "label"), r"the labels of this row are '\[\]', not 'c'"),
    ],
)
def test_what_is_refused_in_label_sets(
    read_sets: Callable[..., Dataset], rows: Rows, header: Sequence[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read_sets(rows, header)


def test_a_given_set_is_that_of_the_row_in_any_order_or_that_of_the_correction(
    read_sets: Callable[..., Dataset],
) -> None:
    rows = [("2", "c", "b;a"), ("3", "a", "[]"), ("4", "b;c", "a")]
    assert named_sets(read_sets(rows, ("row", "corrected_label", "label")))[:4] == [["a"], ["c"], ["a"], ["b", "c"]]


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        ([("1", "x")], ("row", "label"), "no column 'corrected_label'"),
        ([("121", "A")], ("row", "corrected_label"), "the data have no labelled row '121'"),
        ([("1", "no such class")], ("row", "corrected_label"), "'no such class' is not a label of the data"),
        ([("1", "A"), ("1", "B")], ("row", "corrected_label"), "row 1 is corrected twice"),
        ([("1", "A", "another text")], ("row", "corrected_label", "text"), "the text is not the one of this row"),
        ([("1", "A", "C")], ("row", "corrected_label", "label"), "the label of this row is"),
    ],
)
def test_what_is_refused(read: Callable[..., Dataset], rows: Rows, header: Sequence[str], message: str) -> None:
    plain = read()
    own = plain.names[plain.labels[0]]
    first, second = [name for name in plain.names if name != own][:2]
    named = {"A": first, "B": second, "C": second}
    rows = [[named.get(cell, cell) for cell in row] for row in rows]
    with pytest.raises(UserError, match=message):
        read(rows, header)
