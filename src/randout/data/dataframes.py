"""In-memory tables as data: pandas or polars frames, Arrow tables, `datasets.Dataset`, or a dict of columns.

None of these libraries is required: frames are recognised by their attributes (column names, columns by name).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from randout.core.errors import UserError
from randout.core.wording import type_words

EXPECTED = 'Expected a file path, a dataset name, a DataFrame, or columns: {"text": [...], "label": [...]}.'


def columns_of(data: Any) -> dict[str, list[Any]]:
    """Convert in-memory data to columns of equal length by name; missing values are None.

    Raises UserError if the data are not a table.
    """
    if isinstance(data, list | tuple) and data and all(isinstance(row, Mapping) for row in data):
        names = list(dict.fromkeys(name for row in data for name in row))
        given = {name: [row.get(name) for row in data] for name in names}
    elif isinstance(data, Mapping):
        given = dict(data)
    else:
        given = _frame_columns(data)
    odd = [name for name in given if not isinstance(name, str)]
    if odd:
        raise UserError(f"data: the column name {odd[0]!r:.60} is {type_words(odd[0])}; expected a string.")
    columns = {name: _values(name, column) for name, column in given.items()}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        found = ", ".join(f"{name!r} {len(values):,}" for name, values in list(columns.items())[:10])
        raise UserError(
            f"data: columns have different lengths ({found}). Each row needs a value in every column, or None."
        )
    if not columns or lengths == {0}:
        raise UserError(f"data: no rows. {EXPECTED}")
    return columns


def _frame_columns(data: Any) -> dict[str, Any]:
    names = getattr(data, "column_names", None)  # Arrow and datasets; in an Arrow table, `columns` are not names
    names = getattr(data, "columns", None) if names is None else names
    if names is None and hasattr(data, "keys"):
        names = data.keys()
    if names is None or isinstance(data, str | bytes) or not hasattr(data, "__getitem__"):
        raise UserError(f"data: found {type(data).__name__} ({str(data)!r:.60}). {EXPECTED}")
    names = list(names)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"data: the column name {twice[0]!r} occurs {names.count(twice[0])} times. Rename one of them.")
    return {name: data[name] for name in names}


def _values(name: str, column: Any) -> list[Any]:
    """Return the values of a column as Python objects.

    Raises UserError for a string, a mapping, a set, or anything that is not a sequence.
    """
    for method in ("to_pylist", "to_list", "tolist"):
        if hasattr(column, method):
            found = getattr(column, method)()
            column = found if isinstance(found, list) else [found]
            break
    if isinstance(column, str | bytes | Mapping | set | frozenset) or not isinstance(column, Iterable):
        hint = " A DataFrame can be passed as it is." if isinstance(column, Mapping) else ""
        raise UserError(
            f"data: column {name!r} is {type_words(column)}; expected a list of values, one for each row.{hint}"
        )
    return list(column)


def saved(data: Any, folder: Path) -> tuple[Path, bool]:
    """Save in-memory data to a file named by its content, so that equal columns give the same file.

    Returns (file, whether it is new). The format is Parquet, or JSON Lines if a column mixes types. On an error no file is
    left. Raises UserError if the data are not a table.
    """
    import pyarrow

    columns = columns_of(data)
    try:
        table = pyarrow.table(columns)
    except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
        columns = {name: [None if _is_missing(v) else v for v in values] for name, values in columns.items()}
        try:
            table = pyarrow.table(columns)
        except (pyarrow.ArrowException, TypeError, ValueError, OverflowError):
            return _store(_json_lines(columns), "jsonl", folder)
    return _store(table.replace_schema_metadata(_class_names(data)), "parquet", folder)


def _is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or NA or NaT of pandas."""
    return (
        value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)
    )


def _class_names(data: Any) -> dict[bytes, bytes] | None:
    """Return schema metadata with the class names that a `datasets.Dataset` (or its Arrow table) declares."""
    schema = getattr(getattr(data, "features", None), "arrow_schema", None)
    schema = getattr(data, "schema", None) if schema is None else schema
    names = (getattr(schema, "metadata", None) or {}).get(b"huggingface")
    return {b"huggingface": names} if names else None


def _json_lines(columns: Mapping[str, list[Any]]) -> str:
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)


def _store(content: Any, suffix: str, folder: Path) -> tuple[Path, bool]:
    """Write text or an Arrow table atomically; return (file, whether it is new). Creates the folder if missing."""
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as stream:
        partial = Path(stream.name)
        try:
            if isinstance(content, str):
                stream.write(content.encode("utf-8", errors="surrogatepass"))
            else:
                parquet.write_table(content, stream)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    try:
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()[:12]
        path = folder / f"table-{digest}.{suffix}"
        new = not path.exists()
        return partial.replace(path), new
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
