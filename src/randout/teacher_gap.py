"""How far a student is from its teacher: both on the same validation rows, their sizes, and how fast they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .diagnostics import RESAMPLES
from .errors import UserError
from .families import GROUPS_NEEDED
from .statistics import paired_difference

if TYPE_CHECKING:
    from .prepare import Plan

MARGIN = 0.02  # of accuracy: a student that is worse by no more matches its teacher
TIMED_ROWS = 64


def teacher_gap(plan: Plan, student: np.ndarray, teacher: np.ndarray) -> dict[str, Any]:
    """The accuracy of student and teacher on the validation rows, "student minus teacher" with its 95 % interval over
    groups, and a verdict: "better", "matches" (worse by less than `MARGIN`: the lower end of the 90 % interval, a one-sided
    test at 5 %), "worse", or "undecided". student, teacher: (n, C) logits of the rows in their order.
    """
    rows = plan.dataset.split["validation"]
    labels, groups = plan.dataset.labels[rows], plan.dataset.groups[rows]
    mine, its = student.argmax(1), teacher.argmax(1)
    found: dict[str, Any] = {
        "rows": len(rows),
        "student_accuracy": float((mine == labels).mean()),
        "teacher_accuracy": float((its == labels).mean()),
        "margin": MARGIN,
        "verdict": "undecided",
    }
    try:
        pair = paired_difference(labels, its, mine, groups, student.shape[1], "accuracy", resamples=RESAMPLES)
    except UserError:  # a single group has no interval
        return found
    found |= {"difference": pair.estimate, "low": pair.low, "high": pair.high}
    if pair.groups >= GROUPS_NEEDED:
        matches = "matches" if pair.low90 > -MARGIN else "worse" if pair.high < 0 else "undecided"
        found["verdict"] = "better" if pair.low > 0 else matches
    return found


def texts_per_second(logits: Callable[[np.ndarray], Any], rows: np.ndarray) -> float:
    """Texts a second of a model on up to `TIMED_ROWS` rows, after a first pass that also allocates."""
    rows = rows[:TIMED_ROWS]
    logits(rows[:8])
    began = time.perf_counter()
    logits(rows)
    return len(rows) / max(time.perf_counter() - began, 1e-9)


def gap_lines(gap: Mapping[str, Any], name: str, sizes: Mapping[str, Any]) -> list[str]:
    """For the end of a training. name: the teacher's. sizes: `student` and `teacher`, each with parameters and
    texts_per_second, where known.
    """
    words = {
        "better": "better than the teacher",
        "matches": f"matches the teacher (worse by less than {100 * gap['margin']:g} points)",
        "worse": "worse than the teacher",
        "undecided": "undecided: more validation rows would tell",
    }
    lines = [f"\nstudent and teacher on the same {gap['rows']:,} validation rows"]
    for who, label in (("student", "student"), ("teacher", f"teacher {name}")):
        about = sizes.get(who, {})
        size = f", {about['parameters'] / 1e6:.1f}M parameters" if "parameters" in about else ""
        speed = f", {about['texts_per_second']:,.0f} texts a second here" if "texts_per_second" in about else ""
        lines.append(f"{label}: accuracy {gap[f'{who}_accuracy']:.2%}{size}{speed}")
    if "difference" in gap:
        ends = f"95 % interval [{100 * gap['low']:+.2f}, {100 * gap['high']:+.2f}]"
        lines.append(f"difference {100 * gap['difference']:+.2f} points, {ends}: {words[gap['verdict']]}")
    return lines
