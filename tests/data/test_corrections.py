"""Corrections change labels as the table is read: counted, in the digest, and without moving a row to another split."""

from __future__ import annotations

import csv
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
