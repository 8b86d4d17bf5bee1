"""Results of a study: predictions of its complete units, and their statistics."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from randout.core.errors import UserError
from randout.core.wording import plural
from randout.reporting.text import covered, method_lines, training_rows_note
from randout.stats.crossed import Difference
from randout.stats.metrics import score
from randout.stats.targets import rates_of
from randout.stats.verdicts import FOLDS_NEEDED, MethodRow, compare_folds, compare_methods
from randout.storage.metrics_record import Leaks, Rates
from randout.storage.predictions import read_predictions
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import of_run
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import ComparisonRecord, ResultRow, StudyResult

from .spec import Study
from .study_warnings import of_study


@dataclass(frozen=True)
class StudyPredictions:
    """Predictions of every arm at the complete units, on the same rows."""

    units: list[str]
    predictions: dict[str, list[np.ndarray]]  # arm -> by unit (N,)
    logits: dict[str, list[np.ndarray]]  # arm -> by unit (N, C)
    labels: list[np.ndarray]  # by unit (N,)
    groups: list[np.ndarray]  # by unit (N,)
    train_rows: list[int]  # by unit
    num_labels: int

    def only(self, units: Collection[str]) -> StudyPredictions:
        """Return the predictions of these units only."""
        at = [index for index, unit in enumerate(self.units) if unit in units]
        return StudyPredictions(
            [self.units[i] for i in at],
            {arm: [made[i] for i in at] for arm, made in self.predictions.items()},
            {arm: [made[i] for i in at] for arm, made in self.logits.items()},
            [self.labels[i] for i in at],
            [self.groups[i] for i in at],
            [self.train_rows[i] for i in at],
            self.num_labels,
        )

    def each(self, arm: str) -> list[Rates]:
        """Return the metrics of an arm at every unit, with classes named by number."""
        found = []
        if self.labels and self.labels[0].ndim == 2:
            pairs = zip(self.labels, self.predictions[arm], strict=True)
            return [Rates.model_validate(rates_of(labels, made, labels.shape[1])) for labels, made in pairs]
        for labels, logits in zip(self.labels, self.logits[arm], strict=True):
            names = [str(at) for at in range(self.num_labels)]
            learnt = dict(enumerate(names[: logits.shape[1]]))
            found.append(Rates.model_validate(score(labels, logits, learnt, unseen=names[logits.shape[1] :])))
        return found


def read_scores(folder: StudyFolder[ComparisonRecord], split: str = "test") -> StudyPredictions:
    """Read the predictions of a study's complete units. Raises UserError if arms were scored on different rows."""
    record = folder.record
    by_unit: dict[str, dict[str, RunFolder]] = {}
    for cell in record.cells_in("finished"):
        by_unit.setdefault(cell.unit, {})[cell.arm] = folder.run(cell)
    done = [unit for unit in record.units if by_unit.get(unit, {}).keys() >= set(record.arms)]
    found = StudyPredictions(done, {a: [] for a in record.arms}, {a: [] for a in record.arms}, [], [], [], 0)
    num_labels = 0
    for unit in done:
        runs = {arm: by_unit[unit][arm] for arm in record.arms}
        read = {arm: read_predictions(run.predictions(split), run.labels) for arm, run in runs.items()}
        first = read[record.arms[0]]
        for arm, run in runs.items():
            if not read[arm].same_rows(first):
                raise UserError(f"{run.path}: its {split} rows differ from those of the other arms at {unit}")
            found.predictions[arm].append(read[arm].predicted)
            found.logits[arm].append(read[arm].logits)
        found.labels.append(first.labels)
        found.groups.append(first.groups)
        found.train_rows.append(len(runs[record.arms[0]].split["train"]))
        num_labels = len(first.names)
    return StudyPredictions(**{**vars(found), "num_labels": num_labels})


def update_result(study: Study, folder: StudyFolder[ComparisonRecord]) -> None:
    """Store the result of the complete units in the record."""
    record = folder.record
    scores, repeats = units_to_use(study, read_scores(folder), record.units)
    head = f"{len(scores.units)} of {plural(len(record.units), 'fold' if study.folds else 'seed')}"
    notes = list(record.notes)
    record.warnings, baseline = of_study(record, folder.run, study.metric, repeats)
    notes += [baseline] if baseline else []
    if study.folds and study.tuning and study.protocol == "paper":
        notes.append(
            "settings were chosen on validation rows of the ordinary split, which are test rows of some folds, so "
            "these scores are optimistic"
        )
    notes.append(_tuning_note(record))
    notes += _teacher_note(folder)
    notes += refit_note(folder)
    failed = [f"{cell.unit} {cell.arm}" for cell in record.cells_in("failed")]
    if failed:
        notes.append(f"failed, and their units are left out: {', '.join(failed)}")
    if not scores.units or (study.folds and len(scores.units) < FOLDS_NEEDED):
        record.result = StudyResult(head=head, estimand="none yet", rows=[], notes=notes)
    else:
        rows = rows_for(study, scores, repeats)
        if study.screening:
            head, rows = f"{head} (screening: no verdict)", [_without_verdict(row) for row in rows]
        record.result = as_result(rows, head, notes, leaks_of(folder))
    folder.save()


def leaks_of(folder: StudyFolder[ComparisonRecord]) -> dict[str, Leaks]:
    """Return by arm how many of its scored test rows a teacher or starting model was trained on; arms without any are omitted."""
    found: dict[str, Leaks] = {}
    for cell in folder.record.cells_in("finished"):
        leaks = of_run(folder.run(cell), "test")
        if leaks and leaks.rows:
            so_far = found.get(cell.arm, Leaks(rows=0, of=0))
            found[cell.arm] = Leaks(rows=so_far.rows + leaks.rows, of=so_far.of + leaks.of)
    return found


def units_to_use(study: Study, scores: StudyPredictions, planned: Sequence[str]) -> tuple[StudyPredictions, int]:
    """Return the units to use for a result, and how many repeats of a cross-validation they are.

    Only complete repeats count; until the first one is complete, its finished folds are used.
    """
    if study.repeats == 1:
        return scores, 1
    done = set(scores.units)
    dealt = [planned[at : at + study.folds] for at in range(0, len(planned), study.folds)]
    whole = [names for names in dealt if done.issuperset(names)]
    kept = {name for names in whole for name in names} or done.intersection(dealt[0])
    return scores.only(kept), max(1, len(whole))


def refit_note(folder: StudyFolder[ComparisonRecord]) -> list[str]:
    """Return a note if the finished runs of only some arms were refitted."""
    cells = folder.record.cells_in("finished")
    runs = {arm: [folder.run(cell).record for cell in cells if cell.arm == arm] for arm in folder.record.arms}
    note = training_rows_note(runs)
    return [note] if note else []


def _teacher_note(folder: StudyFolder[ComparisonRecord]) -> list[str]:
    """Return a note if one teacher served several seeds or folds: the result is then conditional on this teacher."""
    units_of: dict[str, set[str]] = {}
    for cell in folder.record.cells_in("finished"):
        for teacher in folder.run(cell).record.identity.teachers:
            key = teacher if isinstance(teacher, str) else json.dumps(teacher.as_json(), sort_keys=True)
            units_of.setdefault(key, set()).add(cell.unit)
    if not any(len(units) > 1 for units in units_of.values()):
        return []
    return ["conditional on this teacher: several units share it, so the result does not cover training it again"]


def _tuning_note(record: ComparisonRecord) -> str:
    """Return a note on how many validation trials each arm had before the test split was opened."""
    if not record.tuning:
        return "every arm uses its recipe as given: nothing was tuned in this study"
    searches = record.tuning.values()
    counts = {arm: sum(one.trials for one in searches if one.arm == arm) for arm in record.arms}
    return "validation trials before the test split was opened: " + ", ".join(f"{a} {n}" for a, n in counts.items())


def as_result(rows: list[MethodRow], head: str, notes: list[str], leaks: dict[str, Leaks]) -> StudyResult:
    """Return rows as they are stored in `study.json`."""
    stored = [ResultRow.model_validate(asdict(row)) for row in rows]
    return StudyResult(head=head, estimand=rows[0].estimand, rows=stored, notes=notes, leaks=leaks)


def rows_for(study: Study, scores: StudyPredictions, repeats: int = 1) -> list[MethodRow]:
    """Compare the arms over seeds, or over the folds of complete repeats.

    Comparisons with the baseline are one family, and those with each further baseline another. Arms from the registry of
    methods are ordered by their estimates.
    """
    families = {study.baseline: tuple(arm for arm in scores.predictions if arm != study.baseline), **study.against}
    found: list[MethodRow] = []
    for baseline, arms in families.items():
        first, *others = _family(study, scores, baseline, arms, repeats)
        if study.methods:
            others.sort(key=lambda row: -(row.difference.estimate if row.difference else 0.0))
        found += others if found else [first, *others]
    return found


def _without_verdict(row: MethodRow) -> MethodRow:
    return row if row.difference is None else replace(row, words="screening: no verdict")


def _family(
    study: Study, scores: StudyPredictions, baseline: str, arms: Sequence[str], repeats: int
) -> list[MethodRow]:
    """Return the baseline's row, then those of `arms` against it."""
    if study.folds:
        return _fold_rows(study, scores, baseline, arms, repeats)
    return compare_methods(
        {arm: np.stack(scores.predictions[arm]) for arm in (baseline, *arms)},
        scores.labels[0],
        scores.groups[0],
        baseline,
        scores.num_labels,
        metric=study.metric,
        margin=study.margin,
    )


def _fold_rows(
    study: Study, scores: StudyPredictions, baseline: str, arms: Sequence[str], repeats: int
) -> list[MethodRow]:
    values = {}
    for arm in (baseline, *arms):
        values[arm] = np.array([one.value(study.metric) for one in scores.each(arm)])
    test_rows = np.array([len(y) for y in scores.labels])
    folds = len(scores.groups) // repeats  # every repeat splits the same rows
    group_sizes = np.unique(np.concatenate(scores.groups[:folds]), return_counts=True)[1]
    return compare_folds(
        values,
        np.array(scores.train_rows),
        test_rows,
        baseline,
        metric=study.metric,
        margin=study.margin,
        repeats=repeats,
        group_sizes=group_sizes,
    )


def rows_of(result: StudyResult) -> list[MethodRow]:
    """Rebuild the rows of a result of this version from their record."""
    found = []
    for row in result.rows:
        pair = None if row.difference is None else Difference(**row.difference.as_json())
        found.append(MethodRow(**{**row.as_json(), "difference": pair}))
    return found


def result_lines(record: ComparisonRecord, width: int | None = None) -> list[str]:
    """Return a study's result as text: how much is complete, the table, the notes.

    width: columns of the terminal, for which long names in the table are shortened.
    """
    result = record.result
    if result is None or not result.rows:
        return [f"{record.name}: {result.head if result else 'nothing'} complete; no result yet"]
    notes = [f"note: {note}" for note in result.notes]
    table = method_lines(rows_of(result), result.leaks, width)
    return [f"{record.name}: result over {covered(result.head)}", *table, *notes]
