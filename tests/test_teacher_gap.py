"""A student beside its teacher: the verdict follows the interval, and the lines say it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from randout.teacher_gap import gap_lines, teacher_gap


def gap(student_right: float, teacher_right: float, rows: int = 600, groups: int | None = None) -> dict[str, Any]:
    """Of models that are right on the first rows by their shares, in another order of rows."""
    labels = np.zeros(rows, np.int64)
    order = np.random.default_rng(0).permutation(rows)

    def logits(share: float, shift: int) -> np.ndarray:
        wrong = np.zeros(rows, bool)
        wrong[np.roll(order, shift)[: round((1 - share) * rows)]] = True
        return np.stack([~wrong, wrong], 1).astype(np.float32)

    owner = np.arange(rows) % (groups or rows)
    dataset = SimpleNamespace(split={"validation": np.arange(rows)}, labels=labels, groups=owner)
    plan: Any = SimpleNamespace(dataset=dataset)
    return teacher_gap(plan, logits(student_right, 0), logits(teacher_right, 7))


@pytest.mark.parametrize(
    ("student", "teacher", "rows", "verdict"),
    [
        (0.95, 0.80, 600, "better"),
        (0.90, 0.90, 6000, "matches"),
        (0.70, 0.90, 600, "worse"),
        (0.9, 0.9, 40, "undecided"),
    ],
)
def test_the_verdict(student: float, teacher: float, rows: int, verdict: str) -> None:
    found = gap(student, teacher, rows)
    assert found["verdict"] == verdict
    assert found["difference"] == pytest.approx(found["student_accuracy"] - found["teacher_accuracy"])


def test_few_groups_have_no_verdict() -> None:
    assert gap(0.5, 0.95, 600, groups=5)["verdict"] == "undecided"


def test_the_lines() -> None:
    sizes = {"student": {"parameters": 22_700_000, "texts_per_second": 1234.5}}
    lines = gap_lines(gap(0.70, 0.90), "big", sizes)
    assert lines[1] == "student: accuracy 70.00%, 22.7M parameters, 1,234 texts a second here"
    assert lines[2] == "teacher big: accuracy 90.00%"
    assert lines[3].startswith("difference -20.00 points, 95 % interval [")
    assert lines[3].endswith(": worse than the teacher")
