"""Prediction files: a model's output for every held-out row of a split, in Parquet.

Columns: row (row id), group, text (only with `output.keep_texts`), label, prediction, score (probability of the predicted
class), logits (a list of C float32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.core.files import replacing
from randout.stats.metrics import log_probabilities


@dataclass(frozen=True)
class Predictions:
    """A model's predictions for n held-out rows.

    labels: (n,) indices into `names`. logits: (n, C), columns in the order of the first C `names`. groups: (n,). Further
    names are labels of rows that no training row had.
    """

    names: list[str]
    rows: list[str]
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    texts: list[str] | None  # None unless the run kept them

    @property
    def predicted(self) -> np.ndarray:
        """(n,) class index with the largest logit."""
        return self.logits.argmax(1)

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
    columns["label"] = [found.names[label] for label in found.labels]
    columns["prediction"] = [found.names[label] for label in found.predicted]
    columns["score"] = np.exp(log_probabilities(found.logits)).max(1)
    columns["logits"] = pyarrow.array(list(found.logits), type=pyarrow.list_(pyarrow.float32()))
    with replacing(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)


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
        true, made = ([str(label) for label in table[column].to_pylist()] for column in ("label", "prediction"))
        if other := set(made) - set(names):
            raise KeyError(min(other))
        every = [*names, *sorted(set(true) - set(names))]
        index = {name: at for at, name in enumerate(every)}
        labels = np.array([index[label] for label in true], dtype=np.int64)
        logits = np.array(table["logits"].to_pylist(), dtype=np.float64).reshape(len(labels), len(names))
        rows = [str(row) for row in table["row"].to_pylist()]
        groups = np.array(table["group"].to_pylist() if "group" in table.column_names else range(len(rows)))
        texts = table["text"].to_pylist() if "text" in table.column_names else None
    except (pyarrow.ArrowException, OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(
            f"{path}: cannot be read as predictions of this run ({reason}). Copy the run folder again"
        ) from None
    return Predictions(every, rows, groups, labels, logits, texts)
