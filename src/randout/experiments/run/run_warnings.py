"""Warnings about a run, derived from its predictions and history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from randout.baselines import CLASSIFIERS, reference
from randout.methods.builtin import GOLD
from randout.stats import diagnostics
from randout.stats.diagnostics import Finding, Majority
from randout.stats.targets import most_frequent, predicted, widened_sets
from randout.storage.metrics_record import BaselineScores, Metrics, RunWarning, Scores
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import RunRecord

from .plan import Plan
from .teacher_warnings import weak_first_teacher
from .thresholds import Thresholds


def as_records(findings: Sequence[Finding]) -> list[RunWarning]:
    """Return findings as they are stored in `metrics.json`."""
    return [RunWarning(kind=one.kind, message=one.message, split=one.split) for one in findings]


def diagnose(plan: Plan, run: RunFolder, metrics: Metrics, history: Mapping[str, Any]) -> None:
    """Add a bag-of-words baseline to every scored split, and replace the warnings.

    Warnings about predictions concern the test split if it is scored, else validation. Warnings about the run itself that
    are already in `metrics` (about further teachers) are kept. A split that is not in `metrics` is not read.
    """
    dataset = plan.dataset
    names = list(dataset.id2label.values())
    metric = diagnostics.metric_for(plan.config.train.metric)
    splits = metrics.splits
    for split, scores in splits.items():
        if scores.baseline or not plan.student.with_reference:
            continue
        made = read_predictions(run.predictions(split), names)
        known = plan.dataset_of_model(split)
        if found := reference.scores_of(known, split, made.labels, made.predicted, made.groups, metric):
            scores.baseline = BaselineScores.model_validate(found)
    last = [*splits][-1]
    majority = most_frequent(dataset.truth(dataset.split["train"]), len(names))
    about = [one for one in metrics.warnings if not one.split and one.kind != "still-improving"]
    usual = plan.student.usual_epochs(plan)
    held = len(dataset.split["validation"])
    late = diagnostics.still_improving(history, plan.config.train.metric, held, usual)
    hint = "" if late else diagnostics.hint(history, usual)
    own = _of_split(run, last, splits[last], names, majority, metric, hint)
    others = [diagnostics.unseen(scores.unseen, split) for split, scores in splits.items() if split != last]
    teacher = weak_first_teacher(plan, run, metrics)
    every = [*own, *filter(None, others), *filter(None, (late, teacher))]
    metrics.warnings = [*as_records(every), *about]


def _of_split(
    run: RunFolder, split: str, scores: Scores, names: Sequence[str], majority: Majority, metric: str, hint: str
) -> list[Finding]:
    made = read_predictions(run.predictions(split), names)
    if not isinstance(majority, int):
        majority = widened_sets(majority[None], len(made.names))[0][: len(made.names)]
    return diagnostics.of_split(
        made.labels,
        made.predicted,
        made.groups,
        made.names,
        majority,
        metric=metric,
        baseline=scores.baseline.as_json() if scores.baseline else None,
        logits=made.logits if _gives_probabilities(run.record) else None,
        split=split,
        hint=hint,
        unseen_rows=scores.unseen,
        smoothing=_smoothing(run.record),
    )


def _smoothing(record: RunRecord) -> float:
    """Return the label smoothing that a run was trained with."""
    return float(record.identity.methods.get(GOLD, {}).get("label_smoothing") or 0.0)


def _gives_probabilities(record: RunRecord) -> bool:
    """Return whether a model was trained to give probabilities. Bag-of-words baselines were not: their model cards say what
    their scores are (margins, shares of trees).
    """
    name = record.identity.student.classifier
    return name not in CLASSIFIERS or CLASSIFIERS[name].gives_probabilities


def of_run(run: RunFolder, split: str) -> list[RunWarning]:
    """Return the warnings of a finished run for one of its scored splits, from its files only.

    Stored warnings are used if they concern that split; a run of an earlier version has none.
    """
    metrics, record = run.metrics, run.record
    if "warnings" in metrics.model_fields_set and split == [*metrics.splits][-1]:
        return metrics.warnings
    names, scores = run.labels, metrics.splits[split]
    metric = diagnostics.metric_for(record.identity.train.metric)
    majority: Majority = 0
    if scores.multi_label:
        majority = most_frequent(read_predictions(run.predictions(split), names).labels, len(names))
    else:
        majority = trained_majority(record, names, scores)
    own = _of_split(run, split, scores, names, majority, metric, "")
    return [*as_records(own), *(one for one in metrics.warnings if not one.split)]


def trained_majority(record: RunRecord | None, names: Sequence[str], scores: Scores) -> int:
    """Return the largest class of a run's training rows or, if that is not recorded, of the scored rows."""
    report = record.data_report if record else None
    counts = report.class_counts.get("train", {}) if report else {}
    largest = max(counts, key=lambda name: counts[name]) if counts else scores.majority_label
    return list(names).index(largest if largest in names else scores.majority_label)


def of_file(
    model: str,
    labels: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray,
    id2label: dict[int, str],
    scores: Scores,
    thresholds: Thresholds = None,
) -> list[RunWarning]:
    """Return the warnings of a classifier on a labelled file.

    thresholds: of a model that predicts label sets. The majority class is that of its training rows if it is a run, else
    of the file; the most common label set is always that of the file. There is no bag-of-words baseline,
    because the training rows may not be available.
    """
    names, run = list(id2label.values()), RunFolder(Path(model).expanduser())
    record = run.record if run.exists else None
    metric = diagnostics.metric_for(record.identity.train.metric if record else scores.main_metric)
    majority: Majority = (
        most_frequent(labels, len(names)) if scores.multi_label else trained_majority(record, names, scores)
    )
    made = predicted(logits, thresholds, len(names))
    kept = logits if record is None or _gives_probabilities(record) else None
    found = diagnostics.of_split(
        labels,
        made,
        groups,
        names,
        majority,
        metric=metric,
        logits=kept,
        split="the file",
        unseen_rows=scores.unseen,
        smoothing=_smoothing(record) if record else 0.0,
    )
    return as_records(found)
