"""Files of rows: CSV, TSV, JSON Lines and Parquet into a `Table`, with every file error said by line.

Nothing here knows what a text or a label is. A "line" is a line of the file (the first is 1), a "row" is a row of data
(the first is 1, the header is not counted). Bytes are parsed, never unpickled.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randout import encoding_advice
from randout.arrow_table import ArrowColumns, class_names
from randout.errors import UserError, nearest
from randout.json_tables import parse_json
from randout.parsing import parse_delimited, sniff_delimiter

FORMATS = "CSV (comma, semicolon or tab), TSV, JSON Lines or Parquet"
JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq", *JSON_SUFFIXES)
MAGIC = {  # first bytes of files that are something else -> what to say
    b"\x1f\x8b": "a gzip archive: unpack it first (gunzip FILE)",
    b"PK\x03\x04": "a zip archive or an Excel workbook: unpack it, or save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook: save the sheet as CSV in UTF-8",
    b"\x80\x04\x95": "a Python pickle, which is never opened, as that can run code: save the table as CSV or Parquet",
    b"\x80\x05\x95": "a Python pickle, which is never opened, as that can run code: save the table as CSV or Parquet",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first (unzstd FILE)",
    b"%PDF": "a PDF document",
    b"ARROW1": "an Arrow or Feather file: save the table as Parquet",
    b"BZh91AY": "a bzip2 archive: unpack it first (bunzip2 FILE)",
    b"\xfd7zXZ": "an xz archive: unpack it first (unxz FILE)",
    b"SQLite format 3": "an SQLite database: export the table as CSV",
    b"version https://git-lfs": "a Git LFS pointer and not the table itself: git lfs pull",
    b"<!DOCTYPE": "a web page: download the file itself",
    b"<!doctype": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
}


@dataclass(frozen=True)
class Table:
    """Columns of equal length, in the file's order. CSV values are strings; JSON and Parquet keep their types.

    The keys of `columns` are unique: where the file has a name more than once, `header` has the names as they are there.
    """

    columns: Mapping[str, list[Any]]
    name: str  # the file's name as the user gave it
    sha256: str
    format: str  # "csv", "jsonl", "json" (one list of objects), "parquet" or "hub"
    delimiter: str = ","
    categories: dict[str, list[str]] = field(default_factory=dict)  # column -> its declared values, in order
    header: tuple[str, ...] = ()  # the names as in the file; empty: the keys of `columns`

    def __len__(self) -> int:
        if isinstance(self.columns, ArrowColumns):
            return int(self.columns.table.num_rows)
        return len(next(iter(self.columns.values()), []))


def sha256_of(data: bytes) -> str:
    """The hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def read_table(path: str | Path) -> Table:
    """Read a file by its content and suffix. UserError: missing, a folder, empty, not text, malformed, no rows."""
    data = read_bytes(path)
    name, suffix = str(path), Path(path).suffix.lower()
    columns: Mapping[str, list[Any]]
    header: Sequence[str] = ()
    categories: dict[str, list[str]] = {}
    if data[:4] == b"PAR1" or suffix in (".parquet", ".pq"):
        found, form, delimiter = _parse_parquet(data, name), "parquet", ","
        columns, header, categories = found, found.header, class_names(found.table.schema)
    else:
        text = decode(data, name)
        if not text.strip():
            raise UserError(f"{name}: the file is empty. Expected a table as {FORMATS}.")
        looks_json = suffix not in (".csv", ".tsv", ".tab") and text.lstrip()[0] in "{["
        if suffix in JSON_SUFFIXES or looks_json:
            columns, form = parse_json(text, name)
            delimiter = ","
        else:
            delimiter = sniff_delimiter(text, suffix)
            header, columns = parse_delimited(text, delimiter, name)
            form = "csv"
    table = Table(columns, name, sha256_of(data), form, delimiter, categories, tuple(header))
    if len(table) == 0:
        raise UserError(f"{name}: there is a header but no row of data (columns: {', '.join(columns) or 'none'}).")
    return table


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; UserError when it is missing (with the nearest name beside it), a folder or not readable."""
    path = Path(path)
    try:
        if path.is_dir():
            raise UserError(f"{path}: this is a folder. Expected one file: {FORMATS}.")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        raise UserError(f"{path}: no such file.{nearest(path.name, beside)}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file cannot be read ({getattr(error, 'strerror', None) or error}).") from None


def decode(data: bytes, name: str) -> str:
    """UTF-8 (with or without its mark) to text. UserError with byte offset and line for anything else."""
    _check_magic(data, name)
    if found := encoding_advice.utf16_or_32(data):
        encoding, how = found
        raise UserError(
            f"{name}: the file is in {encoding[:6].upper()} ({how}, byte 0, line 1); expected UTF-8. "
            f"Convert it: {encoding_advice.command(name, encoding)}"
        )
    skip = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    try:
        text = data[skip:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + skip
        line = data.count(b"\n", 0, at) + 1
        raise UserError(
            f"{name}, line {line}: the file is not UTF-8 text (byte 0x{data[at]:02x} at offset {at}). "
            f"{encoding_advice.advice(data, name)}"
        ) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise UserError(
            f"{name}, line {line}: a NUL character, which text cannot hold (is the file binary, "
            f"or cut off?). Remove it, for example: tr -d '\\000' < {shlex.quote(name)} > clean{Path(name).suffix}"
        )
    return text


def _check_magic(data: bytes, name: str) -> None:
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            raise UserError(f"{name}: this is {what}. Expected {FORMATS}.")


def _parse_parquet(data: bytes, name: str) -> ArrowColumns:
    """Parquet bytes to columns."""
    if not data:
        raise UserError(f"{name}: the file is empty. Expected a table as {FORMATS}.")
    _check_magic(data, name)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except NotImplementedError as error:
        raise UserError(
            f"{name}: the installed pyarrow {pa.__version__} cannot read this Parquet file "
            f"({str(error).splitlines()[0]}). Write the columns of texts and labels to a file of their own."
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{name}: not a whole Parquet file ({str(error).splitlines()[0]}). Write or copy it again."
        ) from None
    return ArrowColumns(table, name)
