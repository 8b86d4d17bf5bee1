"""Reads CSV, TSV, JSON Lines and Parquet files into a `Table`; errors name the line.

This module does not distinguish texts and labels. Lines of the file and rows of data are both counted from 1; the header
is not a row. Because of the header, blank lines and quoted line breaks, a row's line differs from its number, so messages
give both. Files are parsed, never unpickled.
"""

from __future__ import annotations

import codecs
import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from encodings.aliases import aliases
from pathlib import Path
from typing import Any

from randout.core.errors import UserError, nearest

from . import encoding_advice
from .archives import OpenedFile, opened_file
from .csv_parsing import parse_delimited, sniff_delimiter
from .json_tables import parse_json
from .parquet import ArrowColumns, class_names

FORMATS = "CSV (comma, semicolon or tab), TSV, JSON Lines or Parquet"
AUTO = "auto"  # default encoding: UTF-8
UTF_8 = "utf-8-sig"
STANDARD_INPUT = encoding_advice.STANDARD_INPUT
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
DELIMITED_SUFFIXES = (".csv", ".tsv", ".tab")
JSON_START = re.compile(r"\s*(\[\s*)?\{\s*\"")  # an object, or a list of objects
TABLE_SUFFIXES = (*DELIMITED_SUFFIXES, ".txt", ".parquet", ".pq", *JSON_SUFFIXES)
MAGIC = {  # first bytes of (decompressed) files in other formats -> message
    b"\x1f\x8b": "a gzip archive: unpack it first (gunzip FILE)",
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV in UTF-8",
    b"\x80\x04\x95": "a Python pickle, which can run code and is never opened: save the table as CSV or Parquet",
    b"\x80\x05\x95": "a Python pickle, which can run code and is never opened: save the table as CSV or Parquet",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first (unzstd FILE)",
    b"%PDF": "a PDF document",
    b"ARROW1": "an Arrow or Feather file: save the table as Parquet",
    b"BZh91AY": "a bzip2 archive: unpack it first (bunzip2 FILE)",
    b"\xfd7zXZ": "an xz archive: unpack it first (unxz FILE)",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"version https://git-lfs": "a Git LFS pointer, not the table itself: run git lfs pull",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
}


@dataclass(frozen=True)
class Table:
    """Columns of equal length, in the file's order. CSV values are strings; JSON and Parquet keep their types.

    The keys of `columns` are unique; `header` has the names as in the file, where they may repeat.
    """

    columns: Mapping[str, list[Any]]
    name: str  # the file's name as the user gave it
    sha256: str  # of the content, decompressed and in UTF-8, so that the same data have the same hash
    format: str  # "csv", "jsonl", "json" (one list of objects), "parquet" or "hub"
    delimiter: str = ","
    categories: dict[str, list[str]] = field(default_factory=dict)  # column -> declared class names in order
    header: tuple[str, ...] = ()  # names as in the file; empty: the keys of `columns`
    lines: Sequence[int] = field(default=(), repr=False, compare=False)  # line on which each row of a CSV file starts
    numbers: Sequence[int] = field(
        default=(), repr=False, compare=False
    )  # of the rows in the file; empty: 1 to len(self)

    def row(self, number: int) -> str:
        """Return `row 3 (line 4)`, or `row 3` if the line is not known. number: row of this table, counted from 1."""
        in_file = self.numbers[number - 1] if self.numbers else number
        return f"row {in_file} (line {self.lines[number - 1]})" if self.lines else f"row {in_file}"

    def only(self, rows: Sequence[int]) -> Table:
        """Return a table of some rows, which keep their numbers in the file. rows: positions, counted from 0, ascending."""
        columns: Mapping[str, list[Any]]
        if isinstance(self.columns, ArrowColumns):
            import pyarrow as pa

            at = pa.array(rows, pa.int64())  # no rows would have no type
            columns = ArrowColumns(self.columns.table.take(at), self.columns.name)
        else:
            columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        return replace(
            self,
            columns=columns,
            lines=[self.lines[row] for row in rows] if self.lines else (),
            numbers=[self.numbers[row] if self.numbers else row + 1 for row in rows],
        )

    def __len__(self) -> int:
        if isinstance(self.columns, ArrowColumns):
            return int(self.columns.table.num_rows)
        return len(next(iter(self.columns.values()), []))


def sha256_of(data: bytes) -> str:
    """Return the hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def read_table(path: str | Path, encoding: str = AUTO, without_rows: bool = False) -> Table:
    """Read a table; the format is detected from content and suffix, and compressed files are decompressed.

    encoding: Python's name of the encoding; "auto": UTF-8. without_rows: whether the table may have none. Raises UserError if
    the file is missing, a folder, empty, not text, damaged, malformed, or has no rows.
    """
    with opened_file(path, FORMATS) as opened:
        return table_of(opened, encoding, without_rows)


def table_of(opened: OpenedFile, encoding: str = AUTO, without_rows: bool = False) -> Table:
    """Read a table from an open file, as `read_table` does."""
    data, name, suffix = opened.read(), opened.name, opened.suffix
    columns: Mapping[str, list[Any]]
    header: Sequence[str] = ()
    categories: dict[str, list[str]] = {}
    lines: Sequence[int] = ()
    if is_parquet(data, suffix):
        found, form, delimiter = _parse_parquet(data, name), "parquet", ","
        columns, header, categories = found, found.header, class_names(found.table.schema)
    else:
        text = decode(data, name, encoding)
        if not text.strip():
            raise UserError(f"{name}: the file is empty. Expected a table as {FORMATS}.")
        delimiter = ","
        if looks_json(text, suffix):
            columns, form = parse_json(text, name)
        else:
            check_not_json(text, suffix, name)
            delimiter, form = sniff_delimiter(text, suffix), "csv"
            header, columns, lines = parse_delimited(text, delimiter, name)
        if codec_of(encoding) != UTF_8:  # same hash as the file converted to UTF-8
            data = text.encode("utf-8")
    table = Table(columns, name, sha256_of(data), form, delimiter, categories, tuple(header), lines)
    if len(table) == 0 and not without_rows:
        raise no_rows(name, columns)
    return table


def no_rows(name: str, columns: Iterable[str]) -> UserError:
    """Return the error for a table without rows."""
    return UserError(f"{name}: the file has a header but no rows of data (columns: {', '.join(columns) or 'none'}).")


def is_parquet(start: bytes, suffix: str) -> bool:
    """Return whether a file is Parquet. start: its first bytes."""
    return start[:4] == b"PAR1" or suffix in (".parquet", ".pq")


def looks_json(text: str, suffix: str) -> bool:
    """Return whether a non-blank text should be read as JSON."""
    return suffix in JSON_SUFFIXES or (suffix not in DELIMITED_SUFFIXES and text.lstrip()[0] in "{[")


def check_not_json(text: str, suffix: str, name: str) -> None:
    """Raise UserError if a file is named as CSV or TSV but starts as JSON. text: its first lines, or all of it."""
    if suffix in DELIMITED_SUFFIXES and JSON_START.match(text):
        raise UserError(
            f"{name}: the name ends in {suffix}, but the content looks like JSON. Rename the file so that it ends in .json"
        )


def read_bytes(path: str | Path) -> bytes:
    """Return the bytes of a file as on disk. Raises UserError as `opened_file` does."""
    with opened_file(path, FORMATS) as opened:
        opened.handle.seek(0)
        return opened.handle.read()


def codec_of(encoding: str) -> str:
    """Return Python's codec for an encoding; UTF-8 may have a byte order mark. Raises UserError if it is unknown."""
    if encoding == AUTO:
        return UTF_8
    try:
        found = codecs.lookup(encoding)
        if not found._is_text_encoding:
            raise LookupError
        "a".encode(encoding)
    except (LookupError, ValueError):
        known = sorted({name.replace("_", "-") for name in aliases.values()})
        raise UserError(
            f"encoding: unknown text encoding {encoding!r:.60}.{nearest(encoding, known)} "
            "Expected auto (UTF-8) or a name such as latin1, cp1252, utf-16 or gb18030."
        ) from None
    return UTF_8 if found.name == "utf-8" else found.name


def decode(data: bytes, name: str, encoding: str = AUTO) -> str:
    """Decode bytes as UTF-8 (with or without a byte order mark), or in the given encoding.

    Raises UserError with byte offset and line if they are not valid text in it.
    """
    codec = codec_of(encoding)
    check_start(data, name, encoding)
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        at = error.start + (
            3 if codec == UTF_8 and data.startswith(codecs.BOM_UTF8) else 0
        )  # the codec does not count the mark
        line = data.count(b"\n", 0, at) + 1
        if encoding != AUTO:
            raise UserError(
                f"{name}, line {line}: not text in {encoding} (byte 0x{data[at]:02x} at offset {at}: {error.reason}). "
                "Name another encoding with --encoding."
            ) from None
        raise UserError(
            f"{name}, line {line}: the file is not UTF-8 text (byte 0x{data[at]:02x} at offset {at}). "
            f"{encoding_advice.advice(data, name)}"
        ) from None
    if (at := text.find("\0")) >= 0:
        raise nul_error(name, text.count("\n", 0, at) + 1)
    return text


def check_start(data: bytes, name: str, encoding: str) -> None:
    """Raise UserError if the first bytes are of a format other than text, or UTF-16/32 although UTF-8 is expected."""
    _check_magic(data, name)
    if encoding == AUTO and (found := encoding_advice.utf16_or_32(data)):
        other, how = found
        raise UserError(
            f"{name}: the file is in {other[:6].upper()} ({how}, byte 0, line 1); expected UTF-8. "
            f"Read it with --encoding {other}, or convert it: {encoding_advice.iconv_command(name, other)}"
        )


def nul_error(name: str, line: int) -> UserError:
    """Return the error for a NUL character in a text."""
    where = "" if name == STANDARD_INPUT else f" < {shlex.quote(name)} > clean{Path(name).suffix}"
    return UserError(
        f"{name}, line {line}: contains a NUL character, which is not allowed in text (is the file binary, "
        f"or truncated?). Remove it, for example: tr -d '\\000'{where}"
    )


def _check_magic(data: bytes, name: str) -> None:
    tar = data[257:262] == b"ustar"
    found = [what for magic, what in MAGIC.items() if data.startswith(magic)] + ["a tar archive: unpack it first"] * tar
    if found:
        raise UserError(f"{name}: this is {found[0]}. Expected {FORMATS}.")


def _parse_parquet(data: bytes, name: str) -> ArrowColumns:
    """Parse Parquet bytes into columns."""
    check_parquet(data, name)
    import pyarrow as pa
    import pyarrow.parquet as pq

    with parquet_errors(name):
        return ArrowColumns(pq.ParquetFile(pa.BufferReader(data)).read(), name)


def check_parquet(start: bytes, name: str) -> None:
    """Raise UserError if a file named as Parquet is empty or has another format. start: its first bytes."""
    if not start:
        raise UserError(f"{name}: the file is empty. Expected a table as {FORMATS}.")
    _check_magic(start, name)


@contextmanager
def parquet_errors(name: str) -> Iterator[None]:
    """Convert the errors of pyarrow while it reads Parquet to UserError."""
    import pyarrow as pa

    try:
        yield
    except NotImplementedError as error:
        raise UserError(
            f"{name}: the installed pyarrow {pa.__version__} cannot read this Parquet file "
            f"({str(error).splitlines()[0]}). Write the columns with texts and labels to a separate file."
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{name}: not a valid Parquet file ({str(error).splitlines()[0]}). Write or copy it again."
        ) from None
