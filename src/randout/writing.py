"""Tables written to files: the input's columns as they were, and further columns at their end."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.arrow_table import ArrowColumns
from randout.errors import UserError
from randout.files import LONGEST_NAME, check_new_file, cut_name, write_new
from randout.tables import JSON_SUFFIXES, Table

PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITED_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")  # .txt: in the form that was read
SUFFIXES = (*DELIMITED_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)
BY_FORMAT = {"csv": ".csv", "jsonl": ".jsonl", "json": ".json", "parquet": ".parquet"}


def default_output(table: Table, word: str) -> Path:
    """Where a table goes when no name is given: beside its file, as NAME.word.SUFFIX, in the form that was read."""
    path = Path(table.name)
    stem, suffix = path.stem, path.suffix
    if suffix.lower() not in SUFFIXES:  # any text is read as a table, whatever its name
        stem, suffix = path.name, ".tsv" if table.delimiter == "\t" else BY_FORMAT.get(table.format, ".csv")
    end = f".{word}{suffix}"
    return path.with_name(cut_name(stem, LONGEST_NAME - len(end.encode())) + end)


def check_output(path: Path) -> None:
    """Raise UserError where no table can be written at `path`: its suffix, its folder, or a file that is there."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: the suffix {path.suffix!r} is not known. Expected one of {', '.join(SUFFIXES)}.")
    check_new_file(path)


def free_name(table: Table, name: str) -> str:
    """`name` for a new column, or the first of predicted_NAME, predicted_NAME_2, ... that no column has (in any case)."""
    taken = {column.casefold() for column in table.columns}
    found, number = name, 1
    while found.casefold() in taken:
        found = f"predicted_{name}" + (f"_{number}" if number > 1 else "")
        number += 1
    return found


def appended(table: Table, columns: Mapping[str, Sequence[Any]]) -> Table:
    """The table with further columns at its end. UserError when a name is taken."""
    for name, values in columns.items():
        if name in table.columns:
            raise UserError(f"{table.name}: there is a column {name!r} already. Rename or remove it first.")
        if len(values) != len(table):
            raise ValueError(f"{name}: {len(values)} values for {len(table)} rows")
    header = (*table.header, *columns) if table.header else ()
    if isinstance(table.columns, ArrowColumns):
        arrow = _with_columns(table.columns.table, columns)
        return replace(table, columns=ArrowColumns(arrow, table.name), header=header)
    more = {name: list(values) for name, values in columns.items()}
    return replace(table, columns={**table.columns, **more}, header=header)


def write_table(table: Table, path: str | Path) -> None:
    """Write a table in the format of the path's suffix, whole or not at all.

    Raises UserError where something is there already, where the folder is missing, and for an unknown suffix; Failure
    where the disk does not take it.
    """
    writer(table, Path(path))({})


def writer(table: Table, path: Path) -> Callable[[Mapping[str, Sequence[Any]]], None]:
    """Everything that can be wrong with writing `table` and further columns to `path`, checked now; the function that
    comes back takes the columns and writes. Raises UserError.
    """
    check_output(path)
    suffix = path.suffix.lower()
    if suffix in PARQUET_SUFFIXES:
        arrow = _arrow_of(table, path)
        return lambda columns: write_new(path, _parquet(arrow, columns))

    return lambda columns: write_new(path, _to_text(table, columns, suffix).encode("utf-8"))


def _to_text(table: Table, columns: Mapping[str, Sequence[Any]], suffix: str) -> str:
    rows = zip(*table.columns.values(), *columns.values(), strict=True)
    if suffix in JSON_SUFFIXES or (suffix == ".txt" and table.format in ("json", "jsonl")):
        names = [*table.columns, *columns]
        records = (dict(zip(names, row, strict=True)) for row in rows)
        lines = [json.dumps(record, ensure_ascii=False, default=str) for record in records]
        whole = suffix in (".json", ".txt") and table.format != "jsonl"
        return "[\n" + ",\n".join(lines) + "\n]\n" if whole else "\n".join(lines) + "\n"
    delimiter = "\t" if suffix in (".tsv", ".tab") else table.delimiter
    as_in_file = table.header or table.columns  # a header may have the same name twice
    out = io.StringIO()
    out.write(_csv_line([*as_in_file, *columns], delimiter))
    for row in rows:
        out.write(_csv_line(row, delimiter))
    return out.getvalue()


def _csv_line(cells: Sequence[Any], delimiter: str) -> str:
    """A line of CSV. Quoted are cells with a delimiter, a quote or a line break of any kind.

    Python's own writer leaves a lone carriage return without quotes before 3.11.9 and 3.12.3, and a reader then takes it
    for the end of the row.
    """
    texts = [_cell(cell) for cell in cells]
    special = (delimiter, '"', "\n", "\r")
    quoted = ['"' + text.replace('"', '""') + '"' if any(mark in text for mark in special) else text for text in texts]
    return (delimiter.join(quoted) if quoted != [""] else '""') + "\n"  # a blank line would not be seen as a row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _arrow_of(table: Table, path: Path) -> Any:
    """The table for Parquet; one that was read from a Parquet file keeps its own types and metadata."""
    import pyarrow as pa

    if isinstance(table.columns, ArrowColumns):
        return table.columns.table
    try:
        return pa.table(dict(table.columns))
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(
            f"{path}: a column mixes types, which Parquet cannot hold ({error}). Write .jsonl instead."
        ) from None


def _parquet(arrow: Any, columns: Mapping[str, Sequence[Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(_with_columns(arrow, columns), sink)
    return bytes(sink.getvalue().to_pybytes())


def _with_columns(arrow: Any, columns: Mapping[str, Sequence[Any]]) -> Any:
    import pyarrow as pa

    for name, values in columns.items():
        arrow = arrow.append_column(name, pa.array(list(values)))
    return arrow
