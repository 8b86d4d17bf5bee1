"""The TF-IDF baseline fitted alongside every run: a linear classifier on the training rows.

It takes seconds, as larger tables are sampled. It is deterministic and not part of any fingerprint. It reads a held-out
split only to score it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from randout.baselines import SVM, Fitted, Labelled
from randout.core.config import TrainTable
from randout.core.errors import UserError
from randout.data.dataset import Dataset
from randout.stats.diagnostics import compared
from randout.stats.label_set_scores import DEFAULT_THRESHOLD, tuned_thresholds
from randout.stats.targets import classes_of, predicted, rates_of, widened_sets

NAME = "bag-of-words baseline"
MAX_ROWS = 10_000  # training rows used
FOLDS = 3  # of the training rows, for the thresholds of label sets
MAX_SCORED = 20_000  # scored rows per split
MAX_CELLS = 500_000  # training rows times classes
MAX_CHARACTERS = 10_000_000  # total characters of the training texts used
MAX_TEXT_CHARACTERS = 4_000  # characters of each text, from its start


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline. rows: number of training rows used, out of `whole`."""

    fitted: Fitted
    rows: int
    whole: int

    def predicted(self, texts: Sequence[str]) -> np.ndarray:
        """Return the predicted class index of each text, (n,), or its label set (n, C)."""
        return predicted(self.fitted.logits([text[:MAX_TEXT_CHARACTERS] for text in texts]), self.fitted.thresholds)


_last: list[
    tuple[Any, Baseline | None]
] = []  # for the last dataset, without and with a refit; trials, arms, seeds share it


def baseline_of(dataset: Dataset) -> Baseline | None:
    """Return the baseline fitted to a dataset's training rows; cached. None if the texts have no words."""
    train = dataset.split["train"]
    key = (dataset.labelled_sha256, tuple(dataset.id2label.values()), str(dataset.columns), train.tobytes())
    for known, found in _last:
        if known == key:
            return found
    _last[:] = [*_last[-1:], (key, _fit(dataset, train))]
    return _last[-1][1]


def _fit(dataset: Dataset, train: np.ndarray) -> Baseline | None:
    """Fit the baseline to a sample of the training rows; None if a class or all words are missing."""
    classes = len(dataset.id2label)
    order = np.random.default_rng(0).permutation(train)[: min(MAX_ROWS, max(1, MAX_CELLS // classes))]
    characters = np.cumsum([min(len(dataset.texts[row]), MAX_TEXT_CHARACTERS) for row in order])
    rows = np.sort(order[: max(1, int(np.searchsorted(characters, MAX_CHARACTERS, side="right")))])
    if dataset.sets is not None:
        return _fitted(dataset, rows, dataset.truth(rows)[:, :classes], len(train))
    labels = dataset.labels[rows]
    if len(np.unique(labels)) < classes:  # the sample lacks a rare class: add its first row
        absent = np.setdiff1d(np.arange(classes), labels)
        back = [train[np.flatnonzero(dataset.labels[train] == at)[:1]] for at in absent]
        rows = np.sort(np.concatenate([rows, *back]))
        labels = dataset.labels[rows]
    if len(np.unique(labels)) < classes:
        return None
    return _fitted(dataset, rows, labels, len(train))


def _fitted(dataset: Dataset, rows: np.ndarray, labels: np.ndarray, whole: int) -> Baseline | None:
    """Fit the baseline to rows of the dataset with these labels."""
    texts = [dataset.texts[row][:MAX_TEXT_CHARACTERS] for row in rows]
    try:
        fitted = _svm(dataset, texts, labels)
        limits = None if dataset.sets is None else _thresholds(dataset, rows, texts, labels)
    except UserError:  # no text has a word of two characters
        return None
    return Baseline(replace(fitted, thresholds=limits), len(rows), whole)


def _svm(dataset: Dataset, texts: Sequence[str], labels: np.ndarray) -> Fitted:
    labelled = Labelled(list(texts), labels)
    return SVM().fit(labelled, labelled, dataset.id2label, TrainTable(seed=0), lambda _done: None)


def _thresholds(dataset: Dataset, rows: np.ndarray, texts: Sequence[str], labels: np.ndarray) -> tuple[float, ...]:
    """Return the threshold of each label with the highest F1 on out-of-fold scores of the training rows.

    A margin of 0 would rarely predict rare labels, so that any student whose thresholds are tuned looked better. Groups of
    rows stay in one of `FOLDS` folds.
    """
    groups = np.unique(dataset.groups[rows], return_inverse=True)[1].reshape(-1)
    fold = (np.random.default_rng(0).permutation(groups.max() + 1) % FOLDS)[groups]
    if len(np.unique(fold)) < FOLDS:
        return (DEFAULT_THRESHOLD,) * labels.shape[1]
    scores = np.zeros(labels.shape)
    for number in range(FOLDS):
        held = fold == number
        part = _svm(dataset, [text for text, out in zip(texts, held, strict=True) if not out], labels[~held])
        scores[held] = part.logits([text for text, out in zip(texts, held, strict=True) if out])
    return tuned_thresholds(labels, scores)


def scores_of(
    dataset: Dataset, split: str, labels: np.ndarray, made_by_model: np.ndarray, groups: np.ndarray, metric: str
) -> dict[str, Any] | None:
    """Return the baseline's scores on a split, and the difference model minus baseline; None if there is no baseline.

    labels, made_by_model, groups: (n,), or of label sets (n, C), for the rows of the split in order. metric: of the
    difference, which is None if there is only one group.
    """
    baseline = baseline_of(dataset)
    if baseline is None:
        return None
    at = np.arange(len(labels))
    if len(at) > MAX_SCORED:
        at = np.sort(np.random.default_rng(0).permutation(at)[:MAX_SCORED])
    rows = dataset.split[split][at]
    made = baseline.predicted([dataset.texts[row] for row in rows])
    classes = classes_of(labels, len(dataset.id2label))
    made = widened_sets(made, classes)
    values = rates_of(labels[at], made, classes)
    pair = compared(labels[at], made, made_by_model[at], groups[at], classes, metric)
    return {
        "name": NAME,
        "classifier": "linear support vector machine on tf-idf",
        **values,
        "train_rows": baseline.rows,
        "sampled": baseline.rows < baseline.whole or len(at) < len(labels),
        "metric": metric,
        "difference": None if pair is None else {"estimate": pair.estimate, "low": pair.low, "high": pair.high},
    }
