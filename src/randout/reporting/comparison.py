"""The summary of a report: which model is better, by how much, and the verdict.

The result of a study is read from its `study.json`. Runs that are not part of a study are compared here, as saved
models on one test set.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np

from randout.core.errors import Failure, UserError
from randout.stats.metrics import checked_logits
from randout.stats.verdicts import compare_methods
from randout.storage.metrics_record import Estimate
from randout.storage.predictions import Predictions
from randout.storage.study_record import ResultRow, StudyResult

from .runs_table import other_methods
from .subjects import MARGIN, Arm, Model, Subject
from .text import covered, training_rows_note
from .values import Column, Figure, Points, Section, Table, format_cell, metric_kind, metric_name, metric_title

SAVED = "these saved models on new texts (each trained once, so variation across seeds is not included)"


def study_rows(subject: Subject) -> list[ResultRow]:
    """Rows of a study's result; empty if it has none yet or the subject is not a study."""
    return subject.comparison.result.rows if subject.comparison and subject.comparison.result else []


def result_of(subject: Subject) -> StudyResult:
    """Result of a comparison, or of comparing the runs; rows may be empty."""
    if subject.comparison:
        result = subject.comparison.result or StudyResult(head="", estimand="", rows=[], notes=[])
        return result.model_copy(update={"notes": [*result.notes, *subject.notes]})
    arms, notes = subject.scored(), list(subject.notes)
    found = {arm.name: aligned_predictions(arm.models[0], arms[0].models[0], subject.split) for arm in arms}
    for name, predictions in found.items():
        if predictions is None:
            notes.append(f"{name} was not scored on the same {subject.split} rows, so it is not compared.")
    for arm in subject.arms:
        if arm.name not in found:
            notes.append(f"{arm.name} was not scored on the {subject.split} split and is not compared.")
    notes += _baseline_note(subject)
    for arm in arms:
        if reason := subject.scores(arm.models[0]).no_interval.get(subject.metric):
            notes.append(f"{arm.name}: no interval for its {metric_name(subject.metric)}: {reason}.")
    same = {name: predictions for name, predictions in found.items() if predictions is not None}
    rows = _scores_without_comparison(subject)
    if subject.baseline in same and len(same) > 1:
        try:
            rows = _compare_with_baseline(subject, same)
        except (UserError, Failure) as error:  # one group, or logits that are not finite; the scores are still shown
            notes.append(f"The models could not be compared: {error}")
    return StudyResult(head="", estimand=SAVED, rows=rows, notes=notes)


def _baseline_note(subject: Subject) -> list[str]:
    """Score of the bag-of-words baseline on the split that is shown, from the first run that has one."""
    for model in subject.models:
        scores = model.metrics.splits.get(subject.split)
        if scores and scores.baseline:
            value = format_cell(scores.baseline.value(subject.metric), metric_kind(subject.metric))
            name = metric_name(subject.metric)
            return [f"A bag-of-words baseline (linear, tf-idf) reaches {name} {value} % on the {subject.split} rows."]
    return []


def aligned_predictions(model: Model, first: Model, split: str) -> Predictions | None:
    """Predictions of a model in the row order of `first`; None unless both have the same rows and labels."""
    mine, other = model.predictions(split), first.predictions(split)
    if mine is None or other is None or mine.names != other.names or sorted(mine.rows) != sorted(other.rows):
        return None
    place = {row: at for at, row in enumerate(mine.rows)}
    order = np.array([place[row] for row in other.rows], dtype=np.int64)
    if len(place) != len(order) or not np.array_equal(mine.labels[order], other.labels):
        return None
    texts = [mine.texts[at] for at in order] if mine.texts is not None else other.texts
    return replace(other, logits=mine.logits[order], texts=texts, thresholds=mine.thresholds)


def _compare_with_baseline(subject: Subject, same: dict[str, Predictions]) -> list[ResultRow]:
    """Compare every model with the baseline, as `randout compare` does for runs of one seed. Raises UserError, Failure."""
    first = same[subject.baseline]
    shape = len(first.labels), first.logits.shape[1]
    for rows in same.values():
        checked_logits(rows.logits, *shape)
    predicted = {name: rows.predicted[None] for name, rows in same.items()}
    arguments = (predicted, first.labels, first.groups, subject.baseline, len(first.names), subject.metric)
    found = compare_methods(*arguments, margin=MARGIN)
    narrow = [replace(row, simultaneous=None) for row in found]  # with that column the table is wider than the page
    return [ResultRow.model_validate(asdict(row)) for row in narrow]


def _scores_without_comparison(subject: Subject) -> list[ResultRow]:
    """Each model's score with its stored interval, without differences."""
    rows = []
    for arm in subject.scored():
        scores, metric = subject.scores(arm.models[0]), subject.metric
        low, high = scores.interval(metric) or (None, None)
        rows.append(ResultRow(name=arm.name, metric=metric, value=scores.value(metric), low=low, high=high))
    return rows


def label_of(row: ResultRow, subject: Subject) -> str:
    """Name of a row, with what it is compared with if that is not the baseline."""
    return f"{row.name} (against {row.against})" if row.against and row.against != subject.baseline else row.name


def _pair(row: ResultRow | Estimate | None) -> tuple[float, float] | None:
    return None if row is None or row.low is None or row.high is None else (row.low, row.high)


def _wide(row: ResultRow) -> tuple[float, ...] | None:
    return tuple(row.simultaneous) if row.simultaneous else None


def main_table(subject: Subject, rows: list[ResultRow]) -> Table:
    """One row per model: metric, difference from the baseline, verdict, p and smallest detectable difference."""
    metric = subject.metric
    one, signed = metric_kind(metric), metric_kind(metric, signed=True)
    columns = [Column("model"), Column(metric_title(metric), one), Column("95 % interval", "interval")]
    columns += [
        Column("rows seen before", "text"),
        Column("difference", signed),
        Column("its 95 % interval", "points interval"),
        Column("verdict", "verdict"),
    ]
    columns += [Column("simultaneous interval", "points interval"), Column("Holm p", "p"), Column("detectable", one)]
    cells, seen = [], {arm.name: _seen_before(arm, subject.split) for arm in subject.arms}
    for row in rows:
        verdict = row.words or ("baseline" if row.name == subject.baseline and len(rows) > 1 else None)
        own = (label_of(row, subject), row.value, _pair(row), seen.get(row.name))
        first = (*own, row.difference.estimate if row.difference else None, _pair(row.difference))
        cells.append((*first, verdict, _wide(row), row.adjusted_p, row.detectable))
    kept = [at for at, _ in enumerate(columns) if at < 2 or any(row[at] is not None for row in cells)]
    note = (
        "Differences are model minus baseline, in percentage points. Detectable: the smallest true difference that "
        "this design detects with 80 % power."
    )
    note = note if any(row.difference for row in rows) else ""
    if any(seen.values()):
        note += f" Rows seen before: {subject.split} rows that a teacher or the starting model was trained on."
    rows_kept = tuple(tuple(row[at] for at in kept) for row in cells)
    return Table(
        "summary",
        f"Scores{subject.on_split}",
        tuple(columns[at] for at in kept),
        rows_kept,
        note.strip(),
    )


def _seen_before(arm: Arm, split: str) -> str | None:
    """Scored rows of an arm that its teachers or starting models were trained on, such as `66 of 90`; None for none."""
    found = [leaks for model in arm.models if (leaks := model.leaks(split)) and leaks.rows]
    return f"{sum(one.rows for one in found):,} of {sum(one.of for one in found):,}" if found else None


def forest_plot(subject: Subject, rows: list[ResultRow]) -> list[Figure]:
    """Forest plot of the differences from the baseline with the margin in grey; empty without a comparison."""
    compared = [(row, row.difference) for row in rows if row.difference]
    if not compared or subject.metric == "log_loss":
        return []
    columns = [Column("model"), Column("difference, points", "points"), Column("95 % interval", "points interval")]
    columns += [Column("simultaneous interval", "points interval"), Column("verdict", "verdict")]
    cells: list[tuple[Any, ...]] = []
    for row, found in compared:
        cells.append((label_of(row, subject), found.estimate, _pair(found), _wide(row), row.words))
    margin = subject.margin
    note = f"Right of the dashed line is better than {subject.baseline}. Thick line: 95 % interval. "
    note += "Thin line: simultaneous interval of all comparisons. " if any(row[3] for row in cells) else ""
    note += f"Grey band: differences smaller than the margin of {100 * margin:g} points, which count as none."
    roles = {"y": "model", "x": "difference, points", "interval": "95 % interval", "words": "verdict"}
    if any(row[3] for row in cells):
        roles["wide"] = "simultaneous interval"
    else:
        columns, cells = [*columns[:3], columns[4]], [(*row[:3], row[4]) for row in cells]
    table = Table("difference", "Difference from the baseline", tuple(columns), tuple(cells))
    title = f"Difference in {metric_name(subject.metric)} from {subject.baseline}"
    return [Figure("difference", title, "intervals", table, roles, note, {"zero": True, "band": margin})]


def scores_figure(subject: Subject, rows: list[ResultRow]) -> list[Figure]:
    """Plot of every model's metric with its interval."""
    title = metric_title(subject.metric)
    columns: tuple[Column, ...] = (
        Column("model"),
        Column(title, metric_kind(subject.metric)),
        Column("95 % interval", "interval"),
    )
    seen = {row.name: (row.name, row.value, _pair(row)) for row in rows}
    if not seen:
        return []
    table = Table("scores", f"Each model's {metric_name(subject.metric)}", columns, tuple(seen.values()))
    roles = {"y": "model", "x": title, "interval": "95 % interval"}
    name = f"{metric_name(subject.metric)}{subject.on_split}".capitalize()
    note = (
        ""
        if len(seen) == 1
        else (
            "Intervals of single models can overlap although their difference is clear, because all models are scored "
            "on the same texts. Use the differences above to compare models."
        )
    )
    return [Figure("scores", name, "intervals", table, roles, note)]


def sentence(row: ResultRow, subject: Subject) -> str:
    """The verdict of a row with a difference, as a sentence."""
    assert row.difference is not None
    words, by = row.words or "no verdict", format_cell(row.difference.estimate, "points")
    against, name = _in_sentence(row.against or subject.baseline), _in_sentence(row.name)
    between = format_cell(_pair(row.difference), "points interval")
    if words.startswith(("better", "worse")):
        text = f"{name} is {words.split(',')[0]} than {against}: {by} points, 95 % interval {between}"
    else:
        verdict = words if words.startswith("no verdict") else words.split(",")[0]
        text = f"{name} and {against}: {verdict} ({by} points, 95 % interval {between})"
    margin = 100 * subject.margin
    if "equivalent" in words:
        text += f"; the difference is smaller than the margin of {margin:g} points"
    elif "not worse" in words:
        text += f"; it is not worse by the margin of {margin:g} points or more"
    return text + "."


def _in_sentence(name: str) -> str:
    """A name in quotation marks if it contains a comma."""
    return f"“{name}”" if "," in name else name


def summary(subject: Subject) -> Section | None:
    """The result: sentences, table, forest plot. None for a search and a ladder of sizes, which have sections of their own."""
    if subject.kind in ("search", "shrink"):
        return None
    result = result_of(subject)
    rows = result.rows
    parts: list[Any] = []
    if subject.kind in ("compare", "cv"):
        state = (
            f"This result covers {covered(result.head)}."
            if result.head
            else "No unit is complete yet, so there is no result."
        )
        parts.append(state)
    if result.estimand and any(row.difference for row in rows):
        parts.append(f"Intervals and verdicts apply to: {result.estimand}.")
    if sentences := tuple(sentence(row, subject) for row in rows if row.difference):
        parts.append(Points(sentences))
    if rows:
        parts += [main_table(subject, rows), *forest_plot(subject, rows), *scores_figure(subject, rows)]
    parts += result.notes
    note = training_rows_note({arm.name: [model.record for model in arm.models] for arm in subject.arms})
    if note and subject.split == "test" and note not in result.notes:
        parts.append(f"{note[0].upper()}{note[1:]}.")
    if outside := other_methods(subject):
        named = ", ".join(f"{name} ({source})" for name, source, _ in outside.rows)
        parts.append(f"Not built into randout: {named}. See Environment.")
    others = [(label_of(row, subject), *pair) for row in rows for pair in row.secondary.items()]
    if others:
        columns: tuple[Column, ...] = (Column("model"), Column("test"), Column("result"))
        note = "Verdicts use the primary test only."
        parts.append(Table("secondary", "Other tests (not used for verdicts)", columns, tuple(others), note))
    return Section("summary", "Summary", tuple(parts))


def units(subject: Subject) -> Section | None:
    """Metric of each arm by seed or fold, and its difference from the baseline."""
    rows = [row for row in study_rows(subject) if row.values]
    done = complete_units(subject)
    if not rows or len(rows[0].values) < 2:
        return None
    title, signed = metric_title(subject.metric), metric_kind(subject.metric, signed=True)
    base = next((row.values for row in rows if row.name == subject.baseline), None)
    columns = (
        Column("unit"),
        Column("model"),
        Column(title, metric_kind(subject.metric)),
        Column("difference", signed),
    )
    cells = []
    for row in {row.name: row for row in rows}.values():
        values = row.values
        names = done if len(done) == len(values) else [str(at + 1) for at in range(len(values))]
        for at, (unit, value) in enumerate(zip(names, values, strict=True)):
            difference = (
                None if base is None or row.name == subject.baseline or len(base) != len(values) else value - base[at]
            )
            cells.append((unit, row.name, value, difference))
    table = Table(
        "units", "Scores by unit", columns, tuple(cells), "All models of a unit share its split, seed and data order."
    )
    roles = {"series": "model", "x": "unit", "y": title}
    figure = Figure("units", f"{metric_name(subject.metric)} by unit".capitalize(), "lines", table, roles)
    return Section("units", "Seeds and folds" if subject.kind == "cv" else "Seeds", (figure, table))


def complete_units(subject: Subject) -> list[str]:
    """Units in which every arm is finished."""
    study = subject.comparison
    if study is None or not study.arms:
        return []
    done: dict[str, set[str]] = {unit: set() for unit in study.units}
    for cell in study.cells_in("finished"):
        done.setdefault(cell.unit, set()).add(cell.arm)
    return [unit for unit, finished in done.items() if finished.issuperset(study.arms)]
