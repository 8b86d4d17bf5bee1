"""Tables and other files written: checked first, whole or not there, never over something else, columns as they were."""

from __future__ import annotations

import datetime
import errno
import os
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError

from randout.core import files
from randout.core.errors import Failure, UserError
from randout.data import table_writing
from randout.data.tables import Table, read_table

NAMES = [
    *(f"rows{suffix}" for suffix in (".csv", ".tsv", ".tab", ".txt", ".CSV")),
    "rows",
    "rows.v1.2",
    "rows.data",
    ".rows",
]


def written(source: Path, out: Path | None = None, **columns) -> Path:
    """The table of a file with further columns, written as `predict --file` does."""
    table = read_table(source)
    where = out or table_writing.default_output(table, "labelled")
    table_writing.writer(table, where)(columns)
    return where


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_every_name_that_is_read_has_a_default_output_in_the_form_that_was_read(tmp_path, name, delimiter):
    path = tmp_path / name
    path.write_text(f"id{delimiter}text\n07{delimiter}a\n8{delimiter}b\n")
    where = written(path, label=["x", None])
    assert where != path
    found = read_table(where)
    assert found.columns == {"id": ["07", "8"], "text": ["a", "b"], "label": ["x", ""]}
    if path.suffix.lower() not in (".tsv", ".tab"):
        assert found.delimiter == delimiter


def test_json_lines_and_lists_in_any_suffix_stay_what_they_are(tmp_path):
    line = '{"text": "a", "id": 1, "none": null, "deep": {"x": [1.5, true]}, "label": "x"}\n'
    for name in ("a.jsonl", "a.txt", "a.ndjson", "a.json"):
        (tmp_path / name).write_text(line.replace(', "label": "x"', ""))
        assert written(tmp_path / name, label=["x"]).read_text() == line
    for name in ("b.json", "b.txt"):
        (tmp_path / name).write_text('[{"text": "a"}]')
        assert written(tmp_path / name, label=["x"]).read_text() == '[\n{"text": "a", "label": "x"}\n]\n'


def test_a_default_name_fits_into_the_file_system(tmp_path):
    path = tmp_path / ("评" * 83 + ".csv")
    path.write_text("text\na\n")
    assert read_table(written(path, label=["x"])).columns["label"] == ["x"]


CELLS = ["a\rb", "c\r\nd", "e\nf", ' "g"', "h,i", "", " ", "é\u2028"]


@pytest.mark.parametrize(("suffix", "more"), [(".csv", False), (".csv", True), (".tsv", True)])
def test_cells_with_every_kind_of_line_break_read_back(tmp_path, suffix, more):
    """Python's own writer leaves a lone carriage return unquoted before 3.11.9: the check is on bytes."""
    path = tmp_path / f"out{suffix}"
    columns = {"text": CELLS} | ({"n": [str(at) for at in range(len(CELLS))]} if more else {})
    table_writing.write_table(Table(columns, "rows", "", "csv"), path)
    assert b'"a\rb"' in path.read_bytes()
    assert read_table(path).columns == columns


def test_a_blank_line_in_a_table_of_one_column_is_a_row(tmp_path):
    path = tmp_path / "one.csv"
    path.write_bytes(b"\ntext\r\na\r\n\r\nb\r\n\r\n")
    assert read_table(path).columns == {"text": ["a", "", "b", ""]}
    path.write_text("id,text\n1,a\n\n2,b\n")
    assert read_table(path).columns == {"id": ["1", "2"], "text": ["a", "b"]}


def test_values_of_parquet_in_csv_are_their_plain_words(tmp_path):
    when = datetime.datetime(2024, 1, 2, 3, 4)
    table_writing.write_table(Table({"at": [when, None], "x": [1.5, 2.0]}, "rows", "", "hub"), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "at,x\n2024-01-02 03:04:00,1.5\n,2.0\n"


def test_columns_of_parquet_are_written_as_they_were(tmp_path):
    zoned = pa.timestamp("ns", tz="Europe/Berlin")
    table = pa.table(
        {
            "text": pa.array(["a", "b"], pa.large_string()),
            "at": pa.array([1700000000123456000, None], zoned),
            "small": pa.array([1, 2], pa.int8()),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "float": pa.array([0.1, None], pa.float32()),
            "none": pa.array([None, None], pa.string()),
            "deep": pa.array([[{"a": 1}], []], pa.list_(pa.struct([("a", pa.int16())]))),
            "bytes": pa.array([b"\xff", None], pa.binary()),
        },
        metadata={"mine": "kept"},
    )
    pq.write_table(table, tmp_path / "in.parquet")
    where = written(tmp_path / "in.parquet", label=["x", None], score=[0.5, None])
    found = pq.read_table(where)
    assert found.column_names == [*table.column_names, "label", "score"]
    assert found.select(table.column_names).equals(table)
    assert found.select(table.column_names).schema.types == table.schema.types
    assert found.schema.metadata[b"mine"] == b"kept"
    assert found["label"].to_pylist() == ["x", None]
    more = table_writing.appended(read_table(tmp_path / "in.parquet"), {"n": [1, 2]})
    table_writing.write_table(more, tmp_path / "more.pq")
    assert pq.read_table(tmp_path / "more.pq").column_names == [*table.column_names, "n"]


def test_a_parquet_file_that_changed_meanwhile_does_not_mix_with_the_rows_that_were_read(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "in.parquet")
    table = read_table(tmp_path / "in.parquet")
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "in.parquet")
    table_writing.writer(table, tmp_path / "out.parquet")({"label": ["x"]})
    assert pq.read_table(tmp_path / "out.parquet").to_pydict() == {"text": ["a"], "label": ["x"]}


def test_new_columns_take_names_that_no_column_has():
    table = Table({"text": [], "Label": [], "predicted_label": [], "score": []}, "rows", "", "csv")
    assert table_writing.free_name(table.columns, "label") == "predicted_label_2"
    assert table_writing.free_name(table.columns, "score") == "predicted_score"
    assert table_writing.free_name(table.columns, "other") == "other"


def test_places_that_cannot_be_written_are_refused_before_any_work(tmp_path):
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, words in {
        "there.csv": "exists and is not overwritten",
        "link.csv": "exists and is not overwritten",
        "folder.csv": "this is a folder",
        "none/out.csv": "does not exist",
        "out.xlsx": r"unknown suffix '\.xlsx'",
        "there.csv/out.csv": "does not exist|Not a directory",
        "n" * 300 + ".csv": "not a valid file name",
    }.items():
        with pytest.raises(UserError, match=words):
            table_writing.check_output(tmp_path / name)
    with pytest.raises(UserError, match=r"folder .* is not writable .* Choose another location"):
        files.check_folder(Path("/proc/none"))
    files.check_folder(tmp_path / "not" / "yet" / "there")
    assert not (tmp_path / "not").exists()


class Full:
    """A disk that takes so many bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "fsync", self.fail)

    def fail(self, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_nothing_and_the_same_call_works_again(tmp_path, monkeypatch):
    table, path = Table({"text": ["a"]}, "rows", "", "csv"), tmp_path / "out.csv"
    with monkeypatch.context() as patch:
        Full(patch)
        with pytest.raises(Failure, match=r"out\.csv: could not be written \(No space left"):
            table_writing.write_table(table, path)
        with pytest.raises(OSError, match="No space"):
            files.replace_text(tmp_path / "run.json", "{}")
        assert list(tmp_path.iterdir()) == []
    table_writing.write_table(table, path)
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "out.csv"
    write = table_writing.writer(Table({"text": ["a"]}, "rows", "", "csv"), path)
    path.write_text("mine")
    for link in (os.link, None):
        if link is None:  # a file system without hard links
            monkeypatch.setattr(os, "link", Full(monkeypatch).fail)
            monkeypatch.setattr(os, "fsync", lambda _: None)
        with pytest.raises(UserError, match="exists and is not overwritten"):
            write({})
        assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]
        assert path.read_text() == "mine"
    path.unlink()
    write({})
    assert path.read_text() == "text\na\n"


@pytest.mark.parametrize("error", [OSError(errno.EFBIG, "File too large"), SafetensorError("I/O error")])
def test_what_fails_while_a_file_is_filled_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "soft" / "labels"
    with files.replacing(path) as partial:
        partial.write_text("old")
    with pytest.raises(Failure, match="could not be written"), files.replacing(path) as partial:  # noqa: PT012
        partial.write_text("ne")
        raise error
    assert [file.name for file in path.parent.iterdir()] == ["labels"]
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_filled_leaves_the_old_one(tmp_path):
    from randout.models.loading import whole_folder

    folder = tmp_path / "model"
    with whole_folder(folder) as coming:
        (coming / "a").write_text("old")
    with pytest.raises(Failure, match="could not be written"), whole_folder(folder) as coming:  # noqa: PT012
        (coming / "a").write_text("n")
        raise SafetensorError("No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (folder / "a").read_text() == "old"


def test_names_made_from_long_parts_fit_and_stay_apart():
    assert files.joined_name(["rows", "bert", "ce+kd"], ["", "s1", "0123abcd"]) == "rows-bert-ce+kd-s1-0123abcd"
    long = files.joined_name(["评" * 80, "m" * 240, "ce"], ["", "s1", "0123abcd"])
    assert len(long.encode()) <= files.LONGEST_OWN_NAME
    assert long.endswith("-ce-s1-0123abcd")
    assert long.startswith("评评")
    assert files.joined_name(["a\nb", "c/d"]) == "a-b-c-d"


def test_paths_in_commands_can_be_pasted():
    for path in ("runs/one", "my run", "it's", "-run", "a\nb", "$HOME", "评 论"):
        (word,) = shlex.split(files.shell_path(path))
        assert word == (f"./{path}" if path.startswith("-") else path)
    assert files.shell_path("runs/one") == "runs/one"
