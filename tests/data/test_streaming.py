"""Tables read and written block by block: as if they were read whole, and in memory that does not grow."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_tables import BROKEN, SHAPES

from randout.core.errors import Failure, UserError
from randout.data import streaming, table_writing
from randout.data.archives import OpenedFile, of_handle, opened_file
from randout.data.streaming import Blocks, blocks_of, names_a_text
from randout.data.tables import read_table
from support.markers import marked_slow

FILES = {  # name -> content, of tables in every form
    "plain.csv": b"text,label\na,x\n\nb,y\nc,x\nd,x\n",
    "one.csv": b"text\na\n\nb\nc\n\n",
    "twice.csv": b"text,text\n1,2\n3,4\n5,6\n",
    "mac.csv": b"text;label\ra;x\rb;y\r",
    "marked.csv": '\ufefftext,label\r\n"a\r\nb, ""c""",x\r\nü,y\r\nd,\r\n'.encode(),
    "plain.tsv": b'text\tlabel\n"Never" again\tx\n"open\ty\nclosed"\tx\n',
    "quoted.tsv": b'text\tlabel\n"two\nlines"\tx\n"a tab:\t"\ty\n',
    "lines.jsonl": b'{"text": "a"}\n\n{"text": "b", "n": [1]}\n{"n": 2.5}\n{"text": "d", "last": true}\n',
    "packed.csv.gz": gzip.compress(b"text,label\na,x\nb,y\nc,x\n"),
    **{f"{name}.json": content.encode() for name, content in SHAPES.items()},
}
MIXED = r"parquet: a column mixes types, .* Write \.jsonl instead"


def small(opened: OpenedFile) -> Blocks:
    """Blocks of two rows."""
    blocks = blocks_of(opened)
    blocks.rows = 2
    return blocks


def joined(blocks: Blocks) -> dict[str, list]:
    """The columns of all blocks, once all of their names are known."""
    assert sum(len(block) for block in blocks)
    found: dict[str, list] = {}
    for block in blocks:
        assert 0 < len(block) <= 2
        for name, values in block.columns.items():
            found.setdefault(name, []).extend(values)
    return found


@pytest.mark.parametrize("name", FILES)
def test_blocks_are_what_is_read_whole(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    table = read_table(path)
    with opened_file(path, "a table") as opened:
        blocks = small(opened)
        assert joined(blocks) == table.columns
        assert (blocks.format, blocks.delimiter, list(blocks.names)) == (
            table.format,
            table.delimiter,
            list(table.columns),
        )
        assert next(iter(blocks)).header == table.header


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_as_it_is_when_read_whole(tmp_path, case):
    name, content, _ = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as whole:
        read_table(tmp_path / name)
    with pytest.raises(UserError) as parts, opened_file(tmp_path / name, "a table") as opened:
        list(small(opened))
    if case not in ("no parquet", "csv named parquet"):  # words of pyarrow
        assert str(parts.value) == str(whole.value)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt"])
@pytest.mark.parametrize("name", ["twice.csv", "marked.csv", "lines.jsonl", "records.json"])
def test_blocks_are_written_as_a_table_is_written_whole(tmp_path, name, suffix):
    path = tmp_path / name
    path.write_bytes(FILES[name])
    table = read_table(path)
    added = [None if at == 1 else f"l{at}" for at in range(len(table))]
    if name == "lines.jsonl" and suffix == ".parquet":
        with pytest.raises(UserError, match=MIXED):
            table_writing.write_table(table, tmp_path / f"whole{suffix}")
    else:
        table_writing.write_table(table_writing.appended(table, {"new": added}), tmp_path / f"whole{suffix}")
    with opened_file(path, "a table") as opened:
        blocks, writer = small(opened), table_writing.BlockWriter(tmp_path / f"parts{suffix}")
        if name == "lines.jsonl" and suffix == ".parquet":
            with pytest.raises(UserError, match=MIXED):
                list(map(writer.check, blocks))
            return
        list(map(writer.check, blocks))
        with writer.open({"new": str}) as add:
            at = 0
            for block in blocks:
                add(block, {"new": added[at : at + len(block)]})
                at += len(block)
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    if suffix == ".parquet":
        assert pq.read_table(parts).equals(pq.read_table(whole))
    else:
        assert parts.read_bytes() == whole.read_bytes()


def test_types_of_json_lines_are_those_of_all_blocks(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": null}\n{"n": 1}\n{"n": 2.5, "x": "a"}\n')
    with opened_file(tmp_path / "a.jsonl", "a table") as opened:
        blocks, writer = small(opened), table_writing.BlockWriter(tmp_path / "a.parquet")
        list(map(writer.check, blocks))
        with writer.open({}) as add:
            for block in blocks:
                add(block, {})
    assert pq.read_table(tmp_path / "a.parquet").to_pydict() == {"n": [None, 1.0, 2.5], "x": [None, None, "a"]}


def test_parquet_keeps_its_types_and_metadata_in_blocks(tmp_path):
    table = pa.table(
        {
            "text": pa.array(["a", None, "c", "d", "e"], pa.large_string()),
            "kind": pa.array(list("xyxyx")).dictionary_encode(),
            "deep": pa.array([[{"a": 1}], [], None, [], []], pa.list_(pa.struct([("a", pa.int16())]))),
        },
        metadata={"mine": "kept"},
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    with opened_file(tmp_path / "in.parquet", "a table") as opened:
        blocks, writer = small(opened), table_writing.BlockWriter(tmp_path / "out.parquet")
        list(map(writer.check, blocks))
        with writer.open({"score": float}) as add:
            for block in blocks:
                add(block, {"score": [None] * len(block)})
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert found.schema.metadata[b"mine"] == b"kept"
    assert found.schema.field("score").type == pa.float64()


def test_nothing_is_left_where_a_later_block_fails(tmp_path):
    (tmp_path / "a.csv").write_bytes(FILES["plain.csv"])
    with opened_file(tmp_path / "a.csv", "a table") as opened:
        blocks = small(opened)
        for suffix in (".csv", ".parquet", ".json"):
            writer = table_writing.BlockWriter(tmp_path / f"out{suffix}")
            list(map(writer.check, blocks))
            with pytest.raises(ZeroDivisionError), writer.open({}) as add:  # noqa: PT012
                for number, block in enumerate(blocks):
                    add(block, {})
                    1 / (1 - number)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_file_that_changes_while_it_is_read_is_a_failure(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(FILES["plain.csv"])
    with opened_file(path, "a table") as opened:
        blocks = small(opened)
        list(blocks)
        path.write_bytes(FILES["plain.csv"] + b"e,x\n")
        with pytest.raises(Failure, match=r"a\.csv: the file changed while it was read"):
            list(blocks)


@pytest.mark.parametrize(
    "suffix", marked_slow([".csv", ".jsonl", ".csv.gz", ".parquet", ".txt"], ".jsonl", ".csv.gz", ".txt")
)
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}{suffix}"
        texts = [f"text number {at}, some words more than that" for at in range(rows)]
        if suffix == ".parquet":
            pq.write_table(pa.table({"text": texts}), path, row_group_size=500)
        else:
            lines = [json.dumps({"text": t}) if suffix == ".jsonl" else f'"{t}"' for t in texts]
            content = "\n".join([*["text"] * (suffix != ".jsonl"), *lines]).encode()
            path.write_bytes(gzip.compress(content, 1) if suffix == ".csv.gz" else content)
        with opened_file(path, "a table") as opened:
            blocks = streaming.plain_lines(opened) if suffix == ".txt" else blocks_of(opened)
            blocks.rows = 500
            writer = table_writing.BlockWriter(path.with_suffix(".out.csv"))
            tracemalloc.start()
            with writer.open({}) as add:
                for block in blocks:
                    add(block, {})
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    peak(500)  # what is loaded once
    few, many = peak(5000), peak(20_000)  # both longer than what is read to find the format
    assert many < 1.5 * few + 200_000


@pytest.mark.parametrize(
    ("content", "table"),
    [
        ("text\na\n", True),
        ("id, Text ,label\n1,a,x\n", True),
        ('"review"\n"a, b"\n', True),
        ('{"review": "a"}\n{"review": "b"}\n', True),
        ("text\n", False),
        ("a good text\nmore\n", False),
        ("text, a good one\nand no second column\n", False),
        ('{"n": 1}\n{"n": 2}\n', False),
        ("{text}\n{more}\n", False),
        ('text,"a quote that is never closed\nb\n', False),
        ("", False),
    ],
)
def test_a_header_is_told_from_a_text(content, table):
    assert names_a_text(of_handle(io.BytesIO(content.encode()), "standard input")) is table


def test_long_texts_make_blocks_of_few_rows(tmp_path):
    Path(tmp_path / "a.csv").write_text("text\n" + ("word " * 12 + "\n") * 5)
    with opened_file(tmp_path / "a.csv", "a table") as opened:
        blocks = blocks_of(opened)
        blocks.characters = 100
        assert [len(block) for block in blocks] == [2, 2, 1]
