"""The TF-IDF baseline fitted beside every run: a linear classifier on the training rows.

It takes seconds: larger tables are sampled. It is deterministic, part of no fingerprint, and reads a held-out split only
when it is asked to score it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from randout.baselines import SVM, Fitted, Labelled
from randout.core.config import TrainTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset
from randout.stats.diagnostics import compared
from randout.stats.metrics import confusion, rates

NAME = "bag-of-words baseline"
MOST_ROWS = 10_000  # training rows that are read
MOST_SCORED = 20_000  # rows of a split that are scored
MOST_CELLS = 500_000  # training rows times classes
MOST_LETTERS = 10_000_000  # in all training texts that are read
TEXT_LETTERS = 4_000  # of a text, from its start
RARE = 1_000  # training rows, from which a word must occur twice


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline. rows: training rows it read, of `whole`."""

    fitted: Fitted
    rows: int
    whole: int

    def predicted(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) class index."""
        found: np.ndarray = self.fitted.logits([text[:TEXT_LETTERS] for text in texts]).argmax(1)
        return found


_last: list[tuple[Any, Baseline | None]] = []  # of the last data set: trials, arms and seeds share it


def baseline_of(dataset: Dataset) -> Baseline | None:
    """The baseline of a data set's training rows, fitted once for each; None where they have no words."""
    train = dataset.split["train"]
    key = (dataset.labelled_sha256, tuple(dataset.id2label.values()), str(dataset.columns), train.tobytes())
    if not _last or _last[0][0] != key:
        _last[:] = [(key, _fit(dataset, train))]
    return _last[0][1]


def min_df(rows: int) -> int:
    """In how many of so many training texts a word must occur to count."""
    return 2 if rows >= RARE else 1


def _fit(dataset: Dataset, train: np.ndarray) -> Baseline | None:
    classes = len(dataset.id2label)
    order = np.random.default_rng(0).permutation(train)[: min(MOST_ROWS, max(1, MOST_CELLS // classes))]
    letters = np.cumsum([min(len(dataset.texts[row]), TEXT_LETTERS) for row in order])
    rows = np.sort(order[: max(1, int(np.searchsorted(letters, MOST_LETTERS, side="right")))])
    labels = dataset.labels[rows]
    if len(np.unique(labels)) < classes:  # a rare class fell out of the sample: its first row comes back
        absent = np.setdiff1d(np.arange(classes), labels)
        back = [train[np.flatnonzero(dataset.labels[train] == at)[:1]] for at in absent]
        rows = np.sort(np.concatenate([rows, *back]))
        labels = dataset.labels[rows]
    if len(np.unique(labels)) < classes:
        return None
    lesson = Labelled([dataset.texts[row][:TEXT_LETTERS] for row in rows], labels)
    model = SVM(min_df=min_df(len(rows)))
    try:
        fitted = model.fit(lesson, lesson, dataset.id2label, TrainTable(seed=0), lambda _done: None)
    except UserError:  # no word of two letters in any text
        return None
    return Baseline(fitted, len(rows), len(train))


def scores_of(
    dataset: Dataset, split: str, labels: np.ndarray, predicted: np.ndarray, groups: np.ndarray, metric: str
) -> dict[str, Any] | None:
    """The baseline's scores on a split and the difference "model minus baseline"; None where there is no baseline.

    labels, predicted (of the model), groups: (n,) of the split's rows in their order. difference: None for one group.
    """
    baseline = baseline_of(dataset)
    if baseline is None:
        return None
    at = np.arange(len(labels))
    if len(at) > MOST_SCORED:
        at = np.sort(np.random.default_rng(0).permutation(at)[:MOST_SCORED])
    rows = dataset.split[split][at]
    made = baseline.predicted([dataset.texts[row] for row in rows])
    classes = int(max(len(dataset.id2label), labels.max() + 1))  # labels without a training row come last
    values = rates(confusion(labels[at], made, classes))
    pair = compared(labels[at], made, predicted[at], groups[at], classes, metric)
    return {
        "name": NAME,
        "classifier": "linear support vector machine on tf-idf",
        **{name: float(value) for name, value in values.items()},
        "train_rows": baseline.rows,
        "sampled": baseline.rows < baseline.whole or len(at) < len(labels),
        "metric": metric,
        "difference": None if pair is None else {"estimate": pair.estimate, "low": pair.low, "high": pair.high},
    }
