"""Student and teacher side by side on the same held-out rows: difference, sizes and speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from randout.baselines import reference
from randout.stats.diagnostics import compared, metric_for
from randout.stats.multiplicity import GROUPS_NEEDED
from randout.stats.noninferiority import rows_to_decide, rows_to_differ
from randout.stats.targets import classes_of, most_frequent, predicted, rates_of, target_of
from randout.storage.metrics_record import Estimate, Gap, MetricGap, TeacherGap

from .thresholds import Thresholds

if TYPE_CHECKING:
    from .plan import Plan

Limits = tuple[Thresholds, Thresholds]  # of student and teacher
NO_LIMITS: Limits = (None, None)
MARGIN = 0.02  # of a metric: a student that is worse by less than this matches its teacher
TIMED_ROWS = 32
ROUNDS = 5
TIMED_SECONDS = 2.0


def teacher_gap(
    plan: Plan, student: np.ndarray, teacher: np.ndarray, split: str = "validation", limits: Limits = NO_LIMITS
) -> TeacherGap | None:
    """Compare student and teacher on the rows of a held-out split.

    student, teacher: (n, C) logits of the rows, in their order; rows for which the teacher has none (NaN) are left out.
    limits: the thresholds of both, for multi-label data. Returns None if no row is left, else both accuracies, the difference
    "student minus teacher" with its 95 % interval over groups, and a verdict: "better", "matches" (worse by less than
    `MARGIN`: the lower end of the 90 % interval, a one-sided test at 5 %), "worse", or "undecided". If the run uses another
    metric, `primary` holds the same for it. `over_majority` is the teacher minus the majority class, in the run's metric.
    """
    known = ~np.isnan(teacher).any(1)
    if not known.any():
        return None
    rows, student, teacher = plan.dataset.split[split][known], student[known], teacher[known]
    labels, groups = plan.dataset.truth(rows), plan.dataset.groups[rows]
    classes = classes_of(labels, student.shape[1])  # labels without a training row come last
    made = (predicted(student, limits[0], classes), predicted(teacher, limits[1], classes))

    def gap(metric: str) -> Gap:
        return _gap(labels, *made, groups, classes, metric)

    accuracy, metric = gap("accuracy"), metric_for(plan.config.train.metric)
    found = TeacherGap(
        rows=len(rows),
        margin=MARGIN,
        student_accuracy=accuracy.student,
        teacher_accuracy=accuracy.teacher,
        verdict=accuracy.verdict,
    )
    if accuracy.difference is not None:
        found.difference, found.low, found.high = accuracy.difference, accuracy.low, accuracy.high
    if accuracy.verdict == "undecided":
        found.needed, found.differing, found.groups = accuracy.needed, accuracy.differing, accuracy.groups
    if metric != "accuracy":
        found.primary = MetricGap.model_validate({"metric": metric} | gap(metric).as_json())
    always = np.full_like(labels, most_frequent(plan.dataset.truth(plan.dataset.split["train"]), classes))
    if pair := compared(labels, always, made[1], groups, classes, metric):
        found.over_majority = Estimate(estimate=pair.estimate, low=pair.low, high=pair.high)
    return found


def judged_teacher_gap(
    plan: Plan, student: np.ndarray, teacher: np.ndarray, split: str, limits: Limits = NO_LIMITS
) -> TeacherGap | None:
    """Return `teacher_gap` with `over_baseline`, if the teacher has logits for all rows and the student has a baseline."""
    found = teacher_gap(plan, student, teacher, split, limits)
    rows = plan.dataset.split[split]
    if found is None or found.rows < len(rows) or not plan.student.with_reference:
        return found
    labels, groups = plan.dataset.truth(rows), plan.dataset.groups[rows]
    metric = metric_for(plan.config.train.metric)
    made = predicted(teacher, limits[1], classes_of(labels, teacher.shape[1]))
    base = reference.scores_of(plan.dataset_of_model(split), split, labels, made, groups, metric)
    if base and base["difference"]:
        found.over_baseline = Estimate.model_validate(base["difference"])
    return found


def _gap(
    labels: np.ndarray, student: np.ndarray, teacher: np.ndarray, groups: np.ndarray, classes: int, metric: str
) -> Gap:
    """Compare in one metric, from predictions (n,)."""
    mine, its = (rates_of(labels, made, classes)[metric] for made in (student, teacher))
    found = Gap(student=mine, teacher=its, verdict="undecided")
    pair = compared(labels, teacher, student, groups, classes, metric)
    if pair is None:  # a single group has no interval
        return found
    found.difference, found.low, found.high = pair.estimate, pair.low, pair.high
    if pair.groups >= GROUPS_NEEDED:
        matches = "matches" if pair.low90 > -MARGIN else "worse" if pair.high < 0 else "undecided"
        found.verdict = "better" if pair.low > 0 else matches
    if found.verdict == "undecided":
        target = target_of(labels, classes)
        found.groups = pair.groups
        found.differing = int((target.right(labels, student) != target.right(labels, teacher)).sum())
        found.needed = _rows_needed(len(labels), pair.standard_error, pair.estimate) if found.differing else None
    return found


def _rows_needed(rows: int, standard_error: float, difference: float) -> int | None:
    """Return how many rows like these decide "matches" or "worse" with 80 % power, if the difference stays as it is."""
    matches = rows_to_decide(rows, standard_error, difference, MARGIN)
    worse = rows_to_differ(rows, standard_error, difference) if difference < 0 else None
    needed = min((one for one in (matches, worse) if one), default=None)
    return needed if needed and needed > rows else None


def texts_per_second(
    models: Mapping[str, Callable[[np.ndarray], Any]], rows: np.ndarray, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Measure the texts per second of each model on up to `TIMED_ROWS` rows, after a warm-up pass.

    They take turns, and the fastest pass of each counts, so that other work on the machine affects all alike. There are
    `ROUNDS` rounds, fewer if they take longer than `TIMED_SECONDS` together.
    """
    rows = rows[:TIMED_ROWS]
    for logits in models.values():
        logits(rows[:8])
    fastest, start = dict.fromkeys(models, math.inf), clock()
    for _ in range(ROUNDS):
        for name, logits in models.items():
            began = clock()
            logits(rows)
            fastest[name] = min(fastest[name], clock() - began)
        if clock() - start > TIMED_SECONDS:
            break
    return {name: len(rows) / max(seconds, 1e-9) for name, seconds in fastest.items()}
