"""A student beside its teacher: the verdict follows the interval, and the lines say it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from randout.experiments.run.teacher_comparison import teacher_gap
from randout.reporting.teachers import gap_lines, run_lines
from randout.stats.metrics import score
from randout.storage.metrics_record import Leaks, Metrics, Scores, TeacherGap
from randout.storage.run_record import RunRecord, Size, Sizes, UsedTeachers


def gap(
    student_right: float, teacher_right: float, rows: int = 600, groups: int | None = None, metric: str = "accuracy"
) -> TeacherGap:
    """Of models that are right on the first rows by their shares, in another order of rows."""
    labels = np.zeros(rows, np.int64)
    order = np.random.default_rng(0).permutation(rows)

    def logits(share: float, shift: int) -> np.ndarray:
        wrong = np.zeros(rows, bool)
        wrong[np.roll(order, shift)[: round((1 - share) * rows)]] = True
        return np.stack([~wrong, wrong], 1).astype(np.float32)

    owner = np.arange(rows) % (groups or rows)
    dataset = SimpleNamespace(split={"validation": np.arange(rows)}, labels=labels, groups=owner)
    config = SimpleNamespace(train=SimpleNamespace(metric=metric))
    plan: Any = SimpleNamespace(dataset=dataset, config=config)
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
    assert found.verdict == verdict
    assert found.difference == pytest.approx(found.student_accuracy - found.teacher_accuracy)


def test_few_groups_have_no_verdict() -> None:
    assert gap(0.5, 0.95, 600, groups=5).verdict == "undecided"


def test_the_lines() -> None:
    sizes = Sizes(student=Size(parameters=22_700_000, texts_per_second=1234.5))
    lines = gap_lines(gap(0.70, 0.90), "big", sizes)
    assert lines[1] == "student: accuracy 70.00%, 22.7M parameters, 1,234 texts per second here"
    assert lines[2] == "teacher big: accuracy 90.00%"
    assert lines[3].startswith("difference -20.00 points, 95 % interval [")
    assert lines[3].endswith(": worse than the teacher")


def test_the_metric_of_the_run_comes_first_and_accuracy_stays() -> None:
    labels = np.repeat([0, 1, 2], [500, 80, 20])
    made = np.random.default_rng(0).permutation(600) % 10 < 8  # of the student: right on four rows in five of any class
    always = np.tile([1.0, 0.0, 0.0], (600, 1))  # the teacher: the largest class for all rows
    student = np.eye(3)[np.where(made, labels, (labels + 1) % 3)]
    dataset = SimpleNamespace(split={"validation": np.arange(600)}, labels=labels, groups=np.arange(600))
    train = SimpleNamespace(metric="macro_f1")
    plan: Any = SimpleNamespace(dataset=dataset, config=SimpleNamespace(train=train))
    found = teacher_gap(plan, student, always)
    assert (found.primary.metric, found.primary.verdict) == ("macro_f1", "better")
    mine, its = (f1_score(labels, logits.argmax(1), average="macro") for logits in (student, always))
    assert found.primary.student == pytest.approx(mine)
    assert found.primary.teacher == pytest.approx(its)
    assert found.primary.difference == pytest.approx(mine - its)
    assert found.teacher_accuracy == pytest.approx(5 / 6)
    assert found.verdict != "better"
    lines = gap_lines(found, "big", Sizes())
    assert lines[1] == f"student: macro F1 {mine:.2%}, accuracy {found.student_accuracy:.2%}"
    assert lines[3].startswith(f"difference in macro F1 {100 * (mine - its):+.2f} points")
    assert lines[3].endswith(": better than the teacher")
    assert lines[4].startswith("difference in accuracy -")


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_metric_without_intervals_leaves_accuracy_alone(metric: str) -> None:
    assert gap(0.9, 0.9, metric=metric).primary is None


def measured(**known: Any) -> Metrics:
    """The metrics of a finished run. known: of its validation scores."""
    return Metrics(validation=Scores.model_validate(score([0, 1], np.eye(2), {0: "a", 1: "b"}) | known))


def test_a_finished_run_shows_the_same_lines() -> None:
    found = gap(0.70, 0.90)
    record = RunRecord.model_construct(
        teacher=UsedTeachers(name="big"), sizes=Sizes(student=Size(parameters=22_700_000))
    )
    assert run_lines(record, measured(teacher=found)) == gap_lines(found, "big", record.sizes)
    assert run_lines(record, measured()) == []


def test_no_verdict_on_rows_that_the_teacher_was_trained_on() -> None:
    leaks = Leaks(rows=30, of=600, roles={"teacher-trained": 30})
    record = RunRecord.model_construct(teacher=UsedTeachers(name="big"))
    lines = run_lines(record, measured(teacher=gap(0.70, 0.90), leaks=leaks))
    assert lines[3].startswith("no verdict: the teacher was trained on 30 of these rows.")
    assert not any("worse" in line for line in lines)
