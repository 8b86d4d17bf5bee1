"""Files of rows: CSV, TSV, JSON Lines and Parquet into a `Table`, with every file error said by line.

Nothing here knows what a text or a label is. A "line" is a line of the file (the first is 1), a "row" is a row of data
(the first is 1, the header is not counted). Bytes are parsed, never unpickled.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randout.errors import UserError, nearest
from randout.parsing import check_unique, parse_delimited, parse_json, sniff_delimiter

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
}


@dataclass(frozen=True)
class Table:
    """Columns of equal length, in the file's order. CSV values are strings; JSON and Parquet keep their types."""

    columns: dict[str, list[Any]]
    name: str  # the file's name as the user gave it
    sha256: str
    format: str  # "csv", "jsonl", "json" (one list of objects), "parquet" or "hub"
    delimiter: str = ","
    categories: dict[str, list[str]] = field(default_factory=dict)  # column -> its declared values, in order

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


def sha256_of(data: bytes) -> str:
    """The hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def read_table(path: str | Path) -> Table:
    """Read a file by its content and suffix. UserError: missing, a folder, empty, not text, malformed, no rows."""
    data = read_bytes(path)
    name, suffix = str(path), Path(path).suffix.lower()
    if data[:4] == b"PAR1" or suffix in (".parquet", ".pq"):
        columns, form, delimiter = _parse_parquet(data, name), "parquet", ","
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
            columns, form = parse_delimited(text, delimiter, name), "csv"
    table = Table(columns, name, sha256_of(data), form, delimiter)
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
    for magic, what in MAGIC.items():
        if data.startswith(magic):
            raise UserError(f"{name}: this is {what}. Expected {FORMATS}.")
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    zeros = data[:4096].count(0)
    if utf16 or (zeros > 0.3 * len(data[:4096]) and zeros < 0.7 * len(data[:4096])):
        where = "it starts with the UTF-16 mark" if utf16 else "every other byte is zero"
        raise UserError(
            f"{name}: the file is in UTF-16 ({where}, byte 0, line 1); expected UTF-8. "
            f"Convert it: iconv -f utf-16 -t utf-8 {name} > utf8{Path(name).suffix}"
        )
    skip = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    try:
        text = data[skip:].decode("utf-8")
    except UnicodeDecodeError as error:
        at = error.start + skip
        line = data.count(b"\n", 0, at) + 1
        raise UserError(
            f"{name}, line {line}: the file is not UTF-8 text (byte 0x{data[at]:02x} at offset "
            f"{at}). If it is text in another encoding, convert it, for example: "
            f"iconv -f latin1 -t utf-8 {name} > utf8{Path(name).suffix}"
        ) from None
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise UserError(
            f"{name}, line {line}: a NUL character, which text cannot hold (is the file binary, "
            f"or cut off?). Remove it, for example: tr -d '\\000' < {name} > clean{Path(name).suffix}"
        )
    return text


def _parse_parquet(data: bytes, name: str) -> dict[str, list[Any]]:
    """Parquet bytes to columns of Python values."""
    if not data:
        raise UserError(f"{name}: the file is empty. Expected a table as {FORMATS}.")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{name}: not a whole Parquet file ({str(error).splitlines()[0]}). Write or copy it again."
        ) from None
    check_unique(table.column_names, name)
    return {column: table.column(column).to_pylist() for column in table.column_names}
