"""Writes tables to files: the input's columns unchanged, with new columns appended.

A new column may hold label sets, as lists: lists in JSON and Parquet too, and in CSV joined in one string.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.core.files import LONGEST_NAME, check_new_file, cut_name, new_file
from randout.core.label_sets import joined

from .archives import content_name
from .parquet import ArrowColumns
from .streaming import Blocks
from .tables import JSON_SUFFIXES, Table

PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITED_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")  # .txt: in the format that was read
SUFFIXES = (*DELIMITED_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)
AddBlock = Callable[[Table, Mapping[str, Sequence[Any]]], None]
BY_FORMAT = {"csv": ".csv", "jsonl": ".jsonl", "json": ".json", "parquet": ".parquet"}


def default_output(table: Table | Blocks, word: str) -> Path:
    """Return the default output path: alongside the input file, as NAME.word.SUFFIX, in the format that was read."""
    path = Path(content_name(table.name))
    stem, suffix = path.stem, path.suffix
    if suffix.lower() not in SUFFIXES:  # input files may have any name
        stem, suffix = path.name, ".tsv" if table.delimiter == "\t" else BY_FORMAT.get(table.format, ".csv")
    end = f".{word}{suffix}"
    return path.with_name(cut_name(stem, LONGEST_NAME - len(end.encode())) + end)


def check_output(path: Path) -> None:
    """Raise UserError if no table can be written to `path`: unknown suffix, missing folder, or existing file."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: unknown suffix {path.suffix!r}. Expected one of {', '.join(SUFFIXES)}.")
    check_new_file(path)


def free_name(taken: Iterable[str], name: str) -> str:
    """Return `name`, or the first of predicted_NAME, predicted_NAME_2, ... that is not in `taken`, ignoring case."""
    used = {column.casefold() for column in taken}
    found, number = name, 1
    while found.casefold() in used:
        found = f"predicted_{name}" + (f"_{number}" if number > 1 else "")
        number += 1
    return found


def appended(table: Table, columns: Mapping[str, Sequence[Any]]) -> Table:
    """Return the table with further columns at its end. Raises UserError if a name is taken."""
    for name, values in columns.items():
        if name in table.columns:
            raise UserError(f"{table.name}: already has a column {name!r}. Rename or remove it first.")
        if len(values) != len(table):
            raise ValueError(f"{name}: {len(values)} values for {len(table)} rows")
    header = (*table.header, *columns) if table.header else ()
    if isinstance(table.columns, ArrowColumns):
        arrow = _with_columns(table.columns.table, columns)
        return replace(table, columns=ArrowColumns(arrow, table.name), header=header)
    more = {name: list(values) for name, values in columns.items()}
    return replace(table, columns={**table.columns, **more}, header=header)


def write_table(table: Table, path: str | Path) -> None:
    """Write a table atomically, in the format given by the path's suffix.

    Raises UserError if the file exists, the folder is missing, or the suffix is unknown; Failure if the file cannot be
    written.
    """
    writer(table, Path(path))({})


def writer(table: Table, path: Path) -> Callable[[Mapping[str, Sequence[Any]]], None]:
    """Check that `table` with further columns can be written to `path`; return a function that writes it.

    The function takes the further columns by name. Raises UserError as `check_output` and `BlockWriter.check` do.
    """
    blocks = BlockWriter(path)
    blocks.check(table)

    def write(columns: Mapping[str, Sequence[Any]]) -> None:
        sets = {name: list for name, values in columns.items() if any(isinstance(value, list) for value in values)}
        with blocks.open(sets) as add:
            add(table, columns)

    return write


class BlockWriter:
    """Writes a table to `path` block by block, atomically. Raises UserError if nothing can be written there."""

    def __init__(self, path: Path) -> None:
        check_output(path)
        self.path, self.suffix = path, path.suffix.lower()
        self._schema: Any = None  # Parquet schema of all blocks

    def check(self, block: Table) -> None:
        """Check a block before any block is written. Raises UserError for columns that the format cannot store."""
        if self.suffix not in PARQUET_SUFFIXES:
            return
        import pyarrow as pa

        schema = _arrow_of(block, self.path).schema
        if self._schema is None or self._schema.equals(schema):
            self._schema = self._schema or schema
            return
        try:
            self._schema = pa.unify_schemas([self._schema, schema], promote_options="permissive")
        except (pa.ArrowException, OverflowError) as error:
            raise _mixed_types_error(self.path, error) from None

    @contextmanager
    def open(self, kinds: Mapping[str, type] | None = None) -> Iterator[AddBlock]:
        """Yield a function that writes a block with its further columns; call it with each block in turn.

        kinds: str, float or list (of strings) for each further column; may be missing if there is only one block. Every block
        must have been passed to `check`. Raises UserError if the file exists by then, and Failure if it cannot be written.
        """
        with new_file(self.path) as stream:
            if self.suffix in PARQUET_SUFFIXES:
                with self._parquet(stream, kinds) as add:
                    yield add
                return
            written = 0
            end = ""

            def add_text(block: Table, columns: Mapping[str, Sequence[Any]]) -> None:
                nonlocal written, end
                first, between, last = _row_separators(block, columns, self.suffix)
                lines = _lines(block, columns, self.suffix)
                stream.write(((between if written else first) + between.join(lines)).encode("utf-8"))
                written, end = written + len(lines), last

            yield add_text
            stream.write(end.encode("utf-8"))

    @contextmanager
    def _parquet(self, stream: Any, kinds: Mapping[str, type] | None) -> Iterator[AddBlock]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {str: pa.string(), float: pa.float64(), list: pa.list_(pa.string())}
        with ExitStack() as stack:
            out: Any = None

            def add(block: Table, columns: Mapping[str, Sequence[Any]]) -> None:
                nonlocal out
                own = {name: types[kind] for name, kind in (kinds or {}).items()}
                arrow = _with_columns(_arrow_of(block, self.path, self._schema), columns, own)
                out = out or stack.enter_context(pq.ParquetWriter(stream, arrow.schema))
                out.write_table(arrow)

            yield add


def _is_json(block: Table, suffix: str) -> bool:
    return suffix in JSON_SUFFIXES or (suffix == ".txt" and block.format in ("json", "jsonl"))


def _row_separators(block: Table, columns: Mapping[str, Sequence[Any]], suffix: str) -> tuple[str, str, str]:
    """Return the text before the first row, between two rows, and after the last row."""
    if _is_json(block, suffix):
        whole = suffix in (".json", ".txt") and block.format != "jsonl"
        return ("[\n", ",\n", "\n]\n") if whole else ("", "\n", "\n")
    as_in_file = block.header or block.columns  # a header may repeat names
    return _csv_line([*as_in_file, *columns], _delimiter(block, suffix)) + "\n", "\n", "\n"


def _lines(block: Table, columns: Mapping[str, Sequence[Any]], suffix: str) -> list[str]:
    rows = zip(*block.columns.values(), *columns.values(), strict=True)
    if _is_json(block, suffix):
        names = [*block.columns, *columns]
        records = (dict(zip(names, row, strict=True)) for row in rows)
        return [json.dumps(record, ensure_ascii=False, default=str) for record in records]
    delimiter, own = _delimiter(block, suffix), len(block.columns)
    return [_csv_line([*row[:own], *map(_joined, row[own:])], delimiter) for row in rows]


def _delimiter(block: Table, suffix: str) -> str:
    return "\t" if suffix in (".tsv", ".tab") else block.delimiter


def _csv_line(cells: Sequence[Any], delimiter: str) -> str:
    """Format a line of CSV; cells with a delimiter, a quote or a line break of any kind are quoted.

    Python's own writer does not quote a lone carriage return before 3.11.9 and 3.12.3; readers then take it as the end of
    the row.
    """
    texts = [_cell(cell) for cell in cells]
    special = (delimiter, '"', "\n", "\r")
    quoted = ['"' + text.replace('"', '""') + '"' if any(mark in text for mark in special) else text for text in texts]
    return delimiter.join(quoted) if quoted != [""] else '""'  # a blank line would not be read as a row


def _joined(value: Any) -> Any:
    return joined(value) if isinstance(value, list) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _arrow_of(table: Table, path: Path, schema: Any = None) -> Any:
    """Convert to an Arrow table; a table read from Parquet keeps its types and metadata."""
    import pyarrow as pa

    if isinstance(table.columns, ArrowColumns):
        return table.columns.table
    try:
        return pa.table(dict(table.columns), schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise _mixed_types_error(path, error) from None


def _mixed_types_error(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: a column mixes types, which Parquet cannot store ({error}). Write .jsonl instead.")


def _with_columns(arrow: Any, columns: Mapping[str, Sequence[Any]], types: Mapping[str, Any] | None = None) -> Any:
    """Append columns to an Arrow table. types: Arrow types by name, for columns whose values do not determine them."""
    import pyarrow as pa

    for name, values in columns.items():
        arrow = arrow.append_column(name, pa.array(list(values), (types or {}).get(name)))
    return arrow
