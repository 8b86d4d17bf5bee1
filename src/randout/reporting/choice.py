"""The section on the choice of the student (`--student auto`): both candidates, their scores, and the reason."""

from __future__ import annotations

from typing import Any

from .figures import ENCODER, WORDS, choice_lines
from .subjects import Subject
from .values import Column, Section, Table, metric_name


def choice(subject: Subject) -> Section | None:
    """One row per candidate of every model whose student was chosen, and the choice in words; None without such a model."""
    rows: list[tuple[Any, ...]] = []
    words: dict[str, None] = {}
    for arm in subject.arms:
        for model in arm.models:
            found = model.record.get("choice")
            if not found:
                continue
            where = {"validation": "validation rows", "cross-validation": "training rows, cross-validated"}.get(
                str(found.get("by"))
            )
            for kind in (ENCODER, WORDS):
                metric = metric_name(found["metric"]) if "metric" in found else None
                own = (found[kind]["name"], metric, found[kind].get("score"), where, found.get("rows"))
                rows.append((arm.name, model.unit or None, *own, "yes" if found["chosen"] == kind else "no"))
            for line in choice_lines(found):
                words[f"{line.replace('student', 'Student', 1) if line.startswith('student') else line}."] = None
    if not rows:
        return None
    columns: tuple[Column, ...] = (Column("model"), Column("unit"), Column("candidate"), Column("metric"))
    columns += (Column("score %", "percent"), Column("scored on"), Column("rows", "count"), Column("chosen"))
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    cells = tuple(tuple(row[at] for at in kept) for row in rows)
    note = "Candidates of `--student auto`. Test rows are not used for the choice."
    table = Table("choice", "Candidates", tuple(columns[at] for at in kept), cells, note)
    return Section("choice", "Choice of the student", (*words, table))
