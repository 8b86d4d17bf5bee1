"""The kinds of target, one label for each row or a label set, behind one interface: how rows are counted and scored.

Class indices (n,) stand for one label, bool (n, C) for label sets; every function of this package that takes labels and
predictions takes both, and finds the kind here (`target_of`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from randout.core.label_sets import LabelSets

from . import metrics
from .label_set_scores import SAMPLE_F1, LabelSetTarget, decided, score_sets, sigmoid
from .metrics import COUNTED, OVER_CLASSES, Patterns, checked_labels, confusion, rates


class Target(Protocol):
    """How rows are counted. metrics: those with intervals; row_means: those of them that are means over rows."""

    @property
    def classes(self) -> int:
        """C, the number of classes or labels."""

    @property
    def metrics(self) -> tuple[str, ...]: ...

    @property
    def row_means(self) -> frozenset[str]: ...

    def checked(self, labels: Any, what: str = "labels") -> np.ndarray:
        """Return labels or predictions, (n,) or (n, C). Raises UserError if there are none or one is outside."""

    def contents(self, labels: np.ndarray, *made: np.ndarray) -> np.ndarray:
        """Return integers (n,), equal for rows with equal labels and predictions."""

    def totals(self, found: Patterns, labels: np.ndarray, made: np.ndarray) -> Any:
        """Return what `rates` needs, summed over the rows of each pattern, (P, D)."""

    def rates(self, totals: Any, occurring: int | None = None) -> dict[str, np.ndarray]:
        """Return the metrics, each (...), from sums (..., D). occurring: from `occurring`, for resamples."""

    def occurring(self, labels: np.ndarray) -> int:
        """Return how many classes occur among the labels."""

    def right(self, labels: np.ndarray, made: np.ndarray) -> np.ndarray:
        """Return whether each prediction is right as a whole, (..., n) bool."""

    def wrong(self, labels: np.ndarray, made: np.ndarray, metric: str) -> np.ndarray:
        """Return how wrong each row is, (..., n): in a mean over rows, 1 minus its value."""

    def credit(self, labels: np.ndarray, made: np.ndarray, metric: str) -> np.ndarray:
        """Return how right each row is, (..., n): in a mean over rows, its value."""

    def differs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return whether two predictions of a row differ, (..., n) bool."""

    def by_class(self, labels: np.ndarray, metric: str) -> np.ndarray | None:
        """Return the classes that limit the units of an interval near 0 and 1 (`intervals.edge_units`), or None."""


@dataclass(frozen=True)
class OneLabel:
    """How rows with one label are counted: by confusion matrices."""

    classes: int
    metrics: ClassVar[tuple[str, ...]] = COUNTED
    row_means: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def checked(self, labels: Any, what: str = "labels") -> np.ndarray:
        return checked_labels(labels, self.classes, what)

    def contents(self, labels: np.ndarray, *made: np.ndarray) -> np.ndarray:
        if len(made) <= 2:
            found = labels
            for one in made:
                found = found * self.classes + one
            return found
        return np.unique(np.stack([labels, *made]), axis=1, return_inverse=True)[1].reshape(-1)

    def totals(self, found: Patterns, labels: np.ndarray, made: np.ndarray) -> Any:
        return found.counts(labels * self.classes + made, self.classes**2)

    def rates(self, totals: Any, occurring: int | None = None) -> dict[str, np.ndarray]:
        return rates(totals.reshape(-1, self.classes, self.classes), occurring)

    def occurring(self, labels: np.ndarray) -> int:
        return len(np.unique(labels))

    def right(self, labels: np.ndarray, made: np.ndarray) -> np.ndarray:
        found: np.ndarray = made == labels
        return found

    def wrong(self, labels: np.ndarray, made: np.ndarray, metric: str) -> np.ndarray:
        found: np.ndarray = made != labels
        return found

    def credit(self, labels: np.ndarray, made: np.ndarray, metric: str) -> np.ndarray:
        found: np.ndarray = (made == labels).astype(np.int8)
        return found

    def differs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found: np.ndarray = one != other
        return found

    def by_class(self, labels: np.ndarray, metric: str) -> np.ndarray | None:
        return labels if metric in OVER_CLASSES else None


def target_of(labels: Any, classes: int) -> Target:
    """Return how rows with these labels are counted. labels: (n,) class indices or (n, C) bool."""
    return LabelSetTarget(classes) if np.ndim(labels) == 2 else OneLabel(classes)


def main_metric(labels: Any, metric: str) -> str:
    """Return the metric that "accuracy" stands for: the mean F1 over rows for label sets, where exact match is harsh."""
    return SAMPLE_F1 if np.ndim(labels) == 2 and metric == "accuracy" else metric


def classes_of(labels: np.ndarray, learnt: int) -> int:
    """Return the number of classes among labels and outputs. learnt: of the outputs; labels without an output come last."""
    return labels.shape[1] if np.ndim(labels) == 2 else int(max(learnt, labels.max() + 1))


def widened_sets(made: np.ndarray, classes: int) -> np.ndarray:
    """Return predictions over so many labels: further labels are never predicted. Class indices (n,) are unchanged."""
    return made if made.ndim == 1 else np.pad(made, ((0, 0), (0, max(0, classes - made.shape[1]))))


def most_frequent(labels: np.ndarray, classes: int) -> np.ndarray | int:
    """Return the most frequent class of labels (n,), or label set (classes,) of (n, C)."""
    if np.ndim(labels) == 1:
        return int(np.bincount(labels, minlength=classes).argmax())
    sets, numbers = LabelSets.of(labels)
    found: np.ndarray = widened_sets(sets.members[[np.bincount(numbers).argmax()]], classes)[0]
    return found


def rates_of(labels: np.ndarray, made: np.ndarray, classes: int) -> dict[str, float]:
    """Return the metrics of predictions."""
    if np.ndim(labels) == 1:
        return {name: float(value) for name, value in rates(confusion(labels, made, classes)).items()}
    target, rows = LabelSetTarget(classes), len(labels)
    whole = Patterns(np.arange(rows), np.zeros(rows, np.int64), np.ones(1, np.int64))
    return {name: float(value[0]) for name, value in target.rates(target.totals(whole, labels, made)).items()}


def predicted(logits: np.ndarray, thresholds: Sequence[float] | np.ndarray | None, classes: int = 0) -> np.ndarray:
    """Return the predictions of a model: the class with the largest logit (n,), or with thresholds the label sets (n, C).

    classes: number of labels in the data, if it may be larger than that of the model.
    """
    found: np.ndarray = logits.argmax(-1) if thresholds is None else decided(logits, thresholds, classes)
    return found


def probabilities(logits: np.ndarray, thresholds: Sequence[float] | None) -> np.ndarray:
    """Return the probabilities (n, C): the softmax of logits or, of label sets (with thresholds), the sigmoid of each."""
    return np.exp(metrics.log_probabilities(logits)) if thresholds is None else sigmoid(logits)


def score(
    labels: Any,
    logits: Any,
    id2label: Mapping[Any, str],
    groups: Sequence[Any] | np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    *,
    unseen: Sequence[str] = (),
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return all metrics of one set of predictions: `metrics.score` for labels (n,), `score_sets` for label sets (n, C).

    thresholds: of the labels, for label sets only.
    """
    if np.ndim(labels) == 1:
        return metrics.score(labels, logits, id2label, groups, resamples, seed, unseen=unseen)
    assert thresholds is not None
    return score_sets(labels, logits, id2label, groups, resamples, seed, unseen=unseen, thresholds=thresholds)
