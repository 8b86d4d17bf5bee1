"""Files into tables and back: formats, and each way in which a file can be broken."""

import io
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from randout.errors import UserError
from randout.parsing import lines_of
from randout.tables import Table, read_table
from randout.writing import appended, write_table

ROWS = {"text": ["a, b", 'say "so"', "two\nlines", "ünï\u2028x"], "label": ["x", "y", "x", "y"]}


def parquet(path, columns):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(alphabet='a,"\r\n\x0b\x0c\x85\u2028é🙂', max_size=12))
def test_lines_are_those_of_a_file(text):
    assert list(lines_of(text)) == list(io.StringIO(text, newline=""))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_what_is_written_reads_back(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_table(Table(dict(ROWS), "rows", "", "csv"), path)
    assert read_table(path).columns == ROWS


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiters_line_ends_and_byte_order_marks(tmp_path, delimiter, end, mark):
    lines = ["text,label", '"so, ""this""; it\tis",x', "'plain',y", ""]
    lines = [line if '"' in line else line.replace(",", delimiter) for line in lines]
    lines[1] = lines[1][: lines[1].rindex(",")] + delimiter + "x"
    path = tmp_path / "rows.csv"
    path.write_bytes((mark + end.join(lines)).encode())
    table = read_table(path)
    assert table.columns == {"text": ['so, "this"; it\tis', "'plain'"], "label": ["x", "y"]}
    assert table.delimiter == delimiter


def test_delimiter_that_fits_the_rows_wins_over_one_in_the_header(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text;label, coarse\na, b, c;x\nd;y\n")
    assert read_table(path).columns == {"text": ["a, b, c", "d"], "label, coarse": ["x", "y"]}


def test_quotes_in_tsv_are_plain_where_that_fits_each_line(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('text\tlabel\n"Never" again\tx\n"open\ty\nclosed"\tx\n')
    assert read_table(path).columns["text"] == ['"Never" again', '"open', 'closed"']
    path.write_text('text\tlabel\n"two\nlines"\tx\n"a tab:\t"\ty\n')
    assert read_table(path).columns["text"] == ["two\nlines", "a tab:\t"]


def test_json_lists_lines_missing_keys_and_types(tmp_path):
    records = [{"text": "a", "label": 1}, {"text": "b", "extra": [1]}]
    expected = {"text": ["a", "b"], "label": [1, None], "extra": [None, [1]]}
    for name, content in [
        ("list.json", json.dumps(records, indent=1)),
        ("lines.json", "\n\n".join(map(json.dumps, records))),
        ("lines.jsonl", "\r\n".join(map(json.dumps, records))),
        ("noted", "\n".join(map(json.dumps, records))),
    ]:
        (tmp_path / name).write_text(content)
        assert read_table(tmp_path / name).columns == expected, name


def test_hash_is_of_the_bytes(tmp_path):
    import hashlib

    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbftext,label\r\na,b\r\n")
    assert read_table(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("form", ["csv", "quoted", "jsonl"])
def test_a_text_of_five_million_characters(tmp_path, form):
    text = "word " * 1_000_000
    path = tmp_path / ("rows.jsonl" if form == "jsonl" else "rows.csv")
    row = {"csv": f"{text},x", "quoted": f'"{text}",x', "jsonl": json.dumps({"text": text, "label": "x"})}[form]
    path.write_text(row + "\n" if form == "jsonl" else f"text,label\n{row}\n")
    start = time.process_time()
    assert read_table(path).columns["text"] == [text]
    assert time.process_time() - start < 2


def test_the_csv_modules_limit_is_left_as_it_was(tmp_path):
    import csv

    before = csv.field_size_limit()
    (tmp_path / "rows.csv").write_text('text,label\n"a,b\n')
    with pytest.raises(UserError):
        read_table(tmp_path / "rows.csv")
    assert csv.field_size_limit() == before


BROKEN = {  # name -> (file, bytes, parts of the message)
    "empty": ("a.csv", b"", ["a.csv", "empty", "Expected"]),
    "blank": ("a.csv", b" \n\n", ["a.csv", "empty"]),
    "empty jsonl": ("a.jsonl", b"\n", ["empty"]),
    "empty parquet": ("a.parquet", b"", ["empty"]),
    "empty list": ("a.json", b"[]", ["no row"]),
    "header only": ("a.csv", b"text,label\n", ["header", "no row of data", "text, label"]),
    "utf-16": ("a.csv", "text,label\na,b\n".encode("utf-16"), ["UTF-16", "byte 0, line 1", "iconv -f utf-16 -t utf-8"]),
    "utf-16 without mark": ("a.csv", "text,label\na,b\n".encode("utf-16-le"), ["UTF-16", "iconv"]),
    "latin-1": ("a.csv", b"text,label\na,b\ncaf\xe9,x\n", ["a.csv, line 3", "0xe9", "offset 18", "iconv -f latin1"]),
    "latin-1 after a mark": ("a.csv", b"\xef\xbb\xbftext,label\ncaf\xe9,x\n", ["line 2", "0xe9", "offset 17"]),
    "random bytes": ("a.csv", bytes(range(128, 256)) * 4, ["line 1", "not UTF-8", "0x80", "offset 0"]),
    "zip": ("a.csv", b"PK\x03\x04....", ["Excel", "CSV"]),
    "gzip": ("a.csv", b"\x1f\x8b\x08....", ["gzip", "unpack"]),
    "pickle": ("a.csv", b"\x80\x04\x95\x05\x00", ["pickle", "never opened"]),
    "nul": ("a.csv", b"text,label\na,b\nc\0d,x\n", ["a.csv, line 3", "NUL", "tr -d"]),
    "wide row": ("a.csv", b"text,label\na,x\nb,c,y\n", ["a.csv, line 3", "3 fields", "header has 2", "double quotes"]),
    "short row": ("a.csv", b'text,label\n"a\nb",x\nonly\n', ["a.csv, line 4", "1 field ", "header has 2"]),
    "wide tsv": ("a.tsv", b"text\tlabel\na\tb\tx\n", ["line 2", "3 fields", "tab"]),
    "open quote": ("a.csv", b'text,label\n"a\nb",x\nc,"d\ne,y\n', ["a.csv, line 4", "never closed", "double each"]),
    "open quote met later": ("a.csv", b'text,label\n"a,x\n"b","y"\n', ["a.csv, line 2", "ends on line 3"]),
    "bare quote": ("a.csv", b'text,label\na,x\n"say "so" now",x\n', ["a.csv, line 3", "middle of the text"]),
    "doubled quotes, open": ("a.csv", b'text,label\n"""a""","x\n', ["line 2", "never closed"]),
    "columns twice": ("a.csv", b"text,label,text\na,x,b\n", ["line 1", "'text'", "2 times", "Rename"]),
    "key twice": ("a.jsonl", b'{"text": "a"}\n{"text": "a", "text": "b"}\n', ["line 2", "'text'", "2 times"]),
    "broken line": ("a.jsonl", b'{"text": "a"}\n{"text": }\n', ["a.jsonl, line 2, column 10", "broken JSON"]),
    "broken list": ("a.json", b'[{"text": "a"},\n {"text" "b"}]', ["a.json, line 2, column 10", "broken JSON"]),
    "cut off": ("a.jsonl", b'{"text": "a"}\n{"text": "b', ["line 2", "Unterminated"]),
    "no object": ("a.jsonl", b'{"text": "a"}\n["b"]\n', ["line 2", "a list", "expected an object"]),
    "no object in a list": ("a.json", b'[{"text": "a"}, 3]', ["item 2", "a number"]),
    "half a surrogate": ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', ["line 2", "surrogate"]),
    "deep": ("a.jsonl", b'{"a":' * 100_000, ["line 1", "JSON"]),
    "no parquet": ("a.parquet", b"PAR1 and nothing more", ["not a whole Parquet file"]),
    "csv named parquet": ("a.parquet", b"text,label\na,b\n", ["not a whole Parquet file"]),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_by_line(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    name, content, parts = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(name)
    assert all(part in str(caught.value) for part in [name, *parts]), str(caught.value)


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "reviews.csv").write_text("text,label\na,b\n")
    with pytest.raises(UserError, match=r"review\.csv: no such file\. Did you mean 'reviews\.csv'\?"):
        read_table(tmp_path / "review.csv")
    with pytest.raises(UserError, match="this is a folder"):
        read_table(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "reviews.csv" / "x.csv")


def test_parquet_columns_twice(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match="'text' occurs 2 times"):
        read_table(tmp_path / "a.parquet")


def test_parquet_is_known_by_its_content(tmp_path):
    parquet(tmp_path / "rows.bin", {"text": ["a"], "n": [1.5]})
    assert read_table(tmp_path / "rows.bin").columns == {"text": ["a"], "n": [1.5]}


def test_appended_columns_go_last_and_take_no_name_that_is_taken(tmp_path):
    table = Table({"text": ["a", "b"]}, "rows.csv", "", "csv", ";")
    more = appended(table, {"label": ["x", "y"], "score": [0.5, None], "all": [{"x": 1}, [2]]})
    write_table(more, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == 'text;label;score;all\na;x;0.5;"{""x"": 1}"\nb;y;;[2]\n'
    with pytest.raises(UserError, match="a column 'text' already"):
        appended(table, {"text": ["c", "d"]})
    with pytest.raises(ValueError, match="1 values for 2 rows"):
        appended(table, {"label": ["x"]})


def test_writing_never_overwrites(tmp_path):
    table = Table({"text": ["a"]}, "rows.csv", "", "csv")
    for suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        path = tmp_path / f"out{suffix}"
        path.write_text("mine")
        with pytest.raises(UserError, match="exists and is not overwritten"):
            write_table(table, path)
        assert path.read_text() == "mine"
    with pytest.raises(UserError, match="no folder"):
        write_table(table, tmp_path / "none" / "out.csv")
    with pytest.raises(UserError, match=r"'\.xlsx' is not known"):
        write_table(table, tmp_path / "out.xlsx")
    with pytest.raises(UserError, match="mixes types"):
        write_table(Table({"a": ["x", 1]}, "rows", "", "jsonl"), tmp_path / "mixed.parquet")
