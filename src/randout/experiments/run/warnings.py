"""Warnings about a run, derived from its predictions and history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from randout.baselines import CLASSIFIERS, reference
from randout.methods.builtin import GOLD
from randout.stats import diagnostics
from randout.stats.diagnostics import Finding
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder

from .plan import Plan

SPLITS = ("validation", "test")


def diagnose(plan: Plan, run: RunFolder, metrics: dict[str, Any], history: dict[str, Any]) -> dict[str, Any]:
    """Return `metrics` with a bag-of-words baseline for every scored split, and with the list `warnings`.

    Warnings about predictions concern the test split if it is scored, else validation. Warnings about the run itself that
    are already in `metrics` (about its teachers) are kept. A split that is not in `metrics` is not read.
    """
    dataset = plan.dataset
    names = list(dataset.id2label.values())
    metric = diagnostics.metric_for(plan.config.train.metric)
    found = dict(metrics)
    for split in SPLITS:
        if split not in found or "baseline" in found[split] or not plan.student.with_reference:
            continue
        made = read_predictions(run.predictions(split), names)
        whole = split == "test" and plan.config.train.refit is True  # the training rows of the tested student
        known = dataset.with_validation_in_training() if whole else dataset
        scores = reference.scores_of(known, split, made.labels, made.predicted, made.groups, metric)
        found[split] = found[split] | ({"baseline": scores} if scores else {})
    last = next(split for split in reversed(SPLITS) if split in found)
    train = np.bincount(dataset.labels[dataset.split["train"]], minlength=len(names))
    about = [one for one in metrics.get("warnings", []) if not one["split"] and one["kind"] != "still-improving"]
    usual = plan.student.usual_epochs(plan)
    held = len(dataset.split["validation"])
    late = diagnostics.still_improving(history, plan.config.train.metric, held, usual)
    hint = "" if late else diagnostics.hint(history, usual)
    own = _of_split(run, last, found[last], names, int(train.argmax()), metric, hint)
    others = [
        diagnostics.unseen(found[split].get("unseen"), split) for split in SPLITS if split in found and split != last
    ]
    every = [*own, *filter(None, others), *([late] if late else [])]
    return found | {"warnings": [*diagnostics.as_json(every), *about]}


def _of_split(
    run: RunFolder, split: str, metrics: dict[str, Any], names: Sequence[str], majority: int, metric: str, hint: str
) -> list[Finding]:
    made = read_predictions(run.predictions(split), names)
    return diagnostics.of_split(
        made.labels,
        made.predicted,
        made.groups,
        made.names,
        majority,
        metric=metric,
        baseline=metrics.get("baseline"),
        logits=made.logits if _gives_probabilities(run.record) else None,
        split=split,
        hint=hint,
        unseen_rows=metrics.get("unseen"),
        smoothing=_smoothing(run.record),
    )


def _smoothing(record: dict[str, Any]) -> float:
    """Return the label smoothing that a run was trained with."""
    methods = (record.get("identity") or {}).get("methods") or {}
    return float((methods.get(GOLD) or {}).get("label_smoothing") or 0.0)


def _gives_probabilities(record: dict[str, Any]) -> bool:
    """Return whether a model was trained to give probabilities. Bag-of-words baselines were not: their model cards say what
    their scores are (margins, shares of trees).
    """
    student = record.get("identity", {}).get("student")
    name = student.get("classifier", "") if isinstance(student, dict) else ""
    return name not in CLASSIFIERS or CLASSIFIERS[name].gives_probabilities


def of_run(run: RunFolder, split: str) -> list[dict[str, str]]:
    """Return the warnings of a finished run for one of its scored splits, from its files only.

    Stored warnings are used if they concern that split; a run of an earlier version has none.
    """
    metrics, record = run.read("metrics.json"), run.record
    stored = metrics.get("warnings")
    if stored is not None and split == next(one for one in reversed(SPLITS) if one in metrics):
        return list(stored)
    names = run.labels
    metric = diagnostics.metric_for((record["identity"].get("train") or {}).get("metric", "accuracy"))
    majority = trained_majority(record, names, metrics[split])
    own = _of_split(run, split, metrics[split], names, majority, metric, "")
    return [*diagnostics.as_json(own), *(one for one in stored or [] if not one["split"])]


def trained_majority(record: dict[str, Any], names: Sequence[str], metrics: dict[str, Any]) -> int:
    """Return the largest class of a run's training rows or, if that is not recorded, of the scored rows."""
    counts: dict[str, int] = ((record.get("data_report") or {}).get("class_counts") or {}).get("train") or {}
    largest = max(counts, key=lambda name: counts[name]) if counts else metrics["majority_label"]
    return list(names).index(largest) if largest in names else list(names).index(metrics["majority_label"])


def of_file(
    model: str,
    labels: np.ndarray,
    logits: np.ndarray,
    groups: np.ndarray,
    id2label: dict[int, str],
    metrics: dict[str, Any],
) -> list[dict[str, str]]:
    """Return the warnings of a classifier on a labelled file.

    The majority class is that of its training rows if it is a run, else of the file. There is no bag-of-words baseline,
    because the training rows may not be available.
    """
    names, run = list(id2label.values()), RunFolder(Path(model).expanduser())
    record = run.record if run.exists else {}
    metric = diagnostics.metric_for((record.get("identity", {}).get("train") or {}).get("metric", "accuracy"))
    majority = trained_majority(record, names, metrics)
    made = logits.argmax(1)
    kept = logits if _gives_probabilities(record) else None
    found = diagnostics.of_split(
        labels,
        made,
        groups,
        names,
        majority,
        metric=metric,
        logits=kept,
        split="the file",
        unseen_rows=metrics.get("unseen"),
        smoothing=_smoothing(record),
    )
    return diagnostics.as_json(found)
