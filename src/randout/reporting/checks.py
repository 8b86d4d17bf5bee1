"""Checks for results that could mislead a reader, each with a title, a severity and an explanation.

"problem": the numbers are invalid. "warning": interpret the numbers with care. "note": for information.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from randout.core.wording import WARNING, no_teacher_words, plural, verb
from randout.stats.diagnostics import KINDS
from randout.storage.metrics_record import Leaks
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import ROLES, SELECTED, in_words, read_seen, rows_of_old_teachers
from randout.storage.study_record import ComparisonRecord, ShrinkRecord

from .comparison import complete_units, label_of, study_rows
from .runs_table import is_in_report, test_openings_of
from .search import ranked_trials
from .subjects import Model, Subject
from .values import Check, Section, format_cell, plain

SEVERITIES = ("problem", "warning", "note")
LEARNED_NOTHING = {kind: KINDS[kind] for kind in ("one-class", "never-predicted", "unseen", "baseline", "calibration")}


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
    found, refits, unknown = [], [], []
    for model in subject.models:
        counts = {split: leaks for split in ("validation", "test") if (leaks := model.leaks(split))}
        lines = [
            f"{in_words(leaks.roles, leaks.of, f'{split} rows')} ({_name_with_unit(model)})"
            for split, leaks in counts.items()
        ]
        if counts.keys() == {"validation"} and _is_refit(model, counts["validation"]):
            refits += lines
        else:
            found += lines
        unknown += [model.name] * _has_unknown_ancestor(model)
    if found:
        text = f"{'; '.join(found).capitalize()}. The student may know these rows through them, so its scores on these rows "
        text += "measure memorization. Data, duplicates and leaks shows scores without these rows, where known."
        yield Check("teacher-saw-held-out", "problem", "Held-out rows were seen before", text)
    if refits:
        text = f"{'; '.join(refits).capitalize()}, by its refit on its own validation rows. Test scores are not concerned, but "
        text += "validation scores of these students may be too high, and say nothing of student and teacher. To avoid this, "
        text += "train the teacher with --set refit=false."
        yield Check("teacher-refit", "warning", "A teacher was refitted on the validation rows", text)
    if unknown:
        names = ", ".join(dict.fromkeys(unknown))
        text = (
            f"There is no record of what the teacher or starting model of {names} was trained on, so leaks through it "
            "were not checked."
        )
        yield Check("teacher-not-checked", "note", "Training data of a teacher or starting model is not recorded", text)


def _is_refit(model: Model, leaks: Leaks) -> bool:
    """Whether the validation rows that a model's teacher was trained on are those that also selected the teacher."""
    recorded = read_seen(model.path)
    if recorded is None or set(leaks.roles) != {"teacher-trained"}:
        return False
    own = recorded.roles[recorded.roles & SELECTED > 0]  # of the model's validation rows
    taught = own[own & ROLES["teacher-trained"] > 0]
    return bool(len(taught)) and bool((taught & ROLES["teacher-selected"] > 0).all())


def _has_unknown_ancestor(model: Model) -> bool:
    """Whether the training rows of a model's teachers or starting model are not fully recorded."""
    run = RunFolder(model.path)
    recorded = read_seen(model.path)
    if recorded is not None:
        return not recorded.complete
    return bool(model.record.identity.teacher) and not rows_of_old_teachers(run)[1]


def _name_with_unit(model: Model) -> str:
    return f"{model.name}, {model.unit}" if model.unit else model.name


def leaked_copies(subject: Subject) -> Iterator[Check]:
    """Held-out rows with a copy in train reward memorization."""
    found: dict[str, int] = {}
    for model in subject.models:
        for split, scores in model.metrics.splits.items():
            if scores.without_copies:
                found[split] = max(found.get(split, 0), scores.rows - scores.without_copies.rows)
    if found:
        rows = " and ".join(f"{count} {split} rows" for split, count in found.items())
        text = f"{rows} have a copy of their text in train. See Data, duplicates and leaks for scores without them; "
        text += "--split auto avoids such copies."
        yield Check("leaked-copies", "warning", "Copies across splits", text)


def best_at_edge(subject: Subject) -> Iterator[Check]:
    """A best value at the edge of its grid suggests that better values lie outside."""
    best = subject.search.stored_best if subject.search else None
    if subject.search is None or best is None:
        return
    for key, values in subject.search.space.items():
        numbers = (
            [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if isinstance(values, list)
            else []
        )
        chosen = best.settings.get(key)
        if len(set(numbers)) >= 3 and chosen in (min(numbers), max(numbers)):
            end = "largest" if chosen == max(numbers) else "smallest"
            text = f"The best trial uses the {end} value of {key} that was tried ({plain(chosen)}). Better values may lie beyond."
            yield Check("best-at-edge", "warning", f"Best value at the edge of the grid: {key}", text)


def within_noise(subject: Subject) -> Iterator[Check]:
    """Differences that are smaller than random variation."""
    for row in study_rows(subject):
        found = row.difference
        if found and len(row.values) > 1 and abs(found.estimate) < (spread := float(np.std(row.values, ddof=1))):
            text = (
                f"{label_of(row, subject)}: the difference of {format_cell(found.estimate, 'points')} points is smaller than "
                f"the standard deviation of its scores across units ({format_cell(spread, 'percent')} points)."
            )
            yield Check("within-seed-noise", "note", "Within seed noise", text)
    values = [value for trial, value in ranked_trials(subject) if trial.state == "finished"]
    rows = subject.models[0].metrics.validation.rows if subject.models else None
    if subject.metric == "accuracy" and len(values) > 1 and rows:
        best, error = values[0], math.sqrt(values[0] * (1 - values[0]) / rows)
        close = sum(best - value < error for value in values[1:])
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
    mine = {model.record.fingerprint for model in subject.models}
    again = Counter(entry.run for entry in found if entry.fingerprint in mine)
    again = Counter({run: count for run, count in again.items() if count > 1})
    if again:
        text = ", ".join(f"{run} {count} times" for run, count in again.items())
        yield Check(
            "test-opened-again",
            "warning",
            "Test opened more than once",
            f"By the same run: {text}. Check whether anything was changed in between.",
        )
    others = {entry.run: None for entry in found if not is_in_report(entry, subject)}
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
    done = len(complete_units(subject))
    if study := subject.comparison:
        if failed := len(study.cells_in("failed")):
            text = f"{failed} of {len(study.cells)} runs failed; see State of the study for the reasons."
            yield Check("cells-failed", "warning", "Some runs failed", text)
        if done < len(study.units):
            text = f"{done} of {len(study.units)} units are complete; the others are left out. "
            text += "Run the same command again to resume."
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
            _name_with_unit(model): one.message
            for model in subject.models
            for one in model.metrics.warnings
            if one.kind == kind
        }
        if found:
            name, message = next(iter(found.items()))
            others = f" The same for: {', '.join([*found][1:])}." if len(found) > 1 else ""
            yield Check(kind, "warning", title, f"{name}: {message}{others}")


def no_better_than_majority(subject: Subject) -> Iterator[Check]:
    """Models whose interval includes the accuracy of always predicting the most common class."""
    for model in subject.models:
        scores = model.metrics.splits.get(subject.split)
        if scores is None:
            continue
        low, _ = scores.interval("accuracy") or (scores.accuracy, scores.accuracy)
        if low <= scores.majority_baseline:
            own, least, always = (format_cell(x, "percent") for x in (scores.accuracy, low, scores.majority_baseline))
            text = f"{_name_with_unit(model)}: accuracy {own} %, interval from {least} %; always predicting "
            text += f"{scores.majority_label} gives {always} %."
            yield Check("majority", "warning", "Not clearly better than the most common class", text)
    yield from _learned_nothing(subject)
    yield from _of_study(subject.ladder, "one-class", "majority")


def still_rising(subject: Subject) -> Iterator[Check]:
    """Models whose last epoch was the best; more epochs may help."""
    several = [m for m in subject.models if len(m.history.epochs) > 1]  # with one epoch, the last is always the best
    several = [m for m in several if m.record.identity.train.keep != "last"]  # keeps the last epoch by request
    late = [m for m in several if m.history.best_epoch == m.history.last_epoch and m.history.ended.startswith("all")]
    if late:
        which = "All models" if len(late) == len(subject.models) > 1 else ", ".join(dict.fromkeys(m.name for m in late))
        text = f"{which}: the last epoch was the best on the validation split. More epochs may improve it."
        yield Check("still-rising", "note", "Still improving when training ended", text)


def weak_teacher(subject: Subject) -> Iterator[Check]:
    """A teacher that is no better than the baseline, or than what its run compared it with, has little to teach."""
    base = next((m for arm in subject.arms if arm.name == subject.baseline for m in arm.models), None)
    for model in subject.models:
        if base is None or _teaches(base, model) or (model.unit and model.unit != base.unit):
            continue
        if found := _taught(model):
            split, taught = found
            own = base.metrics.splits.get(split)
            if own is not None and taught <= own.accuracy:
                text = f"On the {split} split the teacher of {_name_with_unit(model)} reaches "
                text += (
                    f"{format_cell(taught, 'percent')} %, {subject.baseline} {format_cell(own.accuracy, 'percent')} %."
                )
                yield Check("weak-teacher", "warning", "The teacher is no better than the baseline", text)
                return
    stored = [(one, model) for model in subject.models for one in model.metrics.warnings if one.kind == "weak-teacher"]
    for one, model in stored[:1]:
        yield Check("weak-teacher", "warning", KINDS[one.kind], f"{_name_with_unit(model)}: {one.message}")
    yield from _of_study(subject.ladder, "weak-teacher")


def _of_study(record: ComparisonRecord | ShrinkRecord | None, *kinds: str) -> Iterator[Check]:
    """Warnings of some kinds that a study stored; arms with the same message share a sentence."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in record.warnings if record else ():
        if one.kind in kinds:
            found.setdefault((one.kind, one.message), []).append(one.arm)
    for (kind, message), arms in found.items():
        yield Check(kind, "warning", KINDS[kind], f"{', '.join(arms)}: {message}")


def _teaches(one: Model, other: Model) -> bool:
    """Whether a model is the first teacher of another one."""
    used = other.record.teacher
    return one.record.fingerprint in other.teachers or (used is not None and used.name == one.path.resolve().name)


def _taught(model: Model) -> tuple[str, float] | None:
    """The split on which the teacher of a model is judged, and its accuracy there; None if it was trained on these rows."""
    split = model.metrics.compared_split or "validation"
    scores = model.metrics.splits[split]
    if scores.taught_rows:
        return None
    if scores.teacher is not None:
        return split, scores.teacher.teacher_accuracy
    taught = model.record.teacher.validation_accuracy if model.record.teacher else None
    return None if taught is None else (split, taught)


def no_teacher(subject: Subject) -> Iterator[Check]:
    """Models that were trained without distillation only because no teacher was found."""
    found = {_name_with_unit(model): model.record.left_out for model in subject.models if model.record.left_out}
    if found:
        text = f"{', '.join(found)}: {no_teacher_words(next(iter(found.values())))}."
        yield Check("no-teacher", "note", KINDS["no-teacher"], text)


def doubtful_data(subject: Subject) -> Iterator[Check]:
    """Warnings about the table, and copies of a text with different labels."""
    report = next((model.record.data_report for model in subject.models if model.record.data_report), None)
    if report is None:
        return
    said = [one.message for model in subject.models for one in model.metrics.warnings]  # by the check of these warnings
    for text in (note.removeprefix(WARNING) for note in report.notes if note.startswith(WARNING)):
        if not any(message.startswith(text) for message in said):
            yield Check("data-warning", "warning", "Warnings about the data", f"{text.removesuffix('.')}.")
    if count := report.conflicting_groups:
        text = (
            f"{plural(count, 'text')} {verb(count, 'occurs', 'occur')} with different labels: some of these labels are wrong, "
            "or the text does not decide. `randout label-issues` lists them."
        )
        yield Check("conflicting-labels", "note", "Copies of a text with different labels", text)


def other_models(subject: Subject) -> Iterator[Check]:
    """Runs of one arm whose encoder or teacher changed between them."""
    yield from _of_study(subject.comparison, "models")


def several_machines(subject: Subject) -> Iterator[Check]:
    """Scores from different versions or devices differ for other reasons too."""
    places = {tuple(sorted((k, plain(v)) for k, v in m.record.environment.items())) for m in subject.models}
    if len(places) > 1:
        text = f"The models were trained in {len(places)} environments (versions, device, threads); see Environment."
        yield Check("several-environments", "note", "Trained in different environments", text)


def untuned_arms(subject: Subject) -> Iterator[Check]:
    """Arms tuned with different numbers of trials; more trials give a better best value by chance."""
    tuning = (subject.comparison.tuning if subject.comparison else None) or {}
    trials = {name: found.trials for name, found in tuning.items()}
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
    no_teacher,
    doubtful_data,
    other_models,
    several_machines,
    untuned_arms,
)
