"""Reads JSON Lines, lists of objects and the other JSON shapes of exported tables into columns.

| shape | written by |
|---|---|
| one object per line, or concatenated objects | JSON Lines, `jq` |
| `[{"text": ..., "label": ...}, ...]` | `to_json(orient="records")` |
| `{"text": [...], "label": [...]}` | a dictionary of columns |
| `{"text": {"0": ...}, "label": {"0": ...}}` | pandas' `to_json()` |
| `{"0": {"text": ..., "label": ...}, ...}` | `to_json(orient="index")` |
| `{"columns": [...], "data": [[...], ...]}` | `to_json(orient="split")` |
| `{"data": [{...}, ...], ...}` | APIs, `to_json(orient="table")` |
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from randout.core.errors import UserError

from .csv_parsing import check_unique

EXPECTED = (
    'Expected one object per line ({"text": ..., "label": ...}), or one list of such objects '
    '(pandas: to_json(orient="records")).'
)
BLANK = " \t\r\n\ufeff"
Records = list[tuple[int | None, Any]]  # (line, or None if in a list; value)


def parse_json(text: str, name: str) -> tuple[dict[str, list[Any]], str]:
    """Parse JSON in one of the shapes above to (columns, "jsonl" or "json"); missing keys become None."""
    form = "json"
    if text.lstrip()[0] == "[":
        records: Records = [(None, item) for item in _loads(text, name, 1)]
    elif (whole := _whole_object(text, name)) is not None:
        columns = _columns_of(whole, name)
        if columns is not None:
            _check_surrogates([(None, whole)], text, name)
            return columns, form
        rows = _rows_of(whole, name)
        records = [(1, whole)] if rows is None else [(None, row) for row in rows]
        form = "jsonl" if rows is None else form
    else:
        records, form = _values(text, name), "jsonl"
    _check_objects(records, name)
    rows = [record for _, record in records]
    _check_surrogates(records, text, name)
    return columns_of(rows, dict.fromkeys(key for row in rows for key in row)), form


def _whole_object(text: str, name: str) -> dict[str, Any] | None:
    """Return the object if the file is a single one; None if it is several, or invalid (reported by line later)."""
    start = len(text) - len(text.lstrip())
    try:
        found, end = _decoder(f"{name}, line 1").raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and not text[end:].strip() else None


def _columns_of(whole: dict[str, Any], name: str) -> dict[str, list[Any]] | None:
    """Return the columns of an object of columns, or of names and rows; None for another shape."""
    names, rows = whole.get("columns"), whole.get("data")
    if isinstance(names, list) and isinstance(rows, list) and all(isinstance(row, list) for row in rows):
        if any(len(row) != len(names) for row in rows):
            raise UserError(f'{name}: rows of "data" differ in length from "columns" ({len(names)}). {EXPECTED}')
        check_unique(list(map(str, names)), name)
        return {str(key): [row[j] for row in rows] for j, key in enumerate(names)}
    values = list(whole.values())
    if not values:
        return None
    if all(isinstance(value, list) for value in values) and not all(_is_rows(value) for value in values):
        lengths = {len(value) for value in values}
        if len(lengths) > 1:
            found = ", ".join(f"{key!r} {len(value):,}" for key, value in list(whole.items())[:10])
            raise UserError(f"{name}: an object of columns with different lengths ({found}). {EXPECTED}")
        return dict(whole)
    if all(isinstance(value, dict) for value in values) and not _numbered(whole):
        if all(_numbered(value) for value in values):
            keys = list(dict.fromkeys(key for value in values for key in value))
            return {column: [value.get(key) for key in keys] for column, value in whole.items()}
        raise UserError(f"{name}: an object of objects in which rows and columns cannot be told apart. {EXPECTED}")
    return None


def _rows_of(whole: dict[str, Any], name: str) -> list[Any] | None:
    """Return the rows that an object has under one key, or by number; None if it is itself a row."""
    if whole and _numbered(whole) and all(isinstance(value, dict) for value in whole.values()):
        return list(whole.values())
    lists = [key for key, value in whole.items() if _is_rows(value)]
    if len(lists) == 1 and not {"text", "label"} & whole.keys():
        rows: list[Any] = whole[lists[0]]
        return rows
    if len(lists) > 1:
        raise UserError(
            f"{name}: an object with several lists of rows ({', '.join(map(repr, lists[:10]))}). "
            "Write each list to a separate file, and name the files with --validation and --test."
        )
    return None


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _numbered(value: dict[str, Any]) -> bool:
    return bool(value) and all(key.isdigit() for key in value)


def _values(text: str, name: str) -> Records:
    """Parse JSON Lines, or concatenated objects that span several lines."""
    lines = text.split("\n")
    first = next(number for number, line in enumerate(lines) if line.strip())
    if lines[first].rstrip().endswith(("{", "[", ",", ":")):
        return _sequence(text, name)
    return [(number, _loads(line, name, number)) for number, line in enumerate(lines, 1) if line.strip(BLANK)]


def records_of(lines: Iterable[str], name: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of JSON Lines, each checked. Raises UserError with the line."""
    for number, line in enumerate(lines, 1):
        if line.strip(BLANK):
            record = _loads(line, name, number)
            _check_objects([(number, record)], name)
            _check_surrogates([(number, record)], line, name)
            yield record


def is_json_lines(lines: Iterable[str], name: str) -> bool:
    """Return whether the text is JSON Lines with several lines, which `records_of` reads; other shapes are read whole."""
    some = islice((line for line in lines if line.strip(BLANK)), 2)
    first = next(some, "")
    try:
        return isinstance(_loads(first, name, 1), dict) and next(some, None) is not None
    except UserError:
        return False


def columns_of(records: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    """Convert rows to columns; missing keys become None."""
    return {key: [record.get(key) for record in records] for key in names}


def _sequence(text: str, name: str) -> Records:
    """Parse concatenated JSON values that may span several lines."""
    records: Records = []
    at, line = 0, 1
    while at < len(text):
        if text[at].isspace():
            line += text[at] == "\n"
            at += 1
            continue
        try:
            value, end = _decoder(f"{name}, line {line}").raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _broken(name, error.lineno, error) from None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}, line {line}: unreadable JSON ({error}).") from None
        records.append((line, value))
        line += text.count("\n", at, end)
        at = end
    return records


def _decoder(where: str) -> json.JSONDecoder:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            check_unique([key for key, _ in pairs], where)
        return found

    return json.JSONDecoder(object_pairs_hook=unique)


def _loads(text: str, name: str, line: int) -> Any:
    """Parse one JSON value. Raises UserError with line and column."""
    try:
        return _decoder(f"{name}, line {line}").decode(text.lstrip("\ufeff"))
    except json.JSONDecodeError as error:
        raise _broken(name, line + error.lineno - 1, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}, line {line}: unreadable JSON ({error}).") from None


def _broken(name: str, line: int, error: json.JSONDecodeError) -> UserError:
    return UserError(
        f"{name}, line {line}, column {error.colno}: invalid JSON ({error.msg}). "
        "Expected one complete object on each line, or one list of objects."
    )


def _check_objects(records: Records, name: str) -> None:
    for row, (number, record) in enumerate(records, 1):
        if not isinstance(record, dict):
            raise UserError(
                f"{name}, {_where(number, row)}: found {kind(record)}, expected an object such as "
                '{"text": ..., "label": ...}.'
            )


def _check_surrogates(records: Sequence[tuple[int | None, Any]], text: str, name: str) -> None:
    if "\\ud" not in text.lower():
        return
    for row, (number, record) in enumerate(records, 1):
        try:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"{name}, {_where(number, row)}: half of a surrogate pair (\\ud8..), which is not a character. Remove it."
            ) from None


def _where(line: int | None, row: int) -> str:
    return f"line {line}" if line else f"item {row}"


def kind(value: Any) -> str:
    """Name the type of a JSON value."""
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
