"""Confident learning (Northcutt et al. 2021): how many labels are wrong, and which, from out-of-sample probabilities.

A row counts for class j if its probability of j is at least the mean probability of j among the rows labelled j. Counting rows
by given label and by the most probable such class estimates the joint distribution of given and true labels.

Label sets (multi-label data) are as many questions with two classes, whether a row has a label or not, each with its own joint
(Thyagarajan et al. 2022, 2211.13895).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .intervals import group_df, percentile, share_interval
from .metrics import group_codes

RESAMPLES = 300
BOUNDS, BOUND_LEVEL = 20, 0.99  # thresholds that are tried for the bound, and the level of each interval


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
    n = len(labels)
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


def margins(probabilities: np.ndarray) -> np.ndarray:
    """Return (n, C) by how much another class is more probable than each class: max over k != j of p_k - p_j."""
    order = np.argsort(probabilities, axis=1)
    rows = np.arange(len(probabilities))
    first, second = (probabilities[rows, order[:, at]] for at in (-1, -2))
    others = np.repeat(first[:, None], probabilities.shape[1], axis=1)
    others[rows, order[:, -1]] = second
    found: np.ndarray = others - probabilities
    return found


@dataclass(frozen=True)
class WrongLabels:
    """How many of the labels of so many rows are wrong.

    estimate: by confident learning, with its 95 % interval, None for a single group. The interval reflects which rows were
    sampled, not what the model cannot learn: a weak model takes hard rows for wrong, and the estimate is then far too high.

    most: bound that holds for any model, if a wrong label is as likely to be any of the other classes (`most_wrong`).
    """

    rows: int
    estimate: float
    low: float | None
    high: float | None
    most: float


def most_wrong(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> float:
    """Return the largest share of wrong labels that out-of-fold probabilities allow, at 99 % confidence.

    If every label were drawn wrong, with any of the other classes, a share R(t) of rows would have a margin of another class
    over their label above t; it is known, because a row's probabilities do not depend on its own label. Rows with wrong labels
    are among those above t, so their share e obeys e * R(t) <= S(t), the share of rows that are above t. The bound is the
    least S(t) / R(t) over thresholds, with the upper end of the interval of S(t).
    """
    n, classes = probabilities.shape
    codes = group_codes(groups, n)
    by_label = margins(probabilities)
    own = by_label[np.arange(n), labels]
    other = by_label[np.arange(classes) != labels[:, None]]
    bounds = [1.0]
    for least in np.unique(np.quantile(other, np.linspace(0.02, 0.98, BOUNDS))):
        reached = float((other > least).mean())
        if reached > 0:
            bounds.append((1 - share_interval(own > least, codes, BOUND_LEVEL)[0]) / reached)
    return float(min(bounds))


def count_wrong(probabilities: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> WrongLabels:
    """Estimate the number of wrong labels, with a bootstrap over groups (n,), and bound it.

    probabilities: (n, C). labels: (n,).
    """
    n = len(labels)
    codes = group_codes(groups, n)
    count = int(codes.max()) + 1
    estimate = n * float(1 - np.trace(joint(probabilities, labels)))
    most = n * most_wrong(probabilities, labels, groups)
    if count < 2:
        return WrongLabels(n, estimate, None, None, most)
    draws = [n * (1 - np.trace(joint(probabilities, labels, weights))) for weights in _resamples(codes, count, seed)]
    low, high = percentile(np.array(draws), 0.95, group_df(np.bincount(codes)), count)
    return WrongLabels(n, estimate, max(0.0, low), min(float(n), high), most)


def _resamples(codes: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield weights of rows (n,) by which `count` groups are drawn with replacement. codes: (n,) the group of each row."""
    draw = np.random.default_rng(seed)
    for _ in range(RESAMPLES):
        yield np.bincount(draw.integers(0, count, count), minlength=count)[codes].astype(np.float64)


def without_and_with(probability: np.ndarray) -> np.ndarray:
    """Return (n, 2) the probabilities that rows do not have a label and that they have it. probability: (n,), to have it."""
    return np.column_stack([1 - probability, probability])


def likely_wrong_in_sets(probabilities: np.ndarray, sets: np.ndarray) -> np.ndarray:
    """Return (n, C) bool which labels of which rows are likely missing or superfluous: `likely_wrong` for each label.

    probabilities: (n, C), to have each label. sets: (n, C) bool, the given label sets.
    """
    found = np.zeros(sets.shape, dtype=bool)
    for label, (probability, has) in enumerate(zip(probabilities.T, sets.T, strict=True)):
        found[likely_wrong(without_and_with(probability), has.astype(np.int64)), label] = True
    return found


@dataclass(frozen=True)
class WrongInSets:
    """How many decisions, one for each row and label, are wrong in label sets.

    missing, superfluous: (C,) expected numbers of rows that lack a label wrongly, and that have it wrongly. estimate: their sum,
    with its 95 % interval, None for a single group. It reflects what that of `WrongLabels` does. There is no bound like
    `WrongLabels.most`, which needs labels that are wrong at random, where annotators of label sets rather omit labels.
    """

    decisions: int
    estimate: float
    low: float | None
    high: float | None
    missing: tuple[float, ...]
    superfluous: tuple[float, ...]


def count_wrong_in_sets(probabilities: np.ndarray, sets: np.ndarray, groups: np.ndarray, seed: int = 0) -> WrongInSets:
    """Estimate the number of wrong decisions in label sets (n, C) bool, with a bootstrap over groups (n,).

    probabilities: (n, C), to have each label.
    """
    n = len(sets)
    codes = group_codes(groups, n)
    count = int(codes.max()) + 1
    each = [without_and_with(probability) for probability in probabilities.T]
    given = list(sets.T.astype(np.int64))

    def expected(weights: np.ndarray | None = None) -> np.ndarray:  # (C, 2, 2)
        return n * np.array([joint(p, has, weights) for p, has in zip(each, given, strict=True)]).reshape(-1, 2, 2)

    def total(joints: np.ndarray) -> float:
        return float((joints[:, 0, 1] + joints[:, 1, 0]).sum())

    joints = expected()
    by_label = tuple(map(float, joints[:, 0, 1])), tuple(map(float, joints[:, 1, 0]))
    if count < 2 or not each:
        return WrongInSets(sets.size, total(joints), None, None, *by_label)
    draws = np.array([total(expected(weights)) for weights in _resamples(codes, count, seed)])
    low, high = percentile(draws, 0.95, group_df(np.bincount(codes)), count)
    return WrongInSets(sets.size, total(joints), max(0.0, low), min(float(sets.size), high), *by_label)
