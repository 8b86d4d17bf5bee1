"""Label sets in a table: lists of labels, labels joined by a separator, or a column of 0 and 1 for each label."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from randout.core.config import DataTable
from randout.core.errors import UserError
from randout.core.label_sets import members_of
from randout.core.wording import WARNING, plural, verb

from .columns import is_missing, named_column, naming, rows_in
from .labels import clean_label, label_order, labels_option, listed, lookalike_key, matched
from .tables import Table

SEPARATORS = ("|", ";", ",")  # looked for in a column of strings
Sets = list[tuple[str, ...]]  # the labels of each row
YES_NO = {"0": False, "1": True, "false": False, "true": True, "0.0": False, "1.0": True}


@dataclass(frozen=True)
class SetReading:
    """How the labels of a row are written.

    separator: between labels in one string; empty: found in the column. columns: of 0 and 1, one for each label, in place
    of a label column.
    """

    separator: str = ""
    columns: tuple[str, ...] = ()


def reading_of(table: DataTable) -> SetReading | None:
    """Return how `[data]` says that label sets are written; None for data with one label per text. Raises UserError."""
    if not (table.multi_label or table.label_separator or table.label_columns):
        return None
    if table.label_columns and (table.label_separator or table.label_column):
        other = "label_separator" if table.label_separator else "label_column"
        raise UserError(f"data.label_columns and data.{other} both say where the labels are. Use one of them.")
    if len(table.label_columns) == 1 or len(set(table.label_columns)) < len(table.label_columns):
        raise UserError("data.label_columns: expected two or more different columns, one for each label")
    return SetReading(table.label_separator, table.label_columns)


def read_sets(table: Table, column: str, reading: SetReading, notes: list[str]) -> Sets:
    """Return the cleaned labels of each row, in the order of the table; a missing value is a row without labels.

    Appends to `notes` how the column was read. Raises UserError for a value that is not a set of labels.
    """
    if reading.columns:
        return _of_indicators(table, reading.columns)
    values = table.columns[column]
    names = table.categories.get(column)
    separator = separator_of(table, column, reading)
    found = [labels_in(table, column, row, value, separator, names) for row, value in enumerate(values, 1)]
    if separator and _strings(values):
        notes.append(f"{table.name}: labels in column {column!r} are separated by {separator!r}")
        if not any(separator in value for value in _strings(values)):
            notes.append(
                f"{WARNING}{table.name}: no value in column {column!r} has the separator {separator!r} "
                "(data.label_separator), so every text has at most one label. Check it"
            )
    if without := sum(not labels for labels in found):
        have = verb(without, "has", "have")
        notes.append(f"{table.name}: {plural(without, 'row')} {have} no label, which is a target like any other")
    return found


def _of_indicators(table: Table, columns: Sequence[str]) -> Sets:
    each = []
    for name in columns:
        named_column(table, name, "--label-columns")
        values = ["" if is_missing(value) else str(value).strip().lower() for value in table.columns[name]]
        if wrong := [row for row, value in enumerate(values, 1) if value not in YES_NO]:
            raise UserError(
                f"{table.name}, {rows_in(table, wrong)}: column {name!r} of data.label_columns has "
                f"{values[wrong[0] - 1]!r:.40}; expected 0 or 1 (or false, true) in every row"
            )
        each.append([YES_NO[value] for value in values])
    return [tuple(name for name, has in zip(columns, row, strict=True) if has) for row in zip(*each, strict=True)]


def separator_of(table: Table, column: str, reading: SetReading) -> str:
    """Return what separates labels in the strings of a column, as named or found; empty if nothing does. Raises UserError."""
    return "" if reading.columns else reading.separator or _separator(table, column, _strings(table.columns[column]))


def _strings(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str) and not is_missing(value) and not _is_list(value)]


def _is_list(value: str) -> bool:
    return value.strip().startswith("[") and value.strip().endswith("]")


def _separator(table: Table, column: str, strings: Sequence[str]) -> str:
    """Return the only known separator in a column; empty without one. Raises UserError if there are several."""
    counts = {mark: sum(mark in value for value in strings) for mark in SEPARATORS}
    there = [mark for mark in SEPARATORS if counts[mark]]
    if len(there) > 1:
        seen = " and ".join(f"{mark!r} ({plural(counts[mark], 'row')})" for mark in there)
        raise UserError(
            f"{table.name}: what separates the labels in column {column!r} is not clear: {seen}. Name it with "
            f"--set {shell_set(there[0])}"
        )
    return there[0] if there else ""


def shell_set(separator: str) -> str:
    """Return the assignment of a separator for `--set`, quoted for the shell."""
    return f"'label_separator=\"{separator}\"'"


def labels_in(
    table: Table, column: str, row: int, value: Any, separator: str, names: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Return the distinct labels of one value. names: of class numbers, if the file declares them. Raises UserError."""
    if is_missing(value):
        return ()
    if isinstance(value, str) and _is_list(value):
        value = _parsed_list(table, column, row, value)
    elif isinstance(value, str):
        value = value.split(separator) if separator else [value]
    elif not isinstance(value, list | tuple | set | np.ndarray):
        value = [value]
    labels = []
    for one in value:
        if isinstance(one, list | tuple | dict | set | bytes | float):
            raise UserError(
                f"{table.name}, {table.row(row)}: a label in column {column!r} is {one!r:.60}; expected a list of strings or "
                f"integers in each row. Name another column with {naming('label')}."
            )
        named = names[one] if names and isinstance(one, int) and 0 <= one < len(names) else one
        if not is_missing(named) and (
            label := clean_label(str(named).lower() if named is True or named is False else str(named))
        ):
            labels.append(label)
    return tuple(dict.fromkeys(labels))


def _parsed_list(table: Table, column: str, row: int, text: str) -> list[Any]:
    """Return a list written as JSON, or as Python writes it."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return found
    raise UserError(
        f"{table.name}, {table.row(row)}: the labels (column {column!r}) are {text!r:.60}, which is not a list in JSON, such "
        'as ["a", "b"]. Correct it, or join the labels by a separator.'
    )


def matched_sets(
    table: Table,
    column: str,
    sets: Sets,
    names: Iterable[str] | Mapping[str, str],
    notes: list[str],
    strict: bool = True,
) -> Sets:
    """Match every label to the class names, as `labels.matched` does for one label per row."""
    names = dict(names) if isinstance(names, Mapping) else list(names)
    distinct = list(dict.fromkeys(label for labels in sets for label in labels))
    found = dict(zip(distinct, matched(table, column, distinct, names, notes, strict=False), strict=True))
    known = {*names.values()} if isinstance(names, Mapping) else {*names}
    unknown = {label for label in distinct if found[label] not in known}
    if strict and unknown:  # one label of each row, an unknown one if it has any: the error names the row
        first = next(iter(names))
        shown = [next((label for label in labels if label in unknown), first) for labels in sets]
        matched(table, column, shown, names, [])
    return [tuple(dict.fromkeys(found[label] for label in labels)) for labels in sets]


def check_sets(table: Table, column: str, sets: Sets, notes: list[str]) -> None:
    """Raise UserError for fewer than two labels, or about as many labels as rows; note rows that all have one label."""
    counts = Counter(label for labels in sets for label in labels)
    if len(counts) < 2:
        raise UserError(
            f"{table.name}: found {listed(counts) or 'no label'} in column {column!r}; multi-label data needs at least two "
            "labels. For one label that a text has or has not, name two classes instead, without data.multi_label."
        )
    if len(counts) > max(2, sum(counts.values()) / 2):
        raise UserError(
            f"{table.name}: column {column!r} has {len(counts):,} different labels in {len(sets):,} rows, most of them once. "
            f"Is the separator right (data.label_separator)? Otherwise name the column of labels with {naming('label')}."
        )
    if all(len(labels) == 1 for labels in sets):
        notes.append(
            f"{table.name}: every row has exactly one label; without data.multi_label the classes exclude each other, which "
            "is easier to learn"
        )
    keys: dict[str, str] = {}
    for label in counts:
        other = keys.setdefault(lookalike_key(label), label)
        if other != label:
            notes.append(f"labels {other!r} and {label!r} look alike: are they the same label?")


def numbered(
    sets: Sets, roles: Sequence[str] | None, order: Collection[str] | None, main: str
) -> tuple[np.ndarray, dict[int, str], tuple[str, ...]]:
    """Return (n, C) which labels each row has, id2label of the labels that a training row has, and the other labels.

    roles: the given split of each row, or None. order: of the labels; None: sorted. Columns of labels without a training
    row come last. Raises UserError if fewer than two labels have a training row, or for a listed label without rows.
    """
    flat = [label for labels in sets for label in labels]
    names = list(label_order(flat, None if order is None else list(order)).values())
    rows = members_of(sets, names)
    train = np.array(roles) == "train" if roles is not None else np.full(len(sets), True)
    if not train.any():
        raise UserError(f"{main}: the training split has no rows.")
    if unused := [names[at] for at in np.flatnonzero(~rows.any(axis=0)).tolist()]:
        raise UserError(f"The list of labels contains {listed(unused)}, which no row of {main} has. Correct the list.")
    learnable: np.ndarray = rows[train].any(axis=0)
    if learnable.sum() < 2:
        raise UserError(f"{main}: the training rows have fewer than two labels; multi-label data needs at least two.")
    if len(absent := np.flatnonzero(~learnable)) and order is not None:
        kept = [name for name, there in zip(names, learnable, strict=True) if there]
        raise UserError(
            f"{main}: no training row has the label {listed([names[at] for at in absent])}, so it cannot be learned. Leave it "
            f"out of the list: {labels_option(kept)}"
        )
    place = [*np.flatnonzero(learnable).tolist(), *absent.tolist()]
    known = {at: names[column] for at, column in enumerate(place[: int(learnable.sum())])}
    return rows[:, place], known, tuple(names[column] for column in absent)
