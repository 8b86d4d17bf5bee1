"""Rules that detect a model that learned nothing, stopped too early, or has a teacher with permuted labels.

Every rule is a function of predictions or scores and returns a `Finding` or None. Nothing is trained or read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtr

from randout.core.errors import UserError
from randout.core.label_sets import names_of, shown
from randout.core.wording import plural, unseen_words

from .metrics import (
    COUNTED,
    LOWER_IS_BETTER,
    OF_SETS,
    better,
    binned_error,
    calibration_error,
    confusion,
    rates,
    top_label,
)
from .paired import Paired, paired_difference

ONE_CLASS = 0.95  # a model that predicts one class for this share of rows is examined
FEW_OTHERS = 0.25  # of the rows of other classes: a model that predicts no more of them predicts one class only
ENOUGH_OTHERS = 5  # minimum of rows of other classes for a conclusion
ENOUGH_ROWS = 10  # minimum of rows of a class to report that it is never predicted
FEW_STEPS = 200  # below so many optimizer steps, a model that learned nothing counts as undertrained
MOST_EPOCHS = 50  # maximum to suggest for an undertrained model
LEAST_RISE = 0.005  # minimum gain in score in the last epoch for training to count as unfinished
LEAST_FALL = 0.02  # the same for log loss or calibration error, relative
RESAMPLES = 2000
SIMULATIONS = 400  # number of simulations of a calibrated model
MISCALIBRATED = 0.15  # expected calibration error above which probabilities are misleading
LEVEL = 0.025  # one-sided: the upper end of an exact 95 % interval

Majority = int | np.ndarray  # the largest class, or the most common label set (C,) bool

KINDS = {  # kind -> title in a report
    "one-class": "Predicts one class only",
    "never-predicted": "Some classes are never predicted",
    "majority": "Not above the majority class",
    "baseline": "Below the bag-of-words baseline",
    "unseen": "Rows with labels that no training row has",
    "calibration": "Probabilities are poorly calibrated",
    "still-improving": "Still improving when training ended",
    "weak-teacher": "The teacher has little to teach",
    "no-teacher": "Trained without a teacher",
    "models": "Runs of one arm with different models",
}


@dataclass(frozen=True)
class Finding:
    """A warning about a model. kind: a key of `KINDS`. split: the rows that it concerns; empty for the whole run."""

    kind: str
    message: str
    split: str = ""


class HasMessage(Protocol):
    """A finding, or a warning as it is stored."""

    @property
    def message(self) -> str: ...


def messages(warnings: Sequence[HasMessage], name: str = "") -> list[str]:
    """Return warnings as lines. name: of the model, if there are several."""
    return [f"{name}: {one.message}" if name else one.message for one in warnings]


def metric_for(selected: str) -> str:
    """Return the metric that compares a model with its baselines: the one that selected it, else accuracy."""
    return selected if selected in (*COUNTED, *OF_SETS) else "accuracy"


def of_split(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    majority: Majority,
    *,
    metric: str = "accuracy",
    baseline: Mapping[str, Any] | None = None,
    logits: np.ndarray | None = None,
    split: str,
    hint: str = "",
    unseen_rows: Mapping[str, int] | None = None,
    smoothing: float = 0.0,
) -> list[Finding]:
    """Return the warnings about the predictions of one split.

    labels, predicted: (n,) class index, or (n, C) bool of label sets; groups: (n,); majority: the largest class of the training
    rows, or their most common set. baseline: as
    `baselines.reference.scores_of` returns it. logits: (n, C), for the calibration; None: not checked. hint: what to do
    about a model that learned nothing; appended to the first finding. unseen_rows: as `metrics.score` returns `unseen`;
    names of these labels come last. smoothing: label smoothing that the model was trained with.
    """
    learnt = len(names) - len(unseen_rows or {})
    found = [
        _one_class(confusion(labels, predicted, len(names)), names, split, learnt)
        if labels.ndim == 1
        else _one_set(labels, predicted, names, split, learnt),
        _majority(labels, predicted, groups, names, majority, metric, split),
        _baseline(baseline, metric, split),
    ]
    kept = [finding for finding in found if finding is not None]
    if kept and hint:
        kept[0] = Finding(kept[0].kind, f"{kept[0].message} {hint}", split)
    poor = calibration(labels, logits, groups, split, smoothing) if logits is not None and labels.ndim == 1 else None
    return [*kept, *filter(None, (unseen(unseen_rows, split), poor))]


def unseen(rows: Mapping[str, int] | None, split: str) -> Finding | None:
    """Warn about rows whose label the model has not learned. rows: number of rows by such label."""
    if not rows:
        return None
    todo = "Add training rows with these labels, or correct labels that are misspelt class names"
    return Finding("unseen", f"{unseen_words(rows, split)}. {todo}.", split)


def calibration(
    labels: np.ndarray, logits: np.ndarray, groups: np.ndarray, split: str, smoothing: float = 0.0
) -> Finding | None:
    """Warn about probabilities that are far from the share of correct predictions.

    The expected calibration error is above 15 % and above what a small sample explains: the 97.5 % quantile of the error
    of a perfectly calibrated model with the same confidences, simulated with whole groups right or wrong
    (Vaicenavicius et al. 2019, section 4). labels: (n,); logits: (n, C); groups: (n,).
    """
    error = calibration_error(labels, logits)
    if error <= MISCALIBRATED:
        return None
    confidence, right = top_label(logits), logits.argmax(-1) == labels
    codes = np.unique(groups, return_inverse=True)[1]
    draws = np.random.default_rng(0)
    chance = [
        binned_error(confidence, draws.random(int(codes.max()) + 1)[codes] < confidence) for _ in range(SIMULATIONS)
    ]
    if error <= np.quantile(chance, 1 - LEVEL):
        return None
    claimed, share = float(confidence.mean()), float(right.mean())
    text = f"Probabilities on {split} are poorly calibrated: they differ from how often the model is right by "
    text += f"{100 * error:.1f} points on average (mean confidence {claimed:.1%}, accuracy {share:.1%}). "
    more = f"{min(0.3, 2 * smoothing):g} (it was {smoothing:g})" if smoothing else "0.1"
    todo = f"less confident, train with --set ce.label_smoothing={more}"
    text += "Use scores to rank texts, not as probabilities. "
    text += f"To make the model {todo if claimed > share else 'more confident, train for more epochs'}."
    return Finding("calibration", text, split)


def _one_class(counts: np.ndarray, names: Sequence[str], split: str, learnt: int) -> Finding | None:
    """Warn about one class for (almost) all rows, else about classes with enough rows that are never predicted.

    counts: (C, C) confusion matrix. learnt: number of classes that the model has outputs for; they come first.
    """
    rows, true, predicted = int(counts.sum()), counts.sum(1), counts.sum(0)
    top = int(predicted.argmax())
    others, others_true = rows - int(predicted[top]), rows - int(true[top])
    few = others <= (1 - ONE_CLASS) * rows and others <= FEW_OTHERS * others_true
    if few and others_true >= ENOUGH_OTHERS:
        every = "every row" if not others else f"{predicted[top] / rows:.1%} of the {rows:,} rows"
        text = f"predicts {names[top]!r} for {every} of {split}, where {true[top] / rows:.1%} of the rows belong to it."
        return Finding("one-class", f"The model {text}", split)
    return _never(names, true, np.flatnonzero(predicted[:learnt] == 0).tolist(), split)


def _one_set(
    labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], split: str, learnt: int
) -> Finding | None:
    """Warn about one label set for all rows, else about labels with enough rows that are never predicted."""
    if len(predicted) > 1 and not (predicted != predicted[0]).any() and (labels != labels[0]).any():
        made = shown(names_of(predicted[:1], names)[0])
        return Finding("one-class", f"The model predicts {made!r} for every row of {split}.", split)
    true = labels.sum(0)
    return _never(names, true, [at for at in range(learnt) if not predicted[:, at].any()], split)


def _never(names: Sequence[str], true: np.ndarray, absent: Sequence[int], split: str) -> Finding | None:
    """Warn about the classes among `absent`, which are never predicted, that have enough rows. true: (C,) rows."""
    never = [at for at in absent if true[at] >= ENOUGH_ROWS]
    if not never:
        return None
    listed = ", ".join(f"{names[at]!r} ({plural(true[at], 'row')})" for at in never[:5])
    more = f" and {len(never) - 5} more classes" if len(never) > 5 else ""
    return Finding("never-predicted", f"On {split} the model never predicts {listed}{more}.", split)


def compared(
    labels: np.ndarray, one: np.ndarray, other: np.ndarray, groups: np.ndarray, classes: int, metric: str
) -> Paired | None:
    """Return metric(other) - metric(one) with its interval over groups; None for a single group, which has no interval."""
    try:
        return paired_difference(labels, one, other, groups, classes, metric, resamples=RESAMPLES)
    except UserError:
        return None


def _majority(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    majority: Majority,
    metric: str,
    split: str,
) -> Finding | None:
    pair = compared(labels, np.full_like(labels, majority), predicted, groups, len(names), metric)
    if pair is None or pair.low > 0:
        return None
    if isinstance(majority, int):
        which, always = "majority class", names[majority]
    else:
        which, always = "most common label set", shown(names_of(majority[None], names)[0])
    text = f"{title(metric)} on {split}, {pair.value_b:.1%}, is not {clearly(pair.estimate)}above that of the {which} "
    text += f"({always!r}, {pair.value_a:.1%}): {points(pair.estimate, pair.low, pair.high)}."
    return Finding("majority", text, split)


def _baseline(baseline: Mapping[str, Any] | None, metric: str, split: str) -> Finding | None:
    pair = (baseline or {}).get("difference")
    if baseline is None or pair is None or pair["high"] >= 0:
        return None
    text = f"{title(metric)} on {split} is below that of a bag-of-words baseline ({baseline[metric]:.1%}): "
    return Finding("baseline", f"{text}{points(pair['estimate'], pair['low'], pair['high'])}.", split)


def clearly(estimate: float) -> str:
    """Return "clearly " for "not clearly above", if the difference is above 0 but chance may explain it; else ""."""
    return "clearly " if estimate > 0 else ""


def title(metric: str) -> str:
    named = metric_name(metric)
    return named[0].upper() + named[1:]


def metric_name(metric: str) -> str:
    """Return the name of a metric inside a sentence: "macro F1"."""
    return metric.replace("_f1", " F1").replace("_", " ")


def in_metric(metric: str) -> str:
    """Return the name of a metric before its value in a message; "" for accuracy."""
    return "" if metric == "accuracy" else f"{metric_name(metric)} "


def points(estimate: float, low: float, high: float) -> str:
    return f"difference {100 * estimate:+.1f} points, 95 % interval [{100 * low:+.1f}, {100 * high:+.1f}]"


def majority_scores(counts: np.ndarray, majority: int) -> dict[str, float]:
    """Return the metrics of always predicting one class. counts: (C, C) confusion matrix of any model on the same rows."""
    always = np.zeros_like(counts)
    always[:, majority] = counts.sum(1)
    return {name: float(value) for name, value in rates(always).items()}


def still_improving(history: Mapping[str, Any], metric: str, rows: int, usual: int = 0) -> Finding | None:
    """Warn if the last epoch had the best validation score by a clear margin, and training ended by the epoch limit.

    A clear margin is at least half a point and one standard error of a share of `rows` validation rows, or 2 % of a loss.
    A single epoch has no earlier one to compare with, so it gives no warning. usual: the epochs of "auto"; at least as
    many are suggested.
    """
    epochs = history.get("epochs") or []
    if len(epochs) < 2 or history.get("best_epoch") != epochs[-1]["epoch"]:
        return None
    if not str(history.get("ended", "")).startswith("all"):
        return None
    values = [epoch.get(f"validation_{metric}") for epoch in epochs]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    before = values[0]
    for value in values[1:-1]:
        before = value if better(metric, value, before) else before
    last, loss = values[-1], metric in LOWER_IS_BETTER
    share = min(max(last, 0.0), 1.0)
    least = LEAST_FALL * before if loss else max(LEAST_RISE, math.sqrt(share * (1 - share) / max(rows, 1)))
    if (before - last if loss else last - before) < least:
        return None
    count = int(epochs[-1]["epoch"])
    way = f"{before:.4f} to {last:.4f}" if loss else f"{before:.1%} to {last:.1%}"
    text = f"Validation {metric_name(metric)} was still improving in the last of {count} epochs ({way}). "
    return Finding("still-improving", f"{text}Train longer: --set epochs={max(2 * count, usual)}.")


def hint(history: Mapping[str, Any], usual: int = 0) -> str:
    """Return what to do about a model that learned nothing: more epochs, if it had few optimizer steps.

    usual: the epochs of "auto"; at least as many are suggested.
    """
    epochs = history.get("epochs") or []
    if not epochs or history.get("ended") == "fitted":
        return "Check that each text has its own label."
    steps, count = int(epochs[-1]["step"]), int(epochs[-1].get("epoch", len(epochs)))
    more = max(min(MOST_EPOCHS, math.ceil(count * FEW_STEPS / max(steps, 1))), usual)
    if steps < FEW_STEPS and more > count:
        return f"It had only {plural(steps, 'optimizer step')}. Train longer: --set epochs={more}."
    return "Check that each text has its own label, and try other learning rates."


def weak_teacher(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    majority: Majority,
    teacher: str,
    metric: str = "accuracy",
) -> Finding | None:
    """Warn about a teacher whose interval on validation is not above the majority class of the training rows."""
    pair = compared(labels, np.full_like(labels, majority), predicted, groups, len(names), metric)
    if pair is None or pair.low > 0:
        return None
    text = (
        f"The teacher {teacher} ({in_metric(metric)}{pair.value_b:.1%} on validation) is not {clearly(pair.estimate)}"
    )
    which = "majority class" if isinstance(majority, int) else "most common label set"
    text += f"above the {which} ({pair.value_a:.1%}), so there is little to learn from it."
    return Finding("weak-teacher", text)


def check_teacher(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    columns: Sequence[int],
    teacher: str,
) -> None:
    """Raise UserError for a teacher below chance on validation, with the order of labels that would fit.

    Arguments as in `check_order`.
    """
    check_order(labels, predicted, groups, names, columns, f"teacher {teacher}", "validation rows", "--teacher-labels")
    right, chance = predicted == labels, 1 / len(names)
    if _below_chance(right, groups, chance):
        raise UserError(
            f"The teacher {teacher} is right on {right.mean():.1%} of the {len(labels):,} validation rows, which is below "
            f"chance (1 in {len(names)}), so it cannot be used. Check that its labels mean the same as those of the data, or "
            "name another teacher"
        )


def check_order(
    labels: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    columns: Sequence[int],
    who: str,
    rows: str,
    option: str,
) -> None:
    """Raise UserError for a model below chance whose outputs would be right in another order.

    labels, predicted: (n,) class index; columns: (C,) the model's output that is used for each class. Below chance: an
    exact 95 % interval of the accuracy, over groups, ends below 1 / C. The suggested order is the assignment of outputs
    to classes with the most correct rows. It is given only if it is above the majority class, by interval, and correct
    on half the rows of the classes that it moves. If only some classes are permuted, only their rows are examined. who,
    rows, option: the model, the rows and the option that sets the order, for the message.
    """
    classes = len(names)
    counts = confusion(labels, predicted, classes)
    ties = np.eye(classes, dtype=np.int64)  # on ties, a class keeps its output
    _, outputs = linear_sum_assignment(
        counts * (classes + 1) + ties, maximize=True
    )  # class -> the class that it is predicted as
    moved = outputs != np.arange(classes)
    apart = moved[labels]
    renamed = np.empty(classes, np.int64)
    renamed[outputs] = np.arange(classes)  # predicted class -> the class it stands for
    right = predicted == labels
    fits = False
    if apart.any() and (renamed[predicted[apart]] == labels[apart]).mean() >= 0.5:
        always = np.full_like(labels, np.bincount(labels, minlength=classes).argmax())
        pair = compared(labels, always, renamed[predicted], groups, classes, "accuracy")
        fits = pair is not None and pair.low > 0 and _below_chance(right[apart], groups[apart], 1 / classes)
    if not fits:
        return
    order = [""] * classes
    for wanted, output in enumerate(outputs.tolist()):
        order[columns[output]] = names[wanted]
    text = f"The {who} is right on {right.mean():.1%} of the {len(labels):,} {rows}, which is below "
    if not _below_chance(right, groups, 1 / classes):
        text = _partial_message(who, rows, names, moved, right[apart])
    raise UserError(
        f"{text}chance: the order of its labels is wrong. With its outputs named {','.join(order)}, it would be right on "
        f"{(renamed[predicted] == labels).mean():.1%}. Name them in the order of the {who.split()[0]}'s outputs: "
        f"{option} {_quoted(order)}"
    )


def _partial_message(who: str, rows: str, names: Sequence[str], moved: np.ndarray, right: np.ndarray) -> str:
    listed = ", ".join(names[at] for at in np.flatnonzero(moved).tolist())
    return f"The {who} is right on {right.mean():.1%} of the {rows} of {listed}, which is below "


def _quoted(order: Sequence[str]) -> str:
    text = ",".join(order)
    return f'"{text}"' if any(not (letter.isalnum() or letter in ",_-.") for letter in text) else text


def _below_chance(right: np.ndarray, groups: np.ndarray, chance: float) -> bool:
    """Return whether so few correct rows have a probability of at most 2.5 % under chance; uses one row per group."""
    first = np.unique(groups, return_index=True)[1]
    return bool(bdtr(int(right[first].sum()), len(first), chance) <= LEVEL)
