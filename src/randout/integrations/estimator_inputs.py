"""What scikit-learn estimators are given, as columns of a table: texts, labels of any type, weights and soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError
from randout.core.wording import plural, type_words
from randout.data.columns import is_missing, row_list
from randout.data.dataframes import columns_of
from randout.data.labels import clean_label, listed

PAIRS_HINT = 'For pairs of texts, use randout.train(table, settings={"data.text_pair_column": NAME})'


class InputError(UserError, ValueError):
    """A UserError about an argument, which scikit-learn's tools know as a ValueError."""


class Classes(NamedTuple):
    """The labels of n rows. values: (C,) sorted, in the type of the labels. codes: (n,) index into values. names: of the
    classes in tables and models.
    """

    values: NDArray[Any]
    codes: NDArray[np.int64]
    names: list[str]


def texts_of(given: Any, what: str = "X") -> list[str]:
    """Return the texts of a list, an array or a pandas or polars Series; "" for a missing one.

    what: the name of the argument, for messages. Raises InputError for a single string, a table of several columns, a value
    that is not a string, and for no texts.
    """
    if isinstance(given, str | bytes):
        raise InputError(f"{what}: found one text, {given!r:.60}; expected a list of texts: [text]")
    shape = tuple(getattr(given, "shape", (1,)))
    if len(shape) == 2 and shape[1] != 1:
        raise InputError(
            f"{what}: found a table with {shape[1]} columns; expected one column of texts: table['text']. {PAIRS_HINT}"
        )
    if len(shape) not in (1, 2):
        raise InputError(f"{what}: found an array of {len(shape)} dimensions; expected a list of texts")
    if hasattr(given, "__len__") and len(given) == 0:
        raise InputError(f"{what}: found no texts; expected at least one")
    values = columns_of({what: np.asarray(given, dtype=object)[:, 0] if len(shape) == 2 else given})[what]
    texts = ["" if _missing(value) else value for value in values]
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            hint = f". {PAIRS_HINT}" if isinstance(text, list | tuple | dict) else ""
            raise InputError(f"{what}[{at}] is {text!r:.60}, {type_words(text)}; expected a string{hint}")
    return texts


def _missing(value: Any) -> bool:
    """Return whether a value is missing, also by pandas' NA; a text of white space is not."""
    return not isinstance(value, str) and (is_missing(value) or type(value).__name__ == "NAType")


def check_kinds(y: Any) -> None:
    """Raise InputError for a list of labels of several kinds, which NumPy would turn into strings."""
    if not isinstance(y, list | tuple):
        return
    first: dict[str, Any] = {}
    for value in y:
        if not _missing(value):
            of_bool = isinstance(value, bool | np.bool_)
            kind = (
                "booleans"
                if of_bool
                else "numbers"
                if isinstance(value, Number)
                else f"values of type {type(value).__name__}"
            )
            first.setdefault(kind, value)
    if len(first) > 1:
        found = " and ".join(f"{kind} ({value!r:.40})" for kind, value in first.items())
        raise InputError(f"y: the labels are of several types: {found}. Use one type for all of them")


def classes_of(labels: NDArray[Any]) -> Classes:
    """Return labels (n,) as classes. Raises InputError for missing labels, mixed types, and names that are not distinct."""
    if missing := [row for row, value in enumerate(labels.tolist()) if _missing(value)]:
        raise InputError(f"y: {plural(len(missing), 'label')} missing, counted from 0: {row_list(missing)}")
    try:
        values, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        check_kinds(labels.tolist())
        raise InputError(
            f"y: the labels cannot be sorted, such as {labels[0]!r:.60}; expected strings or integers"
        ) from None
    if len(values) < 2:
        raise InputError(f"y: all {plural(len(labels), 'row')} have one class; a classifier needs at least two classes")
    return Classes(values, codes, class_names(values.tolist()))


def class_names(values: Sequence[Any]) -> list[str]:
    """Return the name of each class in tables and models: `true` for True, digits for an integer.

    Raises InputError if two classes would have one name, or a class none.
    """
    names = [clean_label(str(one).lower() if isinstance(one, bool) else str(one)) for one in values]
    if "" in names:
        raise InputError(f"y: the label {values[names.index('')]!r} has no visible characters. Rename it")
    if same := [value for value, name in zip(values, names, strict=True) if names.count(name) > 1]:
        raise InputError(
            f"y: the labels {listed(map(str, same))} differ only in invisible characters. Use one spelling"
        )
    return names


def weights_of(sample_weight: Any, rows: int) -> list[float] | None:
    """Return the weight of each row; None if none are given. Raises InputError for another number of weights, or none above 0."""
    if sample_weight is None:
        return None
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"sample_weight: found {sample_weight!r:.60}; expected a number for each row") from None
    if weights.shape != (rows,):
        raise InputError(f"sample_weight: found the shape {weights.shape}; expected {(rows,)}, a weight for each row")
    if not weights.any():
        raise InputError("sample_weight: all weights are zero; expected one above 0")
    found: list[float] = weights.tolist()
    return found


def soft_columns(soft: Any, classes: Sequence[Any], rows: int, what: str) -> dict[str, list[float]]:
    """Return soft labels (n, C) as the columns prob_CLASS of a file of soft labels.

    soft: an array whose columns are `classes`, or a frame with a column for each class; a row of NaN has no soft label.
    classes: those of the columns of an array. Raises InputError for another shape.
    """
    if hasattr(soft, "columns"):
        columns = columns_of({str(name): soft[name] for name in soft.columns})
        values = np.array(list(columns.values()), dtype=np.float64).T
        classes = list(soft.columns)
    else:
        values = np.asarray(soft, dtype=np.float64)
    if values.shape != (rows, len(classes)):
        raise InputError(
            f"{what}: found the shape {values.shape}; expected {(rows, len(classes))}: a row for each text, and a column for "
            f"each class in sorted order ({listed(map(str, classes), 5)}), or a DataFrame whose columns are the classes"
        )
    names = class_names([one.item() if isinstance(one, np.generic) else one for one in classes])
    return {f"prob_{name}": values[:, at].tolist() for at, name in enumerate(names)}
