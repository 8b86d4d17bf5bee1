"""Warnings about a ladder: a teacher that others exceed, and students that learned nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from randout.stats import diagnostics
from randout.stats.paired import Paired
from randout.stats.targets import most_frequent
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import ArmWarning, LadderForm, ShrinkRecord

from .forms import Rows, made_by

LEARNED_NOTHING = ("one-class", "majority")  # kinds of warnings of a run, the clearest first


def of_ladder(folder: StudyFolder[ShrinkRecord], held: Rows, advice: str) -> list[ArmWarning]:
    """Return the warnings about the teacher and about each finished rung. advice: how to get a better teacher."""
    return [*_of_teacher(folder, held, advice), *_of_rungs(folder)]


def _of_teacher(folder: StudyFolder[ShrinkRecord], held: Rows, advice: str) -> list[ArmWarning]:
    """Warn about a teacher that is not above the majority class, or clearly below a form of another rung."""
    record, dataset = folder.record, held.dataset
    reference = next((form for form in record.forms if form.validation is None), None)
    if reference is None:
        return []
    made = made_by(folder.path, reference.name, held)
    majority = most_frequent(dataset.truth(dataset.split["train"]), len(dataset.names))
    weak = diagnostics.weak_teacher(
        held.labels, made, held.groups, dataset.names, majority, record.teacher, record.metric
    )
    parts = [weak.message] if weak else []
    if below := _exceeded_by(folder, reference, made, held):
        name, pair = below
        parts.append(
            f"The teacher {record.teacher} ({diagnostics.in_metric(record.metric)}{pair.value_b:.1%} on validation) is clearly "
            f"below {name} ({pair.value_a:.1%}): "
            f"{diagnostics.points(pair.estimate, pair.low, pair.high)}."
        )
    if not parts:
        return []
    text = f"{' '.join(parts)} To be not worse than it says little. {advice}"
    return [ArmWarning(arm=reference.rung, kind="weak-teacher", units=[], message=text)]


def _exceeded_by(
    folder: StudyFolder[ShrinkRecord], reference: LadderForm, made: np.ndarray, held: Rows
) -> tuple[str, Paired] | None:
    """Return the form to which the teacher is clearly inferior, and the difference; the bag of words if it is one of them.

    The 95 % interval of the paired difference is below zero. made: (n,) or (n, C) predictions of the teacher.
    """
    labels, classes = held.labels, len(held.dataset.names)
    found: dict[str, Paired] = {}
    for form in folder.record.forms:
        if form.rung == reference.rung:
            continue
        other = made_by(folder.path, form.name, held)
        pair = diagnostics.compared(labels, other, made, held.groups, classes, folder.record.metric)
        if pair is not None and pair.high < 0:
            found[form.name] = pair
    words = [form.name for form in folder.record.forms if form.form == "arrays" and form.name in found]
    name = next(iter(words), None) or min(found, key=lambda one: found[one].estimate, default=None)
    return None if name is None else (name, found[name])


def _of_rungs(folder: StudyFolder[ShrinkRecord]) -> list[ArmWarning]:
    """Return the stored warnings of runs that learned nothing, one for each rung and kind."""
    found = []
    for rung in folder.record.rungs:
        cells = [cell for cell in folder.record.cells_in("finished") if cell.arm == rung.name]
        by_kind: dict[str, dict[str, str]] = {}
        for cell in cells:
            stored = {one.kind: one.message for one in folder.run(cell).metrics.warnings}
            if kind := next((kind for kind in LEARNED_NOTHING if kind in stored), None):
                by_kind.setdefault(kind, {})[cell.unit] = stored[kind]
        for kind, units in by_kind.items():
            message = _message(units, len(cells))
            found.append(ArmWarning(arm=rung.name, kind=kind, units=list(units), message=message))
    return found


def _message(units: Mapping[str, str], runs: int) -> str:
    """Return the message of the first unit, and how many units have a warning of its kind if the rung has several."""
    unit, message = next(iter(units.items()))
    return message if runs == 1 else f"{len(units)} of {runs} runs, e.g. {unit}: {message}"
