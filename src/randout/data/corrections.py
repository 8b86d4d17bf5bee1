"""Corrected labels: a table that names rows of a dataset and their new labels, such as `randout label-issues` writes.

Columns: `row` (the row's id), `corrected_label` (empty: no correction), and, if they are there, `label` and `text`, which must be
those of the row. Other columns are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from randout.core.errors import UserError, nearest
from randout.core.wording import plural

from .columns import is_missing
from .labels import listed
from .sources import Part
from .stratify import Ints, normalize
from .tables import read_table, sha256_of

ROW, TEXT, LABEL, CORRECTED = "row", "text", "label", "corrected_label"  # columns


@dataclass(frozen=True)
class Corrections:
    """Corrections that were applied. labels: of each part, after them. changed: number of labels that differ from the table.

    digest: SHA-256 of the changed rows and their new labels; "" if there are none. strata: class index of each row before the
    corrections, and the names of these classes: by them the rows are split, so that no correction moves a row to another split.
    """

    labels: list[list[str]]
    changed: int
    digest: str
    strata: tuple[Ints, list[str]]


def corrected_parts(parts: Sequence[Part], path: str, known: Collection[str] | None, notes: list[str]) -> Corrections:
    """Apply the corrections in a file to the labelled rows of a dataset.

    known: the classes that the user or the dataset lists; None: the labels that occur. Appends to `notes`. Raises UserError, with
    the line of the file, for an unknown row or label, a row that is corrected twice, and a label or a text that is not the one
    of the row.
    """
    table = read_table(path, without_rows=True)  # `randout label-issues` finds none in clean data
    if missing := [name for name in (ROW, CORRECTED) if name not in table.columns]:
        raise UserError(
            f"{path}: no column {missing[0]!r}; a file of corrections has the columns {ROW!r} and {CORRECTED!r}. "
            "`randout label-issues` writes one"
        )
    names = set(known or ()) | {label for part in parts for label in part.labels}
    places = {row_id: (at, row) for at, part in enumerate(parts) for row, row_id in enumerate(part.row_ids)}
    found = [list(part.labels) for part in parts]
    changes: dict[str, str] = {}
    same = 0
    for number, (key, value) in enumerate(zip(table.columns[ROW], table.columns[CORRECTED], strict=True), 1):
        if is_missing(value):
            continue
        where, row_id, label = f"{path}, {table.row(number)}", str(key).strip(), str(value).strip()
        if row_id not in places:
            raise UserError(f"{where}: the data have no labelled row {row_id!r}. Are these corrections of other data?")
        if label not in names:
            raise UserError(
                f"{where}: {label!r} is not a label of the data: {listed(sorted(names))}.{nearest(label, sorted(names))}"
            )
        if changes.setdefault(row_id, label) != label:
            raise UserError(f"{where}: row {row_id} is corrected twice, to {changes[row_id]!r} and to {label!r}")
        part, row = places[row_id]
        _check_row(table.columns, number - 1, parts[part].texts[row], parts[part].labels[row], label, where)
        same += parts[part].labels[row] == label
        found[part][row] = label
    differing = {row: label for row, label in changes.items() if parts[places[row][0]].labels[places[row][1]] != label}
    already = f"; {same:,} more are the labels of the table already" if same else ""
    already = already if len(table) else ", which has no rows"
    notes.append(f"corrections: {plural(len(differing), 'label')} changed by {path}{already}")
    digest = sha256_of(json.dumps(sorted(differing.items())).encode()) if differing else ""
    before, classes = np.unique([label for part in parts for label in part.labels], return_inverse=True)
    return Corrections(found, len(differing), digest, (classes.astype(np.int64), before.tolist()))


def _check_row(columns: Mapping[str, Sequence[Any]], at: int, text: str, label: str, new: str, where: str) -> None:
    """Raise UserError if a correction's text or given label is not that of the row: then it is of other data."""
    if TEXT in columns and normalize(str(columns[TEXT][at])) != normalize(text):
        raise UserError(
            f"{where}: the text is not the one of this row ({text!r:.60}). The data have changed since; run randout label-issues "
            "again"
        )
    given = None if LABEL not in columns or is_missing(columns[LABEL][at]) else str(columns[LABEL][at]).strip()
    if given is not None and label not in (given, new):
        raise UserError(
            f"{where}: the label of this row is {label!r}, not {given!r}. The data have changed since; run randout label-issues "
            "again"
        )


def with_labels(parts: Sequence[Part], labels: Sequence[list[str]]) -> list[Part]:
    """Return the parts with other labels."""
    return [replace(part, labels=own) for part, own in zip(parts, labels, strict=True)]
