"""The section on students and their teachers: both on the same validation rows, their sizes, and how fast they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from randout.core.wording import plural

from .subjects import Subject
from .values import Column, Section, Table, metric_name


def teachers(subject: Subject) -> Section | None:
    """One row per student with a teacher and metric; None if no model has a recorded teacher."""
    rows, costs = [], []
    for arm in subject.arms:
        for model in arm.models:
            gap = (model.metrics.get("validation") or {}).get("teacher")
            if not gap:
                continue
            teacher = str((model.record.get("teacher") or {}).get("name") or "") or None
            own = (arm.name, model.unit or None, teacher)
            taught = rows_that_taught(model.metrics)
            for metric, one in by_metric(gap).items():
                between = (one["low"], one["high"]) if "difference" in one else None
                scores = (metric_name(metric), one["student"], one["teacher"], one.get("difference"), between)
                verdict = f"none: {taught:,} of the rows trained the teacher" if taught else ""
                rows.append((*own, *scores, verdict or verdict_words(one["verdict"], gap["margin"]), gap["rows"]))
            costs.append((*own, *_sizes(model.record.get("sizes") or {})))
    if not rows:
        return None
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
    return Section("teacher", "Student and teacher", tuple(parts))


def _sizes(sizes: dict[str, dict[str, Any]]) -> list[int | None]:
    keys = ("parameters", "texts_per_second")
    found = [(sizes.get(who) or {}).get(key) for key in keys for who in ("student", "teacher")]
    return [None if value is None else round(value) for value in found]


def _without_empty_columns(
    columns: tuple[Column, ...], rows: list[tuple[Any, ...]]
) -> tuple[tuple[Column, ...], tuple[tuple[Any, ...], ...]]:
    """Drop columns that are empty in every row."""
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    return tuple(columns[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows)


def by_metric(gap: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Result of `teacher_gap` by metric, the run's own first: {metric: {student, teacher, verdict, difference, ...}}."""
    accuracy = {who: gap[f"{who}_accuracy"] for who in ("student", "teacher")}
    accuracy |= {key: gap[key] for key in ("verdict", "difference", "low", "high") if key in gap}
    primary = dict(gap.get("primary") or {})
    return ({primary.pop("metric"): primary} if primary else {}) | {"accuracy": accuracy}


def verdict_words(verdict: str, margin: float) -> str:
    """A verdict of `teacher_gap` in words."""
    return {
        "better": "better than the teacher",
        "matches": f"matches the teacher (worse by less than {100 * margin:g} points)",
        "worse": "worse than the teacher",
        "undecided": "undecided: more validation rows are needed",
    }[verdict]


def gap_lines(gap: Mapping[str, Any], name: str, sizes: Mapping[str, Any], taught: int = 0) -> list[str]:
    """Lines that compare student and teacher at the end of a training.

    name: of the teacher. sizes: `student` and `teacher`, each with parameters and texts_per_second if known. taught: how
    many of the rows the teacher was trained on; if any, there is no verdict.
    """
    each = by_metric(gap)
    lines = [f"\nstudent and teacher on the same {plural(gap['rows'], 'validation row')}"]
    for who, label in (("student", "student"), ("teacher", f"teacher {name}")):
        about = sizes.get(who, {})
        scores = ", ".join(f"{metric_name(metric)} {one[who]:.2%}" for metric, one in each.items())
        size = f", {about['parameters'] / 1e6:.1f}M parameters" if "parameters" in about else ""
        speed = f", {about['texts_per_second']:,.0f} texts per second here" if "texts_per_second" in about else ""
        lines.append(f"{label}: {scores}{size}{speed}")
    if taught:
        lines.append(
            f"no verdict: the teacher was trained on {taught:,} of these rows. Compare both on rows that neither has seen: "
            "randout evaluate RUN FILE"
        )
        return lines
    for metric, one in each.items():
        if "difference" in one:
            ends = f"95 % interval [{100 * one['low']:+.2f}, {100 * one['high']:+.2f}]"
            what = f"difference in {metric_name(metric)}" if len(each) > 1 else "difference"
            verdict = verdict_words(one["verdict"], gap["margin"])
            lines.append(f"{what} {100 * one['difference']:+.2f} points, {ends}: {verdict}")
    return lines


def run_lines(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    """`gap_lines` of a finished run, from its `run.json` and `metrics.json`; empty if it had no teacher."""
    gap = (metrics.get("validation") or {}).get("teacher")
    if not gap:
        return []
    return gap_lines(gap, record["teacher"]["name"], record.get("sizes", {}), rows_that_taught(metrics))


def rows_that_taught(metrics: Mapping[str, Any]) -> int:
    """How many of the validation rows the teacher of a run was trained on."""
    leaks = (metrics.get("validation") or {}).get("leaks") or {}
    return int(leaks.get("roles", {}).get("teacher-trained", 0))
