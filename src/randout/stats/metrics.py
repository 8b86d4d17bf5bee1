"""Accuracy, precision, recall, F1, calibration and confusion from labels and logits, with intervals over groups.

Every metric that counts rows is a function of confusion matrices `(..., C, C)`, rows = true label, columns =
predicted. One matrix product with bootstrap weights over groups then gives every metric of a resample, and thousands of
resamples need no loop over rows (`patterns`, `group_weights`).

Macro averages run over all C classes of `id2label`; a class that never occurs counts 0 (`zero_division` 0), also in
resamples. Balanced accuracy is that of scikit-learn: the mean recall over the classes among the true labels. In a
resample those are the classes of the whole data: if all occur, it equals macro recall and has the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from randout.core.errors import Failure, UserError

from .intervals import edge_units, group_df, percentile, widened

COUNTED = ("accuracy", "balanced_accuracy", "macro_precision", "macro_recall", "macro_f1")  # metrics with intervals
OVER_CLASSES = frozenset(COUNTED) - {"accuracy"}  # means over classes with equal weight, however rare
SELECTABLE = (*COUNTED, "weighted_f1", "log_loss", "expected_calibration_error")  # metrics that can select a checkpoint
OF_SETS = ("micro_f1", "sample_f1")  # the same, of label sets only
LOWER_IS_BETTER = frozenset({"log_loss", "expected_calibration_error"})
BLOCK = 4_000_000  # bootstrap weights in memory at a time: 32 MB


def better(metric: str, new: float, old: float | None) -> bool:
    """Return whether `new` is strictly better than `old` in a metric of `SELECTABLE` or `OF_SETS`; NaN and None are worst."""
    if metric not in (*SELECTABLE, *OF_SETS):
        raise UserError(f"Cannot select by {metric!r}. Available: {', '.join(SELECTABLE)}.")
    if math.isnan(new):
        return False
    if old is None or math.isnan(old):
        return True
    return new < old if metric in LOWER_IS_BETTER else new > old


def label_names(id2label: Mapping[Any, str]) -> list[str]:
    """Return the names of classes 0 to C-1; keys are integers or, after JSON, decimal strings."""
    by_id = {int(key): str(name) for key, name in id2label.items()}
    if sorted(by_id) != list(range(len(by_id))) or len(set(by_id.values())) != len(by_id) or not by_id:
        raise UserError(f"id2label: found {dict(id2label)!r}; expected distinct names for the classes 0 to C-1.")
    return [by_id[index] for index in range(len(by_id))]


def checked_labels(labels: Any, num_labels: int, what: str = "labels") -> np.ndarray:
    """Return labels `(n,)` as int64 in [0, num_labels). Raises UserError if there are none or one is outside."""
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{what}: one dimension of integers expected, found {array.dtype} {array.shape}")
    if not array.size:
        raise UserError("There are no rows to score.")
    if array.min() < 0 or array.max() >= num_labels:
        wrong = int(np.flatnonzero((array < 0) | (array >= num_labels))[0])
        raise UserError(f"{what}: row {wrong} is class {array[wrong]}, but there are {num_labels} classes.")
    return array.astype(np.int64)


def checked_logits(logits: Any, rows: int, num_labels: int) -> np.ndarray:
    """Return logits `(rows, num_labels)` as float64. Raises Failure if one is not finite."""
    array = np.asarray(logits, dtype=np.float64)
    if array.shape != (rows, num_labels):
        raise ValueError(f"logits of shape {(rows, num_labels)} expected, found {array.shape}")
    if not np.isfinite(array).all():
        wrong = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise Failure(f"The logits of row {wrong} are not finite: the model has diverged or its file is damaged.")
    return array


def confusion(labels: np.ndarray, predictions: np.ndarray, num_labels: int) -> np.ndarray:
    """Return the confusion matrix `(C, C)`, rows = true, columns = predicted."""
    return np.bincount(labels * num_labels + predictions, minlength=num_labels**2).reshape(num_labels, num_labels)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return above / below, and 0 where below is 0."""
    found: np.ndarray = np.divide(above, below, out=np.zeros(np.shape(above), np.float64), where=below != 0)
    return found


def class_rates(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Return precision, recall, f1 and support of each class, each `(..., C)`, from counts `(..., C, C)`."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    true, predicted = confusions.sum(-1), confusions.sum(-2)
    return {
        "precision": ratio(right, predicted),
        "recall": ratio(right, true),
        "f1": ratio(2 * right, true + predicted),
        "support": true,
    }


def rates(confusions: np.ndarray, occurring: int | None = None) -> dict[str, np.ndarray]:
    """Return the metrics of `COUNTED` and weighted_f1, each `(...)`, from counts `(..., C, C)` with at least one row each.

    occurring: the number of classes to average balanced accuracy over, for resamples: the number in the whole data. A
    class that a resample lacks counts 0, as in the macro averages. None: the classes that occur in the counts.
    """
    each = class_rates(confusions)
    support = each["support"]
    rows = support.sum(-1)
    return {
        "accuracy": np.trace(confusions, axis1=-2, axis2=-1) / rows,
        "balanced_accuracy": each["recall"].sum(-1) / (occurring or (support > 0).sum(-1)),
        "macro_precision": each["precision"].mean(-1),
        "macro_recall": each["recall"].mean(-1),
        "macro_f1": each["f1"].mean(-1),
        "weighted_f1": (each["f1"] * support).sum(-1) / rows,
    }


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the log-softmax over the last axis, in nats."""
    shifted = logits - logits.max(-1, keepdims=True)
    found: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return found


def calibration_error(labels: np.ndarray, logits: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error of the top label (Guo et al. 2017, eq. 3).

    sum over bins of |rows in bin| / n * |accuracy - mean confidence|; `bins` of equal width, ((k-1)/bins, k/bins].
    """
    return binned_error(top_label(logits), logits.argmax(-1) == labels, bins)


def top_label(logits: np.ndarray) -> np.ndarray:
    """Return the probability of the predicted class, (n,)."""
    found: np.ndarray = np.exp(log_probabilities(logits).max(-1))
    return found


def binned_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the calibration error from confidences (n,) and whether each row is right (n,)."""
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(which, right - confidence, minlength=bins)).sum() / len(confidence))


def group_codes(groups: Sequence[Any] | np.ndarray, rows: int) -> np.ndarray:
    """Return integer codes `(rows,)` from 0, in order of first appearance, for groups `(rows,)` of hashable values."""
    if len(groups) != rows:
        raise ValueError(f"{rows} groups expected, found {len(groups)}")
    if isinstance(groups, np.ndarray) and groups.ndim == 1 and groups.dtype.kind in "iu":  # same result, faster
        _, first, codes = np.unique(groups, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[codes]
    items = groups.tolist() if isinstance(groups, np.ndarray) else groups
    seen: dict[Any, int] = {}
    return np.array([seen.setdefault(item, len(seen)) for item in items], dtype=np.int64)


def compared_groups(groups: Sequence[Any] | np.ndarray, rows: int) -> np.ndarray:
    """Return the `group_codes` of rows that are compared. Raises UserError if there are fewer than two groups."""
    codes = group_codes(groups, rows)
    if not len(codes) or codes.max() < 1:
        raise UserError("All rows are in one group; a comparison needs at least two groups.")
    return codes


@dataclass(frozen=True)
class Patterns:
    """Groups reduced to their distinct contents.

    Groups whose rows hold the same cells are interchangeable for the bootstrap, so drawing G groups with replacement is
    one multinomial draw over patterns. If groups are single rows, 1e5 groups become a few patterns.
    """

    rows: np.ndarray  # (m,) the rows of one group of each pattern
    pattern: np.ndarray  # (m,) the pattern each of those rows belongs to
    multiplicity: np.ndarray  # (P,) number of groups of each pattern

    @property
    def groups(self) -> int:
        return int(self.multiplicity.sum())

    def counts(self, cells: np.ndarray, num_cells: int) -> sparse.csr_array:
        """Return `(P, num_cells)`: rows of each pattern in each cell, given the cell `(n,)` of every row of the data."""
        shape = (len(self.multiplicity), num_cells)
        return sparse.coo_array((np.ones(len(self.rows), np.int64), (self.pattern, cells[self.rows])), shape).tocsr()


def patterns(cells: np.ndarray, codes: np.ndarray) -> Patterns:
    """Collect groups with equal content into patterns.

    cells (n,): the cell of each row, which is all that the bootstrap uses; codes (n,): its group from `group_codes`.
    """
    order = np.lexsort((cells, codes))
    sizes = np.bincount(codes)
    ends = np.cumsum(sizes)
    in_order = np.ascontiguousarray(cells[order], dtype=np.int64)
    seen: dict[bytes, int] = {}
    kinds: list[int] = []
    kept: list[np.ndarray] = []
    for start, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
        kind = seen.setdefault(in_order[start:end].tobytes(), len(seen))
        if kind == len(kept):
            kept.append(order[start:end])
        kinds.append(kind)
    pattern = np.repeat(np.arange(len(kept)), [len(rows) for rows in kept])
    return Patterns(np.concatenate(kept), pattern, np.bincount(kinds))


def group_weights(found: Patterns, resamples: int, seed: int, most: int = BLOCK) -> Iterator[np.ndarray]:
    """Yield blocks `(block, P)` with the number of groups of each pattern in a resample; `resamples` rows in all.

    most: numbers in a block, unless one resample has more; it does not change what is drawn.
    """
    generator = np.random.default_rng(seed)
    chances = found.multiplicity / found.groups
    block = max(1, most // len(chances))
    for start in range(0, resamples, block):
        yield generator.multinomial(found.groups, chances, size=min(block, resamples - start))


def _intervals(
    labels: np.ndarray, predictions: np.ndarray, codes: np.ndarray, num_labels: int, resamples: int, seed: int
) -> dict[str, list[float]]:
    """Return 95 % intervals of `COUNTED`: percentiles of a bootstrap over groups, at least Wilson's near 0 and 1.

    If all rows have the same prediction, only accuracy has an interval.
    """
    cells = labels * num_labels + predictions
    found = patterns(cells, codes)
    counts = found.counts(cells, num_labels**2)
    occurring = len(np.unique(labels))
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in COUNTED}
    for weights in group_weights(found, resamples, seed):
        values = rates((weights @ counts).reshape(-1, num_labels, num_labels), occurring)
        for name in COUNTED:
            drawn[name].append(values[name])
    own = rates(confusion(labels, predictions, num_labels))
    df, wrong = group_df(np.bincount(codes)), predictions != labels
    edges = {False: edge_units(wrong, codes), True: edge_units(wrong, codes, labels)}
    intervals = {}
    constant = len(np.unique(predictions)) == 1
    for name in (name for name in COUNTED if not (constant and name in OVER_CLASSES)):
        between = percentile(np.concatenate(drawn[name]), 0.95, df, found.groups)
        intervals[name] = list(widened(between, float(own[name]), edges[name in OVER_CLASSES], 0.95))
    return intervals


def score(
    labels: Any,
    logits: Any,
    id2label: Mapping[Any, str],
    groups: Sequence[Any] | np.ndarray | None = None,
    resamples: int = 2000,
    seed: int = 0,
    *,
    unseen: Sequence[str] = (),
) -> dict[str, Any]:
    """Return all metrics of one set of predictions, ready for JSON; fractions in [0, 1], log loss in nats.

    labels: `(n,)` integers; logits: `(n, C)`; the prediction is the first largest logit. With groups `(n,)` (rows of a
    group are drawn together), the result also has `groups`, their number, and `intervals`: {metric: [low, high]} at 95 %
    from a bootstrap over groups; `intervals` is empty for fewer than two groups. A metric without an interval for another
    reason is in `no_interval`: {metric: reason}. These are the means over classes of a model that predicts one class for
    all rows: the recall of each class is then 1 or 0 in every resample, whatever it may be on other rows.
    unseen: labels C, C+1, ... of rows for which the model has no output. These rows always count as wrong, in every
    metric but the log loss, which covers the other rows; `unseen` gives the number of rows of each label.
    Raises UserError for no rows or a label outside `id2label` and `unseen`, Failure for logits that are not finite.
    """
    outputs = label_names(id2label)
    labels = checked_labels(labels, len(outputs) + len(unseen))
    logits = checked_logits(logits, len(labels), len(outputs))
    known = labels < len(outputs)
    if not known.any():
        raise UserError("There are no rows to score with a class that the model has learned.")
    there, place = np.unique(labels[~known], return_inverse=True)
    labels = np.where(known, labels, 0)
    labels[~known] = len(outputs) + place
    names = [*outputs, *(unseen[at - len(outputs)] for at in there.tolist())]
    size = len(names)
    predictions = logits.argmax(-1)
    counts = confusion(labels, predictions, size)
    each = class_rates(counts)
    largest = int(each["support"].argmax())
    result: dict[str, Any] = {"rows": len(labels)} | {name: float(value) for name, value in rates(counts).items()}
    result |= {
        "log_loss": float(-log_probabilities(logits)[known, labels[known]].mean()),
        "expected_calibration_error": calibration_error(labels, logits),
        "majority_baseline": float(each["support"][largest] / len(labels)),
        "majority_label": names[largest],
        "per_class": {name: {rate: each[rate][at].item() for rate in each} for at, name in enumerate(names)},
        "confusion_matrix": counts.tolist(),
    }
    if len(there):
        result["unseen"] = {names[at]: int(each["support"][at]) for at in range(len(outputs), size)}
    if groups is not None:
        codes = group_codes(groups, len(labels))
        result["groups"] = int(codes.max()) + 1
        enough = result["groups"] > 1
        result["intervals"] = _intervals(labels, predictions, codes, size, resamples, seed) if enough else {}
        if without := [name for name in COUNTED if enough and name not in result["intervals"]]:
            reason = f"all rows are predicted {names[predictions[0]]!r}, and resampling them cannot show how "
            reason += "the recall of each class would vary"
            result["no_interval"] = dict.fromkeys(without, reason)
    return result
