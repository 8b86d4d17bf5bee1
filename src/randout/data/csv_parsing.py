"""CSV and TSV parsing. Every error names the file and the line; the first line is 1."""

from __future__ import annotations

import csv
import io
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from randout.core.errors import UserError

FIELD_LIMIT = 2**31 - 1  # characters in one CSV field; the csv module's own limit is 131,072
Lines = Callable[[], Iterable[str]]  # the lines of a file with their ends, from the first, as often as asked
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


def parse_delimited(text: str, delimiter: str, name: str) -> tuple[list[str], dict[str, list[str]], array[int]]:
    """CSV or TSV text to the names in its header, the columns by unique names, and the line on which each row starts."""

    def lines() -> Iterator[str]:
        return lines_of(text)

    starts = array("q")
    rows = list(rows_of(lines, delimiter, name, quoting_of(lines, delimiter, name), starts))
    return *columns_of(rows[0], rows[1:]), starts[1:]


def quoting_of(lines: Lines, delimiter: str, name: str) -> int:
    """How the csv module must take quotes. A tab-separated file often holds quotes as plain characters: it is read so
    when each line then has the header's number of fields and reading quotes as quotes fails or swallows lines.
    """
    if delimiter != "\t" or not any('"' in line for line in lines()):
        return csv.QUOTE_MINIMAL
    rows = {}
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        try:
            rows[quoting] = sum(1 for _ in rows_of(lines, delimiter, name, quoting))
        except UserError:  # lines of other widths, or quotes that are never closed
            rows[quoting] = 0
    plain, quoted = rows[csv.QUOTE_NONE], rows[csv.QUOTE_MINIMAL]
    return csv.QUOTE_NONE if plain and plain != quoted else csv.QUOTE_MINIMAL


def rows_of(
    lines: Lines, delimiter: str, name: str, quoting: int, starts: array[int] | None = None
) -> Iterator[list[str]]:
    """The header, then the rows, each as wide as the header. UserError with the line. starts: the line on which each of
    them starts is appended to it.

    Blank lines are skipped, except in a table of one column, where a blank line is a row with an empty cell.
    """
    limit = csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(lines(), delimiter=delimiter, strict=True, quoting=quoting)  # type: ignore[arg-type]
    width, start = 0, 1
    try:
        for row in reader:
            row = row or [""] * (width == 1)
            if row:
                width = width or len(row)
                if len(row) != width:
                    raise _ragged(row, width, start, delimiter, name)
                if starts is not None:
                    starts.append(start)
                yield row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _quote_error(lines, delimiter, name, start, reader.line_num, str(error)) from None
    finally:
        csv.field_size_limit(limit)


def lines_of(text: str) -> Iterator[str]:
    """Lines with their ends, as `io.StringIO(text, newline="")` has them, which copies the text at 4 bytes a character."""
    return (line[0] for line in LINE.finditer(text))


def _ragged(row: list[str], width: int, line: int, delimiter: str, name: str) -> UserError:
    mark = {"\t": "tab", ",": "comma", ";": "semicolon"}[delimiter]
    return UserError(
        f"{name}, line {line}: {len(row)} field{'s' * (len(row) != 1)} where the header has {width} (separated by {mark}). "
        f'If a text holds a {mark}, put the text in double quotes: "like{delimiter} this".'
    )


def _quote_error(lines: Lines, delimiter: str, name: str, start: int, line: int, error: str) -> UserError:
    """What went wrong with a quote in the record that starts at line `start`, and the line where its field opened."""
    record = "".join(islice(lines(), start - 1, line))
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


def columns_of(header: list[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], dict[str, list[str]]]:
    """The names as in the file, and the columns by `unique_names` of them."""
    header = [column.strip(" \t\r\n\ufeff\N{NO-BREAK SPACE}\u200b") for column in header]
    return header, {column: [row[j] for row in rows] for j, column in enumerate(unique_names(header))}


def unique_names(names: Sequence[str]) -> list[str]:
    """Names by which columns can be told apart: a later column of the same name gets its number ("text (column 3)").

    A column that nobody asks for may have any name, or none. Asking for a repeated one is refused by `columns`.
    """
    found: list[str] = []
    for number, name in enumerate(names, 1):
        key = f"{name} (column {number})".strip() if name in found else name
        while key in found or (key != name and key in names):
            key += "'"
        found.append(key)
    return found


def check_unique(names: Sequence[str], where: str) -> None:
    """UserError for a column name that occurs twice."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{where}: the column name {twice[0]!r} occurs {names.count(twice[0])} times. Rename one of them."
        )
