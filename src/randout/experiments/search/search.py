"""Runs a search: trials of a recipe over a space of settings, chosen on validation; the test split is not scored.

Trials are runs in the search's own folder, so an interrupted search resumes inside a trial and ends with the same table:
cells are drawn with the search's seed, budgets are optimizer steps, and each next choice depends only on what
`study.json` records of earlier trials. All trials share one teacher.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from randout.core.config import Config, build, checked
from randout.core.errors import Failure, UserError
from randout.data.dataset import Dataset, load
from randout.data.tables import sha256_of
from randout.experiments.run import pipeline, planning
from randout.experiments.run.imported_teacher import check_imported
from randout.experiments.run.run_request import TEACHERS_OWN
from randout.experiments.run.student import Options, Paused, Stopped, check_methods, student_of
from randout.experiments.run.thresholds import metric_of_targets
from randout.experiments.sharing import scheduling
from randout.experiments.sharing.cells import Outcome, check_threads, claimed, peak_memory, prepared
from randout.experiments.sharing.tracked_study import tracked_study, trial_label
from randout.methods.builtin import GOLD, METHODS
from randout.methods.compatibility import methods_of
from randout.storage.locks import Busy, LockLost
from randout.storage.run_folder import now
from randout.storage.study_folder import StudyFolder, open_study, refuse_others
from randout.storage.study_record import FORMAT, Rung, SearchRecord, StudyData, Trial
from randout.training.checkpoint import MadeElsewhere

from .search_request import Search as Search
from .search_request import check_space as check_space
from .search_request import make_search as make_search
from .space import SearchTable, each_value, grid_points, rungs, settings_text
from .trials import (
    at_chance,
    best_trial,
    leaderboard,
    new_trial,
    optimism,
    own_runs,
    signed,
    skipped,
    value_at,
    warnings_of,
)


def run_search(
    search: Search, path: Path, options: Options, dataset: Dataset | None = None
) -> StudyFolder[SearchRecord]:
    """Run the search in the folder `path`, resume it, or join other processes that work on it. Raises Stopped, UserError."""
    if search.table.sampler == "tpe" and (options.jobs > 1 or options.cluster):
        raise UserError(
            "--sampler tpe: each trial is proposed from those before it, so they run one at a time. Leave --jobs and --cluster "
            "out, or use the grid"
        )
    check_space(search)
    options, dataset = prepared(options), dataset or load(search.config.data)
    folder = open_search(search, path, options, dataset)
    options.show.say(f"search in {path}{_teachers(search, dataset)}")
    with tracked_study(folder, options, _study_tables(search.table, search.config)) as options:
        if search.table.sampler == "tpe":
            with folder.alone():
                folder.refresh()
                _propose(search, folder, dataset, options)
        else:
            trials = Trials(search, folder, dataset, options)
            scheduling.work(trials, options, search.required)
        folder.refresh()
        _conclude(search, folder)
    return folder


def open_search(search: Search, path: Path, options: Options, dataset: Dataset) -> StudyFolder[SearchRecord]:
    """Open or create the folder of a search, with all trials of a grid recorded. Raises UserError."""
    table, config = search.table, search.config
    refuse_others(path)
    if not (path / "study.json").exists():  # before anything is written, so that the corrected command starts clean
        check_trials(search, dataset)
    fresh = SearchRecord(
        format=FORMAT,
        started=now(),
        finished=None,
        kind="search",
        name=path.name,
        metric=metric_of_targets(dataset, config.train.metric, "train.metric"),
        data=StudyData(name=dataset.name, sha256=dataset.sha256, labelled_sha256=dataset.labelled_sha256),
        space=search.space,
        trials=[],
        best=None,
    )
    if soft_labels := check_imported(config, dataset):
        fresh.data.further = sha256_of("\n".join(soft_labels).encode())
    if plugins := plugins_of([config]):
        fresh.plugins = plugins

    def begin(folder: StudyFolder[SearchRecord]) -> None:
        record = folder.record
        if table.sampler != "tpe":
            chosen, record.grid = grid_points(search.space, table.trials, table.seed)
            record.trials = record.trials or [new_trial(number, settings) for number, settings in enumerate(chosen)]
        left = any(trial.state in ("waiting", "failed") for trial in record.trials)
        check_threads(folder, options, left or not record.finished)

    return open_study(path, _study_tables(table, config), fresh, (), _completed, begin)


def _conclude(search: Search, folder: StudyFolder[SearchRecord]) -> None:
    """Store what is known when all trials are done."""
    record = folder.record
    _delete_weights(search, folder)
    record.skipped = skipped(record)
    if found := optimism(folder):
        record.optimism = found
    record.warnings = warnings_of(folder)
    record.finished = now()
    folder.save()


def plugins_of(configs: Iterable[Config]) -> dict[str, dict[str, str]]:
    """Return the origins of methods that are not built in, as a study records them; empty without any."""
    origins = METHODS.origins(sorted({name for config in configs for name in config.methods}))
    return {name: origin.recorded for name, origin in origins.items()}


def _study_tables(table: SearchTable, config: Config) -> dict[str, Any]:
    """Return the content of `study.toml`."""
    return {"search": table.model_dump(mode="json"), "recipe": config.model_dump(mode="json")}


def _completed(was: dict[str, Any]) -> dict[str, Any]:
    return _study_tables(checked(SearchTable, was["search"], "search."), build([was["recipe"]], METHODS))


def settings_of_teacher(search: Search) -> list[str]:
    """Return the settings of the space that also change a teacher that is fine-tuned first: each value trains another."""
    pinned = tuple(f"train.{key}" for key in (*TEACHERS_OWN, "save_minutes"))
    return [name for name in search.space if name.startswith(("train.", "teacher.", f"{GOLD}.")) and name not in pinned]


def check_trials(search: Search, dataset: Dataset) -> None:
    """Raise UserError for the first trial that cannot run, with its settings, or for too small a budget.

    This runs before any training. For the sampler tpe, each value of the space is checked once.
    """
    if search.table.sampler == "tpe":
        settings = each_value(search.space)
    else:
        settings, _ = grid_points(search.space, search.table.trials, search.table.seed)
        rungs(len(settings), search.table.halving, search.table.budget)
    known: dict[str, Any] = {}  # trials mostly differ in methods, so each student is loaded once
    for number, one in enumerate(settings):
        try:
            config = search.trial_config(one)
            key = config.model_dump_json(include={"data", "student", "teacher", "classifier"})
            if key not in known:
                plan = planning.make(config, dataset, search.required)
                known[key] = None if plan.student.source is None else student_of(plan)[1]
            if known[key] is not None:
                check_methods(methods_of(config), known[key])
        except UserError as error:
            raise UserError(f"trial {number} ({settings_text(one)}) cannot run: {error}") from None


def planned(search: Search, dataset: Dataset) -> list[str]:
    """Check a search and return its plan: one line per cell, and how cells are compared. Raises UserError."""
    check_trials(search, dataset)
    table = search.table
    if table.sampler == "tpe":
        lines = [f"{name}: {values}" for name, values in search.space.items()]
        what, trials = f"{table.trials} trials, each proposed by tpe from those before it", table.trials
    else:
        chosen, size = grid_points(search.space, table.trials, table.seed)
        lines = [f"{number:04d}  {settings_text(settings)}" for number, settings in enumerate(chosen)]
        what, trials = f"{len(chosen)} of {size} cells", len(chosen)
    shares = ", ".join(f"{share:.1%}" for share in rungs(trials, table.halving, table.budget))
    return [*lines, f"{what}; compared after {shares} of a training{_teachers(search, dataset)}"]


def _teachers(search: Search, dataset: Dataset) -> str:
    """Return `; one teacher for all`, or the settings with a teacher per value; "" if no teacher is fine-tuned."""
    if planning.make(search.config, dataset, search.required).teacher_plan is None:
        return ""
    varied = settings_of_teacher(search)
    return f"; a teacher for each value of {', '.join(varied)}" if varied else "; one teacher for all"


class Trials:
    """The trials of a grid as processes share them (`sharing.cells.Cells`), named by their numbers.

    Synchronous successive halving: all trials are trained to the first rung, the best of them to the next, and so on. Which
    rung is open follows from the recorded values alone, so that every process comes to the same one.
    """

    noun = "run"

    def __init__(self, search: Search, folder: StudyFolder[SearchRecord], dataset: Dataset, options: Options) -> None:
        self.search, self.folder, self.dataset, self.options = search, folder, dataset, options
        table = search.table
        self._rungs = rungs(len(folder.record.trials), table.halving, table.budget)
        self._share, self._alive, self._past = self._rungs[0], list(folder.record.trials), 0

    @property
    def path(self) -> Path:
        return self.folder.path

    def open(self, tried: Collection[str]) -> list[str]:
        """Return the trials of the first rung that some have not reached; prunes those that do not go beyond a rung."""
        self.folder.refresh()
        record, halving = self.folder.record, self.search.table.halving
        alive = list(record.trials)
        for at, share in enumerate(self._rungs):
            self._share, self._alive = share, alive
            open_now = [trial for trial in alive if _needs(trial, share) and str(trial.number) not in tried]
            if open_now:
                return [str(trial.number) for trial in open_now]
            most = self._most(len(alive))
            if at >= self._past and most < len(alive):
                self._past = at + 1
                validation = self.dataset.labels[self.dataset.split["validation"]]
                if self.options.worker is None and (why := at_chance(record, share, validation)):
                    self.options.show.warn(why)
            reached = [trial for trial in alive if value_at(trial, share) is not None]
            alive = _prune_others(
                self.folder, alive, share, most if share == 1 else max(1, len(reached) // max(halving, 1))
            )
        return []

    def run(self, name: str) -> Outcome:
        """Train a trial to the open rung."""
        trial = next(one for one in self.folder.record.trials if one.number == int(name))
        if busy := claimed(self.folder, trial):
            return Outcome("busy", busy)
        try:
            _advance(self.search, self.folder, trial, self._share, self.dataset, self.options)
        except Busy as busy:
            return Outcome("busy", busy)
        _prune_others(
            self.folder, self._alive, self._share, self._most(len(self._alive))
        )  # at once: checkpoints are large
        return Outcome("failed" if trial.state == "failed" else "finished")

    def label(self, name: str) -> str:
        return f"trial {name}" if self._share == 1 else f"trial {name} to {self._share:.1%}"

    def progress(self) -> tuple[int, int]:
        trials = self.folder.record.trials
        return sum(trial.state in ("finished", "pruned") for trial in trials), len(trials)

    def memory(self) -> int:
        return max((trial.memory or 0 for trial in self.folder.record.trials), default=0)

    def _most(self, alive: int) -> int:
        """Return how many trials go beyond the open rung at most."""
        return alive if self._share == 1 else max(1, alive // self.search.table.halving)


def _needs(trial: Trial, share: float) -> bool:
    """Return whether a trial has to be trained to `share` of its steps."""
    return trial.state not in ("finished", "pruned") and value_at(trial, share) is None


def _prune_others(folder: StudyFolder[SearchRecord], alive: list[Trial], share: float, most: int) -> list[Trial]:
    """Return the best `most` trials that have reached a rung, by number, and prune the others.

    Pruning early is safe: trials that reach the rung later can only lower the rank of the others.
    """
    metric = folder.record.metric
    reached = [trial for trial in alive if value_at(trial, share) is not None]
    reached.sort(key=lambda trial: (-signed(metric, value_at(trial, share)), trial.number))
    for trial in reached[most:]:
        if trial.state == "waiting":
            _prune(folder, trial)
    return sorted(reached[:most], key=lambda trial: trial.number)


def _prune(folder: StudyFolder[SearchRecord], trial: Trial) -> None:
    trial.state = "pruned"
    shutil.rmtree(folder.run(trial).checkpoint, ignore_errors=True)
    folder.save()


def _propose(search: Search, folder: StudyFolder[SearchRecord], dataset: Dataset, options: Options) -> None:
    """Run trials that Optuna's TPE proposes one by one from the earlier ones.

    With halving, a trial continues at a rung only if it is among the best that have reached it (asynchronous successive
    halving).
    """
    from .tpe import suggest

    table, record = search.table, folder.record
    ranges = any(isinstance(values, dict) for values in search.space.values())
    record.grid = None if ranges else math.prod(len(values) for values in search.space.values())
    shares = rungs(table.trials, table.halving)
    for number in range(table.trials):
        before = record.trials[:number]
        if number == len(record.trials):
            settings = suggest(search.space, before, table.seed, number, -signed(record.metric, 1.0))
            record.trials = [*record.trials, new_trial(number, settings)]
            folder.save()
        trial = record.trials[number]
        twin = next((one for one in before if one.settings == trial.settings), None)
        if twin is not None:  # proposed a second time: reuse its run
            trial.state, trial.value, trial.step, trial.steps = twin.state, twin.value, twin.step, twin.steps
            trial.rungs, trial.run, trial.error = list(twin.rungs), twin.run, twin.error
            trial.seconds, trial.same_as = 0.0, twin.number
            folder.save()
            continue
        for share in shares:
            _advance(search, folder, trial, share, dataset, options)
            if not _continues(record.metric, trial, before, share, table.halving):
                if trial.state == "waiting":
                    _prune(folder, trial)
                break


def _continues(metric: str, trial: Trial, before: list[Trial], share: float, halving: int) -> bool:
    """Return whether a trial is among the best of those that reached a rung before it."""
    value = value_at(trial, share)
    others = [value_at(one, share) for one in before if value_at(one, share) is not None]
    rank = sum(signed(metric, other) >= signed(metric, value) for other in others)
    return value is not None and rank < max(1, (len(others) + 1) // max(halving, 1))


def _advance(
    search: Search,
    folder: StudyFolder[SearchRecord],
    trial: Trial,
    share: float,
    dataset: Dataset,
    options: Options,
) -> bool:
    """Train a trial to `share` of its steps and record its value there; return False if that was done before."""
    if not _needs(trial, share):
        return False
    if options.deadline and time.monotonic() > options.deadline:
        raise Stopped("the time limit", folder.run(trial))
    show, total = options.show, max(len(folder.record.trials), search.table.trials)
    show.say(f"trial {trial.number} ({settings_text(trial.settings)}), of {total} in all")
    trial.state, trial.error = "waiting", None
    began = time.monotonic()
    try:
        _train(search, folder, trial, share, dataset, options)
        trial.error = None
    except (Busy, LockLost):
        raise
    except (Stopped, MadeElsewhere):
        folder.save()
        raise
    except (Failure, UserError) as error:
        trial.state, trial.error, trial.value = "failed", str(error), None
        show.warn(f"trial {trial.number} failed; it is tried again when the search is resumed: {error}")
    trial.seconds = round(trial.seconds + time.monotonic() - began, 3)
    if memory := peak_memory(options):
        trial.memory = memory
    folder.save()
    _delete_weights(search, folder)
    folder.save()
    for line in leaderboard(folder.record):
        show.say(line)
    return True


def _train(
    search: Search,
    folder: StudyFolder[SearchRecord],
    trial: Trial,
    share: float,
    dataset: Dataset,
    options: Options,
) -> None:
    metric, run = folder.record.metric, folder.run(trial)
    plan = planning.make(search.trial_config(trial.settings), dataset, search.required)
    trial.steps = plan.steps
    at_share = max(1, math.floor(share * trial.steps + 1e-9))  # rounded down, so that the budget is kept
    pause = at_share if share < 1 else None
    report_to = options.report_to.labelled(trial_label(folder, trial, options))
    within = replace(
        options, out=run.path, fresh=False, pause_at=pause, report_to=report_to, show=options.show.within()
    )
    try:
        trial.value = pipeline.execute(plan, within).scores.validation.value(metric)
        trial.state, trial.step = "finished", run.history.epochs[-1].step
    except Paused as there:
        trial.state, trial.value, trial.step = "waiting", there.metrics[metric], at_share
    trial.rungs = [*trial.rungs, Rung(share, trial.step, trial.value)]


def _delete_weights(search: Search, folder: StudyFolder[SearchRecord]) -> None:
    """Delete the weights of trials that `search.keep` does not keep."""
    best = best_trial(folder.record)
    folder.record.best = None if best is None else best.number
    for trial in own_runs(folder.record):
        wanted = search.table.keep == "all" or (search.table.keep == "best" and trial is best)
        if not wanted:
            shutil.rmtree(folder.run(trial).model, ignore_errors=True)
