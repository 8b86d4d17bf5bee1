"""Text to columns: CSV and TSV, JSON Lines and JSON lists. Every error names the file and the line (the first is 1)."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from randout.errors import UserError

FIELD_LIMIT = 2**31 - 1  # characters in one CSV field; the csv module's own limit is 131,072
LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


def sniff_delimiter(text: str, suffix: str) -> str:
    """The one of tab, semicolon and comma that the header holds; where several do, the one that fits the rows best."""
    header = re.sub(r'"[^"]*"', "", re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0])
    found = [d for d in "\t;," if d in header]
    if len(found) < 2:
        return found[0] if found else "\t" if suffix in (".tsv", ".tab") else ","

    def fit(delimiter: str) -> tuple[int, int]:
        sample = io.StringIO(text[:200_000], newline="")
        widths = [len(row) for _, row in zip(range(50), csv.reader(sample, delimiter=delimiter), strict=False) if row]
        return widths.count(widths[0]), widths[0]

    limit = csv.field_size_limit(FIELD_LIMIT)
    try:
        return max(found, key=fit)
    finally:
        csv.field_size_limit(limit)


def parse_delimited(text: str, delimiter: str, name: str) -> dict[str, list[str]]:
    """CSV or TSV text to columns.

    A tab-separated file often holds quotes as plain characters: it is read so when each line then has the header's
    number of fields and reading quotes as quotes fails or swallows lines.
    """
    limit = csv.field_size_limit(FIELD_LIMIT)
    try:
        if delimiter != "\t" or '"' not in text:
            return _columns(*_rows(text, delimiter, name, csv.QUOTE_MINIMAL), name)
        try:
            plain = _rows(text, delimiter, name, csv.QUOTE_NONE)
        except UserError:  # lines of other widths: the quotes must mean something
            return _columns(*_rows(text, delimiter, name, csv.QUOTE_MINIMAL), name)
        try:
            quoted = _rows(text, delimiter, name, csv.QUOTE_MINIMAL)
        except UserError:
            return _columns(*plain, name)
        return _columns(*(quoted if len(quoted[1]) == len(plain[1]) else plain), name)
    finally:
        csv.field_size_limit(limit)


def _rows(text: str, delimiter: str, name: str, quoting: Any) -> tuple[list[str], list[list[str]]]:
    """Header and rows, each row as wide as the header. UserError with the line.

    Blank lines are skipped, except in a table of one column, where a blank line is a row with an empty cell.
    """
    reader = csv.reader(lines_of(text), delimiter=delimiter, strict=True, quoting=quoting)
    rows: list[list[str]] = []
    width, start = 0, 1
    try:
        for row in reader:
            row = row or [""] * (width == 1)
            if row:
                width = width or len(row)
                if len(row) != width:
                    raise _ragged(row, width, start, delimiter, name)
                rows.append(row)
            start = reader.line_num + 1
    except csv.Error as error:
        raise _quote_error(text, delimiter, name, start, reader.line_num, str(error)) from None
    return rows[0], rows[1:]


def lines_of(text: str) -> Iterator[str]:
    """Lines with their ends, as `io.StringIO(text, newline="")` has them, which copies the text at 4 bytes a character."""
    return (line[0] for line in LINE.finditer(text))


def _ragged(row: list[str], width: int, line: int, delimiter: str, name: str) -> UserError:
    mark = {"\t": "tab", ",": "comma", ";": "semicolon"}[delimiter]
    return UserError(
        f"{name}, line {line}: {len(row)} field{'s' * (len(row) != 1)} where the header has {width} (separated by {mark}). "
        f'If a text holds a {mark}, put the text in double quotes: "like{delimiter} this".'
    )


def _quote_error(text: str, delimiter: str, name: str, start: int, line: int, error: str) -> UserError:
    """What went wrong with a quote in the record that starts at line `start`, and the line where its field opened."""
    record = "".join(content for n, content in enumerate(lines_of(text), 1) if start <= n <= line)
    opened = start + _line_breaks(record[: _open_quote(record, delimiter)])
    if "unexpected end" in error:
        found = "the quote that opens a field here is never closed"
    elif "expected after" in error:
        found = f"the field in quotes that opens here ends on line {line} at a quote in the middle of the text"
    else:
        found = f"not readable as CSV ({error})"
    return UserError(
        f'{name}, line {opened}: {found}. Close the quote, or double each quote inside a text: "so ""it"" is".'
    )


def _open_quote(record: str, delimiter: str) -> int:
    """Position of the opening quote of the first field that is never closed, or closed by a quote amid the text."""
    at = 0
    while at < len(record):
        if record[at] == '"':
            closed = record[at + 1 :].replace('""', "..").find('"')  # doubled quotes do not close
            after = at + 1 + closed + 1
            if closed < 0 or record[after : after + 1] not in (delimiter, "\n", "\r", ""):
                return at
            at = after
        following = record.find(delimiter, at)
        at = following + 1 if following >= 0 else len(record)
    return 0


def _line_breaks(text: str) -> int:
    return len(re.findall(r"\r\n|\r|\n", text))


def _columns(header: list[str], rows: Sequence[Sequence[str]], name: str) -> dict[str, list[str]]:
    header = [column.strip() for column in header]
    check_unique(header, f"{name}, line 1")
    return {column: [row[j] for row in rows] for j, column in enumerate(header)}


def check_unique(names: Sequence[str], where: str) -> None:
    """UserError for a column name that occurs twice."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{where}: the column name {twice[0]!r} occurs {names.count(twice[0])} times. Rename one of them."
        )


def parse_json(text: str, name: str) -> tuple[dict[str, list[Any]], str]:
    """JSON Lines, or one list of objects, to columns; a key that a row lacks is None there."""
    records: list[tuple[int | None, Any]]
    if text.lstrip()[0] == "[":
        records = [(None, item) for item in _loads(text, name, 1)]
    else:
        lines = text.split("\n")
        records = [(number, _loads(line, name, number)) for number, line in enumerate(lines, 1) if line.strip()]
    for row, (number, record) in enumerate(records, 1):
        if not isinstance(record, dict):
            where = f"line {number}" if number else f"item {row}"
            raise UserError(
                f'{name}, {where}: found {_kind(record)}, expected an object such as {{"text": ..., "label": ...}}.'
            )
    names = list(dict.fromkeys(key for _, record in records for key in record))
    if "\\ud" in text.lower():
        _check_surrogates(records, name)
    form = "json" if text.lstrip()[0] == "[" else "jsonl"
    return {key: [record.get(key) for _, record in records] for key in names}, form


def _loads(text: str, name: str, line: int) -> Any:
    """One JSON value; UserError with line and column."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            check_unique([key for key, _ in pairs], f"{name}, line {line}")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{name}, line {line + error.lineno - 1}, column {error.colno}: broken JSON ({error.msg}). "
            "Expected one whole object on each line, or one list of objects."
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}, line {line}: JSON that cannot be read ({error}).") from None


def _check_surrogates(records: list[tuple[int | None, Any]], name: str) -> None:
    for row, (number, record) in enumerate(records, 1):
        try:
            json.dumps(record, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            where = f"line {number}" if number else f"item {row}"
            raise UserError(
                f"{name}, {where}: half of a surrogate pair (\\ud8..), which is no character. Remove it."
            ) from None


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        str: "a string",
        int: "a number",
        float: "a number",
        bool: "true or false",
        dict: "an object",
    }
    return names.get(type(value), "null" if value is None else type(value).__name__)
