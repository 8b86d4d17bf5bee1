"""Prediction files: a model's output for every held-out row of a split, in Parquet.

Columns: row (its id), group, text (only where asked for), label, prediction, score (the predicted class's probability),
logits (a list of C float32).
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
    """Held-out rows of one model. labels (n,) and columns of logits (n, C) index `names`; groups (n,).

    Names beyond the C of the model are labels of rows that it has not learnt.
    """

    names: list[str]
    rows: list[str]
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    texts: list[str] | None  # only where they were kept

    @property
    def predicted(self) -> np.ndarray:
        """(n,) the class with the largest logit."""
        return self.logits.argmax(1)

    def same_rows(self, other: Predictions) -> bool:
        """Whether both are of the same rows in the same order, with the same labels."""
        return (self.names, self.rows) == (other.names, other.rows) and np.array_equal(self.labels, other.labels)


def write_predictions(path: Path, found: Predictions) -> None:
    """Write a prediction file, whole or not at all."""
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
    """A prediction file. names: the run's classes in order; further labels of rows come after them, sorted. logits come as
    float64; a row without a group is its own.

    Raises UserError where there is no such file, and where it does not hold predictions of these classes.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    if not path.exists():
        raise UserError(
            f"{path.parent.parent}: no predictions of the {path.stem} split; "
            f"`randout evaluate --split {path.stem}` makes them"
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
            f"{path}: cannot be read; these are not the predictions of this run ({reason}); copy the run folder again"
        ) from None
    return Predictions(every, rows, groups, labels, logits, texts)
