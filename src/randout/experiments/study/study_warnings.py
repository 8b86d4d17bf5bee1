"""Warnings about a study, by arm and kind, and the bag-of-words baseline on its test rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from randout.core.errors import UserError
from randout.experiments.run.run_warnings import trained_majority
from randout.stats.diagnostics import Finding, clearly, majority_scores, metric_name, points, title
from randout.stats.verdicts import FOLDS_NEEDED, compare_folds
from randout.storage.metrics_record import Metrics
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import GivenTeacher
from randout.storage.study_record import ArmWarning, Cell, ComparisonRecord

POOLED = ("majority", "baseline")  # kinds that are tested over all folds together


def of_study(
    record: ComparisonRecord, run_of: Callable[[Cell], RunFolder], metric: str, repeats: int = 1
) -> tuple[list[ArmWarning], str]:
    """Return the warnings of finished cells, one per arm and kind, and a note on the baseline ("" if there is none).

    Over folds, an arm is compared with the majority class and the baseline on all folds together (Nadeau and Bengio's
    interval), because one fold has few rows.
    """
    folds = record.kind == "cv"
    warnings: list[ArmWarning] = []
    baselines: dict[str, float] = {}
    for arm in record.arms:
        runs = {cell.unit: run_of(cell) for cell in record.cells_in("finished") if cell.arm == arm}
        metrics = {unit: run.metrics for unit, run in runs.items()}
        for unit, found in metrics.items():
            if found.test and found.test.baseline:
                baselines[unit] = found.test.baseline.value(metric)
        pooled = folds and len(runs) >= FOLDS_NEEDED
        by_kind: dict[str, dict[str, str]] = {}
        for unit, run in runs.items():
            for one in run.warnings_for_study:
                if not (pooled and one.kind in POOLED):
                    by_kind.setdefault(one.kind, {})[unit] = one.message
        for kind, units in by_kind.items():
            warnings.append(ArmWarning(arm=arm, kind=kind, units=list(units), message=_message(units, len(runs))))
        if others := _other_models(runs):
            warnings.append(ArmWarning(arm=arm, kind="models", units=others, message=_of_other_models(others, runs)))
        for finding in _over_folds(runs, metrics, metric, repeats) if pooled else []:
            warnings.append(ArmWarning(arm=arm, kind=finding.kind, units=list(runs), message=finding.message))
    return warnings, _note(baselines, metric, folds)


def _other_models(runs: Mapping[str, RunFolder]) -> list[str]:
    """Return the units whose run started from another encoder, or had another existing teacher, than that of the first unit."""
    found = {}
    for unit, run in runs.items():
        identity = run.record.identity
        given = [teacher.model for teacher in identity.teachers if isinstance(teacher, GivenTeacher)]
        found[unit] = (identity.student.weights, given)
    return [unit for unit, models in found.items() if models != next(iter(found.values()))]


def _of_other_models(units: Sequence[str], runs: Mapping[str, RunFolder]) -> str:
    return (
        f"{', '.join(units)}: not the same encoder or teacher as in {next(iter(runs))}, because its folder changed between the "
        "runs. The result mixes both: run the study again in another folder (-o)"
    )


def _message(units: Mapping[str, str], runs: int) -> str:
    """Return the message of one unit, and how many units have a warning of its kind."""
    unit, message = next(iter(units.items()))
    if len(units) == 1:
        return message if runs == 1 else f"{unit}: {message}"
    return f"{len(units)} of {runs} runs, e.g. {unit}: {message}"


def _over_folds(
    runs: Mapping[str, RunFolder], metrics: Mapping[str, Metrics], metric: str, repeats: int
) -> list[Finding]:
    own, sizes, trained = [], [], []
    others: dict[str, list[Any]] = {kind: [] for kind in POOLED}
    for unit, run in runs.items():
        found = metrics[unit].test
        assert found is not None
        own.append(found.value(metric))
        if found.multi_label:
            others["majority"].append(None)  # not stored for label sets; the runs' own warnings compare with it
        else:
            largest = trained_majority(run.record, run.labels, found)
            others["majority"].append(majority_scores(np.asarray(found.confusion_matrix), largest)[metric])
        others["baseline"].append(found.baseline.value(metric) if found.baseline else None)
        sizes.append(found.rows)
        trained.append(len(run.split["train"]))
    findings = []
    for kind, values in others.items():
        if any(value is None for value in values):
            continue
        pair = _difference({kind: values, "model": own}, trained, sizes, kind, metric, repeats)
        if pair is None or (pair.low > 0 if kind == "majority" else pair.high >= 0):
            continue
        above = f"not {clearly(pair.estimate)}above that of the majority class"
        what = above if kind == "majority" else "below that of a bag-of-words baseline"
        text = f"{title(metric)} over {len(own)} folds, {np.mean(own):.1%}, is {what} ({np.mean(values):.1%}): "
        findings.append(Finding(kind, f"{text}{points(pair.estimate, pair.low, pair.high)}."))
    return findings


def _difference(
    values: Mapping[str, Sequence[Any]],
    trained: Sequence[int],
    sizes: Sequence[int],
    first: str,
    metric: str,
    repeats: int,
) -> Any:
    try:
        arrays = {name: np.array(one, dtype=np.float64) for name, one in values.items()}
        rows = compare_folds(arrays, np.array(trained), np.array(sizes), first, metric=metric, repeats=repeats)
    except (UserError, ValueError):  # an incomplete repeat: complete ones have been tested before
        return None
    return rows[1].difference


def _note(baselines: Mapping[str, float], metric: str, folds: bool) -> str:
    if not baselines:
        return ""
    mean = float(np.mean(list(baselines.values())))
    over = f", mean of {len(baselines)} folds" if folds and len(baselines) > 1 else ""
    return f"bag-of-words baseline on the test rows: {metric_name(metric)} {100 * mean:.2f} %{over}"


def lines(warnings: Sequence[ArmWarning]) -> list[str]:
    """Return warnings of a study as lines, the arms first; arms with the same message share a line."""
    arms: dict[str, list[str]] = {}
    for one in warnings:
        arms.setdefault(one.message, []).append(one.arm)
    return [f"{', '.join(dict.fromkeys(names))}: {message}" for message, names in arms.items()]
