"""Runs a study: arms compared over seeds or folds, unit by unit."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.config import Config
from randout.core.console import duration
from randout.core.errors import Failure, UserError
from randout.core.files import joined_name
from randout.core.wording import plural
from randout.data.dataset import Dataset, Datasets
from randout.data.tables import sha256_of
from randout.experiments.run import leaks, planning
from randout.experiments.run.imported_teacher import ImportedTeacher
from randout.experiments.run.plan import Plan
from randout.experiments.run.student import Options, Stopped, begin_training, check_methods, stand_in, student_of
from randout.experiments.run.thresholds import metric_of_targets
from randout.experiments.search.search import check_trials, make_search, plugins_of, run_search
from randout.experiments.search.space import settings_text, tables_of
from randout.experiments.sharing import scheduling
from randout.experiments.sharing.cell_training import train_cell
from randout.experiments.sharing.cells import Outcome, check_threads, claimed, prepared
from randout.experiments.sharing.tracked_study import tracked_study
from randout.methods.builtin import METHODS
from randout.storage.locks import Busy
from randout.storage.run_folder import RunFolder, now
from randout.storage.seen_rows import in_words
from randout.storage.study_folder import StudyFolder, open_study, refuse_others
from randout.storage.study_record import FORMAT, Cell, ComparisonRecord, StudyData, TunedArm

from .results import result_lines, update_result
from .spec import (
    Study,
    Unit,
    arm_config,
    arms_added_by_all,
    budget_differences,
    cells,
    make_study,
    tuning_of,
    units,
    without_arms,
)

SEARCHED = "tuning"


def run_study(
    study: Study, path: Path, options: Options, datasets: Datasets | None = None
) -> StudyFolder[ComparisonRecord]:
    """Run a study in the folder `path`, resume it, or join other processes that work on it.

    All arms of a seed (or fold) run before the next, so that an interrupted study has a balanced result. datasets: may
    hold data that has been read already. Raises UserError before any training if a cell cannot run; Stopped at the time
    limit or Ctrl-C.
    """
    options, datasets = prepared(options), datasets or Datasets()
    study, folder = open_comparison(study, path, options, datasets)
    update_result(study, folder)
    for note in folder.record.notes:
        (options.show.warn if note.startswith("leak, ") else options.show.say)(note)
    with tracked_study(folder, options, study.model_dump(mode="json")) as options:
        cells = StudyCells(study, folder, datasets, options)
        scheduling.work(cells, options)
        folder.refresh()
        if all(cell.state == "finished" for cell in folder.record.cells):
            folder.record.finished = folder.record.finished or now()
        update_result(study, folder)
    return folder


def open_comparison(
    study: Study, path: Path, options: Options, datasets: Datasets
) -> tuple[Study, StudyFolder[ComparisonRecord]]:
    """Open or create the folder of a study; return it with the study of the arms that can run. Raises UserError."""
    refuse_others(path)
    asked = study.model_dump(mode="json")
    study, notes, read = check_arms(study, datasets)
    first = datasets.read(_cell_config(study, next(iter(study.arms)), units(study)[0], {}))
    study = study.model_copy(update={"metric": metric_of_targets(first, study.metric, "metric")})
    fresh = ComparisonRecord(
        format=FORMAT,
        started=now(),
        finished=None,
        kind=study.kind,
        name=study.name,
        data=StudyData(name=first.name, sha256=first.sha256, labelled_sha256=first.labelled_sha256),
        tuning=None,
        result=None,
    )
    if further := sorted(read - {first.sha256}):
        fresh.data.further = sha256_of("\n".join(further).encode())
    if plugins := plugins_of(_cell_config(study, arm, units(study)[0], {}) for arm in study.arms):
        fresh.plugins = plugins

    def begin(folder: StudyFolder[ComparisonRecord]) -> None:
        record = folder.record
        _check_first_seed(study, folder)
        record.metric, record.margin = study.metric, study.margin
        record.baseline, record.about = study.baseline, study.about
        record.units, record.arms = [unit.name for unit in units(study)], list(study.arms)
        record.finished, record.notes = None, notes
        _create_cells(study, folder)
        check_threads(folder, options, any(cell.state != "finished" for cell in record.cells))

    return study, open_study(path, asked, fresh, ("seeds", "repeats", "about"), _completed, begin)


def _completed(was: dict[str, Any]) -> dict[str, Any]:
    return make_study(was).model_dump(mode="json")


def check_arms(study: Study, datasets: Datasets) -> tuple[Study, list[str], set[str]]:
    """Return the study with the arms that can run, notes about them, and the digests of their data and files of soft labels.

    Raises UserError, before any training, for an arm that cannot run or is tested on different rows than the others. An
    arm that exists only because all methods were requested is left out instead, with a note.
    """
    configs = {arm: _cell_config(study, arm, units(study)[0], {}) for arm in study.arms}
    datasets.read(next(iter(configs.values())))  # an error in the data is not an error of the arm
    first: Dataset | None = None
    choices: dict[str, int] = {}
    left_out: dict[str, str] = {}
    plans: dict[str, Plan] = {}
    for arm, config in configs.items():
        try:
            plan = planning.make(_allowing_leaks(config), datasets.read(config))  # `_leak_notes` checks every fold
            _check_methods(plan, config, _named_methods(study, arm))
            if "test" not in plan.dataset.split:
                raise UserError("its data has no test split, so there is nothing to compare on")
            if not config.output.test:
                raise UserError("output.test is false, and arms are compared on the test split")
            if first is not None and _test_rows(plan.dataset) != _test_rows(first):
                raise UserError("its test rows differ from those of the other arms; arms are compared on the same rows")
            first = plan.dataset
            if study.tuning:
                choices[arm] = _check_tuning(study, arm, config, plan.dataset)
            plans[arm] = plan
        except UserError as error:
            if arm not in arms_added_by_all(study):
                raise UserError(f"arms.{arm} cannot run: {error}") from None
            left_out[arm] = f"{arm} is left out: {error}"
    kept = {arm: config for arm, config in configs.items() if arm not in left_out}
    notes = [*left_out.values(), *budget_differences(study, kept), *_unequal_trials(study, choices)]
    notes += [f"{arm}: {note}" for arm, plan in plans.items() for note in plan.notes if " left out: " in note]
    notes += _leak_notes(study, {arm: plan for arm, plan in plans.items() if arm in kept}, configs, datasets)
    read = {digest for plan in plans.values() for digest in _read_by(plan)}
    return without_arms(study, left_out), notes, read


def _read_by(plan: Plan) -> list[str]:
    files = [teacher.record.sha256 for teacher in plan.teachers if isinstance(teacher, ImportedTeacher)]
    return [plan.dataset.sha256, *files]


def _allowing_leaks(config: Config) -> Config:
    return config.model_copy(update={"output": config.output.model_copy(update={"allow_leaks": True})})


def _leak_notes(
    study: Study, plans: Mapping[str, Plan], configs: Mapping[str, Config], datasets: Datasets
) -> list[str]:
    """Return notes on held-out rows that an arm's teacher or starting model has seen, at every fold.

    Raises UserError if test scores would leak and the arm does not allow that.
    """
    before = {arm: leaks.ancestors(plan, planned=False) for arm, plan in plans.items()}
    suspects = {arm: plan for arm, plan in plans.items() if len(before[arm].rows.hashes)}
    names = ", ".join(dict.fromkeys(name for arm in plans for name in before[arm].unknown))
    notes = (
        [f"leaks: the rows that {names} learned from are not recorded, so leaks cannot be excluded"] if names else []
    )
    found: dict[str, list[str]] = {arm: [] for arm in suspects}
    refused: dict[str, list[str]] = {arm: [] for arm in suspects}
    for unit in units(study)[: None if study.folds else 1] if suspects else ():  # seeds share one split
        for arm, plan in suspects.items():
            dataset = datasets.read(_cell_config(study, arm, unit, {}))
            rows = leaks.seen_by(replace(plan, dataset=dataset), before[arm])
            for split in leaks.HELD_OUT:
                if counts := leaks.count_seen(rows, dataset, split):
                    where = f"{unit.name}: " if study.folds else ""
                    found[arm].append(where + in_words(counts, len(dataset.split[split]), f"{split} rows"))
                    if split == "test" and leaks.any_trained_on(counts) and not configs[arm].output.allow_leaks:
                        refused[arm].append(found[arm][-1])
    for arm, places in refused.items():
        if places:
            raise UserError(f"arms.{arm} cannot run: {leaks.refusal_message('; '.join(places))}")
    return notes + [f"leak, {arm}: {'; '.join(where)}" for arm, where in found.items() if where]


def _named_methods(study: Study, arm: str) -> set[str]:
    """Return the methods that an arm or the base of a study names itself, rather than through a preset."""
    tables = [recipe.get("methods", {}) for recipe in (study.base, study.arms[arm])]
    return {name for table in tables for name, settings in table.items() if settings is not False}


def _check_methods(plan: Plan, config: Config, named: Collection[str]) -> None:
    """Raise UserError if a method of the arm does not support its student, teacher or data.

    named: methods that must not be left out for the data, as those of a preset are.
    """
    if plan.student.source is None:  # a baseline learns from labels only
        return
    left_out = [name for name in config.methods if name not in plan.config.methods]
    if missing := [name for name in left_out if METHODS[name].teacher and not plan.has_teacher]:
        raise UserError(
            planning.missing_teacher_message(
                missing, config.teacher.model, "leave this arm out (of a single recipe: --preset plain)"
            )
        )
    if asked := [name for name in left_out if name in named]:
        why = next((note for note in plan.notes if " left out: " in note and asked[0] in note), "")
        raise UserError(why.removeprefix("methods: ") or f"methods.{asked[0]} is left out")
    if any(method.teacher == "model" for method in plan.methods):
        begin_training(plan, stand_in(plan))
    else:
        check_methods(plan.methods, student_of(plan)[1])


def _unequal_trials(study: Study, choices: Mapping[str, int]) -> list[str]:
    """Return a note if some arms have fewer settings to choose from than there are trials."""
    trials = study.tuning.trials if study.tuning else 0
    fewer = [f"{arm} {count}" for arm, count in choices.items() if 0 < count < trials]
    return [f"arms with fewer settings than the {trials} trials: {', '.join(fewer)}"] if fewer else []


def _test_rows(dataset: Dataset) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Return the classes, and the test rows with text and label."""
    rows = [(dataset.row_ids[row], dataset.texts[row], int(dataset.labels[row])) for row in dataset.split["test"]]
    return dataset.names, rows


def _check_first_seed(study: Study, folder: StudyFolder[ComparisonRecord]) -> None:
    """Raise UserError if settings were tuned at another seed than the one that is first now."""
    before = folder.record.units[:1]
    if study.tuning and not study.folds and folder.record.tuning and before != [units(study)[0].name]:
        raise UserError(
            f"{folder.path}: its settings were tuned at {before[0]}. Keep that seed first, or use -o for another folder"
        )


def _check_tuning(study: Study, arm: str, config: Config, dataset: Dataset) -> int:
    """Return how many settings an arm's search can choose from; 0: unlimited. Raises UserError if one cannot run."""
    found, _ = make_search(config, tuning_of(study, arm))
    if found.space:
        check_trials(found, dataset)
    sizes = [len(values) for values in found.space.values() if not isinstance(values, dict)]
    return math.prod(sizes) if len(sizes) == len(found.space) else 0


def _cell_config(study: Study, arm: str, unit: Unit, settings: Mapping[str, Any]) -> Config:
    tables = tables_of(dict(settings), METHODS)
    above = {**tables, **{name: {**tables.get(name, {}), **table} for name, table in unit.tables.items()}}
    return arm_config(study, arm, METHODS, above)


def _create_cells(study: Study, folder: StudyFolder[ComparisonRecord]) -> None:
    """Create a cell for each unit and arm; keep the state of earlier cells whose runs still exist."""
    known = {
        (cell.unit, cell.arm): cell
        for cell in folder.record.cells
        if cell.state != "finished" or folder.run(cell).finished
    }
    folder.record.cells = [known.get((unit.name, arm)) or _new_cell(unit, arm) for unit, arm in cells(study)]


def _new_cell(unit: Unit, arm: str) -> Cell:
    return Cell(unit=unit.name, arm=arm, run=None, state="waiting", error=None, seconds=0.0)


def _cell(folder: StudyFolder[ComparisonRecord], unit: Unit, arm: str) -> Cell:
    return next(cell for cell in folder.record.cells if (cell.unit, cell.arm) == (unit.name, arm))


def _tune_arm(
    study: Study, folder: StudyFolder[ComparisonRecord], arm: str, unit: Unit, datasets: Datasets, options: Options
) -> dict[str, Any]:
    """Tune an arm at a unit on validation and return the best settings; every arm has the same number of trials."""
    config = _cell_config(study, arm, unit, {})
    found, _ = make_search(config, tuning_of(study, arm))
    if not found.space:  # the arm has none of these settings
        return {}
    name = joined_name([arm, unit.name]).replace(" ", "-").replace(",", "")
    where = folder.path / SEARCHED / name
    done = run_search(found, where, options, datasets.read(config)).record
    best, trials = done.stored_best, len(done.trials)
    if best is None:
        raise Failure(f"{where}: every trial failed; the first: {done.trials[0].error}")
    tuned = TunedArm(arm=arm, unit=unit.name, trials=trials, settings=best.settings, value=best.value)
    folder.record.tuning = {**(folder.record.tuning or {}), name: tuned}
    folder.save()
    options.show.say(f"{arm}: {settings_text(best.settings)} chosen on validation, {plural(trials, 'trial')}")
    return best.settings


def _progress(cells: Sequence[Cell]) -> str:
    """Return `(run 3 of 12, about 20 min left)`, estimated from the mean time of finished cells."""
    took = [cell.seconds for cell in cells if cell.state == "finished"]
    left = len(cells) - len(took)
    time_left = f", about {duration(left * sum(took) / len(took))} left" if took else ""
    return f"(run {len(took) + 1} of {len(cells)}{time_left})"


class StudyCells:
    """The cells of a study as processes share them (`sharing.cells.Cells`), named `UNIT, ARM`."""

    noun = "run"

    def __init__(
        self, study: Study, folder: StudyFolder[ComparisonRecord], datasets: Datasets, options: Options
    ) -> None:
        self.study, self.folder, self.datasets, self.options = study, folder, datasets, options
        self._places = {f"{unit.name}, {arm}": (unit, arm) for unit, arm in cells(study)}
        self._settings: dict[tuple[str, str], dict[str, Any]] = {}  # tuned, by unit and arm
        self._shown = self._complete_units()

    @property
    def path(self) -> Path:
        return self.folder.path

    def open(self, tried: Collection[str]) -> list[str]:
        """Return the cells that are not finished; shows the result so far when further units are complete."""
        self.folder.refresh()
        found = [
            name
            for name, (unit, arm) in self._places.items()
            if name not in tried and _cell(self.folder, unit, arm).state != "finished"
        ]
        if found and self._complete_units() > self._shown:
            self._shown = self._complete_units()
            update_result(self.study, self.folder)
            for line in result_lines(self.folder.record):
                self.options.show.say(line)
        return found

    def run(self, name: str) -> Outcome:
        """Tune the arm if that is needed, and train a cell to the end."""
        unit, arm = self._places[name]
        cell = _cell(self.folder, unit, arm)
        if busy := claimed(self.folder, cell):
            return Outcome("busy", busy)
        try:
            return self._train(name, cell, self._plan(unit, arm))
        except Busy as busy:
            return Outcome("busy", busy)

    def label(self, name: str) -> str:
        return name

    def progress(self) -> tuple[int, int]:
        return self.folder.record.progress

    def memory(self) -> int:
        return self.folder.record.most_memory

    def _complete_units(self) -> int:
        left = {cell.unit for cell in self.folder.record.cells if cell.state == "waiting"}
        return len(set(self.folder.record.units) - left)

    def _plan(self, unit: Unit, arm: str) -> Plan:
        config = _cell_config(self.study, arm, unit, self._tuned(unit, arm))
        return planning.make(config, self.datasets.read(config))

    def _tuned(self, unit: Unit, arm: str) -> dict[str, Any]:
        """Return the best settings of an arm. All arms are tuned before the first cell, unless folds tune their own."""
        study, shared = self.study, (self.study, self.folder)
        if not study.tuning:
            return {}
        nested = study.folds > 0 and study.protocol == "nested"
        at = unit if nested else Unit("ordinary split", {}) if study.folds else units(study)[0]
        for one in [arm] if nested else study.arms:
            if (at.name, one) not in self._settings:
                self._settings[at.name, one] = _tune_arm(*shared, one, at, self.datasets, self.options)
        return self._settings[at.name, arm]

    def _train(self, name: str, cell: Cell, plan: Plan) -> Outcome:
        folder, options = self.folder, self.options
        run = RunFolder(options.runs / plan.name)
        if options.deadline and time.monotonic() > options.deadline:
            raise Stopped("the time limit", run)
        return train_cell(folder, cell, plan, options, name, _progress(folder.record.cells))
