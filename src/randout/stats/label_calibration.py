"""A probability for each label from out-of-fold scores, and whether the scores say anything about the label.

One temperature for all labels, as in `temperature`, does not correct scores whose zero is not the point of equal odds, which
differs by label. Two numbers for each label do (Platt 1999).
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from .label_set_scores import sigmoid


def platt(scores: np.ndarray, has: np.ndarray) -> np.ndarray:
    """Return (n,) the probability to have a label, sigmoid(a * score + b), with a and b of the highest likelihood.

    scores: (n,). has: (n,) bool. The targets of the fit are (n1 + 1) / (n1 + 2) for the n1 rows with the label and 1 / (n0 + 2)
    for the n0 others, which bounds a where scores separate both (Platt 1999, section 2.2).
    """
    scale = float(np.std(scores)) or 1.0
    scaled = (scores - scores.mean()) / scale
    ones = int(has.sum())
    target = np.where(has, (ones + 1) / (ones + 2), 1 / (len(has) - ones + 2))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = parameters[0] * scaled + parameters[1]
        error = sigmoid(logits) - target
        value = np.logaddexp(0, logits) - target * logits
        return float(value.mean()), np.array([(error * scaled).mean(), error.mean()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True).x
    found: np.ndarray = sigmoid(slope * scaled + offset)
    return found


def explained(probability: np.ndarray, has: np.ndarray) -> float:
    """Return the share of the uncertainty about a label that probabilities explain, adjusted for one fitted parameter.

    1 - (L + 1) / L0 (McFadden's adjusted pseudo R squared), with the negative log-likelihood L of the rows in nats, and L0 that
    of the label's share. About 0 or less for a model that learned nothing; 0 for a label that all rows have or lack.
    probability: (n,), to have the label. has: (n,) bool.
    """
    share = has.mean()
    if share in (0, 1):
        return 0.0
    least = np.finfo(np.float64).tiny
    found = -np.log(np.maximum(np.where(has, probability, 1 - probability), least)).sum()
    alone = -len(has) * (share * np.log(share) + (1 - share) * np.log(1 - share))
    return float(1 - (found + 1) / alone)
