"""Corrected labels: a table that names rows of a dataset and their new labels, such as `randout label-issues` writes.

Columns: `row` (the row's id), `corrected_label` (empty: no correction), and, if they are there, `label` and `text`, which must be
those of the row. Other columns are ignored. Of multi-label data, a cell has the whole label set, joined as in the data or as a
JSON list, also if the data have a column for each label; `[]` is a row without labels (`set_cell`).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from textwrap import shorten

from randout.core.errors import UserError, nearest
from randout.core.label_sets import JOINED, joined, separator_in
from randout.core.wording import plural

from .columns import is_missing
from .labels import listed
from .multi_label import labels_in
from .sources import Part
from .stratify import normalize
from .tables import Table, read_table, sha256_of

ROW, TEXT, LABEL, CORRECTED = "row", "text", "label", "corrected_label"  # columns
SHOWN = 60  # characters of a text in a message
NO_LABELS = "[]"  # the cell of an empty label set; an empty cell is no correction
Answer = str | tuple[str, ...]  # the label of a row, or its label set, sorted


@dataclass(frozen=True)
class Corrections:
    """Corrections that were applied. parts: with them. changed: number of rows whose label or label set differs from the table.

    digest: SHA-256 of the changed rows and their new labels; "" if there are none.
    """

    parts: list[Part]
    changed: int
    digest: str


def set_cell(labels: Sequence[str], separator: str = JOINED) -> str:
    """Return a label set as a cell of a table of corrections."""
    return joined(labels, separator) or NO_LABELS


def corrected_parts(
    parts: Sequence[Part], path: str, known: Collection[str] | None, notes: list[str], separator: str = JOINED
) -> Corrections:
    """Apply the corrections in a file to the labelled rows of a dataset.

    known: the classes that the user or the dataset lists; None: the labels that occur. separator: of the labels in a set.
    Appends to `notes`. Raises UserError, with the line of the file, for an unknown row or label, a row that is corrected twice,
    and a label or a text that is not the one of the row.
    """
    table = read_table(path, without_rows=True)  # `randout label-issues` finds none in clean data
    if missing := [name for name in (ROW, CORRECTED) if name not in table.columns]:
        raise UserError(
            f"{path}: no column {missing[0]!r}; a file of corrections has the columns {ROW!r} and {CORRECTED!r}. "
            "`randout label-issues` writes one"
        )
    before = [_answers(part) for part in parts]
    names = set(known or ()) | {label for answers in before for answer in answers for label in _labels_of(answer)}
    reader = _Reader(path, table, names, None if parts[0].sets is None else separator)
    places = {row_id: (at, row) for at, part in enumerate(parts) for row, row_id in enumerate(part.row_ids)}
    found = [list(answers) for answers in before]
    changes: dict[str, Answer] = {}
    same = 0
    for number, (key, value) in enumerate(zip(table.columns[ROW], table.columns[CORRECTED], strict=True), 1):
        if is_missing(value):
            continue
        where, row_id, new = reader.where(number), str(key).strip(), reader.corrected(number)
        if row_id not in places:
            raise UserError(f"{where}: the data have no labelled row {row_id!r}. Are these corrections of other data?")
        if changes.setdefault(row_id, new) != new:
            one, other = reader.shown(changes[row_id]), reader.shown(new)
            raise UserError(f"{where}: row {row_id} is corrected twice, to {one} and to {other}")
        part, row = places[row_id]
        own = before[part][row]
        reader.check_row(number, parts[part].texts[row], own, new)
        same += own == new
        found[part][row] = new
    differing = {row: new for row, new in changes.items() if before[places[row][0]][places[row][1]] != new}
    what = "label" if reader.separator is None else "label set"
    already = f"; {same:,} more are the {what}s of the table already" if same else ""
    already = already if len(table) else ", which has no rows"
    notes.append(f"corrections: {plural(len(differing), what)} changed by {path}{already}")
    digest = sha256_of(json.dumps(sorted(differing.items())).encode()) if differing else ""
    return Corrections([_with(part, own) for part, own in zip(parts, found, strict=True)], len(differing), digest)


@dataclass(frozen=True)
class _Reader:
    """Reads and checks the cells of a file of corrections. Rows are counted from 1.

    names: the labels of the data. separator: of the labels in a set; None: one label per text.
    """

    path: str
    table: Table
    names: Collection[str]
    separator: str | None

    def where(self, number: int) -> str:
        """Return the place of a row, for messages."""
        return f"{self.path}, {self.table.row(number)}"

    def shown(self, answer: Answer) -> str:
        return repr(answer if isinstance(answer, str) else set_cell(answer, self.separator or JOINED))

    def corrected(self, number: int) -> Answer:
        """Return the corrected label or label set of a row. Raises UserError for a label that the data do not have."""
        found = self._answer(CORRECTED, number)
        if unknown := [label for label in _labels_of(found) if label not in self.names]:
            hint = "" if self.separator is None else f" Labels are separated by {separator_in(self.separator)!r}"
            raise UserError(
                f"{self.where(number)}: {unknown[0]!r} is not a label of the data: {listed(sorted(self.names))}."
                f"{nearest(unknown[0], sorted(self.names))}{hint}"
            )
        return found

    def check_row(self, number: int, text: str, own: Answer, new: Answer) -> None:
        """Raise UserError if the text or the label of a row is not that of the data, `text` and `own`, or already `new`."""
        todo = "Are these corrections of other data? If the data have changed since, run randout label-issues again"
        columns = self.table.columns
        if TEXT in columns and normalize(str(columns[TEXT][number - 1])) != normalize(text):
            given = str(columns[TEXT][number - 1])
            raise UserError(
                f"{self.where(number)}: the text is not the one of this row: found {shorten(given, SHOWN)!r}, but the data have "
                f"{shorten(text, SHOWN)!r}. {todo}"
            )
        if LABEL in columns and not is_missing(columns[LABEL][number - 1]):
            stated = self._answer(LABEL, number)
            if own not in (stated, new):
                what = "label of this row is" if self.separator is None else "labels of this row are"
                raise UserError(f"{self.where(number)}: the {what} {self.shown(own)}, not {self.shown(stated)}. {todo}")

    def _answer(self, column: str, number: int) -> Answer:
        """Return the label in a cell, or with a separator the set. Raises UserError for a broken list."""
        value = self.table.columns[column][number - 1]
        if self.separator is None:
            return str(value).strip()
        return tuple(sorted(labels_in(self.table, column, number, value, separator_in(self.separator))))


def _answers(part: Part) -> list[Answer]:
    """Return the label of each row, or its label set."""
    return list(part.labels) if part.sets is None else [tuple(sorted(labels)) for labels in part.sets]


def _with(part: Part, answers: Sequence[Answer]) -> Part:
    """Return a part with other labels or label sets."""
    if part.sets is None:
        return replace(part, labels=[answer for answer in answers if isinstance(answer, str)])
    return replace(part, sets=[_labels_of(answer) for answer in answers])


def _labels_of(answer: Answer) -> tuple[str, ...]:
    return (answer,) if isinstance(answer, str) else answer
