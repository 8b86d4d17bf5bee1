"""Reads soft labels for data with label sets: each label of a text has a probability of its own.

`read_soft_label_sets` detects the form from the column names, as `soft_label_files` does for one label per text, and returns
the log-odds log(p / (1 - p)) of the floored probabilities. A form is one of:

    prob_LABEL (or probability_LABEL)   one column per label, each from 0 to 1
    logit_LABEL                         one column per label; sigmoid
    several annotators                  annotator_1, ... (wide), votes (a list of label sets), or a column "annotator" (long)
    label sets                          a column of label sets, or the columns of 0 and 1 that the data has
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.wording import plural, verb

from .columns import LABEL_NAMES, is_missing
from .multi_label import SetReading, read_sets
from .soft_label_files import (
    ALPHA,
    ANNOTATOR_NAMES,
    CONFIDENCE_NAMES,
    FLOOR,
    PREDICTED_NAMES,
    SUM_TOLERANCE,
    Classes,
    Floats,
    Forms,
    SoftLabels,
    SoftRows,
    class_columns,
    columns_of_one_annotator,
    first,
    in_all_rows,
    read_forms,
    rows_of_annotators,
    shown_columns,
)
from .tables import Table

VOTE_LISTS = ("annotations", "votes")  # a list of label sets in each cell; `labels` is a label set
FORMS = (
    "columns prob_LABEL or logit_LABEL, one for each label; a column of label sets; or label sets of several annotators "
    "(annotator_1, annotator_2, ..., or a column annotator)"
)
EXCLUSIVE = 10  # rows of probabilities that all sum to 1, from which a note says that they look like those of classes

Answer = tuple[str, ...] | None  # the labels that one annotator or model named; None: no answer


def read_soft_label_sets(
    table: Table,
    labels: Sequence[str],
    key: str,
    label: str = "",
    reading: SetReading | None = None,
    held_out: Collection[str] = (),
) -> SoftLabels:
    """Return the soft labels of a table, for the labels of a dataset in their order.

    key: the column by which rows are joined. label: the name of the dataset's label column; reading: how its label sets are
    written. held_out: keys of test rows, whose votes do not count in the shares of labels (`_shares`). Raises UserError
    with file, row and column for a form that is not clear or does not say how probable each label is, and for a value that
    cannot be used.
    """

    def sets(table: Table, lower: dict[str, str], keys: Sequence[str | None], known: Classes) -> SoftRows:
        return _sets(table, lower, keys, known, label, reading or SetReading(), held_out)

    return read_forms(table, labels, key, Forms(_probabilities, _logits, _refuse_candidates, sets, log_odds))


def log_odds(p: Floats) -> Floats:
    """Return log(q / (1 - q)), with q = p raised to at least `FLOOR` and lowered to at most 1 - `FLOOR`; NaN stays NaN."""
    q = np.clip(p, FLOOR, 1 - FLOOR)
    found: Floats = np.log(q) - np.log1p(-q)
    return found


def _probabilities(table: Table, columns: list[str], known: Classes) -> SoftRows:
    values, places = class_columns(table, columns, known)
    if (bad := (values < 0) | (values > 1)).any():
        row, column = np.argwhere(bad)[0].tolist()
        hint = "Name columns of logits logit_LABEL" if values[row, column] < 0 else "Divide percentages by 100"
        raise UserError(
            f"{table.name}, {table.row(row + 1)}: the probability {columns[column]!r} is {values[row, column]:g}; expected 0 to "
            f"1, as each label of a set has a probability of its own. {hint}"
        )
    p, notes = _of_labels(table, columns, values, places, known)
    sums = values.sum(1)
    given = ~np.isnan(sums)
    if given.sum() >= EXCLUSIVE and (np.abs(sums[given] - 1) <= SUM_TOLERANCE).all():
        notes.append(
            "the probabilities of every row sum to 1, as those of classes that exclude each other do; here each is taken as the "
            "probability that the text has this label, whatever other labels it has"
        )
    return SoftRows(f"probabilities of labels ({shown_columns(columns)})", p, np.zeros(len(p)), notes)


def _logits(table: Table, columns: list[str], known: Classes) -> SoftRows:
    values, places = class_columns(table, columns, known)
    z, notes = _of_labels(table, columns, values, places, known)
    return SoftRows(
        f"logits of labels ({shown_columns(columns)})", 0.5 * (1 + np.tanh(0.5 * z)), np.zeros(len(z)), notes
    )


def _refuse_candidates(table: Table, column: str, known: Classes) -> SoftRows:
    raise UserError(
        f"{table.name}: the candidates of one token ({column!r}) say which single label is the most probable, but in these "
        "data a text may have several labels or none. Ask for each label by itself, and give its probability in a column "
        f"prob_LABEL: {shown_columns([f'prob_{name}' for name in known.names])}"
    )


def _of_labels(
    table: Table, columns: Sequence[str], values: Floats, places: Sequence[int | None], known: Classes
) -> tuple[Floats, list[str]]:
    """Return the columns of the labels (n, C), in their order, and a note about other columns, which say nothing of these."""
    others = [column for column, place in zip(columns, places, strict=True) if place is None]
    notes = []
    if others:
        are, labels = verb(len(others), "is", "are"), verb(len(others), "it is no label", "they are no labels")
        more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
        notes.append(f"{', '.join(map(repr, others[:5]))}{more} {are} not used: {labels} of the data")
    return values[:, [places.index(at) for at in range(len(known.names))]], notes


def _sets(
    table: Table,
    lower: dict[str, str],
    keys: Sequence[str | None],
    known: Classes,
    label: str,
    reading: SetReading,
    held_out: Collection[str],
) -> SoftRows:
    """Return the soft labels of a form in which cells hold label sets."""
    separator = SetReading(reading.separator)
    if votes := first(lower, VOTE_LISTS):
        cells = [_listed(table, votes, row, value) for row, value in enumerate(table.columns[votes])]
        return _shares(f"label sets of several annotators ({votes})", keys, cells, known, held_out)
    if wide := _annotator_columns(table, lower, known, separator):
        each = [_answers(table, column, separator, blank=False) for column in wide]
        rows = [[one for one in row if one is not None] for row in zip(*each, strict=True)]
        return _shares(f"label sets of several annotators ({shown_columns(wide)})", keys, rows, known, held_out)
    column = first(lower, PREDICTED_NAMES)
    if not column and reading.columns and all(name in table.columns for name in reading.columns):
        sets: list[Answer] = list(read_sets(table, "", reading, []))
        return _alone(f"label sets alone ({shown_columns(reading.columns)})", sets, known)
    column = column or first(lower, [label.lower(), *LABEL_NAMES])
    if not column:
        raise UserError(
            f"{table.name}: no soft labels found. Expected {FORMS}. Columns: {', '.join(map(repr, table.columns))}"
        )
    if annotator := first(lower, ANNOTATOR_NAMES):
        values = [None if one is None else tuple(sorted(one)) for one in _answers(table, column, separator)]
        places = rows_of_annotators(table, annotator, keys, values)
        rows = [[one for at in found if (one := values[at]) is not None] for found in places.values()]
        form = f"label sets of several annotators ({column} by {annotator})"
        shares = _shares(form, list(places), rows, known, held_out)
        return in_all_rows(shares, places, keys)
    if confidence := first(lower, CONFIDENCE_NAMES):
        raise UserError(
            f"{table.name}: {confidence!r} is one confidence for the label set in {column!r}, which does not say how probable "
            "each label is. Give a column prob_LABEL for each label (randout predict writes them with --probabilities), or "
            f"remove {confidence!r} to learn from the sets alone"
        )
    return _alone(f"label sets alone ({column})", _answers(table, column, separator), known)


def _answers(table: Table, column: str, reading: SetReading, blank: bool = True) -> list[Answer]:
    """Return the label set in each cell of a column, None for a cell without an answer.

    blank: whether an empty string is the answer "no label", as in the data, or a text that this annotator did not label. An
    empty list is the answer "no label" in any case, and a missing value of a typed file is no answer.
    """
    found = read_sets(table, column, reading, [])
    answered = [isinstance(value, str) if blank else not is_missing(value) for value in table.columns[column]]
    return [
        labels if there or not is_missing(value) else None
        for labels, there, value in zip(found, answered, table.columns[column], strict=True)
    ]


def _annotator_columns(table: Table, lower: dict[str, str], known: Classes, reading: SetReading) -> list[str]:
    """Return the columns with label sets of several annotators: at least two, most of whose labels are those of the data."""
    plain = Classes(known.names)  # a trial: its notes are dropped
    found = []
    for column in columns_of_one_annotator(lower):
        labels = [label for labels in read_sets(table, column, reading, []) for label in labels]
        if labels and sum(plain.find(label) is not None for label in labels) >= len(labels) / 2:
            found.append(column)
    return found if len(found) > 1 else []


def _listed(table: Table, column: str, row: int, value: Any) -> list[tuple[str, ...]]:
    """Return the label sets in a cell with those of all annotators. Raises UserError for a list of labels."""
    if is_missing(value):
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(one, list | tuple) for one in value):
        raise UserError(
            f"{table.name}, {table.row(row + 1)}: {column!r} is {value!r:.60}; expected a list with a list of labels for each "
            'annotator, such as [["a", "b"], ["a"], []], because a list of labels does not say how many annotators there were'
        )
    return [tuple(dict.fromkeys(str(label) for label in one)) for one in value]


def _shares(
    form: str,
    keys: Sequence[str | None],
    votes: Sequence[Sequence[tuple[str, ...]]],
    known: Classes,
    held_out: Collection[str],
) -> SoftRows:
    """Return (n_c + ALPHA r_c) / (n + ALPHA): n_c of the n label sets of a row, and a share r_c of all sets, have label c.

    That is one more set, the average one: most labels are rare, so a prior of 1/2 would make each label of every text
    likely. A set of which no label is one of the data says nothing about these and is not counted; an empty one is. Those of
    keys that are held out do not count in r_c.
    """
    lost = np.zeros(len(votes))
    counts, total = np.zeros((len(votes), len(known.names))), np.zeros((len(votes), 1))
    for row, sets in enumerate(votes):
        members, lost[row] = _members(sets, known)
        counts[row], total[row] = members.sum(0), len(members)
    used = np.array([key not in held_out for key in keys])
    share = counts[used].sum(0) / max(total[used].sum(), 1.0)
    p = np.where(total > 0, (counts + ALPHA * share) / (total + ALPHA), np.nan)
    each = [len(sets) for sets in votes if sets]
    between = f"{min(each)} to {max(each)} label sets per text" if each else "no label sets"
    return SoftRows(f"{form}; {between}, smoothed by {ALPHA:g} average label set", p, lost)


def _alone(form: str, sets: Sequence[Answer], known: Classes) -> SoftRows:
    """Return 1 for the labels of a row and 0 for all others; NaN for a row without an answer, or without a known label."""
    p = np.full((len(sets), len(known.names)), np.nan)
    lost = np.zeros(len(sets))
    for row, labels in enumerate(sets):
        if labels is not None:
            members, lost[row] = _members([labels], known)
            p[row] = members[0] if len(members) else np.nan
    notes = []
    if none := sum(labels == () for labels in sets):
        have = verb(none, "has", "have")
        notes.append(
            f"{plural(none, 'row')} {have} an empty label set, which is learned as the answer that no label applies"
        )
    return SoftRows(form, p, lost, notes)


def _members(sets: Sequence[tuple[str, ...]], known: Classes) -> tuple[Floats, float]:
    """Return (k, C) which label each usable set has, and the share of all labels named that are no label of the data."""
    rows, named, strange = [], 0, 0
    for labels in sets:
        places = [known.find(label) for label in labels]
        for label, place in zip(labels, places, strict=True):
            if place is None:
                known.lose(label, 1.0)
        own = [place for place in places if place is not None]
        named, strange = named + len(places), strange + len(places) - len(own)
        if own or not labels:
            rows.append(np.isin(np.arange(len(known.names)), own).astype(float))
    return np.array(rows).reshape(-1, len(known.names)), strange / named if named else 0.0
