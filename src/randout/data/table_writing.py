"""Tables written to files: the input's columns unchanged, with new columns appended."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.core.files import LONGEST_NAME, check_new_file, cut_name, new_file

from .archives import content_name
from .parquet import ArrowColumns
from .streaming import Blocks
from .tables import JSON_SUFFIXES, Table

PARQUET_SUFFIXES = (".parquet", ".pq")
DELIMITED_SUFFIXES = (".csv", ".tsv", ".tab", ".txt")  # .txt: in the form that was read
SUFFIXES = (*DELIMITED_SUFFIXES, *JSON_SUFFIXES, *PARQUET_SUFFIXES)
Add = Callable[[Table, Mapping[str, Sequence[Any]]], None]
BY_FORMAT = {"csv": ".csv", "jsonl": ".jsonl", "json": ".json", "parquet": ".parquet"}


def default_output(table: Table | Blocks, word: str) -> Path:
    """Where a table goes when no name is given: beside its file, as NAME.word.SUFFIX, in the form that was read."""
    path = Path(content_name(table.name))
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


def free_name(taken: Iterable[str], name: str) -> str:
    """`name` for a new column, or the first of predicted_NAME, predicted_NAME_2, ... that is not taken (in any case)."""
    used = {column.casefold() for column in taken}
    found, number = name, 1
    while found.casefold() in used:
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
    blocks = BlockWriter(path)
    blocks.check(table)

    def write(columns: Mapping[str, Sequence[Any]]) -> None:
        with blocks.open() as add:
            add(table, columns)

    return write


class BlockWriter:
    """A table written to `path` block by block, whole or not at all. Raises UserError where nothing can be written."""

    def __init__(self, path: Path) -> None:
        check_output(path)
        self.path, self.suffix = path, path.suffix.lower()
        self._schema: Any = None  # of Parquet: that of all blocks

    def check(self, block: Table) -> None:
        """Look at a block that will be written, before any is. UserError for columns that the format cannot hold."""
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
            raise _mixed(self.path, error) from None

    @contextmanager
    def open(self, kinds: Mapping[str, type] | None = None) -> Iterator[Add]:
        """A function that takes each block in turn, with its further columns. kinds: str or float, of each of these;
        where None, there is one block. Every block must have been checked. Raises UserError where something is at the
        path by now; Failure where the disk does not take it.
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
                first, between, last = _around(block, columns, self.suffix)
                lines = _lines(block, columns, self.suffix)
                stream.write(((between if written else first) + between.join(lines)).encode("utf-8"))
                written, end = written + len(lines), last

            yield add_text
            stream.write(end.encode("utf-8"))

    @contextmanager
    def _parquet(self, stream: Any, kinds: Mapping[str, type] | None) -> Iterator[Add]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {str: pa.string(), float: pa.float64()}
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


def _around(block: Table, columns: Mapping[str, Sequence[Any]], suffix: str) -> tuple[str, str, str]:
    """What stands before the first row, between two, and after the last one."""
    if _is_json(block, suffix):
        whole = suffix in (".json", ".txt") and block.format != "jsonl"
        return ("[\n", ",\n", "\n]\n") if whole else ("", "\n", "\n")
    as_in_file = block.header or block.columns  # a header may have the same name twice
    return _csv_line([*as_in_file, *columns], _delimiter(block, suffix)) + "\n", "\n", "\n"


def _lines(block: Table, columns: Mapping[str, Sequence[Any]], suffix: str) -> list[str]:
    rows = zip(*block.columns.values(), *columns.values(), strict=True)
    if _is_json(block, suffix):
        names = [*block.columns, *columns]
        records = (dict(zip(names, row, strict=True)) for row in rows)
        return [json.dumps(record, ensure_ascii=False, default=str) for record in records]
    delimiter = _delimiter(block, suffix)
    return [_csv_line(row, delimiter) for row in rows]


def _delimiter(block: Table, suffix: str) -> str:
    return "\t" if suffix in (".tsv", ".tab") else block.delimiter


def _csv_line(cells: Sequence[Any], delimiter: str) -> str:
    """A line of CSV. Quoted are cells with a delimiter, a quote or a line break of any kind.

    Python's own writer leaves a lone carriage return without quotes before 3.11.9 and 3.12.3, and a reader then takes it
    for the end of the row.
    """
    texts = [_cell(cell) for cell in cells]
    special = (delimiter, '"', "\n", "\r")
    quoted = ['"' + text.replace('"', '""') + '"' if any(mark in text for mark in special) else text for text in texts]
    return delimiter.join(quoted) if quoted != [""] else '""'  # a blank line would not be seen as a row


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else str(value)


def _arrow_of(table: Table, path: Path, schema: Any = None) -> Any:
    """The table for Parquet; one that was read from a Parquet file keeps its own types and metadata."""
    import pyarrow as pa

    if isinstance(table.columns, ArrowColumns):
        return table.columns.table
    try:
        return pa.table(dict(table.columns), schema=schema)
    except (pa.ArrowException, OverflowError) as error:
        raise _mixed(path, error) from None


def _mixed(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: a column mixes types, which Parquet cannot hold ({error}). Write .jsonl instead.")


def _with_columns(arrow: Any, columns: Mapping[str, Sequence[Any]], types: Mapping[str, Any] | None = None) -> Any:
    """An Arrow table with further columns. types: of those whose values do not decide it."""
    import pyarrow as pa

    for name, values in columns.items():
        arrow = arrow.append_column(name, pa.array(list(values), (types or {}).get(name)))
    return arrow
