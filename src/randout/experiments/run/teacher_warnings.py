"""Warnings about a teacher of a run that has little to teach.

A teacher is only judged on rows that it was not trained on.
"""

from __future__ import annotations

import numpy as np

from randout.core.errors import UserError
from randout.methods.builtin import GOLD
from randout.models.sources import Source
from randout.stats import diagnostics
from randout.stats.diagnostics import Finding
from randout.stats.targets import most_frequent, predicted
from randout.storage import run_folder
from randout.storage.metrics_record import Metrics, RunWarning
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import ANY_TRAINED, read_seen

from .imported_teacher import ImportedTeacher
from .plan import Plan, TeacherOutputs


def teacher_warnings(plan: Plan, teacher: TeacherOutputs | None) -> list[RunWarning]:
    """Return a warning for each further teacher that is not above the majority class on the validation rows.

    The first teacher is judged by `weak_first_teacher`.
    """
    further = zip(plan.teachers[1:], teacher.others, strict=True) if teacher else ()
    found = [weak for source, one in further if (weak := _below_majority(plan, source, one))]
    return [RunWarning(kind=one.kind, message=one.message, split=one.split) for one in found]


def _below_majority(plan: Plan, source: Source | ImportedTeacher | Plan, teacher: TeacherOutputs) -> Finding | None:
    """Judge a further teacher on the validation rows for which it has logits and that it was not trained on."""
    dataset, metric = plan.dataset, diagnostics.metric_for(plan.config.train.metric)
    held = dataset.split["validation"]
    rows = held[~np.isnan(teacher.logits[held].numpy()).any(1)]
    if isinstance(source, Source) and (seen := read_seen(source.folder)):
        rows = rows[seen.roles_of(dataset.hashes[rows]) & ANY_TRAINED == 0]
    if not len(rows):
        return None
    labels, names = dataset.truth(rows), dataset.names
    majority = most_frequent(dataset.truth(dataset.split["train"]), len(names))
    made = predicted(teacher.logits[rows].numpy(), teacher.thresholds, len(names))
    return diagnostics.weak_teacher(labels, made, dataset.groups[rows], dataset.names, majority, teacher.name, metric)


def weak_first_teacher(plan: Plan, run: RunFolder, metrics: Metrics) -> Finding | None:
    """Return a warning if the first teacher is no better than what costs less, on rows that it was not trained on.

    That is, in the metric of the run: it is not above the majority class, or is below the bag-of-words baseline or the
    student (by their intervals), or it is not above the same student trained without it in the same folder of runs. None
    if there are no such rows.
    """
    split = metrics.compared_split
    scores = metrics.splits.get(split)
    if scores is None or scores.teacher is None or scores.taught_rows:
        return None
    metric, gap = next(iter(scores.teacher.by_metric.items()))
    over, words = scores.teacher.over_majority, scores.teacher.over_baseline
    if over is not None and over.low <= 0:
        which = "majority class" if plan.dataset.sets is None else "most common label set"
        other = f"not {diagnostics.clearly(over.estimate)}above the {which} ({gap.teacher - over.estimate:.1%})"
    elif words is not None and words.high < 0:
        other = f"below the bag-of-words baseline ({gap.teacher - words.estimate:.1%})"
    elif gap.verdict == "better":
        other = f"below this student ({gap.student:.1%})"
    elif (plain := _plain_score(plan, run, split, metric)) is not None and gap.teacher <= plain:
        other = f"not above the student trained without it ({plain:.1%})"
    else:
        return None
    start = f"The teacher ({diagnostics.in_metric(metric)}{gap.teacher:.1%} on {split}) is {other}"
    return Finding("weak-teacher", f"{start}, so there may be little to learn from it.", split)


def _plain_score(plan: Plan, run: RunFolder, split: str, metric: str) -> float | None:
    """Return the score of the same student on the same rows, trained with cross-entropy only; None if there is no such run.

    Training settings and seed are the same too. Among several such runs, which differ in the settings of cross-entropy, the
    one with the run's own settings comes first, then the one whose fingerprint does.
    """
    found: list[tuple[bool, str, float]] = []
    for other in run_folder.list_runs(run.path.parent):
        try:
            record = other.record
            identity, same = record.identity.as_json(), ("data", "split", "student", "train")
            alone = record.finished is not None and record.identity.methods.keys() == {GOLD}
            if alone and all(identity[part] == plan.identity[part] for part in same):
                scores = other.metrics.splits.get(split)
                if scores is not None:
                    own = identity["methods"][GOLD] == plan.identity["methods"].get(GOLD)
                    found.append((not own, record.fingerprint, scores.value(metric)))
        except UserError:  # written in another format: not an error here
            continue
    return min(found)[2] if found else None
