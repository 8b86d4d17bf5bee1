"""Files into tables and back: formats, and each way in which a file can be broken."""

import gzip
import io
import json
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.data.csv_parsing import lines_of
from randout.data.dataset import load
from randout.data.encoding_advice import advice, best_codec
from randout.data.table_writing import appended, write_table
from randout.data.tables import Table, read_table

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


SHAPES = {  # name -> JSON of the table below, as libraries and services write it
    "records": '[{"text": "a", "label": 1}, {"text": "b", "label": 2}]',
    "columns": '{"text": ["a", "b"], "label": [1, 2]}',
    "pandas": '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 2}}',
    "pandas, index": '{"0": {"text": "a", "label": 1}, "7": {"text": "b", "label": 2}}',
    "pandas, split": '{"columns": ["text", "label"], "index": [0, 1], "data": [["a", 1], ["b", 2]]}',
    "data": '{"version": "1.0", "data": [{"text": "a", "label": 1}, {"text": "b", "label": 2}]}',
    "spread over lines": '{\n "text": "a",\n "label": 1\n}\n{\n "text": "b",\n "label": 2\n}\n',
    "one after another": '{"text": "a", "label": 1}\n\n\ufeff{"text": "b", "label": 2}\n',
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_shapes_of_json(tmp_path, shape, mark):
    (tmp_path / "a.json").write_text(mark + SHAPES[shape], encoding="utf-8")
    assert read_table(tmp_path / "a.json").columns == {"text": ["a", "b"], "label": [1, 2]}


def test_one_object_is_one_row(tmp_path):
    (tmp_path / "a.json").write_text('{\n "text": "a",\n "tags": [{"x": 1}]\n}')
    assert read_table(tmp_path / "a.json").columns == {"text": ["a"], "tags": [[{"x": 1}]]}
    (tmp_path / "a.jsonl").write_text('{"text": "a", "score": NaN, "meta": {"0": {}}}\n')
    assert list(read_table(tmp_path / "a.jsonl").columns) == ["text", "score", "meta"]


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
    "header only": ("a.csv", b"text,label\n", ["header", "no rows of data", "text, label"]),
    "utf-16": ("a.csv", "text,label\na,b\n".encode("utf-16"), ["UTF-16", "byte 0, line 1", "iconv -f utf-16 -t utf-8"]),
    "utf-16 without mark": ("a.csv", "text,label\na,b\n".encode("utf-16-le"), ["UTF-16", "iconv"]),
    "utf-16 without mark, big-endian": ("a b.csv", "text,label\na,b\n".encode("utf-16-be"), [
        "UTF-16", "iconv -f utf-16be -t utf-8 'a b.csv'"]),
    "utf-32": ("a.csv", "text,label\na,b\n".encode("utf-32"), ["UTF-32", "iconv -f utf-32 "]),
    "cp1252": ("a b.csv", b"text,label\nthe \x93goal\x94 of 5 \x80,x\n", [
        "line 2", "cp1252", "“goal” of 5 €", "iconv -f cp1252 -t utf-8 'a b.csv' >"]),
    "one line that is not UTF-8": ("a.csv", "text,label\ncafé,x\n".encode() + b"caf\xe9,x\n", [
        "line 3", "Other lines are UTF-8 (line 2)", "Correct or remove line 3."]),
    "cut within a character": ("a.csv", "text,label\ncafé,x\ncafé".encode()[:-1], ["line 3", "cut within a character"]),
    "arrow": ("a.arrow", b"ARROW1\0\0....", ["Feather", "Parquet"]),
    "lfs": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", ["Git LFS pointer", "git lfs pull"]),
    "page": ("a.csv", b"<!DOCTYPE html>\n<html>", ["web page"]),
    "latin-1": ("a.csv", b"text,label\na,b\ncaf\xe9,x\n", ["a.csv, line 3", "0xe9", "offset 18", "iconv -f latin1"]),
    "latin-1 after a mark": ("a.csv", b"\xef\xbb\xbftext,label\ncaf\xe9,x\n", ["line 2", "0xe9", "offset 17"]),
    "random bytes": ("a.csv", bytes(range(128, 256)) * 4, ["line 1", "not UTF-8", "0x80", "offset 0"]),
    "zip": ("a.csv", b"PK\x03\x04....", ["damaged zip archive", "Excel", "CSV"]),
    "gzip": ("a.csv", b"\x1f\x8b\x08....", ["a.csv", "damaged gzip archive", "again"]),
    "gzip in gzip": ("a.csv.gz", gzip.compress(gzip.compress(b"text\na\n")), ["gzip", "unpack it first"]),
    "tar": ("a.tar.gz", gzip.compress(b"a.csv".ljust(257, b"\0") + b"ustar"), ["a tar archive", "unpack"]),
    "pickle": ("a.csv", b"\x80\x04\x95\x05\x00", ["pickle", "never opened"]),
    "nul": ("a.csv", b"text,label\na,b\nc\0d,x\n", ["a.csv, line 3", "NUL", "tr -d"]),
    "wide row": ("a.csv", b"text,label\na,x\nb,c,y\n", ["a.csv, line 3", "3 fields", "header has 2", "double quotes"]),
    "short row": ("a.csv", b'text,label\n"a\nb",x\nonly\n', ["a.csv, line 4", "1 field ", "header has 2"]),
    "wide tsv": ("a.tsv", b"text\tlabel\na\tb\tx\n", ["line 2", "3 fields", "tab"]),
    "open quote": ("a.csv", b'text,label\n"a\nb",x\nc,"d\ne,y\n', ["a.csv, line 4", "never closed", "double each"]),
    "open quote met later": ("a.csv", b'text,label\n"a,x\n"b","y"\n', ["a.csv, line 2", "ends on line 3"]),
    "bare quote": ("a.csv", b'text,label\na,x\n"say "so" now",x\n', ["a.csv, line 3", "middle of the text"]),
    "doubled quotes, open": ("a.csv", b'text,label\n"""a""","x\n', ["line 2", "never closed"]),
    "key twice": ("a.jsonl", b'{"text": "a"}\n{"text": "a", "text": "b"}\n', ["line 2", "'text'", "2 times"]),
    "broken line": ("a.jsonl", b'{"text": "a"}\n{"text": }\n', ["a.jsonl, line 2, column 10", "invalid JSON"]),
    "broken list": ("a.json", b'[{"text": "a"},\n {"text" "b"}]', ["a.json, line 2, column 10", "invalid JSON"]),
    "cut off": ("a.jsonl", b'{"text": "a"}\n{"text": "b', ["line 2", "Unterminated"]),
    "no object": ("a.jsonl", b'{"text": "a"}\n["b"]\n', ["line 2", "a list", "expected an object"]),
    "no object in a list": ("a.json", b'[{"text": "a"}, 3]', ["item 2", "a number"]),
    "columns of unequal length": ("a.json", b'{"text": ["a", "b"], "label": [1]}', ["different lengths", "'text' 2", "records"]),
    "objects of objects": ("a.json", b'{"text": {"x": 1}, "label": {"x": 2}}', ["cannot be told apart", "records"]),
    "several lists": ("a.json", b'{"train": [{"text": "a"}], "test": [{"text": "b"}]}', ["'train', 'test'", "separate file"]),
    "split of another width": ("a.json", b'{"columns": ["text"], "data": [["a", 1]]}', ["differ in length"]),
    "broken in a spread object": ("a.json", b'{\n "text": "a",\n "label" 1\n}', ["a.json, line 3, column 10", "invalid JSON"]),
    "half a surrogate": ("a.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}\n', ["line 2", "surrogate"]),
    "deep": ("a.jsonl", b'{"a":' * 100_000, ["line 1", "JSON"]),
    "a list named csv": ("a.csv", b'\n[\n {"text": "a"}]', ["a.csv", "ends in .csv", "looks like JSON", "ends in .json"]),
    "lines named tsv": ("a.tsv", b'\xef\xbb\xbf{"text": "a"}\n', ["a.tsv", "ends in .tsv", "looks like JSON"]),
    "no parquet": ("a.parquet", b"PAR1 and nothing more", ["not a valid Parquet file"]),
    "csv named parquet": ("a.parquet", b"text,label\na,b\n", ["not a valid Parquet file"]),
}  # fmt: skip


ENCODED = {  # text -> the encodings that must be recognised in it
    "Le café est très bon à Noël\nl’été “déjà” vu\nÉcole à côté": ["cp1252", "mac_roman"],
    "Größe über Straße schön\nÄpfel und Öl": ["latin-1", "mac_roman", "cp850"],
    "I don’t know": ["cp1252", "mac_roman"],
    "Łódź jest piękna\nzażółć gęślą jaźń": ["cp1250"],
    "Привет мир это хороший день": ["cp1251", "koi8-r", "cp866"],
    "Καλημέρα κόσμε": ["cp1253"],
    "これは良い映画です": ["cp932", "euc_jp"],
    "这是一部很好的电影\n我不喜欢这个产品": ["gb18030"],
    "這是一部很好的電影\n我不喜歡這個產品": ["big5"],
    "이 영화는 정말 좋다": ["cp949"],
}


@pytest.mark.parametrize(("text", "codec"), [(text, codec) for text, codecs in ENCODED.items() for codec in codecs])
def test_the_proposed_conversion_gives_the_text_back(text, codec):
    lines = [line for line in text.encode(codec).split(b"\n") if not line.isascii()]
    found, first = best_codec(lines)
    assert found is not None
    assert b"\n".join(lines).decode(found) == b"\n".join(lines).decode(codec)
    assert first == lines[0].decode(codec)


def test_no_conversion_is_proposed_where_nothing_fits():
    assert "iconv" not in advice(bytes(range(128, 256)) * 4, "a.csv")
    assert "iconv" not in advice(b"text\n\x80\xff\xfe\x81\x90\n", "a.csv")


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
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"this is a run, not a table.*--teacher .*randout evaluate"):
        read_table(tmp_path)


def test_repeated_and_missing_column_names_are_kept_apart_and_written_as_they_were(tmp_path):
    (tmp_path / "a.csv").write_text("v1,v2,,v1,\nx,a,,1,2\ny,b,,3,4\n")
    table = read_table(tmp_path / "a.csv")
    assert list(table.columns) == ["v1", "v2", "", "v1 (column 4)", "(column 5)"]
    assert table.columns["v1 (column 4)"] == ["1", "3"]
    write_table(appended(table, {"label": ["s", "t"]}), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == "v1,v2,,v1,,label\nx,a,,1,2,s\ny,b,,3,4,t\n"


def test_parquet_columns_twice(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    arrays = [pa.array(["a"]), pa.array(["b"])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["text", "text"]), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.columns == {"text": ["a"], "text (column 2)": ["b"]}
    assert table.header == ("text", "text")


def test_columns_of_every_parquet_type_can_be_read_without_pandas(tmp_path, monkeypatch):
    import datetime as dt
    import decimal

    pa = pytest.importorskip("pyarrow")
    monkeypatch.setitem(sys.modules, "pandas", None)
    n = 2
    columns = {
        "text": pa.array(["a", "b"], pa.large_string()),
        "ns": pa.array([1700000000123456789] * n, pa.timestamp("ns")),
        "zone": pa.array([1700000000123456789] * n, pa.timestamp("ns", "Europe/Paris")),
        "long": pa.array([1, None], pa.duration("ns")),
        "far": pa.array([2**62] * n, pa.timestamp("us")),
        "clock": pa.array([1, 2], pa.time64("ns")),
        "money": pa.array([decimal.Decimal("1.50")] * n, pa.decimal128(10, 2)),
        "map": pa.array([[("k", 1)], []], pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"a": [1]}, None]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "bytes": pa.array([b"caf\xc3\xa9", None], pa.binary()),
        "raw": pa.array([b"\xff", b"a"], pa.large_binary()),
        "none": pa.nulls(n),
        "half": pa.array([0.1, None], pa.float32()),
        "day": pa.array([dt.date(2020, 1, 1)] * n),
    }
    parquet(tmp_path / "a.parquet", columns)
    table = read_table(tmp_path / "a.parquet")
    assert len(table) == n
    found = dict(table.columns)
    assert found["text"] == ["a", "b"]
    assert found["ns"] == ["2023-11-14 22:13:20.123456789"] * n
    assert found["zone"][0].startswith("2023-11-14 2")
    assert found["long"] == ["1", None]
    assert found["clock"] == ["00:00:00.000000001", "00:00:00.000000002"]
    assert found["kind"] == ["x", "y"]
    assert found["bytes"] == ["café", None]
    assert found["raw"] == [b"\xff", b"a"]
    assert found["half"] == [0.1, None]
    assert found["none"] == [None, None]


def test_a_column_that_is_not_used_is_never_converted(tmp_path):
    """One whose values have no Python equivalent is refused only when it is read."""
    pa = pytest.importorskip("pyarrow")
    parquet(
        tmp_path / "a.parquet", {"text": ["a"], "other": pa.array([[2**62]], pa.list_(pa.timestamp("us"))), "more": [2]}
    )
    table = read_table(tmp_path / "a.parquet")
    assert (len(table), list(table.columns), "other" in table.columns) == (1, ["text", "other", "more"], True)
    assert table.columns["text"] is table.columns["text"]
    with pytest.raises(UserError, match="'other'"):
        table.columns["other"]


def test_names_of_classes_in_the_schema_of_a_parquet_file(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    features = {
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        "spelt": {"names": ["a", "b"], "_type": "ClassLabel"},  # of a column that holds the names themselves
        "value": {"dtype": "int64", "_type": "Value"},
        "gone": {"names": ["x"], "_type": "ClassLabel"},
    }
    table = pa.table({"label": [1, 0], "spelt": ["a", "b"], "value": [0, 1]})
    for info, expected in [
        (json.dumps({"info": {"features": features}}), {"label": ["neg", "pos"]}),
        ("not JSON", {}),
        (json.dumps({"info": None}), {}),
    ]:
        pq.write_table(table.replace_schema_metadata({"huggingface": info}), tmp_path / "a.parquet")
        assert read_table(tmp_path / "a.parquet").categories == expected


def test_parquet_is_known_by_its_content(tmp_path):
    parquet(tmp_path / "rows.bin", {"text": ["a"], "n": [1.5]})
    assert read_table(tmp_path / "rows.bin").columns == {"text": ["a"], "n": [1.5]}


def test_appended_columns_go_last_and_take_no_name_that_is_taken(tmp_path):
    table = Table({"text": ["a", "b"]}, "rows.csv", "", "csv", ";")
    more = appended(table, {"label": ["x", "y"], "score": [0.5, None], "all": [{"x": 1}, [2]]})
    write_table(more, tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == 'text;label;score;all\na;x;0.5;"{""x"": 1}"\nb;y;;[2]\n'
    with pytest.raises(UserError, match="already has a column 'text'"):
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
    with pytest.raises(UserError, match="does not exist"):
        write_table(table, tmp_path / "none" / "out.csv")
    with pytest.raises(UserError, match=r"unknown suffix '\.xlsx'"):
        write_table(table, tmp_path / "out.xlsx")
    with pytest.raises(UserError, match="mixes types"):
        write_table(Table({"a": ["x", 1]}, "rows", "", "jsonl"), tmp_path / "mixed.parquet")


def test_a_parquet_file_without_a_text_is_refused(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [" ", None], "label": ["a", "b"]}), tmp_path / "empty.parquet")
    table = read_table(tmp_path / "empty.parquet")
    assert len(table.only([])) == 0
    assert table.only([1]).columns["label"] == ["b"]
    with pytest.raises(UserError, match="2 of 2 rows have an empty text"):
        load(DataTable(source=str(tmp_path / "empty.parquet")))
