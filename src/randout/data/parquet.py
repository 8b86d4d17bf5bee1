"""Parquet files as columns whose Python values are created on demand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from randout.core.errors import UserError

from .csv_parsing import unique_names


class ArrowColumns(Mapping[str, list[Any]]):
    """The columns of an Arrow table by name, as lists of Python values, converted on first access.

    Raises UserError for values that cannot be converted.
    """

    def __init__(self, table: Any, name: str) -> None:
        self.table, self.name = table, name  # table: pyarrow.Table; name: of the file, for messages
        self.header = list(table.column_names)  # as in the file; names may repeat
        self._at = {key: j for j, key in enumerate(unique_names(self.header))}
        self._lists: dict[str, list[Any]] = {}

    def __getitem__(self, key: str) -> list[Any]:
        if key not in self._lists:
            self._lists[key] = python_values(self.table.column(self._at[key]), f"{self.name}: column {key!r}")
        return self._lists[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._at)

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, key: object) -> bool:  # the inherited method would convert the values
        return key in self._at


def python_values(column: Any, where: str) -> list[Any]:
    """Convert an Arrow array to Python values.

    Nanosecond times, and dates outside Python's range, become text (Arrow needs pandas for them). 32-bit floats become
    the number with the shortest representation (0.1, not 0.10000000149). Binary values become text if all are UTF-8.
    where: file and column, for messages. Raises UserError if there is no conversion.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    conversions: list[Callable[[], list[Any]]] = [column.to_pylist, lambda: column.cast(pa.string()).to_pylist()]
    if getattr(kind, "unit", "") == "ns":  # the result of `to_pylist` depends on whether pandas is installed
        conversions = [
            *conversions[1:],
            lambda: [None if v is None else str(v) for v in column.cast(pa.int64()).to_pylist()],
        ]
    elif pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return [None if v is None else float(str(kind.to_pandas_dtype()(v))) for v in column.to_pylist()]
    error: Exception = ValueError("no conversion")
    for convert in conversions:
        try:
            values = convert()
        except (ValueError, TypeError, OverflowError, ImportError, pa.ArrowException) as failed:
            error = failed
        else:
            return _decoded(values) if _is_binary(kind) else values
    raise UserError(f"{where}: values of the type {kind} cannot be read ({str(error).splitlines()[0]}).")


def _is_binary(kind: Any) -> bool:
    return "binary" in str(kind)


def _decoded(values: list[Any]) -> list[Any]:
    try:
        return [value.decode("utf-8") if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError:
        return values


def class_names(schema: Any) -> dict[str, list[str]]:
    """Return the class names by column, in order, as the library `datasets` stores them in an Arrow schema."""
    import pyarrow as pa

    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {c: f["names"] for c, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {
        column: [str(name) for name in names]
        for column, names in found.items()
        if isinstance(names, list)
        and schema.names.count(column) == 1
        and pa.types.is_integer(schema.field(column).type)
    }
