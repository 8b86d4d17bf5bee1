"""Held-out rows that a teacher or starting model has seen, found before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from randout.core.errors import UserError
from randout.data.dataset import Dataset
from randout.models.sources import Source
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import TRAINED, SeenRows, in_words, leaked, merged, read_seen, seen_rows

from .imported_teacher import ImportedTeacher
from .plan import Plan

HELD_OUT = ("validation", "test")
REMEDY = (
    "Retrain the teacher (or the starting model) on this split: name its pretrained encoder, or train its run on the same "
    "rows with the same data.split_seed. Or remove these rows from the test split, or do not score it (--no-test). To get "
    "the scores anyway, marked as leaking, use --allow-leaks"
)


class LeakError(UserError):
    """Test scores were refused because a model has seen test rows before."""


@dataclass(frozen=True)
class Ancestors:
    """What is known of the models that a student learns from or starts from.

    rows: the rows that they have seen, with roles from the student's point of view. unknown: labels of models without a
    record of their rows.
    """

    rows: SeenRows
    unknown: tuple[str, ...] = ()


def ancestors(plan: Plan, planned: bool = True) -> Ancestors:
    """Return what the teachers and the starting model of a plan have seen. Raises UserError for a damaged record.

    planned: whether to include the rows that a teacher will see when it is fine-tuned first (rows of the plan's own split).
    """
    parts, unknown = [], []
    for teacher in plan.teachers:
        if isinstance(teacher, Source):
            found = _rows_of(teacher, plan.dataset)
            parts.append(found.inherited("teacher"))
            unknown += [teacher.label] * (not found.complete)
        elif isinstance(teacher, ImportedTeacher):
            unknown.append(f"the source of {teacher.label}")
        else:
            before = ancestors(teacher, planned)
            parts.append((seen_by(teacher, before) if planned else before.rows).inherited("teacher"))
            unknown += before.unknown
    if plan.student.source is not None:
        found = _rows_of(plan.student.source, plan.dataset)
        parts.append(found.inherited("start"))
        unknown += [plan.student.label] * (not found.complete)
    return Ancestors(merged(parts), tuple(dict.fromkeys(unknown)))


def _rows_of(source: Source, dataset: Dataset) -> SeenRows:
    """Return the rows that a model from disk or the hub has learned from; incomplete if they are not fully recorded."""
    recorded = read_seen(source.folder)
    if recorded is not None:
        return recorded
    run = RunFolder(source.folder.parent)
    if source.folder.name == "model" and run.exists:
        return merged([_rows_by_id(run, dataset), SeenRows(np.zeros(0, np.uint64), np.zeros(0, np.uint8), False)])
    return SeenRows(np.zeros(0, np.uint64), np.zeros(0, np.uint8), not source.is_classifier)


def _rows_by_id(run: RunFolder, dataset: Dataset) -> SeenRows:
    """Return the training rows of a run of an earlier version, by row number, if it used the same file; else nothing."""
    if run.record.data not in (dataset.sha256, dataset.labelled_sha256):
        return merged([])
    return rows_by_id(run.split, dataset.row_ids, dataset.hashes)


def rows_by_id(split: dict[str, list[str]], row_ids: Sequence[str], hashes: Any) -> SeenRows:
    """Return the rows of a `split.json` as hashes. row_ids, hashes: (n,), of the rows of the same file."""
    place = {row: at for at, row in enumerate(row_ids)}

    def of(name: str) -> Any:
        return hashes[np.array([place[row] for row in split.get(name, ()) if row in place], dtype=np.int64)]

    found = merged([seen_rows(of("train"), "trained"), seen_rows(of("validation"), "selected")])
    return replace(found, test=np.unique(of("test")))


def seen_by(plan: Plan, before: Ancestors | None = None) -> SeenRows:
    """Return all rows that the student of a plan will have seen, including those of its ancestors."""
    before = before or ancestors(plan)
    dataset = plan.dataset
    own = [seen_rows(dataset.hashes[_learned_rows(dataset)], "trained")]
    held = dataset.hashes[dataset.split["validation"]]
    own.append(seen_rows(held, "selected"))
    if plan.config.train.refit is True:
        own.append(seen_rows(held, "trained"))
    found = merged([*own, before.rows])
    test = dataset.hashes[dataset.split["test"]] if "test" in dataset.split else dataset.hashes[:0]
    return SeenRows(found.hashes, found.roles, not before.unknown, np.unique(test))


def seen_of_split(rows: SeenRows, dataset: Dataset, split: str) -> tuple[dict[str, int], NDArray[np.bool_]]:
    """Return `leaked` of a held-out split, as it was when the split was scored.

    Validation rows are scored before a refit trains on them, so only those with a copy among the other rows count as the
    model's own. Those that only selected an ancestor's epoch are not counted: that is their purpose.
    """
    hashes = dataset.hashes[dataset.split[split]]
    if split == "test":
        return leaked(rows, hashes)
    copies = np.isin(rows.hashes, dataset.hashes[_learned_rows(dataset)])
    before = replace(rows, roles=np.where(copies, rows.roles, rows.roles & ~np.uint8(TRAINED)))
    counts, which = leaked(before, hashes)
    return {role: count for role, count in counts.items() if not role.endswith("selected")}, which


def count_seen(rows: SeenRows, dataset: Dataset, split: str) -> dict[str, int]:
    """Count the rows of a held-out split that ancestors have seen, by role."""
    return seen_of_split(rows, dataset, split)[0]


def _learned_rows(dataset: Dataset) -> NDArray[np.int64]:
    """Return the rows that a student learns from before a refit: training rows, unlabelled ones, and views."""
    return np.concatenate([dataset.split["train"], dataset.unlabelled])


def check(plan: Plan) -> tuple[list[str], list[str]]:
    """Return notes and warnings for a plan. Raises LeakError if its test scores would leak and leaks are not allowed."""
    before = ancestors(plan, planned=False)
    notes = [
        f"leaks: the rows that {name} learned from are not recorded, so it may have seen held-out rows"
        for name in before.unknown
    ]
    if not len(before.rows.hashes):
        return notes, []
    rows, warnings = seen_by(plan, before), []
    for split in HELD_OUT:
        held = len(plan.dataset.split.get(split, ()))
        counts = count_seen(rows, plan.dataset, split) if held else {}
        if not counts:
            continue
        found = in_words(counts, held, f"{split} rows")
        output = plan.config.output
        if split == "test" and output.test and not output.allow_leaks and any_trained_on(counts):
            raise LeakError(refusal_message(found))
        warnings.append(f"{found}, so {split} scores will be too high")
    return notes, warnings


def any_trained_on(counts: dict[str, int]) -> bool:
    """Return whether rows were trained on, rather than only used to choose an epoch."""
    return any(not role.endswith("selected") for role in counts)


def refusal_message(found: str) -> str:
    """Return the error message that refuses leaking test scores. found: as `in_words` returns it."""
    return f"test scores are refused: {found}. {REMEDY}"
