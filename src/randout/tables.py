"""Files of rows: CSV, TSV, JSON Lines and Parquet into a `Table` and back, with every file error said by line.

Nothing here knows what a text or a label is. A "line" is a line of the file (the first is 1), a "row" is a row of data
(the first is 1, the header is not counted). Bytes are parsed, never unpickled.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from randout.errors import Failure, UserError, nearest
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


def appended(table: Table, columns: Mapping[str, Sequence[Any]]) -> Table:
    """The table with further columns at its end. UserError when a name is taken."""
    for name, values in columns.items():
        if name in table.columns:
            raise UserError(f"{table.name}: there is a column {name!r} already. Rename or remove it first.")
        if len(values) != len(table):
            raise ValueError(f"{name}: {len(values)} values for {len(table)} rows")
    return replace(table, columns={**table.columns, **{name: list(values) for name, values in columns.items()}})


def write_table(table: Table, path: str | Path) -> None:
    """Write a table in the format of the path's suffix. UserError: the file exists, its folder does not, or the suffix."""
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".parquet", *JSON_SUFFIXES):
        raise UserError(f"{path}: the suffix {suffix!r} is not known. Expected .csv, .tsv, .jsonl, .json or .parquet.")
    if path.exists():
        raise UserError(f"{path}: the file exists and is not overwritten. Give another name, or remove it first.")
    if not path.parent.is_dir():
        raise UserError(f"{path}: there is no folder {path.parent}. Create it first.")
    data = _to_parquet(table, path) if suffix == ".parquet" else _to_text(table, suffix).encode("utf-8")
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        raise UserError(
            f"{path}: the file exists and is not overwritten. Give another name, or remove it first."
        ) from None
    except OSError as error:
        raise Failure(f"{path}: could not be written ({error.strerror}).") from None


def _to_text(table: Table, suffix: str) -> str:
    if suffix in JSON_SUFFIXES:
        records = (dict(zip(table.columns, row, strict=True)) for row in zip(*table.columns.values(), strict=True))
        lines = [json.dumps(record, ensure_ascii=False, default=str) for record in records]
        whole = suffix == ".json" and table.format != "jsonl"
        return "[\n" + ",\n".join(lines) + "\n]\n" if whole else "\n".join(lines) + "\n"
    out = io.StringIO(newline="")
    delimiter = "\t" if suffix == ".tsv" else table.delimiter
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    writer.writerow(table.columns)
    plain = (str, int, float, type(None))
    for row in zip(*table.columns.values(), strict=True):
        writer.writerow([v if isinstance(v, plain) else json.dumps(v, ensure_ascii=False, default=str) for v in row])
    return out.getvalue()


def _to_parquet(table: Table, path: Path) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.table(dict(table.columns)), sink)
    except pa.ArrowException as error:
        raise UserError(
            f"{path}: a column mixes types, which Parquet cannot hold ({error}). Write .jsonl instead."
        ) from None
    return sink.getvalue().to_pybytes()
