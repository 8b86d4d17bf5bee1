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
Lines = Callable[[], Iterable[str]]  # returns a file's lines with their line ends, from the first one
LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")


def sniff_delimiter(text: str, suffix: str) -> str:
    """Detect the delimiter: tab, semicolon or comma in the header; if there are several, the one that fits the rows best.

    suffix: of the file name, decides if the header has none of them.
    """
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
    """Parse CSV or TSV text.

    Returns the names in its header, the columns by unique names, and the line on which each row starts. name: of the file,
    for messages. Raises UserError with the line.
    """

    def lines() -> Iterator[str]:
        return lines_of(text)

    starts = array("q")
    rows = list(rows_of(lines, delimiter, name, quoting_of(lines, delimiter, name), starts))
    return *columns_of(rows[0], rows[1:]), starts[1:]


def quoting_of(lines: Lines, delimiter: str, name: str) -> int:
    """Return the `quoting` argument for the csv module.

    Tab-separated files often contain quotes as plain characters. Quotes are read that way if every line then has as many
    fields as the header, and reading them as quotes fails or merges lines.
    """
    if delimiter != "\t" or not any('"' in line for line in lines()):
        return csv.QUOTE_MINIMAL
    rows = {}
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        try:
            rows[quoting] = sum(1 for _ in rows_of(lines, delimiter, name, quoting))
        except UserError:  # rows of different widths, or unclosed quotes
            rows[quoting] = 0
    plain, quoted = rows[csv.QUOTE_NONE], rows[csv.QUOTE_MINIMAL]
    return csv.QUOTE_NONE if plain and plain != quoted else csv.QUOTE_MINIMAL


def rows_of(
    lines: Lines, delimiter: str, name: str, quoting: int, starts: array[int] | None = None
) -> Iterator[list[str]]:
    """Yield the header, then the rows, each as wide as the header.

    Blank lines are skipped, except in a table with one column, where a blank line is a row with an empty cell. starts: gets
    the line on which each of them starts. Raises UserError with the line.
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
                    raise _width_error(row, width, start, delimiter, name)
                if starts is not None:
                    starts.append(start)
                yield row
            start = reader.line_num + 1
    except csv.Error as error:
        raise _quote_error(lines, delimiter, name, start, reader.line_num, str(error)) from None
    finally:
        csv.field_size_limit(limit)


def lines_of(text: str) -> Iterator[str]:
    """Yield lines with their ends, like `io.StringIO(text, newline="")`, which would copy the text at 4 bytes/character."""
    return (line[0] for line in LINE.finditer(text))


def _width_error(row: list[str], width: int, line: int, delimiter: str, name: str) -> UserError:
    mark = {"\t": "tab", ",": "comma", ";": "semicolon"}[delimiter]
    return UserError(
        f"{name}, line {line}: {len(row)} field{'s' * (len(row) != 1)} where the header has {width} (separated by {mark}). "
        f'If a text holds a {mark}, put the text in double quotes: "like{delimiter} this".'
    )


def _quote_error(lines: Lines, delimiter: str, name: str, start: int, line: int, error: str) -> UserError:
    """Return the error for a quote in the record that starts at line `start`; it names the line where the field opens."""
    record = "".join(islice(lines(), start - 1, line))
    opened = start + _line_breaks(record[: _open_quote(record, delimiter)])
    if "unexpected end" in error:
        found = "a field opens here with a quote that is never closed"
    elif "expected after" in error:
        found = f"the quoted field that opens here ends on line {line} at a quote in the middle of the text"
    else:
        found = f"invalid CSV ({error})"
    return UserError(
        f'{name}, line {opened}: {found}. Close the quote, or double each quote inside a text: "like ""this"" one".'
    )


def _open_quote(record: str, delimiter: str) -> int:
    """Return the position of the opening quote of the first field that is unclosed, or has a quote inside its text."""
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
    """Return the cleaned names in the header, and the columns by `unique_names`."""
    header = [column.strip(" \t\r\n\ufeff\N{NO-BREAK SPACE}\u200b") for column in header]
    return header, {column: [row[j] for row in rows] for j, column in enumerate(unique_names(header))}


def unique_names(names: Sequence[str]) -> list[str]:
    """Make column names unique: a repeated name gets its column number ("text (column 3)").

    Unused columns may have any name, or none. Using a repeated one is refused in `data.columns`.
    """
    found: list[str] = []
    for number, name in enumerate(names, 1):
        key = f"{name} (column {number})".strip() if name in found else name
        while key in found or (key != name and key in names):
            key += "'"
        found.append(key)
    return found


def check_unique(names: Sequence[str], where: str) -> None:
    """Raise UserError if a column name occurs more than once."""
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(
            f"{where}: the column name {twice[0]!r} occurs {names.count(twice[0])} times. Rename one of them."
        )
