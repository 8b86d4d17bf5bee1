"""One temperature for predictions that are too sure or too unsure (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

from .label_set_scores import sigmoid
from .metrics import binned_error, calibration_error, log_probabilities

BOUNDS = (0.1, 10.0)
# The rows that are wrong say how sure the predictions may be, and those that are right how unsure. In a simulation
# (docs/log.md, 2026-11-26), a temperature fitted with 0 or 1 wrong rows costs 0.2 to 1.4 nats a text. With at least 5 it
# costs at most 0.03 where there is nothing to gain, and saves up to 0.46 if predictions are too sharp.
LEAST = 5  # predictions: rows, or of label sets decisions on single labels


@dataclass(frozen=True)
class Calibration:
    """How well predictions fit gold labels, before and after division of their logits by a temperature.

    rows: n. decisions: n, or of label sets n C, one for each row and label. wrong: decisions that are wrong: rows whose most
    probable class is not the label, or labels whose probability is on the other side of 1/2. log_loss: mean negative
    log-likelihood of a decision in nats. calibration_error: expected, of the most probable class, or of all probabilities of
    label sets. fitted: whether the temperature was fitted on these rows.
    """

    temperature: float
    rows: int
    decisions: int
    wrong: int
    log_loss: tuple[float, float]
    calibration_error: tuple[float, float]
    fitted: bool


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> float:
    """Return the mean negative log-likelihood of gold labels at temperature t, in nats; logits: (n, C).

    Labels (n,): -log softmax(logits / t)[label], over rows. Label sets (n, C) bool: with p = sigmoid(logits / t), -log p for a
    label that the row has and -log(1 - p) for another, over rows and labels.
    """
    if labels.ndim == 2:
        scaled = logits / temperature
        return float((np.logaddexp(0, scaled) - scaled * labels).mean())
    return float(-log_probabilities(logits / temperature)[np.arange(len(labels)), labels].mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return t* = argmin over t of `log_loss`, within `BOUNDS`. The loss is convex in 1 / t, so the minimum is unique."""
    found = minimize_scalar(
        lambda log_t: log_loss(logits, labels, float(np.exp(log_t))),
        bounds=tuple(np.log(BOUNDS)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibrate(logits: np.ndarray, labels: np.ndarray, temperature: float | None = None) -> Calibration:
    """Fit one temperature on rows with gold labels, or report what a given one does.

    logits: (n, C). labels: (n,), or (n, C) bool of label sets. temperature: the given one; None: fitted if at least `LEAST`
    decisions are right and `LEAST` are wrong, else 1.
    """
    wrong = int(((logits > 0) != labels).sum() if labels.ndim == 2 else (logits.argmax(1) != labels).sum())
    fitted = temperature is None and min(wrong, labels.size - wrong) >= LEAST
    t = fit_temperature(logits, labels) if fitted else 1.0 if temperature is None else temperature
    scaled = (logits, logits / t)
    losses = [log_loss(one, labels) for one in scaled]
    errors = [
        binned_error(sigmoid(one).ravel(), labels.ravel()) if labels.ndim == 2 else calibration_error(labels, one)
        for one in scaled
    ]
    return Calibration(t, len(labels), labels.size, wrong, (losses[0], losses[1]), (errors[0], errors[1]), fitted)
