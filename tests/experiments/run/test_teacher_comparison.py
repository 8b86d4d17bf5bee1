"""A student beside its teacher: the verdict follows the interval, and the lines say it."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import f1_score

from randout.experiments.run.teacher_comparison import teacher_gap, texts_per_second
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
    split = {"train": np.arange(rows), "validation": np.arange(rows)}
    dataset = SimpleNamespace(split=split, truth=lambda rows: labels[rows], groups=owner)
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


def test_an_undecided_comparison_says_how_many_rows_are_needed() -> None:
    found = gap(0.9, 0.9, 100)
    wrong = found.differing / 100  # share of rows on which one of the two is right; the difference is 0
    needed = math.ceil(wrong * (norm.ppf(0.95) + norm.ppf(0.8)) ** 2 / 0.02**2)
    assert found.needed == pytest.approx(needed, rel=0.1)  # the bootstrap's standard error is close to that of the rows
    lines = gap_lines(scored(teacher=found), "test", "big", Sizes())
    assert f"undecided: about {found.needed:,} test rows would decide it with 80 % power" in lines[-1]
    few = gap_lines(scored(teacher=gap(0.9, 0.9, 100, groups=5)), "test", "big", Sizes())
    assert few[-1].endswith("undecided: these are 5 groups of rows, and at least 10 are needed")
    same = gap_lines(scored(teacher=gap(1.0, 1.0, 40)), "test", "big", Sizes())
    assert same[-1].endswith("more test rows are needed, as both are right and wrong on the same rows")


def test_speeds_are_measured_in_turn_and_the_fastest_pass_counts() -> None:
    now, called = [0.0], []
    slow = {"student": iter([0.0, 4.0, 0.1, 0.2]), "teacher": iter([0.0, 1.0, 2.0, 0.5])}

    def model(name: str) -> Any:
        def logits(rows: np.ndarray) -> None:
            called.append((name, len(rows)))
            now[0] += next(slow[name])

        return logits

    models = {name: model(name) for name in slow}
    assert texts_per_second(models, np.arange(40), lambda: now[0]) == {"student": 8.0, "teacher": 32.0}
    assert called == [("student", 8), ("teacher", 8), ("student", 32), ("teacher", 32)], "no time for a second round"
    slow |= {"student": iter([0.0, 0.4, 0.1, 2.0]), "teacher": iter([0.0, 0.4, 0.5, 0.5])}
    assert texts_per_second(models, np.arange(40), lambda: now[0]) == pytest.approx({"student": 320, "teacher": 80})


def test_the_lines() -> None:
    sizes = Sizes(student=Size(parameters=22_700_000, texts_per_second=1234.5))
    lines = gap_lines(scored(teacher=gap(0.70, 0.90)), "test", "big", sizes)
    assert lines[:4] == [
        "\nstudent and teacher big on the same 600 test rows",
        "         accuracy %  parameters  texts per second here",
        "student       70.00       22.7M                  1,234",
        "teacher       90.00",
    ]
    assert lines[4].startswith("difference -20.00 points, 95 % interval [")
    assert lines[4].endswith(": worse than the teacher")
    before = gap_lines(scored(teacher=gap(0.70, 0.90), before_refit=True), "validation", "big", Sizes())
    assert before[0] == "\nstudent and teacher big on the same 600 validation rows, before the refit"


def test_the_metric_of_the_run_comes_first_and_accuracy_stays() -> None:
    labels = np.repeat([0, 1, 2], [500, 80, 20])
    made = np.random.default_rng(0).permutation(600) % 10 < 8  # of the student: right on four rows in five of any class
    always = np.tile([1.0, 0.0, 0.0], (600, 1))  # the teacher: the largest class for all rows
    student = np.eye(3)[np.where(made, labels, (labels + 1) % 3)]
    split = {"train": np.arange(600), "validation": np.arange(600)}
    dataset = SimpleNamespace(split=split, truth=lambda rows: labels[rows], groups=np.arange(600))
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
    lines = gap_lines(scored(teacher=found), "validation", "big", Sizes())
    assert lines[1].split() == ["macro", "F1", "%", "accuracy", "%"]
    assert lines[2].split() == ["student", f"{100 * mine:.2f}", f"{100 * found.student_accuracy:.2f}"]
    assert lines[4].startswith(f"difference in macro F1 {100 * (mine - its):+.2f} points")
    assert lines[4].endswith(": better than the teacher")
    assert lines[5].startswith("difference in accuracy -")
    assert found.over_majority is not None
    assert found.over_majority.estimate == 0, "the teacher is the majority class"
    assert found.over_majority.low < 0


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_a_metric_without_intervals_leaves_accuracy_alone(metric: str) -> None:
    assert gap(0.9, 0.9, metric=metric).primary is None


def scored(**known: Any) -> Scores:
    """The scores of two rows, and what else is known of them."""
    return Scores.model_validate(score([0, 1], np.eye(2), {0: "a", 1: "b"}) | known)


def measured(test: Scores | None = None, **known: Any) -> Metrics:
    """The metrics of a finished run. known: of its validation scores."""
    return Metrics(validation=scored(**known), test=test)


RECORD = RunRecord.model_construct(teacher=UsedTeachers(name="big"), sizes=Sizes(student=Size(parameters=22_700_000)))
TAUGHT = Leaks(rows=30, of=600, roles={"teacher-trained": 30})


def test_a_finished_run_shows_the_same_lines() -> None:
    own = scored(teacher=gap(0.70, 0.90))
    assert run_lines(RECORD, measured(teacher=own.teacher)) == gap_lines(own, "validation", "big", RECORD.sizes)
    assert run_lines(RECORD, measured()) == []


def test_no_verdict_on_rows_that_the_teacher_was_trained_on() -> None:
    lines = run_lines(RECORD, measured(teacher=gap(0.70, 0.90), leaks=TAUGHT))
    assert lines[4].startswith("no verdict on either: the teacher was trained on 30 of these rows.")
    assert not any("worse" in line for line in lines)


@pytest.mark.parametrize(
    ("taught", "in_test", "split"),
    [(False, False, "test"), (True, False, "test"), (False, True, "validation"), (True, True, "test")],
)
def test_test_rows_come_first_unless_the_teacher_was_trained_on_them(taught: bool, in_test: bool, split: str) -> None:
    found = {"teacher": gap(0.70, 0.90)}
    leaking = found | {"leaks": TAUGHT}
    metrics = measured(scored(**(leaking if in_test else found)), **(leaking if taught else found))
    assert metrics.compared_split == split
    lines = run_lines(RECORD, metrics)
    assert f"{split} rows" in lines[0]
    assert ("no verdict" in lines[4]) is (taught and in_test)


def test_a_single_group_has_no_interval_and_no_verdict() -> None:
    assert gap_lines(scored(teacher=gap(0.5, 0.9, groups=1)), "test", "big", Sizes())[-1].startswith("no verdict: ")
