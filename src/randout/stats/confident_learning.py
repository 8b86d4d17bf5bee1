"""Confident learning (Northcutt et al. 2021): how many labels are wrong, and which, from out-of-sample probabilities.

A row counts for class j if its probability of j is at least the mean probability of j among the rows labelled j. Counting rows
by given label and by the most probable such class estimates the joint distribution of given and true labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .intervals import group_df, percentile
from .metrics import group_codes

RESAMPLES = 300


def thresholds(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return (C,) the mean probability of each class among the rows labelled so (eq. 2); 1 for a class without rows.

    probabilities: (n, C). labels: (n,). weights: (n,), of the rows; None: 1.
    """
    n, classes = probabilities.shape
    weight = np.ones(n) if weights is None else weights
    own = np.bincount(labels, weight * probabilities[np.arange(n), labels], classes)
    rows = np.bincount(labels, weight, classes)
    return np.divide(own, rows, out=np.ones(classes), where=rows > 0)


def confident_class(probabilities: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Return (n,) the most probable class among those that reach their threshold `least` (C,); -1 if none does."""
    reached = np.where(probabilities >= least, probabilities, -1.0)
    found: np.ndarray = np.where(reached.max(1) >= 0, reached.argmax(1), -1)
    return found


def joint(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return (C, C) the estimated share of rows by given label (row) and true label (column), which sums to 1 (eq. 1, 3).

    Each row of the matrix has the share of its given label. A label without a confident row counts as right.
    """
    n, classes = probabilities.shape
    weight = np.ones(n) if weights is None else weights
    sure = confident_class(probabilities, thresholds(probabilities, labels, weights))
    known = sure >= 0
    cells = labels[known] * classes + sure[known]
    counts = np.bincount(cells, weight[known], classes**2).reshape(classes, classes)
    empty = counts.sum(1) == 0
    counts[empty, empty] = 1.0
    shares = np.bincount(labels, weight, classes) / weight.sum()
    found: np.ndarray = counts / counts.sum(1, keepdims=True) * shares[:, None]
    return found


def likely_wrong(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the rows whose label is likely wrong, the most certain first (section 3.2, prune by noise rate).

    For each pair of given label i and true label j, these are as many rows labelled i as the joint expects, those with the
    largest margin p_j - p_i. A row whose label is the most probable class is never among them. Rows are ordered by the margin
    of the most probable class over the given label.
    """
    n, classes = probabilities.shape
    given = probabilities[np.arange(n), labels]
    expected = np.rint(n * joint(probabilities, labels)).astype(np.int64)
    found = np.zeros(n, dtype=bool)
    for i, j in np.argwhere(expected > 0):
        if i != j:
            rows = np.flatnonzero(labels == i)
            order = np.argsort(given[rows] - probabilities[rows, j], kind="stable")
            found[rows[order[: expected[i, j]]]] = True
    rows = np.flatnonzero(found & (probabilities.argmax(1) != labels))
    margins = probabilities[rows].max(1) - given[rows]
    return rows[np.argsort(-margins, kind="stable")]


@dataclass(frozen=True)
class WrongLabels:
    """How many labels are wrong: the estimate and its 95 % interval, None for a single group.

    The interval reflects which rows were sampled, not what the model cannot learn: a weak model takes hard rows for wrong.
    """

    rows: int
    estimate: float
    low: float | None
    high: float | None


def count_wrong(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> WrongLabels:
    """Estimate the number of wrong labels, with a bootstrap over groups (n,).

    probabilities: (n, C). labels: (n,).
    """
    n = len(labels)
    codes = group_codes(groups, n)
    count = int(codes.max()) + 1
    estimate = n * float(1 - np.trace(joint(probabilities, labels)))
    if count < 2:
        return WrongLabels(n, estimate, None, None)
    draw = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        weights = np.bincount(draw.integers(0, count, count), minlength=count)[codes].astype(np.float64)
        draws.append(n * (1 - np.trace(joint(probabilities, labels, weights))))
    low, high = percentile(np.array(draws), 0.95, group_df(np.bincount(codes)), count)
    return WrongLabels(n, estimate, max(0.0, low), min(float(n), high))
