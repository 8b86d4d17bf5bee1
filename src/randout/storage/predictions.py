"""Prediction files: a model's output for every held-out row of a split, in Parquet.

Columns: row (row id), group, text (only with `output.keep_texts`), label, prediction, score (probability of the predicted
class), logits (a list of C float32). Of multi-label data, label and prediction are lists of labels, the score is the
probability of the predicted set with labels taken as independent, and the file's metadata hold the threshold of each label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.files import replacing
from randout.core.label_sets import members_of, names_of
from randout.stats.label_set_scores import set_probability
from randout.stats.targets import predicted, probabilities

THRESHOLDS = "label_thresholds"  # key of the file's metadata


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for n held-out rows.

    labels: (n,) indices into `names`, or of multi-label data (n, len(names)) bool. logits: (n, C), columns in the order of
    the first C `names`. groups: (n,). Further names are labels of rows that no training row had. thresholds: (C,), of
    multi-label data.
    """

    names: list[str]
    rows: list[str]
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    texts: list[str] | None  # None unless the run kept them
    thresholds: tuple[float, ...] | None = None

    @property
    def predicted(self) -> np.ndarray:
        """(n,) class index with the largest logit, or the label sets above the thresholds, (n, len(names)) bool."""
        return predicted(self.logits, self.thresholds, len(self.names))

    def same_rows(self, other: Predictions) -> bool:
        """Return whether both have the same rows in the same order, with the same labels."""
        return (self.names, self.rows) == (other.names, other.rows) and np.array_equal(self.labels, other.labels)


def write_predictions(path: Path, found: Predictions) -> None:
    """Write a prediction file atomically."""
    import pyarrow
    import pyarrow.parquet as parquet

    columns: dict[str, Any] = {"row": found.rows, "group": found.groups}
    if found.texts is not None:
        columns["text"] = found.texts
    made, likely = found.predicted, probabilities(found.logits, found.thresholds)
    columns["label"], columns["prediction"] = (_as_names(each, found.names) for each in (found.labels, made))
    columns["score"] = (
        likely.max(1) if found.thresholds is None else set_probability(likely, made[:, : likely.shape[1]])
    )
    columns["logits"] = pyarrow.array(list(found.logits), type=pyarrow.list_(pyarrow.float32()))
    table = pyarrow.table(columns)
    if found.thresholds is not None:
        table = table.replace_schema_metadata({THRESHOLDS: json.dumps(found.thresholds)})
    with replacing(path) as partial:
        parquet.write_table(table, partial)


def _as_names(labels: np.ndarray, names: Sequence[str]) -> Any:
    """Return labels by name: a list of strings, or of multi-label data an array of lists."""
    if labels.ndim == 1:
        return [names[label] for label in labels]
    import pyarrow

    return pyarrow.array(names_of(labels, names), type=pyarrow.list_(pyarrow.string()))


def read_predictions(path: Path, names: Sequence[str]) -> Predictions:
    """Read a prediction file.

    names: the run's classes in order; other labels in the file are appended, sorted. Logits are returned as float64. A
    file without groups gets one group per row. Raises UserError if the file is missing or does not contain predictions of
    these classes.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    if not path.exists():
        raise UserError(
            f"{path.parent.parent}: no predictions for the {path.stem} split. "
            f"Create them with `randout evaluate --split {path.stem}`"
        )
    try:
        table = parquet.ParquetFile(path).read()
        stored = (table.schema.metadata or {}).get(THRESHOLDS.encode())
        thresholds = None if stored is None else tuple(map(float, json.loads(stored)))
        true, made = (table[column].to_pylist() for column in ("label", "prediction"))
        if other := _distinct(made) - set(names):
            raise KeyError(min(other))
        every = [*names, *sorted(_distinct(true) - set(names))]
        labels: np.ndarray
        if thresholds is None:
            index = {name: at for at, name in enumerate(every)}
            labels = np.array([index[str(label)] for label in true], dtype=np.int64)
        else:
            labels = members_of(true, every)
            if len(thresholds) != len(names):
                raise ValueError(f"{len(thresholds)} thresholds for {len(names)} labels")
        logits = np.array(table["logits"].to_pylist(), dtype=np.float64).reshape(len(labels), len(names))
        rows = [str(row) for row in table["row"].to_pylist()]
        groups = np.array(table["group"].to_pylist() if "group" in table.column_names else range(len(rows)))
        texts = table["text"].to_pylist() if "text" in table.column_names else None
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as predictions of this run ({reason}). Copy the run folder again"
        ) from None
    return Predictions(every, rows, groups, labels, logits, texts, thresholds)


def _distinct(values: Sequence[Any]) -> set[str]:
    """Return all labels of a column of strings or of lists of strings."""
    return {str(label) for value in values for label in (value if isinstance(value, list) else [value])}
