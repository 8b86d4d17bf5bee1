"""The section on students and their teachers: both on the same validation rows, their sizes, and how fast they are."""

from __future__ import annotations

from typing import Any

from randout.core.wording import plural
from randout.storage.metrics_record import Metrics, TeacherGap
from randout.storage.run_record import RunRecord, Size, Sizes

from .soft_labels import temperature_words
from .subjects import Subject
from .values import Column, Section, Table, metric_name


def teachers(subject: Subject) -> Section | None:
    """One row per student with a teacher and metric; None if no model has a recorded teacher."""
    rows, costs = [], []
    for arm in subject.arms:
        for model in arm.models:
            gap = model.metrics.validation.teacher
            if gap is None:
                continue
            own = (arm.name, model.unit or None, model.record.teacher.name if model.record.teacher else None)
            taught = rows_that_taught(model.metrics)
            for metric, one in gap.by_metric.items():
                between = None if one.difference is None else (one.low, one.high)
                scores = (metric_name(metric), one.student, one.teacher, one.difference, between)
                verdict = f"none: {taught:,} of the rows trained the teacher" if taught else ""
                rows.append((*own, *scores, verdict or verdict_words(one.verdict, gap.margin), gap.rows))
            costs.append((*own, *_size_cells(model.record.sizes)))
    given = [table for table in (_imported(subject), _cross_fitted(subject)) if table]
    if not rows:
        return Section("teacher", "Student and teacher", tuple(given)) if given else None
    who = (Column("model"), Column("unit"), Column("teacher"))
    columns: tuple[Column, ...] = (
        *who,
        Column("metric"),
        Column("student %", "percent"),
        Column("teacher %", "percent"),
    )
    columns += (Column("difference", "points"), Column("its 95 % interval", "points interval"))
    columns += (Column("verdict"), Column("validation rows", "count"))
    note = "Student minus teacher, in percentage points, on validation rows. The interval is computed over groups of texts."
    parts = [Table("student-teacher", "Scores on the validation rows", *_without_empty_columns(columns, rows), note)]
    heads: tuple[Column, ...] = (*who, Column("student parameters", "count"), Column("teacher parameters", "count"))
    heads += (Column("student texts per second", "count"), Column("teacher texts per second", "count"))
    if any(cell is not None for row in costs for cell in row[len(who) :]):
        note = "Texts per second: prediction in float32 on the machine that trained the student."
        parts.append(Table("student-teacher-size", "Size and speed", *_without_empty_columns(heads, costs), note))
    parts += given
    return Section("teacher", "Student and teacher", tuple(parts))


def _imported(subject: Subject) -> Table | None:
    """One row per file of soft labels that a model learned from; None if there is none."""
    rows = []
    for arm in subject.arms:
        for model in arm.models:
            for teacher in model.record.teachers:
                if (one := teacher.soft_labels) is not None:
                    digest = one.sha256[:12]
                    counts = [f"{count:,} of {one.of[name]:,} {name}" for name, count in one.rows.items()]
                    found = (one.file, digest, one.form, ", ".join(counts), temperature_words(one))
                    rows.append((arm.name, model.unit or None, *found))
    if not rows:
        return None
    columns = tuple(map(Column, ("model", "unit", "file", "sha256", "form", "rows with a soft label", "temperature")))
    note = "Soft labels that were read from a file. Rows of the test split are never used."
    return Table("soft-labels", "Imported soft labels", *_without_empty_columns(columns, rows), note)


def _cross_fitted(subject: Subject) -> Table | None:
    """Two rows per model with cross-fitted soft labels: these and the in-sample ones; None if there is none."""
    rows = []
    for arm in subject.arms:
        for model in arm.models:
            for teacher in model.record.teachers:
                if (one := teacher.cross_fit) is not None:
                    own = (arm.name, model.unit or None)
                    for name, scores in (
                        (f"of {one.folds} folds, not trained on the row", one.out_of_fold),
                        ("of all training rows", one.in_sample),
                    ):
                        error = scores.expected_calibration_error
                        rows.append((*own, name, scores.accuracy, scores.log_loss, error, one.rows))
    if not rows:
        return None
    columns: tuple[Column, ...] = (Column("model"), Column("unit"), Column("teacher"), Column("accuracy %", "percent"))
    columns += (Column("log loss", "number"), Column("calibration error %", "percent"))
    columns += (Column("training rows", "count"),)
    note = "Soft labels of training rows against their gold labels. The student learns from the first of each pair."
    return Table("cross-fit", "Cross-fitted soft labels", *_without_empty_columns(columns, rows), note)


def _size_cells(sizes: Sizes) -> list[int | None]:
    """Parameters of student and teacher, then their texts per second."""
    student, teacher = sizes.student, sizes.teacher
    found = (student.parameters, teacher.parameters, student.texts_per_second, teacher.texts_per_second)
    return [None if value is None else round(value) for value in found]


def _without_empty_columns(
    columns: tuple[Column, ...], rows: list[tuple[Any, ...]]
) -> tuple[tuple[Column, ...], tuple[tuple[Any, ...], ...]]:
    """Drop columns that are empty in every row."""
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    return tuple(columns[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)


def verdict_words(verdict: str, margin: float) -> str:
    """A verdict of `teacher_gap` in words."""
    return {
        "better": "better than the teacher",
        "matches": f"matches the teacher (worse by less than {100 * margin:g} points)",
        "worse": "worse than the teacher",
        "undecided": "undecided: more validation rows are needed",
    }[verdict]


def gap_lines(gap: TeacherGap, name: str, sizes: Sizes, taught: int = 0) -> list[str]:
    """Lines that compare student and teacher at the end of a training.

    name: of the teacher. taught: how many of the rows the teacher was trained on; if any, there is no verdict.
    """
    each = gap.by_metric
    student = [f"{metric_name(metric)} {one.student:.2%}" for metric, one in each.items()]
    teacher = [f"{metric_name(metric)} {one.teacher:.2%}" for metric, one in each.items()]
    lines = [f"\nstudent and teacher on the same {plural(gap.rows, 'validation row')}"]
    lines.append(f"student: {', '.join([*student, *_size_words(sizes.student)])}")
    lines.append(f"teacher {name}: {', '.join([*teacher, *_size_words(sizes.teacher)])}")
    if taught:
        lines.append(
            f"no verdict: the teacher was trained on {taught:,} of these rows. Compare both on rows that neither has seen: "
            "randout compare TEACHER RUN (test rows, if both are tested runs), or randout evaluate RUN FILE"
        )
        return lines
    for metric, one in each.items():
        if one.difference is not None and one.low is not None and one.high is not None:
            ends = f"95 % interval [{100 * one.low:+.2f}, {100 * one.high:+.2f}]"
            what = f"difference in {metric_name(metric)}" if len(each) > 1 else "difference"
            verdict = verdict_words(one.verdict, gap.margin)
            lines.append(f"{what} {100 * one.difference:+.2f} points, {ends}: {verdict}")
    return lines


def _size_words(size: Size) -> list[str]:
    """What is known of a model's size and speed, in words."""
    found = [] if size.parameters is None else [f"{size.parameters / 1e6:.1f}M parameters"]
    return found + ([] if size.texts_per_second is None else [f"{size.texts_per_second:,.0f} texts per second here"])


def run_lines(record: RunRecord, metrics: Metrics) -> list[str]:
    """`gap_lines` of a finished run; empty if it had no teacher."""
    gap = metrics.validation.teacher
    if gap is None or record.teacher is None:
        return []
    return gap_lines(gap, record.teacher.name, record.sizes, rows_that_taught(metrics))


def rows_that_taught(metrics: Metrics) -> int:
    """How many of the validation rows the teacher of a run was trained on."""
    leaks = metrics.validation.leaks
    return leaks.roles.get("teacher-trained", 0) if leaks else 0
