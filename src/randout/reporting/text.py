"""Scores, comparisons and choices of a student as text: lists of lines in fixed-width columns, for the caller to print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from randout.core.text_tables import table_lines, without_middle
from randout.core.wording import plural, unseen_words, verb
from randout.stats import diagnostics
from randout.stats.abstention import CoveragePoint, Threshold
from randout.stats.metrics import label_names
from randout.stats.paired import Comparison
from randout.stats.verdicts import FOLDS, MethodRow
from randout.storage.abstention_record import Abstention
from randout.storage.metrics_record import AbstentionScores, Leaks, Scores
from randout.storage.run_record import RunRecord, StudentChoice
from randout.storage.seen_rows import in_words

HEADLINE = {
    "sample_f1": "sample F1",
    "accuracy": "accuracy",
    "micro_f1": "micro F1",
    "balanced_accuracy": "balanced accuracy",
    "macro_precision": "macro precision",
    "macro_recall": "macro recall",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "expected_calibration_error": "calibration error",
}
ABOUT_SETS = {  # what metrics of label sets mean
    "sample_f1": "  (mean F1 over rows)",
    "accuracy": "  (exact match: the whole set is right)",
    "micro_f1": "  (of all decisions together)",
    "balanced_accuracy": "  (mean over labels)",
}
CALIBRATION = "expected_calibration_error"
NAME_WIDTH = 28  # most columns of a label in a text table
MODEL_WIDTH = 44  # least columns of a shortened name of a run or an arm
CUT = ".."  # marks the cut in a shortened name
MATRIX_WIDTH = 92  # approximate width of a confusion matrix in columns
MATRIX_CLASSES = 12  # more classes than this: list the most common confusions instead of the matrix
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.25)  # of a short table of a risk-coverage curve
LABEL = {False: "label", True: "label set"}  # what a text gets; key: whether the model predicts label sets
RIGHT = {False: "correctly", True: "right as a whole"}
ENCODER, BAG_OF_WORDS = "encoder", "bag-of-words"  # keys of a recorded choice in `run.json`


def shortened(name: str, width: int = NAME_WIDTH) -> str:
    """Shorten a name to at most `width` terminal columns; two dots mark the cut."""
    return name if cell_len(name) <= width else set_cell_size(name, width - 2).rstrip() + ".."


def distinct_names(names: Sequence[str], width: int) -> list[str]:
    """Cut the middle of names that are wider than `width` terminal columns, so that different names stay different.

    If the names differ only where the middle is cut, the cut moves; if no place is left, all names get wider.
    """
    different, widest = len(set(names)), max(map(cell_len, names), default=0)
    for limit in range(width, widest):
        room = limit - len(CUT)
        for after in sorted(range(room + 1), key=lambda after: abs(after - room // 2)):
            found = [without_middle(name, limit, CUT, after) for name in names]
            if len(set(found)) == different:
                return found
    return list(names)


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _confusion_lines(counts: np.ndarray, names: list[str]) -> list[str]:
    """Format the confusion matrix, or for many classes the ten most common confusions.

    Labels in the header are shortened to fit a terminal; if that makes two of them equal, they are numbered.
    """
    if len(names) <= MATRIX_CLASSES:
        down = distinct_names(names, NAME_WIDTH)
        across = (MATRIX_WIDTH - max(map(cell_len, down))) // len(names) - 2
        head = [shortened(name, min(NAME_WIDTH, max(5, across))) for name in names]
        if len(set(head)) < len(head):
            head = [shortened(f"{at} {name}", max(5, across)) for at, name in enumerate(names)]
            down = [f"{at} {name}" for at, name in enumerate(down)]
        cells = [[name, *map(str, line)] for name, line in zip(down, counts, strict=True)]
        return table_lines(["true \\ predicted", *head], cells)
    wrong = counts - np.diag(np.diagonal(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:10]
    places = [divmod(int(at), len(names)) for at in order if wrong.flat[at]]
    shown = distinct_names(names, NAME_WIDTH)
    rows = [[f"{shown[true]} -> {shown[made]}", str(wrong[true, made])] for true, made in places]
    return table_lines(["most common confusions, true -> predicted", "rows"], rows)


def score_lines(scores: Scores, id2label: Mapping[Any, str], split: str = "") -> list[str]:
    """Format the scores of a split or file: headline metrics with intervals, each class, the confusion matrix.

    split: name of the split, for messages; empty for a file.
    Values in percent with two decimals, intervals with one; log loss in nats.
    """
    names = [*label_names(id2label), *scores.unseen]
    groups = ""
    if scores.groups is not None and scores.groups != scores.rows:
        groups = f" in {plural(scores.groups, 'group')} (copies and rows of the same group count as one)"
    baseline = scores.baseline
    wide = max(map(len, [*HEADLINE.values(), *([baseline.name] if baseline else [])]))
    lines = [f"{plural(scores.rows, 'row')}{groups}" + (", 95 % intervals in brackets" if scores.intervals else "")]
    if scores.before_refit:
        lines.append("scored before the refit; the saved model has been trained on these rows too")
    if scores.unseen:
        lines.append(f"{unseen_words(scores.unseen, 'these')}; log loss is computed on the other rows")
    without_rows = _classes_without_rows(scores, names, split)
    for metric, title in HEADLINE.items():
        if scores.value(metric) is None:  # of the other kind of target
            continue
        between = " [no interval]" if metric in scores.no_interval else _brackets(scores.interval(metric))
        about = "  (mean distance between confidence and accuracy)" * (metric == CALIBRATION)
        about += without_rows * metric.startswith("macro_")
        about += ABOUT_SETS.get(metric, "") * scores.multi_label
        lines.append(f"{title:<{wide}}  {_percent(scores.value(metric)):>6} %{between}{about}")
    about = f"(lower is better; {_unsure_loss(scores, len(id2label)):.4f} for equal probabilities)"  # of the model's outputs
    lines.append(f"{'log loss':<{wide}}  {scores.log_loss:>6.4f}    {about}")
    always = f"%  (accuracy of always predicting {shortened(scores.majority_label)!r})"
    which = "majority set" if scores.multi_label else "majority class"
    lines.append(f"{which:<{wide}}  {_percent(scores.majority_baseline):>6} {always}")
    if baseline:
        size = f"{plural(baseline.train_rows, 'training row')}{', sampled' if baseline.sampled else ''}"
        metric = baseline.metric
        other = "" if metric == "accuracy" else f"; {HEADLINE[metric]} {_percent(baseline.value(metric))} %"
        about = f"(accuracy of a linear classifier on tf-idf of {size}{other})"
        lines.append(f"{baseline.name:<{wide}}  {_percent(baseline.accuracy):>6} %  {about}")
    lines += remarks(scores, len(id2label))
    lines += [f"no interval: {reason}" for reason in dict.fromkeys(scores.no_interval.values())]
    rows = []
    for name, shown in zip(names, distinct_names(names, NAME_WIDTH), strict=True):
        each = scores.per_class[name]
        limit = [f"{scores.thresholds[name]:.2f}" if name in scores.thresholds else ""] * scores.multi_label
        rows.append([shown, *map(_percent, (each.precision, each.recall, each.f1)), f"{each.support:,}", *limit])
    lines += [
        "",
        *table_lines(["label", "precision", "recall", "F1", "rows", *["threshold"] * scores.multi_label], rows),
    ]
    if scores.multi_label:
        return [*lines, *_set_lines(scores, split)]
    return [*lines, "", *_confusion_lines(np.asarray(scores.confusion_matrix), names)]


def _unsure_loss(scores: Scores, outputs: int) -> float:
    """Return the log loss of equal probabilities: of all classes or, of label sets, of yes and no for each label."""
    return math.log(2 if scores.multi_label else outputs)


def _set_lines(scores: Scores, split: str) -> list[str]:
    """Say how many labels rows have, and where the thresholds come from."""
    counts = scores.labels_per_row
    lines = [f"labels per row: {counts['true']:.2f} true, {counts['predicted']:.2f} predicted"]
    if split == "validation":
        kept = (
            "; the refitted model keeps them, as rows that it has learned cannot choose its own" * scores.before_refit
        )
        lines.append(f"the thresholds were chosen on these rows for F1, so these scores are optimistic{kept}")
    return lines


def _classes_without_rows(scores: Scores, names: Sequence[str], split: str) -> str:
    """Say of a mean over classes how many of them have no rows and therefore count 0; empty if all have."""
    absent = sum(not scores.per_class[name].support for name in names)
    if not absent:
        return ""
    which = f"{'one' if absent == 1 else f'{absent:,}'} of which {verb(absent, 'has', 'have')} no {f'{split} ' * bool(split)}rows"
    return f"  (over {len(names):,} classes, {which} and {verb(absent, 'counts', 'count')} 0)"


def remarks(scores: Scores, outputs: int) -> list[str]:
    """Say in plain lines what the estimates alone show: a score or log loss that is no better than what costs little.

    outputs: number of classes that the model knows. These are no verdicts: an interval may include the opposite.
    """
    found, baseline = [], scores.baseline
    warned = baseline and baseline.difference and baseline.difference.high < 0  # clearly below: a warning says so
    if baseline and not warned and scores.value(baseline.metric) <= baseline.value(baseline.metric):
        value = f"{_percent(baseline.value(baseline.metric))} %"
        points = f"{100 * (baseline.value(baseline.metric) - scores.value(baseline.metric)):.1f}"
        below = "not above" if points == "0.0" else f"{points} points below"
        found.append(f"{HEADLINE[baseline.metric]} is {below} the {baseline.name} ({value}), which costs seconds")
    if outputs > 1 and scores.log_loss > _unsure_loss(scores, outputs):
        found.append("log loss is worse than that of equal probabilities: use the labels, not the probabilities")
    return found


def training_rows_note(models: Mapping[str, Sequence[RunRecord]]) -> str:
    """Return a note if only some of the models that are compared were refitted, with the rows of each; "" otherwise.

    models: the runs of each name. Baselines are never refitted, so they learn from fewer rows than a refitted encoder.
    """
    refits = {name: {one.identity.train.refit for one in records} for name, records in models.items() if records}
    if len(set[bool]().union(*refits.values())) < 2:
        return ""
    found = []
    for name, kinds in refits.items():
        counts = sorted({one.fitted_rows for one in models[name]})
        rows = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        which = "training rows" if kinds == {False} else "training and validation rows"
        found.append(f"{name}: {rows if counts[-1] else 'all'} {which}{' (some runs)' * (len(kinds) > 1)}")
    return f"the models were trained on different numbers of labelled rows, because of the refit ({'; '.join(found)})"


def covered(head: str) -> str:
    """Say what a study's result covers. head: as stored, `2 of 3 seeds`; `3 of 3 seeds` becomes `3 seeds`."""
    done, of, rest = head.partition(" of ")
    planned, _, units = rest.partition(" ")
    if not of or done != planned:
        return head
    return f"{done} {units}"


def _brackets(interval: tuple[float, float] | None) -> str:
    """Format an interval in percent, to follow its value; empty without one."""
    return f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else ""


def choice_lines(choice: StudentChoice) -> list[str]:
    """Format a recorded choice of student: both scores, their difference, the choice and its reason."""
    encoder, words = choice.encoder, choice.words
    if choice.why:
        return [f"student: {encoder.name}, because {words.name} cannot be fitted: {choice.why}"]
    where = f"{choice.rows:,} validation rows"
    if choice.by == "cross-validation":
        where = f"{choice.rows:,} training rows, by cross-validation"
    scores = [f"{one.name} {one.score:.2%}" for one in (encoder, words)]
    metric = diagnostics.metric_name(choice.metric)
    lines = [f"student chosen on {where} (test rows not used): {metric} of {' and '.join(scores)}"]
    text = f"{words.name} minus {encoder.name}: {100 * choice.difference:+.2f} points"
    if choice.low90 is not None and choice.high90 is not None:
        text += f", 90 % interval [{100 * choice.low90:+.2f}, {100 * choice.high90:+.2f}]"
    return [*lines, f"{text}. {_choice_reason(choice)}"]


def _choice_reason(choice: StudentChoice) -> str:
    margin = f"{100 * choice.margin:g} points"
    if choice.chosen == ENCODER:
        lower = choice.high90 is not None and choice.high90 < 0
        doubt = "" if lower else f", and these rows do not rule out a deficit of {margin} or more"
        return f"The student is {choice.encoder.name}: the bag-of-words classifier scores lower{doubt}"
    name = choice.words.name
    if choice.difference > 0:
        return f"The student is {name}, a bag-of-words classifier: it scores higher"
    if choice.difference == 0:
        return f"The student is {name}, a bag-of-words classifier: it scores the same and costs less"
    return f"The student is {name}, a bag-of-words classifier: it scores less than {margin} lower and costs less"


def leak_lines(scores: Scores) -> list[str]:
    """Report scored rows that a model was trained on, or that are the run's own test rows.

    Gives their number by role and the accuracy without rows seen before; empty if there are none.
    """
    lines = []
    if own := scores.test_rows:
        are = verb(own.rows, "is a test row", "are test rows")
        lines.append(f"test rows scored: {own.rows:,} of the {plural(own.of, 'row')} of this file {are} of this run")
    leaks, seen = (scores.leaks, scores.without_leaks, "rows"), (scores.seen, scores.without_seen, "rows of this file")
    for found, rest, what in (leaks, seen):
        if found is None:
            continue
        lines.append(f"leak: {in_words(found.roles, found.of, what)}")
        if rest:
            count = scores.rows - rest.rows
            lines.append(
                f"without {'this row' if count == 1 else f'these {count:,} rows'} ({rest.rows:,} left): accuracy "
                f"{_percent(rest.accuracy)} %{_brackets(rest.interval('accuracy'))}"
            )
        elif found.rows:
            lines.append("no rows remain without these")
    return lines


def comparison_lines(rows: Sequence[Comparison]) -> list[str]:
    """Format the result of `stats.paired.compare_models`; differences and intervals in percentage points."""
    title = HEADLINE.get(rows[0].metric, rows[0].metric)
    header = ["model", f"{title} %", "difference", "interval", "Holm p", "only one right", "detectable"]
    table = []
    for row in rows:
        cells = [row.name, _percent(row.value)]
        if row.difference is None or row.mcnemar is None:
            table.append([*cells, "", "", "", "", "", "baseline"])
            continue
        low, high = row.difference.low, row.difference.high
        between = f"[{100 * low:+.2f}, {100 * high:+.2f}]"
        cells += [f"{100 * row.difference.estimate:+.2f}", between, f"{row.adjusted_p:.4f}"]
        cells += [f"{row.mcnemar.b}/{row.mcnemar.c}", _percent(row.detectable or 0.0), row.words or ""]
        table.append(cells)
    verdicts = [cells.pop() for cells in table]
    return [
        f"{line}  {word}"
        for line, word in zip(_padded(table_lines(header, table)), ["verdict", *verdicts], strict=True)
    ]


def method_lines(
    rows: Sequence[MethodRow], leaks: Mapping[str, Leaks] | None = None, width: int | None = None
) -> list[str]:
    """Format the result of `stats.verdicts.compare_methods` or `compare_folds`; differences in percentage points.

    leaks: by method, the number of test rows seen before (rows) and of all test rows (of). width: columns of the
    terminal; names are shortened, to `MODEL_WIDTH` columns at least, if the table is wider. Without it, names are shown
    in full.
    """
    names = list(dict.fromkeys([*(row.name for row in rows), *(row.against for row in rows if row.against)]))
    lines = _method_lines(rows, leaks or {}, dict(zip(names, names, strict=True)))
    over = 0 if width is None else max(cell_len(line) for line in lines[1 : len(rows) + 2]) - width
    if over <= 0:
        return lines
    room = max(MODEL_WIDTH, max(map(cell_len, names)) - over)
    return _method_lines(rows, leaks or {}, dict(zip(names, distinct_names(names, room), strict=True)))


def _method_lines(rows: Sequence[MethodRow], leaks: Mapping[str, Leaks], shown: Mapping[str, str]) -> list[str]:
    """Format rows as `method_lines` does. shown: by name, what is printed for it."""
    base = rows[0]
    count = len(base.values)
    unit = "fold" if base.estimand == FOLDS else "seed"
    title = HEADLINE.get(base.metric, base.metric)
    header = ["method", f"{title} %", "interval", "difference", "interval", "simultaneous", "Holm p", "detectable"]
    table, verdicts, notes = [], ["verdict"], []
    for row in rows:
        other = f" (against {shown[row.against]})" if row.against and row.against != base.name else ""
        if seen := leaks.get(row.name):
            other += f" (LEAK: {seen.rows:,} of {seen.of:,} test rows)"
        cells = [
            shown[row.name] + other,
            _percent(row.value),
            f"[{_percent(row.low)}, {_percent(row.high)}]",
        ]
        if row.difference is None or row.simultaneous is None:
            table.append([*cells, "", "", "", "", ""])
            verdicts.append("baseline")
            continue
        pairs = [(row.difference.low, row.difference.high), row.simultaneous]
        cells += [f"{100 * row.difference.estimate:+.2f}"]
        cells += [f"[{100 * low:+.2f}, {100 * high:+.2f}]" for low, high in pairs]
        table.append([*cells, f"{row.adjusted_p:.4f}", _percent(row.detectable or 0.0)])
        verdicts.append(row.words or "")
        notes += [f"{shown[row.name]}: {test}: {found}" for test, found in row.secondary.items()]
    if len(rows) == 1:  # nothing is compared
        scored = table_lines(header[:3], [cells[:3] for cells in table])
        return [f"intervals apply to {base.estimand}; {plural(count, unit)}", *scored]
    lines = [f"intervals and verdicts apply to {base.estimand}; {plural(count, unit)}"]
    lines += [f"{line}  {word}" for line, word in zip(_padded(table_lines(header, table)), verdicts, strict=True)]
    return [*lines, *(["", "other tests (not used for verdicts):", *notes] if notes else [])]


def _padded(lines: list[str]) -> list[str]:
    wide = max(map(cell_len, lines))
    return [line + " " * (wide - cell_len(line)) for line in lines]


def threshold_words(threshold: Threshold, record: Abstention) -> tuple[str, str]:
    """Return what is reported about a chosen threshold, and a warning if a target accuracy is not assured; else "".

    record: of the model's validation rows.
    """
    point, target, label = threshold.point, threshold.target, LABEL[record.label_sets]
    too_few = f"too few {'decisions' if record.label_sets else 'rows'} are wrong"
    calibrated = f"temperature {record.temperature:.2f}" if record.fitted else f"not calibrated, {too_few}"
    if point is None:
        none = f"of {plural(record.rows, 'validation row')}, none gets a {label}"
        return f"abstain     below a confidence of {threshold.confidence:.3f} ({calibrated}): {none}", ""
    interval = f"95 % interval {point.low:.1%} to {point.high:.1%}"
    rows = plural(record.rows, "validation row")
    words = (
        f"abstain     below a confidence of {threshold.confidence:.3f} ({calibrated}): of {rows}, "
        f"{point.coverage:.0%} get a {label}, {point.accuracy:.1%} of these {RIGHT[record.label_sets]} ({interval})"
    )
    if threshold.assured:
        return words, ""
    needed = threshold.rows_needed
    todo = f"; about {needed:,} validation rows would do" if needed else ""
    return words, (
        f"{target} is not assured: {rows} cannot tell whether the accuracy of new {label}s is lower ({interval}){todo}"
    )


def abstention_lines(found: AbstentionScores, *, sets: bool) -> list[str]:
    """Format the scores of a classifier that abstains: at its threshold, and at other coverages. sets: of label sets."""
    head = f"abstaining below a confidence of {found.confidence:.3f} ({found.target})"
    if found.accuracy is None or found.interval is None:
        return [f"{head}: none of {plural(found.rows, 'row')} would get a {LABEL[sets]}"]
    low, high = found.interval
    lines = [
        f"{head}: {found.accepted:,} of {plural(found.rows, 'row')} ({found.coverage:.1%}) get a {LABEL[sets]}, "
        f"{found.accuracy:.1%} of these {RIGHT[sets]} (95 % interval {low:.1%} to {high:.1%})",
        f"area under the risk-coverage curve {found.area:.4f} (mean error over all coverages; lower is better)",
    ]
    rows = [
        [f"{p.coverage:.1%}", f"{p.confidence:.3f}", f"{p.accuracy:.1%}", f"{p.low:.1%} to {p.high:.1%}"]
        for p in points_at(found.curve)
    ]
    accuracy = "accuracy of whole sets" if sets else "accuracy"
    return [*lines, *table_lines(["coverage", "confidence", accuracy, "95 % interval"], rows, left=())]


def points_at(points: Sequence[CoveragePoint]) -> list[CoveragePoint]:
    """Return the points of a curve at the coverages of a short table, each once, from full coverage down."""
    found = [next((p for p in points if p.coverage >= share), None) for share in COVERAGES]
    return list(dict.fromkeys(p for p in found if p is not None))
