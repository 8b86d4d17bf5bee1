"""The section on the choice of the student (`--student auto`): both candidates, their scores, and the reason."""

from __future__ import annotations

from typing import Any

from .subjects import Subject
from .text import BAG_OF_WORDS, ENCODER, choice_lines
from .values import Column, Section, Table, metric_name

SCORED_ON = {"validation": "validation rows", "cross-validation": "training rows, cross-validated"}


def choice(subject: Subject) -> Section | None:
    """One row per candidate of every model whose student was chosen, and the choice in words; None without such a model."""
    rows: list[tuple[Any, ...]] = []
    words: dict[str, None] = {}
    for arm in subject.arms:
        for model in arm.models:
            found = model.record.choice
            if found is None:
                continue
            made = not found.why  # whether both candidates were trained and scored
            for kind, one in ((ENCODER, found.encoder), (BAG_OF_WORDS, found.words)):
                scored = (
                    (metric_name(found.metric), one.score, SCORED_ON[found.by], found.rows) if made else (None,) * 4
                )
                cells = (one.name, *scored, "yes" if found.chosen == kind else "no")
                rows.append((arm.name, model.unit or None, *cells))
            for line in choice_lines(found):
                words[f"{line.replace('student', 'Student', 1) if line.startswith('student') else line}."] = None
    if not rows:
        return None
    columns: tuple[Column, ...] = (Column("model"), Column("unit"), Column("candidate"), Column("metric"))
    columns += (Column("score %", "percent"), Column("scored on"), Column("rows", "count"), Column("chosen"))
    kept = [at for at in range(len(columns)) if any(row[at] is not None for row in rows)]
    shown = tuple(tuple(row[at] for at in kept) for row in rows)
    note = "Candidates of `--student auto`. Test rows are not used for the choice."
    table = Table("choice", "Candidates", tuple(columns[at] for at in kept), shown, note)
    return Section("choice", "Choice of the student", (*words, table))
