"""Checks for results that could mislead a reader, each with a title, a severity and an explanation.

"problem": the numbers are invalid. "warning": interpret the numbers with care. "note": for information.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from randout.core.wording import plural, verb
from randout.stats.diagnostics import KINDS
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import in_words, read_seen, rows_of_old_teachers

from .comparison import complete_units, label_of, study_rows
from .runs_table import is_in_report, test_openings_of
from .search import ranked_trials
from .subjects import Model, Subject
from .values import Check, Section, format_cell, plain

SEVERITIES = ("problem", "warning", "note")
LEARNED_NOTHING = {
    kind: KINDS[kind] for kind in ("one-class", "never-predicted", "unseen", "baseline", "calibration", "no-teacher")
}


def checks(subject: Subject) -> Section:
    """Run every check on a subject; the most severe findings come first."""
    results = [list(check(subject)) for check in CHECKS]
    found = _join([one for result in results for one in result])
    found.sort(key=lambda check: SEVERITIES.index(check.severity))
    count = sum(map(bool, results))
    passed = len(CHECKS) - count
    lead = f"{plural(len(found), 'finding')} from {plural(count, 'check')}; {passed} of {len(CHECKS)} checks found nothing."
    if not found:
        lead = f"All {len(CHECKS)} checks passed."
    return Section("checks", "Checks", (lead, *found))


def _join(found: list[Check]) -> list[Check]:
    """Join the findings of the same check for several models."""
    joined: dict[tuple[str, str], Check] = {}
    for check in found:
        key = (check.code, check.title)
        before = joined.get(key)
        text = f"{before.explanation} {check.explanation}" if before else check.explanation
        joined[key] = replace(check, explanation=text)
    return list(joined.values())


def teacher_saw_held_out(subject: Subject) -> Iterator[Check]:
    """Held-out rows that a teacher or the student's starting model was trained on leak to the student."""
    found, unknown = [], []
    for model in subject.models:
        counts = {split: model.leaks(split) for split in ("validation", "test")}
        found += [
            f"{in_words(leaks['roles'], leaks['of'], f'{split} rows')} ({_name_with_unit(model)})"
            for split, leaks in counts.items()
            if leaks
        ]
        unknown += [model.name] * _has_unknown_ancestor(model)
    if found:
        text = f"{'; '.join(found).capitalize()}. The student may know these rows through them, so its scores on these rows "
        text += "measure memorization. Data, duplicates and leaks shows scores without these rows, where known."
        yield Check("teacher-saw-held-out", "problem", "Held-out rows were seen before", text)
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        text = (
            f"There is no record of what the teacher or starting model of {names} was trained on, so leaks through it "
            "were not checked."
        )
        yield Check("teacher-not-checked", "note", "Training data of a teacher or starting model is not recorded", text)


def _has_unknown_ancestor(model: Model) -> bool:
    """Whether the training rows of a model's teachers or starting model are not fully recorded."""
    run = RunFolder(model.path)
    recorded = read_seen(model.path)
    if recorded is not None:
        return not recorded.complete
    return bool(model.record["identity"].get("teacher")) and not rows_of_old_teachers(run)[1]


def _name_with_unit(model: Model) -> str:
    return f"{model.name}, {model.unit}" if model.unit else model.name


def leaked_copies(subject: Subject) -> Iterator[Check]:
    """Held-out rows with a copy in train reward memorization."""
    found: dict[str, int] = {}
    for model in subject.models:
        for split, scores in model.metrics.items():
            if "without_copies" in scores:
                found[split] = max(found.get(split, 0), scores["rows"] - scores["without_copies"]["rows"])
    if found:
        rows = " and ".join(f"{count} {split} rows" for split, count in found.items())
        text = f"{rows} have a copy of their text in train. See Data, duplicates and leaks for scores without them; "
        text += "--split auto avoids such copies."
        yield Check("leaked-copies", "warning", "Copies across splits", text)


def best_at_edge(subject: Subject) -> Iterator[Check]:
    """A best value at the edge of its grid suggests that better values lie outside."""
    best = subject.best
    for key, values in (subject.study.get("space") or {}).items() if best else ():
        numbers = (
            [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if isinstance(values, list)
            else []
        )
        chosen = (best.get("settings") or {}).get(key)
        if len(set(numbers)) >= 3 and chosen in (min(numbers), max(numbers)):
            end = "largest" if chosen == max(numbers) else "smallest"
            text = f"The best trial uses the {end} value of {key} that was tried ({plain(chosen)}). Better values may lie beyond."
            yield Check("best-at-edge", "warning", f"Best value at the edge of the grid: {key}", text)


def within_noise(subject: Subject) -> Iterator[Check]:
    """Differences that are smaller than random variation."""
    for row in study_rows(subject):
        values = [value for value in row.get("values") or [] if value is not None]
        found = row.get("difference")
        if found and len(values) > 1 and abs(found["estimate"]) < (spread := float(np.std(values, ddof=1))):
            text = (
                f"{label_of(row, subject)}: the difference of {format_cell(found['estimate'], 'points')} points is smaller than "
                f"the standard deviation of its scores across units ({format_cell(spread, 'percent')} points)."
            )
            yield Check("within-seed-noise", "note", "Within seed noise", text)
    order = [trial for trial in ranked_trials(subject) if trial.get("state") == "finished"]
    rows = subject.models[0].metrics.get("validation", {}).get("rows") if subject.models else None
    if subject.metric == "accuracy" and len(order) > 1 and rows:
        best, error = order[0]["value"], math.sqrt(order[0]["value"] * (1 - order[0]["value"]) / rows)
        close = sum(best - trial["value"] < error for trial in order[1:])
        if close:
            text = (
                f"{plural(close, 'other trial')} {verb(close, 'lies', 'lie')} "
                f"within one standard error of the best ({format_cell(error, 'percent')} points, "
                f"{rows} validation rows). Which of them is best is mostly chance."
            )
            yield Check("within-row-noise", "note", "The best trial is not clearly the best", text)


def opened_often(subject: Subject) -> Iterator[Check]:
    """Test scores are too optimistic if choices were based on them."""
    found = test_openings_of(subject)
    mine = {model.record.get("fingerprint") for model in subject.models}
    again = Counter(str(entry.get("run")) for entry in found if entry.get("fingerprint") in mine)
    again = Counter({run: count for run, count in again.items() if count > 1})
    if again:
        text = ", ".join(f"{run} {count} times" for run, count in again.items())
        yield Check(
            "test-opened-again",
            "warning",
            "Test opened more than once",
            f"By the same run: {text}. Check whether anything was changed in between.",
        )
    others = {str(entry.get("run")): None for entry in found if not is_in_report(entry, subject)}
    if others:
        few = ", ".join([*others][:5]) + (", ..." if len(others) > 5 else "")
        text = (
            f"{len(others)} other {'runs were' if len(others) > 1 else 'run was'} scored on these test rows and "
            f"{'are' if len(others) > 1 else 'is'} not in this report ({few}). If they were alternatives, the ones shown "
            "here may have been chosen by their test scores."
        )
        yield Check("test-opened-by-others", "warning", "Other runs were scored on this test split", text)


def units_missing(subject: Subject) -> Iterator[Check]:
    """Failed or missing cells, and too few seeds for conclusions about a method."""
    cells = subject.study.get("cells", [])
    failed = sum(cell.get("state") == "failed" for cell in cells)
    if failed:
        yield Check(
            "cells-failed",
            "warning",
            "Some runs failed",
            f"{failed} of {len(cells)} runs failed; see State of the study for the reasons.",
        )
    units = len(subject.study.get("units", []))
    done = len(complete_units(subject))
    if subject.kind in ("compare", "cv") and done < units:
        text = f"{done} of {units} units are complete; the others are left out. Run the same command again to resume."
        yield Check("incomplete", "warning", "The study is not complete", text)
    one = subject.kind == "runs" and len(subject.scored()) > 1
    if one or (subject.kind == "compare" and done == 1):
        text = "Each model was trained once. Intervals reflect sampling of texts, not variation across seeds; another seed "
        text += "may change the order."
        yield Check("one-seed", "note", "One seed", text)


def _learned_nothing(subject: Subject) -> Iterator[Check]:
    """Warnings stored by runs that no check computes itself, such as one class only or below the baseline."""
    for kind, title in LEARNED_NOTHING.items():
        found = {
            _name_with_unit(model): one["message"]
            for model in subject.models
            for one in model.warnings
            if one["kind"] == kind
        }
        if found:
            name, message = next(iter(found.items()))
            others = f" The same for: {', '.join([*found][1:])}." if len(found) > 1 else ""
            yield Check(kind, "warning", title, f"{name}: {message}{others}")


def no_better_than_majority(subject: Subject) -> Iterator[Check]:
    """Models whose interval includes the accuracy of always predicting the most common class."""
    for model in subject.models:
        scores = model.metrics.get(subject.split)
        if not scores or "majority_baseline" not in scores:
            continue
        low = (scores.get("intervals") or {}).get("accuracy", [scores["accuracy"]])[0]
        if low <= scores["majority_baseline"]:
            own, least, always = (
                format_cell(x, "percent") for x in (scores["accuracy"], low, scores["majority_baseline"])
            )
            text = f"{_name_with_unit(model)}: accuracy {own} %, interval from {least} %; always predicting "
            text += f"{scores.get('majority_label', 'the most common class')} gives {always} %."
            yield Check("majority", "warning", "Not clearly better than the most common class", text)
    yield from _learned_nothing(subject)


def still_rising(subject: Subject) -> Iterator[Check]:
    """Models whose last epoch was the best; more epochs may help."""
    several = [
        m for m in subject.models if len(m.history.get("epochs") or ()) > 1
    ]  # with one epoch, the last is always the best
    several = [
        m for m in several if m.record.get("identity", {}).get("train", {}).get("keep") != "last"
    ]  # keeps the last epoch by request
    late = [
        m
        for m in several
        if m.history.get("best_epoch") == m.history["epochs"][-1].get("epoch", len(m.history["epochs"]))
    ]
    late = [model for model in late if str(model.history.get("ended", "")).startswith("all")]
    if late:
        which = "All models" if len(late) == len(subject.models) > 1 else ", ".join(dict.fromkeys(m.name for m in late))
        text = f"{which}: the last epoch was the best on the validation split. More epochs may improve it."
        yield Check("still-rising", "note", "Still improving when training ended", text)


def weak_teacher(subject: Subject) -> Iterator[Check]:
    """A teacher that is no better than the baseline has little to teach."""
    base = next((m for arm in subject.arms if arm.name == subject.baseline for m in arm.models), None)
    if base is None or "validation" not in base.metrics:
        return
    own = base.metrics["validation"]["accuracy"]
    for model in subject.models:
        taught = (model.record.get("teacher") or {}).get("validation_accuracy")
        if taught is not None and taught <= own and (not model.unit or model.unit == base.unit):
            text = f"On the validation split the teacher of {_name_with_unit(model)} reaches {format_cell(taught, 'percent')} %, "
            text += f"{subject.baseline} {format_cell(own, 'percent')} %."
            yield Check("weak-teacher", "warning", "The teacher is no better than the baseline", text)
            return


def several_machines(subject: Subject) -> Iterator[Check]:
    """Scores from different versions or devices differ for other reasons too."""
    places = {
        tuple(sorted((k, plain(v)) for k, v in (m.record.get("environment") or {}).items())) for m in subject.models
    }
    if len(places) > 1:
        text = f"The models were trained in {len(places)} environments (versions, device, threads); see Environment."
        yield Check("several-environments", "note", "Trained in different environments", text)


def untuned_arms(subject: Subject) -> Iterator[Check]:
    """Arms tuned with different numbers of trials; more trials give a better best value by chance."""
    trials = {arm: found.get("trials", 0) for arm, found in (subject.study.get("tuning") or {}).items()}
    if len(set(trials.values())) > 1:
        text = ", ".join(f"{arm} {count}" for arm, count in trials.items())
        yield Check("unequal-tuning", "warning", "Models were tuned with unequal budgets", f"Trials: {text}.")


CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    teacher_saw_held_out,
    leaked_copies,
    best_at_edge,
    within_noise,
    opened_often,
    units_missing,
    no_better_than_majority,
    still_rising,
    weak_teacher,
    several_machines,
    untuned_arms,
)
