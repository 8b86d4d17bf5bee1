"""The section on students and their teachers: both on the same held-out rows, their sizes, and how fast they are."""

from __future__ import annotations

from typing import Any

from randout.core.text_tables import table_lines
from randout.core.wording import no_teacher_words, plural
from randout.stats.multiplicity import GROUPS_NEEDED
from randout.storage.metrics_record import Gap, Metrics, Scores, TeacherGap
from randout.storage.run_record import RunRecord, Sizes

from .soft_labels import temperature_words
from .subjects import Subject
from .values import Column, Section, Table, metric_name


def teachers(subject: Subject) -> Section | None:
    """One row per student with a teacher and metric; None if no model has a recorded teacher."""
    rows, costs = [], []
    for arm in subject.arms:
        for model in arm.models:
            split = model.metrics.compared_split
            gap = model.metrics.splits[split].teacher if split else None
            if gap is None:
                continue
            own = (arm.name, model.unit or None, model.record.teacher.name if model.record.teacher else None)
            taught = model.metrics.splits[split].taught_rows
            for metric, one in gap.by_metric.items():
                between = None if one.difference is None else (one.low, one.high)
                scores = (metric_name(metric), one.student, one.teacher, one.difference, between)
                verdict = f"none: {taught:,} of the rows trained the teacher" if taught else ""
                rows.append((*own, *scores, verdict or verdict_words(one, gap.margin, split), split, gap.rows))
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
    columns += (Column("verdict"), Column("split"), Column("rows", "count"))
    note = (
        "Student minus teacher, in percentage points, on the same rows. The interval is computed over groups of texts."
    )
    parts = [Table("student-teacher", "Scores on the same held-out rows", *_without_empty_columns(columns, rows), note)]
    heads: tuple[Column, ...] = (*who, Column("student parameters", "count"), Column("teacher parameters", "count"))
    heads += (Column("student texts per second", "count"), Column("teacher texts per second", "count"))
    if any(cell is not None for row in costs for cell in row[len(who) :]):
        note = "Texts per second on the machine that trained the student: prediction in float32, and of a decoder in the dtype "
        note += "of its weights (bfloat16 if train.precision is)."
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


def verdict_words(gap: Gap, margin: float, split: str) -> str:
    """The verdict of a comparison with the teacher in words. split: of the rows."""
    return {
        "better": "better than the teacher",
        "matches": f"matches the teacher (worse by less than {100 * margin:g} points)",
        "worse": "worse than the teacher",
        "undecided": f"undecided: {_missing(gap, split)}",
    }[gap.verdict]


def _missing(gap: Gap, split: str) -> str:
    """What an undecided comparison lacks. split: of the rows."""
    if gap.groups is not None and gap.groups < GROUPS_NEEDED:
        return f"these are {plural(gap.groups, 'group')} of rows, and at least {GROUPS_NEEDED} are needed"
    if gap.needed is not None:
        return f"about {gap.needed:,} {split} rows would decide it with 80 % power, if the difference stays as it is"
    if gap.differing == 0:
        return f"more {split} rows are needed, as both are right and wrong on the same rows"
    return f"more {split} rows are needed"


def gap_lines(scores: Scores, split: str, name: str, sizes: Sizes) -> list[str]:
    """Lines that compare student and teacher at the end of a training: a table, and a verdict for each metric.

    scores: of the split on which they are compared. name: of the teacher. There is no verdict if the teacher was trained on
    any of the rows.
    """
    gap = scores.teacher
    assert gap is not None
    each = gap.by_metric
    before = ", before the refit" if scores.before_refit else ""
    lines = [f"\nstudent and teacher {name} on the same {plural(gap.rows, f'{split} row')}{before}"]
    columns = [
        (f"{metric_name(at)} %", f"{100 * one.student:.2f}", f"{100 * one.teacher:.2f}") for at, one in each.items()
    ]
    columns += _size_columns(sizes)
    head, student, teacher = zip(*columns, strict=True)
    lines += table_lines(["", *head], [["student", *student], ["teacher", *teacher]])
    if taught := scores.taught_rows:
        lines.append(
            f"no verdict on either: the teacher was trained on {taught:,} of these rows. Compare both on rows that neither has "
            "seen: randout compare TEACHER RUN (test rows, if both are tested runs), or randout evaluate RUN FILE"
        )
        return lines
    return lines + verdict_lines(gap, split)


def verdict_lines(gap: TeacherGap, split: str) -> list[str]:
    """The difference between student and teacher in each metric, with its interval and the verdict."""
    lines, several = [], len(gap.by_metric) > 1
    for metric, one in gap.by_metric.items():
        if one.difference is None:
            return ["no verdict: all rows are copies or belong to one group, so there is no interval"]
        if one.low is not None and one.high is not None:
            ends = f"95 % interval [{100 * one.low:+.2f}, {100 * one.high:+.2f}]"
            what = f"difference in {metric_name(metric)}" if several else "difference"
            verdict = verdict_words(one, gap.margin, split)
            lines.append(f"{what} {100 * one.difference:+.2f} points, {ends}: {verdict}")
    return lines


def _size_columns(sizes: Sizes) -> list[tuple[str, str, str]]:
    """Head, student and teacher of each known size or speed."""
    both = (sizes.student, sizes.teacher)
    counts = ["" if one.parameters is None else f"{one.parameters / 1e6:.1f}M" for one in both]
    speeds = ["" if one.texts_per_second is None else f"{one.texts_per_second:,.0f}" for one in both]
    found = [("parameters", *counts), ("texts per second here", *speeds)]
    return [(head, student, teacher) for head, student, teacher in found if student or teacher]


def run_lines(record: RunRecord, metrics: Metrics) -> list[str]:
    """`gap_lines` of a finished run, or why there was no teacher although one was wanted; else empty."""
    if record.left_out:
        return [f"\nno teacher: {no_teacher_words(record.left_out)}"]
    split = metrics.compared_split
    if not split or record.teacher is None:
        return []
    return gap_lines(metrics.splits[split], split, record.teacher.name, record.sizes)
