"""Files of rows: CSV, TSV, JSON Lines and Parquet into a `Table` and back, with every file error said by line.

Nothing here knows what a text or a label is. A "line" is a line of the file (the first is 1), a "row" is a row of data
(the first is 1, the header is not counted). Bytes are parsed, never unpickled.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from randout import encoding_advice
from randout.arrow_table import ArrowColumns, class_names
from randout.errors import Failure, UserError, nearest
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


def appended(table: Table, columns: Mapping[str, Sequence[Any]]) -> Table:
    """The table with further columns at its end. UserError when a name is taken."""
    for name, values in columns.items():
        if name in table.columns:
            raise UserError(f"{table.name}: there is a column {name!r} already. Rename or remove it first.")
        if len(values) != len(table):
            raise ValueError(f"{name}: {len(values)} values for {len(table)} rows")
    header = (*table.header, *columns) if table.header else ()
    more = {name: list(values) for name, values in columns.items()}
    return replace(table, columns={**table.columns, **more}, header=header)


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
    writer.writerow(table.header or table.columns)
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
