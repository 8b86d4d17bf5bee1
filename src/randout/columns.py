"""Which column is the text and which the label, and whether what stands in them can be used."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from randout.errors import UserError, nearest
from randout.tables import Table

TEXT_NAMES = ("text", "sentence", "content", "review", "post", "body", "tweet", "message", "comment", "document")
WEAK_TEXT_NAMES = ("title", "headline")  # taken only where none of the above is there
LABEL_NAMES = ("label", "labels", "class", "category", "target", "sentiment", "topic", "intent", "y")
INDEX_NAMES = ("", "id", "index", "idx", "row", "unnamed: 0")  # never guessed to be a text or a label
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
INTEGER = re.compile(r"0|-?[1-9][0-9]*")
DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def row_list(rows: Sequence[int] | Sequence[str]) -> str:
    """`"row 3"`, `"rows 3, 7"`, `"rows 3, 7, 9, 11, 12 and 40 more"`."""
    shown = ", ".join(str(r) for r in rows[:SHOWN])
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"row{'s' * (len(rows) > 1)} {shown}{more}"


def named_column(table: Table, column: str, option: str) -> str:
    """`column` if the table has it; otherwise a UserError with the nearest name and all names."""
    if column in table.columns:
        return column
    names = ", ".join(table.columns)
    raise UserError(f"{table.name}: no column {column!r} ({option}).{nearest(column, table.columns)} Columns: {names}.")


def choose_text(table: Table, column: str | None, label: str | None = None) -> str:
    """The named text column, or the obvious one: a usual name, or the other one of two. UserError otherwise."""
    if column is not None:
        return named_column(table, column, "--text-column")
    lower = {name.lower(): name for name in table.columns if name != label}
    for first, second in PAIRS:
        if first in lower and second in lower:
            raise UserError(
                f"{table.name}: the columns {lower[first]!r} and {lower[second]!r} look like pairs of texts, and a row "
                "is classified by one text. Join the two into one column, or name one of them with --text-column."
            )
    found = [lower[name] for name in TEXT_NAMES if name in lower] or [lower[n] for n in WEAK_TEXT_NAMES if n in lower]
    if found and (len(found) == 1 or found[0].lower() == TEXT_NAMES[0]):
        return found[0]
    others = [name for name in table.columns if name != label and name.lower() not in INDEX_NAMES]
    if label is not None and len(table.columns) == 2 and len(others) == 1:
        return others[0]
    raise _unclear(table, "text", found)


def choose_label(table: Table, column: str | None, text: str | None = None) -> str:
    """The named label column, or the obvious one: a usual name, or the one beside a text column that is known."""
    if column is not None:
        return named_column(table, column, "--label-column")
    lower = {name.lower(): name for name in table.columns if name != text}
    found = [lower[name] for name in LABEL_NAMES if name in lower]
    if found and (len(found) == 1 or found[0].lower() in LABEL_NAMES[:2]):
        return found[0]
    others = [name for name in table.columns if name != text and name.lower() not in INDEX_NAMES]
    known = text is not None or any(name in lower for name in TEXT_NAMES)
    others = [name for name in others if text is not None or name.lower() not in TEXT_NAMES]
    if known and len(table.columns) == 2 and len(others) == 1:
        return others[0]
    raise _unclear(table, "label", found)


def _unclear(table: Table, what: str, found: Sequence[str]) -> UserError:
    why = f"could be any of {', '.join(map(repr, found))}" if found else "is not clear from the column names"
    return UserError(
        f"{table.name}: which column holds the {what} {why}. Columns: {', '.join(map(repr, table.columns))}. "
        f"Name it with --{what}-column. (The first line of a CSV or TSV file must name the columns.)"
    )


def texts_of(table: Table, column: str) -> list[str]:
    """The column as texts. UserError with the rows where there is none, or where it is no string."""
    values = table.columns[column]
    for row, value in enumerate(values, 1):
        if not isinstance(value, str) and not is_missing(value):
            raise UserError(
                f"{table.name}, row {row}: the text (column {column!r}) is {value!r:.60}, a {type(value).__name__}; "
                "expected a string. Name another column with --text-column, or write the values as strings."
            )
    empty = [row for row, value in enumerate(values, 1) if is_missing(value)]
    if empty:
        raise UserError(
            f"{table.name}: {len(empty):,} of {len(values):,} rows have an empty text in column {column!r} "
            f"({row_list(empty)}). Remove these rows, or name another column with --text-column."
        )
    return values


def is_missing(value: Any) -> bool:
    """None, NaN, or nothing but white space."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float) and math.isnan(value))


def labels_of(table: Table, column: str) -> list[str]:
    """The column as stripped strings, integers as their digits. UserError: missing, several, or fractional labels."""
    values = table.columns[column]
    names = table.categories.get(column)
    if names:
        values = [names[v] if isinstance(v, int) and 0 <= v < len(names) else None for v in values]
    missing = [row for row, value in enumerate(values, 1) if is_missing(value)]
    for row, value in enumerate(values, 1):
        if isinstance(value, list | tuple | dict | set):
            raise _several(table, column, row, value)
        if isinstance(value, float) and not math.isnan(value):
            raise _fractional(table, column, row, value, [v for v in values if not is_missing(v)])
    if missing:
        raise UserError(
            f"{table.name}: {len(missing):,} of {len(values):,} rows have no label in column {column!r} "
            f"({row_list(missing)}). Label them, or move them to a file of their own and give it with --unlabeled."
        )
    cache = {value: _label(value) for value in set(values)} if not any(isinstance(v, bool) for v in values) else {}
    labels = [cache[value] if cache else _label(value) for value in values]
    _check_fractional(table, column, labels)
    return labels


def _label(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _fractional(table: Table, column: str, row: int, value: Any, values: Sequence[Any]) -> UserError:
    if all(float(v).is_integer() for v in values if DECIMAL.fullmatch(str(v).strip())):
        what = f"whole numbers written with a decimal point; write them as integers ({int(float(value))}) or as names"
    else:
        what = (
            "decimal numbers, which are regression targets and not classes. Cut them into classes first, or name the "
            "column of classes with --label-column"
        )
    return UserError(f"{table.name}, row {row}: the label (column {column!r}) is {value}. These are {what}.")


def _check_fractional(table: Table, column: str, labels: Sequence[str]) -> None:
    distinct = set(labels)
    if all(DECIMAL.fullmatch(label) for label in distinct):
        odd = {label for label in distinct if not label.lstrip("+-").isdigit()}
        row = next((row for row, label in enumerate(labels, 1) if label in odd), None)
        if row is not None:
            raise _fractional(table, column, row, labels[row - 1], list(distinct))


def _several(table: Table, column: str, row: int, value: Any) -> UserError:
    return UserError(
        f"{table.name}, row {row}: the label (column {column!r}) is {value!r:.60}: several labels for one text "
        "(multi-label data), and a row has one label here. Keep one label for each row, make one class of each "
        "combination and list the classes in data.labels, or train one classifier for each label."
    )


def check_classes(table: Table, column: str, labels: Sequence[str]) -> None:
    """UserError where the labels are several in one string, all alike, or nearly as many as the rows."""
    counts = Counter(labels)
    for separator in "|;,":
        parts = {label: [part.strip(" []'\"") for part in label.split(separator)] for label in counts}
        joined = {label: found for label, found in parts.items() if len(found) > 1 and all(found)}
        used = Counter(part for label in joined for part in set(parts[label]))
        alone = {label.strip(" []'\"") for label in counts if label not in joined}
        several = [label for label, found in joined.items() if all(p in alone or used[p] > 1 for p in found)]
        if sum(counts[label] for label in several) >= max(2, 0.01 * len(labels)):
            row = next(row for row, label in enumerate(labels, 1) if label in set(several))
            raise _several(table, column, row, labels[row - 1])
    if len(counts) == 1:
        raise UserError(
            f"{table.name}: all {len(labels):,} rows have the same label {labels[0]!r:.60} (column {column!r}). "
            "A classifier needs two classes or more."
        )
    if len(counts) > max(2, len(labels) / 2):
        raise UserError(
            f"{table.name}: column {column!r} holds {len(counts):,} different labels in {len(labels):,} rows (row 1: "
            f"{labels[0]!r:.60}). It looks like an id or a free text. Name the column of classes with --label-column."
        )


def label_order(found: Sequence[str], given: Sequence[str] | None) -> dict[int, str]:
    """id2label: as given; integers in numeric order; other labels in code point order."""
    distinct = set(found)
    if given is not None:
        order = list(dict.fromkeys(given))
    elif all(INTEGER.fullmatch(label) for label in distinct):
        order = sorted(distinct, key=int)
    else:
        order = sorted(distinct)
    return dict(enumerate(order))


def rename_labels(table: Table, column: str, labels: list[str], names: Sequence[str] | Mapping[str, str]) -> list[str]:
    """Labels by an explicit list of names, or a mapping value -> name. UserError for a label that is neither."""
    known = (
        {str(k): str(v) for k, v in names.items()} if isinstance(names, Mapping) else {str(n): str(n) for n in names}
    )
    known |= {name: name for name in known.values() if name not in known}
    for row, label in enumerate(labels, 1):
        if label not in known:
            raise unknown_label(table.name, row, label, column, known)
    return [known[label] for label in labels]


def unknown_label(name: str, row: int, label: str, column: str, known: Sequence[str] | Mapping[str, str]) -> UserError:
    """The error for a label outside the known ones."""
    shown = ", ".join(repr(k) for k in list(known)[:20]) + (", ..." if len(known) > 20 else "")
    return UserError(
        f"{name}, row {row}: unknown label {label!r:.60} (column {column!r}).{nearest(label, known)} Known: {shown}."
    )
