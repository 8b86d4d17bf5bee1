"""The weight of each row in the training loss, from a column of the data (`data.weight_column`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError, nearest

from . import columns as cols
from .sources import Part
from .stratify import Ints
from .tables import Table

Floats = NDArray[np.float64]


def weights_of(parts: Sequence[Part], column: str) -> Floats:
    """Return the weight of each row of all parts; empty without a column.

    Unlabelled and test rows of a file without the column have weight 1, which nothing reads. Raises UserError if a table
    with training or validation rows lacks the column, and for a value that is not a finite number of at least 0.
    """
    if not column:
        return np.zeros(0)
    found: list[float] = []
    for part in parts:
        if part.role in ("unlabeled", "test") and column not in part.table.columns:
            found += [1.0] * len(part.texts)
            continue
        if column not in part.table.columns:
            lacking = f"{part.table.name}: no column {column!r} (data.weight_column)"
            raise UserError(
                f"{lacking}.{nearest(column, part.table.columns)} Columns: {', '.join(part.table.columns)}."
            )
        values = part.table.columns[column]
        found += [_weight(part.table, column, row, value) for row, value in enumerate(values, 1)]
    return np.array(found)


def _weight(table: Table, column: str, row: int, value: Any) -> float:
    try:
        weight = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(
            f"{table.name}, {cols.rows_in(table, [row])}: the weight (column {column!r}) is {value!r:.60}; expected a finite "
            "number of at least 0"
        )
    return weight


def normalised(weights: Floats, learned: Ints, unlabelled: Ints) -> Floats | None:
    """Return the factor of each row's loss: its weight divided by the mean weight of the labelled rows that are learned.

    weights: (n,) as given, or empty. learned: the labelled rows that a student learns from. unlabelled: texts that come
    without a weight of their own, whose factor is 1. None if all these factors are 1. Raises UserError if all weights of
    `learned` are 0.
    """
    if not len(weights):
        return None
    mean = float(weights[learned].mean())
    if mean == 0:
        raise UserError("data.weight_column: the weights of all training rows are 0; expected one above 0")
    factors = weights / mean
    factors[unlabelled] = 1.0
    return None if (weights[learned] == weights[learned][0]).all() else factors
