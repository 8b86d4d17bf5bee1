"""The risk-coverage curve: what labelling only the most confident rows gives.

A classifier that abstains labels only the texts whose confidence is at least a threshold. Coverage is the share of texts
with a label, risk the share of errors among these (El-Yaniv and Wiener 2010). A label set is an error unless all of it is right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .abstention import LEVEL, CoveragePoint
from .intervals import share_interval
from .label_set_scores import decided, set_probability, sigmoid
from .metrics import group_codes, top_label

POINTS = 100  # most thresholds of a curve, evenly spaced in coverage


def coverage_curve(confidence: np.ndarray, right: np.ndarray, groups: np.ndarray) -> tuple[CoveragePoint, ...]:
    """Return the points of the curve from small to full coverage, at most `POINTS`; none for no rows.

    confidence, right: (n,), groups: (n,) equal for rows that are not independent. Rows of the same confidence are accepted
    together. The intervals are those of `intervals.share_interval`.
    """
    n = len(confidence)
    order = np.argsort(-confidence, kind="stable")
    sure, wrong = confidence[order], ~np.asarray(right, dtype=bool)[order]
    codes = group_codes(groups, n)[order] if n else np.zeros(0, np.int64)
    ends = np.flatnonzero(np.append(np.diff(sure) != 0, True)) + 1 if n else np.zeros(0, np.int64)  # rows at each value
    wanted = np.unique(np.ceil(np.arange(1, POINTS + 1) * n / POINTS).astype(np.int64))
    found = []
    for k in dict.fromkeys(ends[np.searchsorted(ends, wanted[wanted > 0])].tolist()):
        low, high = share_interval(wrong[:k], np.unique(codes[:k], return_inverse=True)[1], LEVEL)
        found.append(CoveragePoint(float(sure[k - 1]), k, k / n, float(1 - wrong[:k].mean()), low, high))
    return tuple(found)


def risk_area(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the area under the risk-coverage curve: the mean over k = 1..n of the error of the k most confident rows.

    Rows of the same confidence count with their mean error (Geifman et al. 2019, section 3).
    """
    n = len(confidence)
    values, place = np.unique(-confidence, return_inverse=True)
    wrong = np.bincount(place, ~np.asarray(right, dtype=bool), len(values)) / np.bincount(place, minlength=len(values))
    errors = wrong[np.sort(place)]  # (n,) expected error of each row in order of confidence
    return float((np.cumsum(errors) / np.arange(1, n + 1)).mean())


def confidences(logits: np.ndarray, temperature: float, thresholds: Sequence[float] | np.ndarray | None) -> np.ndarray:
    """Return (n,) the calibrated probability of each prediction, from logits z (n, C) and a temperature t.

    One label, thresholds None: the largest of softmax(z / t). Label sets, thresholds (C,), or (n, C) by row: the probability of
    the whole set, with labels taken as independent given the text,

        prod_c p_c if label c is predicted, else 1 - p_c        p = sigmoid(z / t)

    The predicted labels are those with sigmoid(z_c) above their threshold, at any t.
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    return top_label(scaled) if thresholds is None else set_probability(sigmoid(scaled), decided(logits, thresholds))
