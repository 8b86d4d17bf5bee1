"""Which column holds the text and which the label, and whether the texts are usable."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from randout.core.errors import UserError, nearest
from randout.core.wording import plural, verb

from .tables import Table

TEXT_NAMES = ("text", "sentence", "content", "review", "post", "body", "tweet", "message", "comment", "document")
WEAK_TEXT_NAMES = ("title", "headline")  # taken only where none of the above is there
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "y")
INDEX = re.compile(  # names, in lower case, of columns that are never guessed to be a text or a label
    r"|id|index|idx|row|row_?names|unnamed: \d+(_level_\d+)?|level_\d+|__(index_level_\d+|null_dask_index)__|\(column \d+\)"
)
PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("text_a", "text_b"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("query", "passage"),
)
SHOWN = 5  # row numbers shown in a message


def row_list(rows: Sequence[int] | Sequence[str], total: int | None = None, lines: Sequence[int] = ()) -> str:
    """`"row 3 (line 4)"`, `"rows 3, 7"`, `"rows 3, 7, 9, 11, 12 and 40 more (lines 4, 8, 10, 12, 13, ...)"`.

    total: how many there are, where `rows` is only the first of them. lines: of the file, on which these rows start, where
    they are known.
    """
    total = len(rows) if total is None else total
    shown = ", ".join(str(r) for r in rows[:SHOWN])
    more = f" and {total - SHOWN:,} more" if total > SHOWN else ""
    places = ", ".join([*map(str, lines[:SHOWN]), *["..."] * (total > SHOWN)])
    where = f" (line{'s' * (total > 1)} {places})" if lines else ""
    return f"row{'s' * (total > 1)} {shown}{more}{where}"


def rows_in(table: Table, rows: Sequence[int]) -> str:
    """`row_list` of rows of a table, with their lines where it knows them. rows: their numbers, the first is 1."""
    return row_list(rows, lines=[table.lines[row - 1] for row in rows[:SHOWN]] if table.lines else ())


def named_column(table: Table, column: str, option: str) -> str:
    """`column` if the table has it once; otherwise a UserError with the nearest name and all names."""
    if column in table.columns:
        return _once(table, column)
    names = ", ".join(table.columns)
    raise UserError(f"{table.name}: no column {column!r} ({option}).{nearest(column, table.columns)} Columns: {names}.")


def _once(table: Table, column: str) -> str:
    """`column`; UserError where the file has several columns of this name."""
    places = [number for number, name in enumerate(table.header, 1) if name == column]
    if len(places) > 1:
        where = f"{table.name}, line 1" if table.format == "csv" else table.name
        raise UserError(
            f"{where}: the column name {column!r} occurs {len(places)} times (columns {', '.join(map(str, places))}). "
            "Rename one of them."
        )
    return column


class UnclearColumn(UserError):
    """Which column holds the text, or the label, is not clear. what: "text" or "label". found: those that it may be."""

    def __init__(self, table: Table, what: str, found: Sequence[str]) -> None:
        self.what = what
        self.found = tuple(found)
        why = f": it may be any of {', '.join(map(repr, found))}" if found else " from the column names"
        super().__init__(f"{table.name}: which column holds the {what} is not clear{why}. {_way_out(table, what)}")


def both_unclear(table: Table, text: UnclearColumn, label: UnclearColumn) -> UserError:
    """One error for a table whose text and label columns are both unclear."""
    found = "; ".join(
        f"the {one.what} may be any of {', '.join(map(repr, one.found))}" for one in (text, label) if one.found
    )
    why = f": {found}" if found else " from the column names"
    return UserError(
        f"{table.name}: which columns hold the text and the label is not clear{why}. {_way_out(table, 'text', 'label')}"
    )


def _way_out(table: Table, *what: str) -> str:
    """The columns there are, and how to name those that are unclear."""
    header = " (The first line of a CSV or TSV file must name the columns.)" if table.format == "csv" else ""
    options = " and ".join(f"--{one}-column" for one in what)
    settings = " and ".join(f"data.{one}_column" for one in what)
    return (
        f"Columns: {', '.join(map(repr, table.columns))}. Name {'them' if len(what) > 1 else 'it'} with {options} "
        f"(in a recipe: {settings}).{header}"
    )


def choose_text(table: Table, column: str | None, label: str | None = None) -> str:
    """The named text column, or the obvious one: a usual name, or the only one left beside a label. UserError otherwise."""
    if column is not None:
        return named_column(table, column, "--text-column")
    names = [name for name in table.columns if name != label]
    lower = {name.lower(): name for name in names}
    for first, second in PAIRS:
        if first in lower and second in lower:
            raise UserError(
                f"{table.name}: the columns {lower[first]!r} and {lower[second]!r} look like pairs of texts, and a row "
                "is classified by one text. Join the two into one column, or name one of them with --text-column."
            )
    found = _named_like(names, TEXT_NAMES) or _named_like(names, WEAK_TEXT_NAMES)
    if _obvious(found, TEXT_NAMES[:1]):
        return _once(table, found[0])
    others = [] if found or label is None else _left(table, names)
    if len(others) == 1:
        return _once(table, others[0])
    raise UnclearColumn(table, "text", found)


def choose_label(table: Table, column: str | None, text: str | None = None) -> str:
    """The named label column, or the obvious one: a usual name, or the only one left beside a text that is known."""
    if column is not None:
        return named_column(table, column, "--label-column")
    names = [name for name in table.columns if name != text]
    found = _named_like(names, LABEL_NAMES)
    if _obvious(found, LABEL_NAMES[:2]):
        return _once(table, found[0])
    known = text is not None or bool(_named_like(names, TEXT_NAMES))
    others = [] if found or not known else _left(table, names)
    others = [name for name in others if text is not None or name.lower() not in TEXT_NAMES]
    if len(others) == 1:
        return _once(table, others[0])
    raise UnclearColumn(table, "label", found)


def _named_like(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Those of the names that are usual ones in any case, in the order of `usual`; "Text" and "text" are two."""
    return [name for word in usual for name in names if name.lower() == word]


def _obvious(found: Sequence[str], usual: Sequence[str]) -> bool:
    """Whether the first is the only one, or the only one spelt so that has one of the most usual names."""
    lower = [name.lower() for name in found]
    return len(found) == 1 or (len(found) > 1 and lower[0] in usual and lower.count(lower[0]) == 1)


def _left(table: Table, names: Sequence[str]) -> list[str]:
    """Those of the names that may be a text or a label: neither an index, by name or by content, nor empty."""
    named = [name for name in names if not INDEX.fullmatch(name.lower())]
    if len(named) == 1:
        return named
    return [name for name in named if not _counts_or_empty(table.columns[name])]


def _counts_or_empty(values: Sequence[Any]) -> bool:
    """Whether a column has no values, or the numbers of the rows, from 0 or from 1, as exported indices have."""
    if all(is_missing(value) for value in values):
        return True
    first = str(values[0]).strip()
    return first in ("0", "1") and all(str(value).strip() == str(int(first) + i) for i, value in enumerate(values))


def texts_of(table: Table, column: str) -> list[str]:
    """The column as texts. UserError with the rows where there is none, or where it is no string."""
    values = table.columns[column]
    texts_or_empty(table.name, values, column)
    empty = [row for row, value in enumerate(values, 1) if is_missing(value)]
    if empty:
        have = verb(len(empty), "has", "have")
        raise UserError(
            f"{table.name}: {len(empty):,} of {plural(len(values), 'row')} {have} an empty text in column {column!r}: "
            f"{rows_in(table, empty)}. Remove these rows, or name another column with --text-column."
        )
    return values


def texts_or_empty(name: str, values: Sequence[Any], column: str, before: int = 0) -> list[str]:
    """Values of a column as texts, "" where there is none. UserError with the row where one is no string.

    before: rows of the table above the first of these.
    """
    for row, value in enumerate(values, before + 1):
        if not isinstance(value, str) and not is_missing(value):
            raise UserError(
                f"{name}, row {row}: the text (column {column!r}) is {value!r:.60}, a {type(value).__name__}; "
                "expected a string. Name another column with --text-column, or write the values as strings."
            )
    return ["" if is_missing(value) else value for value in values]


def without_text(name: str, column: str) -> UserError:
    """The error for a table in which no row has a text."""
    return UserError(f"{name}: no row has a text in column {column!r}. Name another with --text-column.")


def is_missing(value: Any) -> bool:
    """None, NaN, or nothing but white space."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value))
