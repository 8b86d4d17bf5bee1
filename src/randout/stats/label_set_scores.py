"""Metrics of predicted label sets, from truths and decisions (n, C) bool: micro, macro and sample F1, exact match.

A row counts once for each label in micro and macro averages, and once as a whole in the means over rows:

    accuracy      share of rows whose set is predicted exactly (subset accuracy)
    sample_f1     mean over rows of 2 |T & P| / (|T| + |P|), T the true set and P the predicted one; 1 if both are empty
    micro_f1      2 TP / (2 TP + FP + FN), counts summed over rows and labels
    macro_f1      mean over all C labels of their F1; a label that never occurs counts 0, as in `metrics`

Every metric is a function of sums over rows, so that one matrix product with bootstrap weights gives it for a resample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import sparse

from randout.core.errors import UserError
from randout.core.label_sets import LabelSets, names_of, shown

from .intervals import edge_units, group_df, percentile, widened
from .metrics import Patterns, binned_error, checked_logits, group_codes, group_weights, label_names, patterns, ratio

SAMPLE_F1 = "sample_f1"
COUNTED_SETS = ("accuracy", SAMPLE_F1, "micro_f1", "macro_f1", "macro_precision", "macro_recall", "balanced_accuracy")
DEFAULT_THRESHOLD = 0.5
FOLDS = 5  # of `held_out_thresholds`
PRIOR_ROWS = 5  # rows with a label that weigh as much as the common threshold


def tuned_thresholds(truth: np.ndarray, logits: np.ndarray) -> tuple[float, ...]:
    """Return the threshold of each label on probabilities, chosen for F1 on these rows; a label is predicted above it.

    truth: (n, C) bool; logits: (n, C). The threshold of label c is the mean of its own one and a common one,

        (n_c t_c + PRIOR_ROWS t) / (n_c + PRIOR_ROWS)

    n_c: rows with the label; t_c: the threshold with the highest F1 of the label; t: the one with the highest micro F1 if all
    labels had the same. With few rows of a label, t_c alone is mostly chance (docs/log.md, 2026-11-27). Candidates are the
    middles between neighbouring probabilities, and 0.5; of equal F1, the one closest to 0.5.
    """
    probabilities = sigmoid(np.asarray(logits, dtype=np.float64))
    common, rows = _tuned(truth.ravel(), probabilities.ravel()), truth.sum(0).tolist()
    own = [_tuned(has, each) for has, each in zip(truth.T, probabilities.T, strict=True)]
    return tuple((n * one + PRIOR_ROWS * common) / (n + PRIOR_ROWS) for n, one in zip(rows, own, strict=True))


def held_out_thresholds(truth: np.ndarray, logits: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (n, C) thresholds for each row that were tuned on rows of other groups, as those of a model are for new rows.

    truth: (n, C) bool; logits: (n, C); groups: (n,), which are distributed over `FOLDS` folds in turn, by their order. Rows of
    a fold have the `tuned_thresholds` of all others; with one group alone, those of all rows.
    """
    fold = group_codes(groups, len(truth)) % FOLDS
    found = np.zeros(logits.shape)
    for each in np.unique(fold):
        own = fold == each
        others = own if own.all() else ~own
        found[own] = tuned_thresholds(truth[others], logits[others])
    return found


def _tuned(has: np.ndarray, probability: np.ndarray) -> float:
    positives = int(has.sum())
    if not positives:
        return DEFAULT_THRESHOLD
    order = np.argsort(-probability, kind="stable")
    there, hits = probability[order], np.cumsum(has[order])  # of the k + 1 rows with the highest probabilities
    ends = np.flatnonzero(np.append(there[1:] < there[:-1], True))  # the last row of each run of equal probabilities
    middles = (there[ends] + np.append(there[ends[1:]], 0.0)) / 2
    taken = int((probability > DEFAULT_THRESHOLD).sum())
    middles = np.append(middles, DEFAULT_THRESHOLD)
    f1 = 2 * np.append(hits[ends], hits[taken - 1] if taken else 0) / (positives + np.append(ends + 1, taken))
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)
    return float(middles[best[np.abs(middles[best] - DEFAULT_THRESHOLD).argmin()]])


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of each logit, without overflow."""
    found: np.ndarray = 0.5 * (1 + np.tanh(0.5 * logits))
    return found


def decided(logits: np.ndarray, thresholds: Sequence[float] | np.ndarray, width: int = 0) -> np.ndarray:
    """Return (n, C) bool, the labels whose probability is above its threshold. thresholds: (C,), or (n, C) by row.

    width: number of columns, if the truth has more labels than the model, which are never predicted.
    """
    made = sigmoid(np.asarray(logits, dtype=np.float64)) > np.asarray(thresholds, dtype=np.float64)
    return made if width <= made.shape[1] else np.pad(made, ((0, 0), (0, width - made.shape[1])))


def set_probability(probabilities: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Return the probability (n,) of each decided set, with labels taken as independent; both (n, C)."""
    found: np.ndarray = np.where(made, probabilities, 1 - probabilities).prod(1)
    return found


def row_f1(truth: np.ndarray, made: np.ndarray) -> np.ndarray:
    """Return the F1 of each row, (..., n), from (n, C) and (..., n, C) bool; 1 for two empty sets."""
    both, sizes = (truth & made).sum(-1), truth.sum(-1) + made.sum(-1)
    return np.where(sizes > 0, 2 * both / np.maximum(sizes, 1), 1.0)


def set_rates(totals: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Return the metrics of `COUNTED_SETS` and further ones, each (...), from sums `LabelSetTarget.totals` (..., 3 C + 3)."""
    each = label_rates(totals, classes)
    right, made, true = (totals[..., at * classes : (at + 1) * classes] for at in range(3))
    rows = totals[..., -1]
    absent = rows[..., None] - true
    specificity = ratio(absent - (made - right), absent)
    defined = (true > 0).astype(float) + (absent > 0)
    return {
        "accuracy": totals[..., -3] / rows,
        SAMPLE_F1: totals[..., -2] / rows,
        "micro_f1": ratio(2 * right.sum(-1), made.sum(-1) + true.sum(-1)),
        "micro_precision": ratio(right.sum(-1), made.sum(-1)),
        "micro_recall": ratio(right.sum(-1), true.sum(-1)),
        "macro_f1": each["f1"].mean(-1),
        "macro_precision": each["precision"].mean(-1),
        "macro_recall": each["recall"].mean(-1),
        "weighted_f1": ratio((each["f1"] * true).sum(-1), true.sum(-1)),
        "balanced_accuracy": ((each["recall"] + specificity) / np.maximum(defined, 1)).mean(-1),
        "label_accuracy": 1 - (made + true - 2 * right).sum(-1) / (rows * classes),
    }


def label_rates(totals: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 and support of each label, (..., C)."""
    right, made, true = (totals[..., at * classes : (at + 1) * classes] for at in range(3))
    return {
        "precision": ratio(right, made),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, made + true),
        "support": true,
    }


@dataclass(frozen=True)
class LabelSetTarget:
    """How rows with label sets are counted; see `targets.Target`. classes: C."""

    classes: int
    metrics: ClassVar[tuple[str, ...]] = COUNTED_SETS
    row_means: ClassVar[frozenset[str]] = frozenset({"accuracy", SAMPLE_F1})

    def checked(self, labels: Any, what: str = "labels") -> np.ndarray:
        array = np.asarray(labels)
        if array.ndim != 2 or array.dtype != bool or array.shape[1] != self.classes:
            raise ValueError(f"{what}: bool (n, {self.classes}) expected, found {array.dtype} {array.shape}")
        if not len(array):
            raise UserError("There are no rows to score.")
        return array

    def contents(self, labels: np.ndarray, *made: np.ndarray) -> np.ndarray:
        packed = np.packbits(np.concatenate([labels, *made], axis=1), axis=1)
        return np.unique(packed, axis=0, return_inverse=True)[1].reshape(-1)

    def totals(self, found: Patterns, labels: np.ndarray, made: np.ndarray) -> np.ndarray:
        truth, guess = labels[found.rows], made[found.rows]
        exact, rows = (truth == guess).all(1), np.ones(len(truth))
        each = np.column_stack([truth & guess, guess, truth, exact, row_f1(truth, guess), rows]).astype(np.float64)
        shape = (len(found.multiplicity), len(truth))
        places = (found.pattern, np.arange(len(truth)))
        summed: np.ndarray = sparse.coo_array((rows, places), shape).tocsr() @ each
        return summed

    def rates(self, totals: np.ndarray, occurring: int | None = None) -> dict[str, np.ndarray]:
        return set_rates(totals, self.classes)

    def occurring(self, labels: np.ndarray) -> int:
        return int(labels.any(0).sum())

    def right(self, labels: np.ndarray, made: np.ndarray) -> np.ndarray:
        found: np.ndarray = (labels == made).all(-1)
        return found

    def wrong(self, labels: np.ndarray, made: np.ndarray, metric: str) -> np.ndarray:
        return ~self.right(labels, made) if metric == "accuracy" else 1 - row_f1(labels, made)

    def credit(self, labels: np.ndarray, made: np.ndarray, metric: str) -> np.ndarray:
        return self.right(labels, made).astype(np.int8) if metric == "accuracy" else row_f1(labels, made)

    def differs(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        found: np.ndarray = (one != other).any(-1)
        return found

    def by_class(self, labels: np.ndarray, metric: str) -> np.ndarray | None:
        return (
            None if metric in self.row_means else np.zeros(len(labels), np.int64)
        )  # one class: any change of a set counts


def all_rows(rows: int) -> Patterns:
    """Return every row as its own group, in one pattern: for the metrics of the data themselves."""
    return Patterns(np.arange(rows), np.zeros(rows, np.int64), np.ones(1, np.int64))


def score_sets(
    truth: Any,
    logits: Any,
    id2label: Mapping[Any, str],
    groups: Sequence[Any] | np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    *,
    unseen: Sequence[str] = (),
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Return all metrics of one set of predicted label sets, as `metrics.score` does for one label per row.

    truth: (n, C + U) bool over the C labels of `id2label` and U `unseen` ones, which are never predicted. logits: (n, C).
    thresholds: (C,). Log loss is the mean binary cross-entropy over rows and labels, in nats; the calibration error is that
    of all n C probabilities (15 bins). The majority baseline is the exact match of always predicting the most common set.
    """
    outputs = label_names(id2label)
    target = LabelSetTarget(len(outputs) + len(unseen))
    truth = target.checked(truth)
    logits = checked_logits(logits, len(truth), len(outputs))
    there = np.flatnonzero(truth[:, len(outputs) :].any(0)) + len(outputs)
    truth = truth[:, [*range(len(outputs)), *there.tolist()]]
    names = [*outputs, *(unseen[at - len(outputs)] for at in there.tolist())]
    target = LabelSetTarget(len(names))
    made, known = decided(logits, thresholds, len(names)), truth[:, : len(outputs)]
    totals = target.totals(all_rows(len(truth)), truth, made)[0]
    each = label_rates(totals, len(names))
    sets, numbers = LabelSets.of(truth)
    largest = int(np.bincount(numbers).argmax())
    result: dict[str, Any] = {"rows": len(truth)} | {name: float(value) for name, value in target.rates(totals).items()}
    result |= {
        "log_loss": float((np.logaddexp(0, logits) - logits * known).mean()),
        "expected_calibration_error": binned_error(sigmoid(logits).ravel(), known.ravel()),
        "majority_baseline": float((numbers == largest).mean()),
        "majority_label": shown(names_of(sets.members[largest : largest + 1], names)[0]),
        "per_class": {
            name: {rate: int(each[rate][at]) if rate == "support" else float(each[rate][at]) for rate in each}
            for at, name in enumerate(names)
        },
        "confusion_matrix": [],
        "thresholds": dict(zip(outputs, map(float, thresholds), strict=True)),
        "labels_per_row": {"true": float(truth.sum(1).mean()), "predicted": float(made.sum(1).mean())},
    }
    if len(there):
        result["unseen"] = {names[at]: int(each["support"][at]) for at in range(len(outputs), len(names))}
    if groups is not None:
        codes = group_codes(groups, len(truth))
        result["groups"] = int(codes.max()) + 1
        enough = result["groups"] > 1
        result["intervals"] = _intervals(target, truth, made, codes, resamples, seed) if enough else {}
    return result


def _intervals(
    target: LabelSetTarget, truth: np.ndarray, made: np.ndarray, codes: np.ndarray, resamples: int, seed: int
) -> dict[str, list[float]]:
    """Return 95 % intervals of `COUNTED_SETS`, by the bootstrap over groups of `metrics.score`."""
    found = patterns(target.contents(truth, made), codes)
    totals = target.totals(found, truth, made)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in COUNTED_SETS}
    for weights in group_weights(found, resamples, seed):
        values = target.rates(weights @ totals)
        for name in COUNTED_SETS:
            drawn[name].append(values[name])
    own = target.rates(found.multiplicity @ totals)
    df, intervals = group_df(np.bincount(codes)), {}
    for name in COUNTED_SETS:
        between = percentile(np.concatenate(drawn[name]), 0.95, df, found.groups)
        edge = edge_units(target.wrong(truth, made, name), codes, target.by_class(truth, name))
        intervals[name] = list(widened(between, float(own[name]), edge, 0.95))
    return intervals
