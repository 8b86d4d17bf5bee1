"""Which column holds the text and which the label, and whether the texts are usable."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from randout.core.errors import UserError, nearest
from randout.core.wording import WARNING, plural, type_words, verb

from .tables import Table

TEXT_NAMES = ("text", "sentence", "content", "review", "post", "body", "tweet", "message", "comment", "document")
WEAK_TEXT_NAMES = ("title", "headline")  # used only if none of the above exists
ALL_TEXT_NAMES = (*TEXT_NAMES, *WEAK_TEXT_NAMES)
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "y")
RATING_NAMES = ("stars", "rating", "star_rating")  # preferred among columns with such values that a label may have
INDEX = re.compile(  # lower-case names of columns that are never chosen automatically
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
REPEATS, LABEL_LENGTH = 5, 60  # of a column of labels: mean rows of a value, longest value in characters
TEXT_WORDS = 3  # mean words of a column of texts
SHOWN = 5  # row numbers listed in a message


def row_list(rows: Sequence[int] | Sequence[str], total: int | None = None, lines: Sequence[int] = ()) -> str:
    """Format row numbers: `"row 3 (line 4)"`, `"rows 3, 7"`, `"rows 3, 7, 9, 11, 12 and 40 more (lines 4, 8, ...)"`.

    total: number of rows, if `rows` is only the first of them. lines: lines of the file on which these rows start, if
    known.
    """
    total = len(rows) if total is None else total
    shown = ", ".join(str(r) for r in rows[:SHOWN])
    more = f" and {total - SHOWN:,} more" if total > SHOWN else ""
    places = ", ".join([*map(str, lines[:SHOWN]), *["..."] * (total > SHOWN)])
    where = f" (line{'s' * (total > 1)} {places})" if lines else ""
    return f"row{'s' * (total > 1)} {shown}{more}{where}"


def rows_in(table: Table, rows: Sequence[int]) -> str:
    """Format rows of a table (counted from 1) as `row_list` does, by their numbers in the file, with their lines if known."""
    in_file = [table.numbers[row - 1] for row in rows] if table.numbers else rows
    return row_list(in_file, lines=[table.lines[row - 1] for row in rows[:SHOWN]] if table.lines else ())


def named_column(table: Table, column: str, option: str) -> str:
    """Return `column` if the table has it exactly once.

    option: where the name was given, for messages. Raises UserError with the closest name and all names otherwise.
    """
    if column in table.columns:
        return _single_column(table, column)
    names = ", ".join(table.columns)
    setting = "data.group_column" if option == "--group" else f"data.{option.removeprefix('--').replace('-', '_')}"
    raise UserError(
        f'{table.name}: no column {column!r} ({option}; in Python: settings={{"{setting}": ...}}).'
        f"{nearest(column, table.columns)} Columns: {names}."
    )


def _single_column(table: Table, column: str) -> str:
    """Return `column`. Raises UserError if the file has several columns with this name."""
    places = [number for number, name in enumerate(table.header, 1) if name == column]
    if len(places) > 1:
        where = f"{table.name}, line 1" if table.format == "csv" else table.name
        raise UserError(
            f"{where}: the column name {column!r} occurs {len(places)} times (columns {', '.join(map(str, places))}). "
            "Rename one of them."
        )
    return column


class UnclearColumns(UserError):
    """The text column, the label column or both are not clear."""


class UnclearColumn(UnclearColumns):
    """The text or label column is ambiguous or cannot be found. what: "text" or "label". found: the candidates."""

    def __init__(self, table: Table, what: str, found: Sequence[str]) -> None:
        self.what = what
        self.found = tuple(found)
        why = f": it may be any of {', '.join(map(repr, found))}" if found else " from the column names"
        super().__init__(
            f"{table.name}: which column holds the {what} is not clear{why}. {_name_columns_hint(table, what)}"
        )


def both_unclear(table: Table, text: UnclearColumn, label: UnclearColumn) -> UnclearColumns:
    """Return a single error for a table whose text and label columns are both unclear.

    It asks for one of them if the other one is then found.
    """
    found = "; ".join(
        f"the {one.what} may be any of {', '.join(map(repr, one.found))}" for one in (text, label) if one.found
    )
    why = f": {found}" if found else " from the column names"
    texts = text.found or _candidates(table, list(table.columns))
    labels = label.found or _candidates(table, list(table.columns))
    enough = ["text"] * _all_found(choose_label, table, texts) + ["label"] * _all_found(choose_text, table, labels)
    hint = _name_columns_hint(table, *(enough[:1] or ("text", "label")), rest=len(enough) > 0)
    return UnclearColumns(f"{table.name}: which columns hold the text and the label is not clear{why}. {hint}")


def _all_found(choose: Callable[..., str], table: Table, others: Sequence[str]) -> bool:
    """Return whether the column is found if any of `others` is named as the other one (text or label)."""
    for other in others:
        try:
            choose(table, None, other)
        except UserError:
            return False
    return bool(others)


def naming(*what: str, value: str = "NAME") -> str:
    """Return how to name the columns of `what` ("text", "label"): the options, and the settings in Python."""
    options = " and ".join(f"--{one}-column {value}" for one in what)
    settings = ", ".join(f'"data.{one}_column": "{value}"' for one in what)
    return f"{options} (in Python: settings={{{settings}}})"


def as_arguments(message: str) -> str:
    """Rewrite a message with `naming` for functions that take the columns as arguments, such as `evaluate`."""

    def arguments(settings: re.Match[str]) -> str:
        return re.sub(r'"data\.(\w+)": ', r"\1=", settings[1])

    return re.sub(r'settings=\{("data\..*?)\}', arguments, message)


def _name_columns_hint(table: Table, *what: str, rest: bool = False) -> str:
    """List the columns of a table and how to name the unclear ones. rest: the other of the two columns is then found."""
    header = " (The first line of a CSV or TSV file must name the columns.)" if table.format == "csv" else ""
    which = "them" if len(what) > 1 else "it" if not rest else f"the {what[0]} column"
    other = f"; the {'label' if what[0] == 'text' else 'text'} column is then found" if rest else ""
    return f"Columns: {', '.join(map(repr, table.columns))}. Name {which} with {naming(*what)}{other}.{header}"


def choose_text(table: Table, column: str | None, label: str | None = None) -> str:
    """Return the given text column, or the obvious one: by a usual name, or the only column besides the label.

    Raises UserError for an unknown column, and UnclearColumn if no column is obvious.
    """
    if column is not None:
        return named_column(table, column, "--text-column")
    names = [name for name in table.columns if name != label]
    lower = {name.lower(): name for name in names}
    for first, second in PAIRS:
        if first in lower and second in lower:
            raise UserError(
                f"{table.name}: the columns {lower[first]!r} and {lower[second]!r} look like pairs of texts. To read both, name "
                f"the second with --text-pair {lower[second]} (in Python: "
                f'settings={{"data.text_pair_column": "{lower[second]}"}}); to read one, name it with {naming("text")}.'
            )
    found = _named_like(names, TEXT_NAMES) or _named_like(names, WEAK_TEXT_NAMES)
    if _is_obvious(found, TEXT_NAMES[:1]):
        return _single_column(table, found[0])
    others = [] if found or label is None else _candidates(table, names)
    if len(others) == 1:
        return _single_column(table, others[0])
    raise UnclearColumn(table, "text", found)


def choose_label(table: Table, column: str | None, text: str | None = None) -> str:
    """Return the given label column, or the obvious one: by a usual name, or the only column besides a known text.

    Raises as `choose_text` does.
    """
    if column is not None:
        return named_column(table, column, "--label-column")
    names = [name for name in table.columns if name != text]
    found = _named_like(names, LABEL_NAMES)
    if _is_obvious(found, LABEL_NAMES[:2]):
        return _single_column(table, found[0])
    known = text is not None or bool(_named_like(names, TEXT_NAMES))
    others = [] if found or not known else _candidates(table, names)
    others = [name for name in others if text is not None or name.lower() not in TEXT_NAMES]
    if len(others) == 1:
        return _single_column(table, others[0])
    raise UnclearColumn(table, "label", found)


def choose_by_content(table: Table, text: str | None, label: str | None) -> tuple[str, str] | None:
    """Return the text and the label column that are the only ones with such values; None if that is not clear.

    text, label: the column, if it is named. A column with a usual name of texts is preferred for the text, one with a usual
    name of ratings for the label.
    """
    names = [name for name in _candidates(table, list(table.columns)) if name not in (text, label)]
    few = [] if label else [name for name in names if _like_labels(table.columns[name])]
    labels = [label] if label else _named_like(few, RATING_NAMES) or few
    usual = _named_like(names, TEXT_NAMES)
    texts = [text] if text else usual or [name for name in names if _like_texts(table.columns[name])]
    return (texts[0], labels[0]) if len(texts) == len(labels) == 1 and texts != labels else None


def _like_labels(values: Sequence[Any]) -> bool:
    """Return whether a column has few short values, each repeated `REPEATS` times on average."""
    there = [str(value).strip() for value in values if not is_missing(value)]
    return 2 <= len(set(there)) <= len(there) / REPEATS and max(map(len, there)) <= LABEL_LENGTH


def _like_texts(values: Sequence[Any]) -> bool:
    """Return whether a column has strings of several words, most of which occur once."""
    there = [value for value in values if not is_missing(value)]
    if not there or not all(isinstance(value, str) for value in there) or are_numbers(there):
        return False
    return len(set(there)) > len(there) / 2 and sum(len(value.split()) for value in there) >= TEXT_WORDS * len(there)


def _named_like(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Return the names that match a usual name, ignoring case, in the order of `usual`."""
    return [name for word in usual for name in names if name.lower() == word]


def _is_obvious(found: Sequence[str], usual: Sequence[str]) -> bool:
    """Return whether the first candidate is the only one, or has a most usual name that no other candidate has."""
    lower = [name.lower() for name in found]
    return len(found) == 1 or (len(found) > 1 and lower[0] in usual and lower.count(lower[0]) == 1)


def _candidates(table: Table, names: Sequence[str]) -> list[str]:
    """Return the names of columns that may hold texts or labels: neither an index nor empty."""
    named = [name for name in names if not INDEX.fullmatch(name.lower())]
    if len(named) == 1:
        return named
    return [name for name in named if not _is_index_or_empty(table.columns[name])]


def _is_index_or_empty(values: Sequence[Any]) -> bool:
    """Return whether a column is empty, or counts the rows from 0 or 1 as an exported index does."""
    if all(is_missing(value) for value in values):
        return True
    first = str(values[0]).strip()
    return first in ("0", "1") and all(str(value).strip() == str(int(first) + i) for i, value in enumerate(values))


def rows_with_text(table: Table, column: str) -> tuple[Table, list[int]]:
    """Return the rows of a table that have a text, and the numbers of the others in the file.

    Raises UserError if a text is not a string.
    """
    values = table.columns[column]
    texts_or_empty(table.name, values, column)
    kept = [row for row, value in enumerate(values) if not is_missing(value)]
    if len(kept) == len(values):
        return table, []
    found = table.only(kept)
    return found, sorted({*(table.numbers or range(1, len(values) + 1))} - {*found.numbers})


def training_rows(table: Table, column: str, notes: list[str]) -> Table:
    """Return the rows of a labelled table that have a text; a warning in `notes` names the others.

    Raises UserError if a text is not a string, or if more than half of the rows have none: then the column is probably wrong.
    """
    found, empty = rows_with_text(table, column)
    if not empty:
        return table
    rows = row_list(empty, lines=[table.lines[row - 1] for row in empty[:SHOWN]] if table.lines else ())
    share = f"{len(empty):,} of {plural(len(table), 'row')} {verb(len(empty), 'has', 'have')}"
    if len(empty) > len(table) / 2:
        raise UserError(
            f"{table.name}: more than half of the rows lack a text: {share} an empty text in column {column!r}: {rows}. Remove "
            f"these rows, or name another column with {naming('text')}."
        )
    left_out = f"{verb(len(empty), 'is', 'are')} left out"
    notes.append(f"{WARNING}{table.name}: {share} no text in column {column!r} and {left_out}: {rows}")
    return found


def texts_or_empty(name: str, values: Sequence[Any], column: str, before: int = 0) -> list[str]:
    """Return the values of a column as texts, "" for missing ones.

    before: number of rows of the table before these values. Raises UserError with the row if a value is not a string.
    """
    for row, value in enumerate(values, before + 1):
        if not isinstance(value, str) and not is_missing(value):
            raise UserError(
                f"{name}, row {row}: the text (column {column!r}) is {value!r:.60}, {type_words(value)}; "
                f"expected a string. Name another column with {naming('text')}, or write the values as strings."
            )
    return ["" if is_missing(value) else value for value in values]


def are_numbers(texts: Iterable[str]) -> bool:
    """Return whether every text that is not blank is a number; also True if all are blank."""
    try:
        for text in texts:
            if not is_missing(text):
                float(text)
    except ValueError:
        return False
    return True


def numbers_warning(column: str) -> str:
    """Return the warning for a text column that holds only numbers and was not named by the user."""
    return (
        f"the texts in column {column!r} are numbers; if another column holds the texts, name it with {naming('text')}"
    )


def without_text(name: str, column: str) -> UserError:
    """Return the error for a table in which no row has a text."""
    return UserError(f"{name}: no row has a text in column {column!r}. Name another column with {naming('text')}.")


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN, or only white space."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value))
