"""Checks on what could mislead a reader, each with a title, a severity and an explanation.

"problem": the numbers do not mean what they say. "warning": read them with care. "note": good to know.
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
from .runs_table import is_shown, opened
from .search import ranked
from .subjects import Model, Subject
from .values import Check, Section, plain, shown

SEVERITIES = ("problem", "warning", "note")
LEARNED_NOTHING = {
    kind: KINDS[kind] for kind in ("one-class", "never-predicted", "unseen", "baseline", "calibration", "no-teacher")
}


def checks(subject: Subject) -> Section:
    """Every check on a subject, the gravest first."""
    found = _joined([check for find in CHECKS for check in find(subject)])
    found.sort(key=lambda check: SEVERITIES.index(check.severity))
    lead = f"{len(CHECKS)} checks were made. " + (f"{len(found)} found something." if found else "None found anything.")
    return Section("checks", "Checks", (lead, *found))


def _joined(found: list[Check]) -> list[Check]:
    """The same check of several models as one."""
    joined: dict[tuple[str, str], Check] = {}
    for check in found:
        key = (check.code, check.title)
        before = joined.get(key)
        text = f"{before.explanation} {check.explanation}" if before else check.explanation
        joined[key] = replace(check, explanation=text)
    return list(joined.values())


def teacher_saw_held_out(subject: Subject) -> Iterator[Check]:
    """What a teacher, or the model that a student starts from, knows of held-out rows reaches the student."""
    found, unknown = [], []
    for model in subject.models:
        counts = {split: model.leaks(split) for split in ("validation", "test")}
        found += [
            f"{in_words(leaks['roles'], leaks['of'], f'{split} rows')} ({_named(model)})"
            for split, leaks in counts.items()
            if leaks
        ]
        unknown += [model.name] * _has_unknown_ancestor(model)
    if found:
        text = f"{'; '.join(found).capitalize()}. What they know of these rows has reached the student, so its scores on them "
        text += "measure memory. Scores without them stand under Data, duplicates and leaks where they are known."
        yield Check("teacher-saw-held-out", "problem", "Held-out rows were seen before", text)
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        text = (
            f"What the teacher or the starting model of {names} was trained on is not on record, so it was not checked."
        )
        yield Check("teacher-not-checked", "note", "What was seen before was not checked", text)


def _has_unknown_ancestor(model: Model) -> bool:
    """Whether it cannot be known what a model's teachers, or the model that it started from, have learned from."""
    run = RunFolder(model.path)
    recorded = read_seen(model.path)
    if recorded is not None:
        return not recorded.complete
    return bool(model.record["identity"].get("teacher")) and not rows_of_old_teachers(run)[1]


def _named(model: Model) -> str:
    return f"{model.name}, {model.unit}" if model.unit else model.name


def leaked_copies(subject: Subject) -> Iterator[Check]:
    """Held-out rows with a copy in train reward memory."""
    found: dict[str, int] = {}
    for model in subject.models:
        for split, scores in model.metrics.items():
            if "without_copies" in scores:
                found[split] = max(found.get(split, 0), scores["rows"] - scores["without_copies"]["rows"])
    if found:
        rows = " and ".join(f"{count} {split} rows" for split, count in found.items())
        text = (
            f"{rows} have a copy of their text in train. Scores without them stand under Data, duplicates and leaks; "
        )
        text += "--split auto avoids this."
        yield Check("leaked-copies", "warning", "Copies cross the split", text)


def best_at_edge(subject: Subject) -> Iterator[Check]:
    """A best value at the end of its grid says that the search may have stopped too early."""
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
            text = f"The best trial takes the {end} {key} that was tried ({plain(chosen)}). Something better may lie beyond."
            yield Check("best-at-edge", "warning", f"Best value at the grid's edge: {key}", text)


def within_noise(subject: Subject) -> Iterator[Check]:
    """A difference smaller than what chance alone moves is no difference."""
    for row in study_rows(subject):
        values = [value for value in row.get("values") or [] if value is not None]
        found = row.get("difference")
        if found and len(values) > 1 and abs(found["estimate"]) < (spread := float(np.std(values, ddof=1))):
            text = (
                f"{label_of(row, subject)}: the difference of {shown(found['estimate'], 'points')} points is smaller than the "
                f"standard deviation of its own scores over units ({shown(spread, 'percent')} points)."
            )
            yield Check("within-seed-noise", "note", "Within seed noise", text)
    order = [trial for trial in ranked(subject) if trial.get("state") == "finished"]
    rows = subject.models[0].metrics.get("validation", {}).get("rows") if subject.models else None
    if subject.metric == "accuracy" and len(order) > 1 and rows:
        best, error = order[0]["value"], math.sqrt(order[0]["value"] * (1 - order[0]["value"]) / rows)
        close = sum(best - trial["value"] < error for trial in order[1:])
        if close:
            text = (
                f"{plural(close, 'other trial')} {verb(close, 'lies', 'lie')} "
                f"within one standard error of the best ({shown(error, 'percent')} points, "
                f"{rows} validation rows). Which of them is best is mostly chance."
            )
            yield Check("within-row-noise", "note", "The best trial is one of several", text)


def opened_often(subject: Subject) -> Iterator[Check]:
    """Choosing by the test split makes its numbers too good."""
    found = opened(subject)
    mine = {model.record.get("fingerprint") for model in subject.models}
    again = Counter(str(entry.get("run")) for entry in found if entry.get("fingerprint") in mine)
    again = Counter({run: count for run, count in again.items() if count > 1})
    if again:
        text = ", ".join(f"{run} {count} times" for run, count in again.items())
        yield Check(
            "test-opened-again",
            "warning",
            "Test opened more than once",
            f"By the same run: {text}. Was anything changed in between?",
        )
    others = {str(entry.get("run")): None for entry in found if not is_shown(entry, subject)}
    if others:
        few = ", ".join([*others][:5]) + (", ..." if len(others) > 5 else "")
        text = (
            f"{len(others)} other {'runs were' if len(others) > 1 else 'run was'} scored on these test rows and "
            f"{'are' if len(others) > 1 else 'is'} not in this report ({few}). If they were alternatives, the ones shown "
            "here may have been chosen by their test scores."
        )
        yield Check("test-opened-by-others", "warning", "Runs that are not shown have opened this test split", text)


def units_missing(subject: Subject) -> Iterator[Check]:
    """Failed cells, and too few seeds to speak of a method."""
    cells = subject.study.get("cells", [])
    failed = sum(cell.get("state") == "failed" for cell in cells)
    if failed:
        yield Check(
            "cells-failed",
            "warning",
            "Some runs failed",
            f"{failed} of {len(cells)} runs failed; State of the study says why.",
        )
    units = len(subject.study.get("units", []))
    done = len(complete_units(subject))
    if subject.kind in ("compare", "cv") and done < units:
        text = f"{done} of {units} units are complete; the others are left out of every comparison. The same command goes on."
        yield Check("incomplete", "warning", "The study is not complete", text)
    one = subject.kind == "runs" and len(subject.scored()) > 1
    if one or (subject.kind == "compare" and done == 1):
        text = "Each model was trained once. The intervals speak of these saved models and new texts; another seed "
        text += "may turn the order round."
        yield Check("one-seed", "note", "One seed", text)


def _learned_nothing(subject: Subject) -> Iterator[Check]:
    """Warnings that runs stored and that no check works out itself: one class only, below the baseline, no teacher."""
    for kind, title in LEARNED_NOTHING.items():
        found = {
            _named(model): one["message"] for model in subject.models for one in model.warnings if one["kind"] == kind
        }
        if found:
            name, message = next(iter(found.items()))
            others = f" Likewise: {', '.join([*found][1:])}." if len(found) > 1 else ""
            yield Check(kind, "warning", title, f"{name}: {message}{others}")


def no_better_than_majority(subject: Subject) -> Iterator[Check]:
    """A model whose interval reaches down to the commonest class has learned nothing that shows."""
    for model in subject.models:
        scores = model.metrics.get(subject.split)
        if not scores or "majority_baseline" not in scores:
            continue
        low = (scores.get("intervals") or {}).get("accuracy", [scores["accuracy"]])[0]
        if low <= scores["majority_baseline"]:
            own, least, always = (shown(x, "percent") for x in (scores["accuracy"], low, scores["majority_baseline"]))
            text = f"{_named(model)}: accuracy {own} %, lower end {least} %; always naming "
            text += f"{scores.get('majority_label', 'the commonest class')} gives {always} %."
            yield Check("majority", "warning", "Not clearly better than the commonest class", text)
    yield from _learned_nothing(subject)


def still_rising(subject: Subject) -> Iterator[Check]:
    """The last epoch was the best: more epochs may help."""
    several = [
        m for m in subject.models if len(m.history.get("epochs") or ()) > 1
    ]  # of one epoch, the last is the best
    several = [m for m in several if m.record.get("identity", {}).get("train", {}).get("keep") != "last"]  # kept anyway
    late = [
        m
        for m in several
        if m.history.get("best_epoch") == m.history["epochs"][-1].get("epoch", len(m.history["epochs"]))
    ]
    late = [model for model in late if str(model.history.get("ended", "")).startswith("all")]
    if late:
        which = "All models" if len(late) == len(subject.models) > 1 else ", ".join(dict.fromkeys(m.name for m in late))
        text = f"{which}: the last epoch was the best on the validation split. More epochs may give more."
        yield Check("still-rising", "note", "Still improving when training ended", text)


def weak_teacher(subject: Subject) -> Iterator[Check]:
    """A teacher that knows no more than the plain student has little to teach."""
    base = next((m for arm in subject.arms if arm.name == subject.baseline for m in arm.models), None)
    if base is None or "validation" not in base.metrics:
        return
    own = base.metrics["validation"]["accuracy"]
    for model in subject.models:
        taught = (model.record.get("teacher") or {}).get("validation_accuracy")
        if taught is not None and taught <= own and (not model.unit or model.unit == base.unit):
            text = f"On the validation split the teacher of {_named(model)} reaches {shown(taught, 'percent')} %, "
            text += f"{subject.baseline} {shown(own, 'percent')} %."
            yield Check("weak-teacher", "warning", "The teacher is no better than the baseline", text)
            return


def several_machines(subject: Subject) -> Iterator[Check]:
    """Numbers of several versions or devices differ for other reasons too."""
    places = {
        tuple(sorted((k, plain(v)) for k, v in (m.record.get("environment") or {}).items())) for m in subject.models
    }
    if len(places) > 1:
        text = f"The models were trained in {len(places)} environments (versions, device, threads); Environment lists them."
        yield Check("several-environments", "note", "Not all on one machine", text)


def untuned_arms(subject: Subject) -> Iterator[Check]:
    """Equal budgets: an arm tuned with more trials had more luck to choose from."""
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
