"""Reads CSV, TSV, JSON Lines, Parquet and plain text lines in blocks, with constant memory.

JSON of other shapes (one list, one object) and compressed Parquet are read whole and then divided into blocks.
"""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from randout.core.errors import Failure, UserError

from .archives import OpenedFile
from .columns import TEXT_NAMES
from .csv_parsing import columns_of, quoting_of, rows_of, sniff_delimiter
from .json_tables import columns_of as json_columns
from .json_tables import is_json_lines, records_of
from .parquet import ArrowColumns
from .tables import (
    Table,
    check_not_json,
    check_parquet,
    check_start,
    codec_of,
    decode,
    is_parquet,
    looks_json,
    no_rows,
    nul_error,
    parquet_errors,
    table_of,
)

ROWS = 8192  # per block: enough to sort texts by length before batching
CHARACTERS = 1 << 24  # per block: fewer rows if texts are long
HEAD = 200_000  # characters used to detect the format of a file
Row = TypeVar("Row")


@dataclass
class Blocks:
    """A table that can be iterated several times in blocks.

    format, delimiter: as in `Table`; format "lines": plain text. names: the keys of the columns; for JSON Lines those of the
    rows read so far. stamp: returns a value that changes when the file changes. rows, characters: a block ends after this
    many rows, or with the row that reaches this many characters; can be set before the blocks are read.
    """

    name: str
    format: str
    _read: Callable[[Blocks], Iterator[Table]]
    stamp: Callable[[], Any]
    delimiter: str = ","
    names: dict[str, None] = field(default_factory=dict)
    rows: int = ROWS
    characters: int = CHARACTERS
    _stamp: Any = None

    def __post_init__(self) -> None:
        self._stamp = self.stamp()

    def __iter__(self) -> Iterator[Table]:
        """Yield the rows in blocks of at most `self.rows`. Raises UserError if malformed, Failure if the file has changed."""
        empty = True
        for block in self._read(self):
            if len(block):
                empty = False
                yield block
        if self.stamp() != self._stamp:
            raise Failure(f"{self.name}: the file changed while it was read. Run the command again.")
        if empty and self.format != "lines":
            raise no_rows(self.name, self.names)


def blocks_of(opened: OpenedFile, encoding: str = "auto") -> Blocks:
    """Open a file as blocks of rows, read as `read_table` reads it. Raises UserError if it is not a table."""
    start = _start(opened)
    if is_parquet(start, opened.suffix):
        check_parquet(start, opened.name)
        return whole(table_of(opened)) if opened.kind else _parquet(opened)
    check_start(start, opened.name, encoding)
    lines = partial(lines_of, opened, encoding)
    head = _head(lines)
    if not head.strip():
        return whole(table_of(opened, encoding))
    if looks_json(head, opened.suffix):
        lines = partial(lines_of, opened, encoding, "\n")
        if not is_json_lines(lines(), opened.name):
            return whole(table_of(opened, encoding))
        return Blocks(opened.name, "jsonl", partial(_json_blocks, lines), lambda: opened.stamp)
    check_not_json(head, opened.suffix, opened.name)
    delimiter = sniff_delimiter(head, opened.suffix)
    quoting = quoting_of(lines, delimiter, opened.name)
    return Blocks(opened.name, "csv", partial(_csv_blocks, lines, quoting), lambda: opened.stamp, delimiter)


def whole(table: Table) -> Blocks:
    """Return the blocks of a table in memory."""
    found = Blocks(table.name, table.format, partial(_slices, table), lambda: None, table.delimiter)
    found.names = dict.fromkeys(table.columns)
    return found


def plain_lines(opened: OpenedFile, encoding: str = "auto") -> Blocks:
    """Read each line of a file, including empty ones, as a text in a column `text`. Line ends: \\n, \\r\\n, or only \\r."""
    start = _start(opened)
    check_start(start, opened.name, encoding)
    end = "\r" if b"\r" in start and b"\n" not in start else "\n"

    def read(table: Blocks) -> Iterator[Table]:
        texts = (line.removesuffix(end).removesuffix("\r") for line in lines_of(opened, encoding, end))
        for block in _batched(texts, len, table):
            yield Table({"text": block}, opened.name, "", "lines")

    return Blocks(opened.name, "lines", read, lambda: opened.stamp, names={"text": None})


def names_a_text(opened: OpenedFile, encoding: str = "auto", column: str = "") -> bool:
    """Return whether a file is a table with a text column, rather than plain text lines.

    It is if it is Parquet, or if it is JSON Lines or has a header with `column` or a usual name of a text column, followed
    by rows of the same width.
    """
    names = {*TEXT_NAMES, column.lower()} - {""}
    start = _start(opened)
    if is_parquet(start, ""):
        return True
    check_start(start, opened.name, encoding)
    head = _head(partial(lines_of, opened, encoding))
    lines = [line for line in head.splitlines(keepends=True) if line.strip()][:20]
    if len(lines) < 2:
        return False
    if lines[0].lstrip().startswith("{"):
        try:
            first = next(records_of(lines[:1], opened.name))
        except UserError:
            return False
        return any(str(name).lower() in names for name in first)
    delimiter = sniff_delimiter(head, "")
    try:
        rows = list(islice(rows_of(partial(iter, lines), delimiter, opened.name, csv.QUOTE_MINIMAL), 10))
    except UserError:
        return False
    return len(rows) > 1 and any(name.lower() in names for name in columns_of(rows[0], [])[0])


def lines_of(opened: OpenedFile, encoding: str, newline: str = "") -> Iterator[str]:
    """Yield the lines of a file with their ends: any of \\n, \\r and \\r\\n, or only `newline` if given.

    Raises UserError with the line if the file is not text in the encoding; only then is the file read whole.
    """
    with opened.stream() as binary:
        stream = io.TextIOWrapper(binary, codec_of(encoding), newline=newline)
        try:
            for number, line in enumerate(stream, 1):
                if "\0" in line:
                    raise nul_error(opened.name, number)
                yield line
        except UnicodeDecodeError:
            decode(opened.read(), opened.name, encoding)
            raise


def _start(opened: OpenedFile) -> bytes:
    with opened.stream() as stream:
        return stream.read(8192)


def _head(lines: Callable[[], Iterable[str]]) -> str:
    """Return the first lines, with about `HEAD` characters."""
    found, size = [], 0
    for line in lines():
        found.append(line)
        size += len(line)
        if size >= HEAD:
            break
    return "".join(found)


def _batched(rows: Iterable[Row], size_of: Callable[[Row], int], table: Blocks) -> Iterator[list[Row]]:
    """Yield lists of rows within the limits of `table`. size_of: characters of a row."""
    block: list[Row] = []
    size = 0
    for row in rows:
        block.append(row)
        size += size_of(row)
        if len(block) == table.rows or size >= table.characters:
            yield block
            block, size = [], 0
    if block:
        yield block


def _csv_blocks(lines: Callable[[], Iterable[str]], quoting: int, table: Blocks) -> Iterator[Table]:
    starts = array("q")
    rows = rows_of(lines, table.delimiter, table.name, quoting, starts)
    header = next(rows)
    del starts[:]
    table.names = dict.fromkeys(columns_of(header, [])[1])
    for block in _batched(rows, lambda row: sum(map(len, row)), table):
        names, columns = columns_of(header, block)
        yield Table(columns, table.name, "", "csv", table.delimiter, header=tuple(names), lines=starts[: len(block)])
        del starts[: len(block)]


def _json_blocks(lines: Callable[[], Iterable[str]], table: Blocks) -> Iterator[Table]:
    def size_of(record: dict[str, Any]) -> int:
        return sum(len(value) for value in record.values() if isinstance(value, str))

    for block in _batched(records_of(lines(), table.name), size_of, table):
        table.names |= dict.fromkeys(key for record in block for key in record)
        yield Table(json_columns(block, table.names), table.name, "", "jsonl")


def _parquet(opened: OpenedFile) -> Blocks:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def read(table: Blocks) -> Iterator[Table]:
        opened.handle.seek(0)
        with parquet_errors(opened.name):
            file = pq.ParquetFile(opened.handle, pre_buffer=False)
            schema = file.schema_arrow
            table.names = dict.fromkeys(ArrowColumns(schema.empty_table(), opened.name))
            batches = file.iter_batches(batch_size=table.rows)
        while True:
            with parquet_errors(opened.name):
                batch = next(batches, None)
            if batch is None:
                return
            columns = ArrowColumns(pa.Table.from_batches([batch], batch.schema), opened.name)
            columns.table = columns.table.replace_schema_metadata(schema.metadata)
            yield Table(columns, opened.name, "", "parquet", header=tuple(columns.header))

    return Blocks(opened.name, "parquet", read, lambda: opened.stamp)


def _slices(table: Table, blocks: Blocks) -> Iterator[Table]:
    for at in range(0, len(table), blocks.rows):
        if isinstance(table.columns, ArrowColumns):
            part: Any = ArrowColumns(table.columns.table.slice(at, blocks.rows), table.name)
        else:
            part = {name: values[at : at + blocks.rows] for name, values in table.columns.items()}
        yield replace(table, columns=part, lines=table.lines[at : at + blocks.rows])
