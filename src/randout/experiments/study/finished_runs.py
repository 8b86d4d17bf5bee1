"""Compares finished runs: groups them into arms and seeds, and checks that the comparison is valid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from randout.core.errors import UserError
from randout.core.wording import plural
from randout.reporting.subjects import default_baseline, selection_metric
from randout.storage.run_folder import RunFolder
from randout.storage.run_names import SEED, run_names, without_ending
from randout.storage.run_record import GivenTeacher
from randout.storage.seen_rows import FILE, rows_of_old_teachers
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import Cell, ComparisonRecord, StudyData

from .results import as_result, leaks_of, read_scores, refit_note, rows_for
from .spec import Study
from .study_warnings import of_study


def compare_finished(paths: Sequence[Path], baseline: str, study: Study, selected: bool = False) -> ComparisonRecord:
    """Compare finished runs; those that differ only in their seed are one arm. Returns a record like that of a study.

    baseline: a run's folder or its arm's name; empty: `default_baseline`, as for a report. study: gives metric and margin.
    selected: use the metric that all runs were selected by, if it has intervals, instead of the study's. Raises UserError
    for runs on different test rows, and if the arms do not have the same seeds.
    """
    runs = [_finished(path) for path in paths]
    if selected:
        study = study.model_copy(update={"metric": selection_metric(run.record for run in runs)})
    arms = _arms(runs)
    chosen, note = default_baseline(
        {name: [run.record for run in runs.values()] for name, runs in arms.items()},
        {name: [run.path.resolve().name for run in runs.values()] for name, runs in arms.items()},
    )
    if baseline:
        chosen, note = _named_baseline(arms, baseline), ""
    seeds = [sorted(runs) for runs in arms.values()]
    if len(arms) < 2:
        found = "found one run" if len(paths) == 1 else "these runs differ only in their seeds"
        raise UserError(f"compare: {found}. Name runs of at least two recipes")
    if any(one != seeds[0] for one in seeds):
        listed = "; ".join(f"{name}: {sorted(runs)}" for name, runs in arms.items())
        raise UserError(f"compare: the arms do not have the same seeds ({listed}), which paired statistics need")
    record = ComparisonRecord(
        kind="compare",
        name="comparison of finished runs",
        metric=study.metric,
        notes=[],
        data=StudyData(sha256=arms[chosen][seeds[0][0]].record.data),
        units=[f"seed {seed}" for seed in seeds[0]],
        arms=list(arms),
        baseline=chosen,
        cells=[
            Cell(unit=f"seed {seed}", arm=name, run=str(run.path.resolve()), state="finished", error=None)
            for name, runs in arms.items()
            for seed, run in runs.items()
        ],
        margin=study.margin,
        result=None,
    )
    folder = StudyFolder(Path("/"), record)
    rows = rows_for(study.model_copy(update={"baseline": chosen}), read_scores(folder))
    notes = [note] if note else []
    notes += [
        f"leaks: {name} learned from a teacher whose training rows are not recorded, so leaks cannot be excluded"
        for name, runs in arms.items()
        if any(_unknown_teacher(run) for run in runs.values())
    ]
    record.warnings, words = of_study(record, folder.run, study.metric)
    notes += [words] if words else []
    notes += refit_note(folder)
    record.result = as_result(rows, f"{plural(len(seeds[0]), 'seed')} per recipe", notes, leaks_of(folder))
    return record


def _unknown_teacher(run: RunFolder) -> bool:
    """Return whether a run of an earlier version learned from a teacher without any record of its rows."""
    if (run.path / FILE).exists() or not run.record.identity.teacher:
        return False
    return not rows_of_old_teachers(run)[1]


def _finished(path: Path) -> RunFolder:
    run = RunFolder(path)
    run.check_finished()
    return run


def _arms(runs: Sequence[RunFolder]) -> dict[str, dict[int, RunFolder]]:
    """Group runs: arm, named by what differs -> seed -> run. Raises UserError for different test rows or a repeated seed."""
    arms: dict[str, dict[int, RunFolder]] = {}
    for run in runs:
        if not _same_rows(run, runs[0]):
            raise UserError(f"{run.path}: its test rows, or their labels, differ from those of {runs[0].path}")
        identity = run.record.identity
        train = {name: value for name, value in identity.train.as_json().items() if name != "seed"}
        labelled = run.record.labelled_data
        key = json.dumps(
            [identity.student.as_json(), identity.methods, train, teacher_key(run), labelled], sort_keys=True
        )
        seed = identity.train.seed
        if seed in arms.setdefault(key, {}):
            raise UserError(f"{run.path}: has the same settings and seed as {arms[key][seed].path}. Leave one out")
        arms[key][seed] = run
    records = [next(iter(runs.values())).record for runs in arms.values()]
    return dict(zip(run_names(records, ignored={SEED}), arms.values(), strict=True))


def _same_rows(one: RunFolder, other: RunFolder) -> bool:
    """Return whether two runs have the same classes and the same test rows with the same labels."""
    first, second = one.record, other.record
    same = first.identity.data.labels == second.identity.data.labels
    if first.rows and second.rows:
        return same and first.rows.get("test") == second.rows.get("test")
    return same and first.data == second.data and first.identity.split.get("test") == second.identity.split.get("test")


def teacher_key(run: RunFolder) -> list[object]:
    """Identify a run's teachers independently of its seed: finished classifiers, or the names of those trained for it."""
    record = run.record
    return [
        teacher.as_json() if isinstance(teacher, GivenTeacher) else without_ending(used.name if used else "")
        for teacher, used in zip_longest(record.identity.teachers, record.teachers)
    ]


def _named_baseline(arms: dict[str, dict[int, RunFolder]], asked: str) -> str:
    """Return the arm that is named, or that has the named run."""
    place = Path(asked).resolve()
    for name, runs in arms.items():
        if name == asked or any(asked == run.path.name or run.path.resolve() == place for run in runs.values()):
            return name
    raise UserError(f"--baseline {asked}: not among the runs; the arms are {', '.join(arms)}")
